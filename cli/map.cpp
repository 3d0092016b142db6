// vsnap map: attaches a volume or snapshot of a mounted pool to a loop device.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/loop_device.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::string target;
  std::string sector_size = "512";
  bool read_only = false;
};

Result<> check_not_mapped(const std::string& file, bool read_only) {
  const auto others = loop_devices(
      [&](const LoopDevice& loop) { return loop.backing_file == file && !(loop.read_only && read_only); });
  if (others.empty()) return {};
  return failure(
      ErrorKind::busy,
      fmt::format("{0}: mapped to {1} already (a disk with two writers comes apart; vsnap unmap {1})", file,
                  others.front().device));
}

Result<std::uint32_t> parse_sector_size(const std::string& text) {
  const auto size = parse_size(text);
  if (size && (*size == 512 || *size == 1024 || *size == 2048 || *size == 4096))
    return static_cast<std::uint32_t>(*size);
  return failure(ErrorKind::usage, fmt::format("--sector-size {}: a sector has 512, 1024, 2048 or 4096 bytes",
                                               vsnap::quoted(text)));
}

Result<int> run(const CommonOptions& common, const Options& options) {
  VSNAP_TRY_ASSIGN(const std::uint32_t sector_size, parse_sector_size(options.sector_size));
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_view(options.target));
  VSNAP_TRY_ASSIGN(PoolAccess access, PoolAccess::open(spec.pool));
  VSNAP_TRY(access.info(*spec.view)); // tells a name that does not exist, with the nearest that does
  if (!access.daemon()) {
    return failure(ErrorKind::failed,
                   fmt::format("{0}: not mounted, and a loop device needs the file (vsnap mount {0} DIR "
                               "first)",
                               spec.pool));
  }
  LoopOptions loop{access.daemon()->mount_point + "/" + spec.view->text(), sector_size,
                   options.read_only || spec.view->is_snapshot()};
  VSNAP_TRY(access.close());
  VSNAP_TRY(check_not_mapped(loop.file, loop.read_only));
  VSNAP_TRY_ASSIGN(const std::string device, loop_attach(loop));
  if (common.json) {
    print_json({{"device", device},
                {"name", spec.pool + "/" + spec.view->text()},
                {"file", loop.file},
                {"read_only", loop.read_only},
                {"sector_size", loop.sector_size_bytes}});
  } else {
    fmt::print("{}\n", device);
  }
  return 0;
}

} // namespace

void register_map(Program& program) {
  Command command =
      program.add("map", "SPEC [--sector-size N] [--read-only]",
                  "Attach a volume or snapshot of a mounted pool to a loop device and print its path.");
  auto options = std::make_shared<Options>();
  command.argument("SPEC", options->target);
  command.option("--sector-size", options->sector_size, "512 (default), 1024, 2048 or 4096", "N");
  command.flag("--read-only", options->read_only, "refuse writes; snapshots always do");
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
