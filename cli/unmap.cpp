// vsnap unmap: detaches the loop device of a volume or snapshot.
#include "cli/command.h"
#include "cli/loop_device.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/registry.h"

namespace vsnap::cli {
namespace {

Result<std::vector<LoopDevice>> devices_of(const std::string& target) {
  const auto mounts = pool_mounts();
  const auto all = loop_devices();
  std::vector<LoopDevice> out;
  if (target.starts_with("/dev/")) {
    VSNAP_TRY_ASSIGN(const std::string device, absolute_path(target));
    for (const LoopDevice& loop : all) {
      if (loop.device == device) out.push_back(loop);
    }
    if (out.empty())
      return failure(ErrorKind::failed, ENXIO, fmt::format("{}: not an attached loop device", target));
    if (!spec_of_path(out.front().backing_file, mounts)) {
      return failure(ErrorKind::failed,
                     fmt::format("{}: over {}, which is not of a mounted pool (losetup -d {} detaches it)",
                                 target, out.front().backing_file, device));
    }
    return out;
  }
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_view(target));
  for (const LoopDevice& loop : all) {
    const auto found = spec_of_path(loop.backing_file, mounts);
    if (found && *found && (*found)->pool == spec.pool && (*found)->view == spec.view) out.push_back(loop);
  }
  if (out.empty()) {
    return failure(ErrorKind::failed, ENXIO,
                   fmt::format("{}/{}: not mapped to a loop device", spec.pool, spec.view->text()));
  }
  return out;
}

Result<int> run(const CommonOptions& common, const std::string& target) {
  VSNAP_TRY_ASSIGN(const auto devices, devices_of(target));
  Json names = Json::array();
  for (const LoopDevice& loop : devices) {
    VSNAP_TRY(loop_detach(loop));
    names.push_back(loop.device);
    if (common.verbose && !common.json) fmt::print("detached {}\n", loop.device);
  }
  if (common.json) print_json({{"detached", names}});
  return 0;
}

} // namespace

void register_unmap(Program& program) {
  auto& command = program.add("unmap", "SPEC | DEV", "Detach the loop device of a volume or snapshot.");
  auto target = std::make_shared<std::string>();
  command.add_option("TARGET", *target)->required();
  program.on(command, [target](const CommonOptions& common) { return run(common, *target); });
}

} // namespace vsnap::cli
