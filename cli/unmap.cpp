// vsnap unmap: detaches the loop device of a volume or snapshot.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/loop_device.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/registry.h"
#include "sync/daemon_record.h"

namespace vsnap::cli {
namespace {

// Whether it lies over a file of a mount whose daemon is known here; another runtime directory's are not
// ours.
bool is_ours(const LoopDevice& loop, const std::vector<PoolMount>& mounts) {
  const auto spec = spec_of_path(loop.backing_file, mounts);
  if (!spec || !*spec) return false;
  const auto daemon = read_record((*spec)->pool);
  return daemon && loop.backing_file.starts_with(daemon->mount_point + "/");
}

Result<std::vector<LoopDevice>> named_device(const std::string& target) {
  VSNAP_TRY_ASSIGN(const std::string device, absolute_path(target));
  auto found = loop_devices([&](const LoopDevice& loop) { return loop.device == device; });
  if (found.empty())
    return failure(ErrorKind::failed, ENXIO, fmt::format("{}: not an attached loop device", target));
  if (is_ours(found.front(), pool_mounts())) return found;
  return failure(
      ErrorKind::failed,
      fmt::format("{}: over {}, which is not of a pool that is mounted here (losetup -d {} detaches it)",
                  target, found.front().backing_file, device));
}

Result<std::vector<LoopDevice>> devices_of(const std::string& target) {
  if (target.starts_with("/dev/")) return named_device(target);
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_view(target));
  std::vector<LoopDevice> out;
  if (const auto daemon = read_record(spec.pool)) {
    const std::string file = daemon->mount_point + "/" + spec.view->text();
    out = loop_devices([&](const LoopDevice& loop) { return loop.backing_file == file; });
  }
  if (!out.empty()) return out;
  return failure(ErrorKind::failed, ENXIO,
                 fmt::format("{}/{}: not mapped to a loop device", spec.pool, spec.view->text()));
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
  Command command = program.add("unmap", "SPEC | DEV", "Detach the loop device of a volume or snapshot.");
  auto target = std::make_shared<std::string>();
  command.argument("TARGET", *target);
  program.on(command, [target](const CommonOptions& common) { return run(common, *target); });
}

} // namespace vsnap::cli
