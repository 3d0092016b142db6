// vsnap clone: makes a writable volume that starts from a snapshot.
#include <fmt/format.h>

#include "cli/new_volume_argument.h"
#include "cli/output.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

Result<int> run(const CommonOptions& common, const NewVolumeArguments& arguments) {
  VSNAP_TRY_ASSIGN(const NewVolume volume, resolve_new_volume(arguments, "clone"));
  wire::ControlRequest request;
  *request.mutable_clone()->mutable_from() = wire::to_wire(volume.from);
  request.mutable_clone()->set_new_volume(volume.name);
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(volume.pool, std::move(request)));
  if (common.json) print_json({{"view", view_json(volume.pool, wire::from_wire(reply.view()))}});
  if (common.verbose && !common.json)
    fmt::print("created {}/{}\n", volume.pool, volume.name);
  return 0;
}

} // namespace

void register_clone(Program& program) {
  Command command =
      program.add("clone", "POOL/VOL@SNAP NEWVOL", "Make a writable volume that starts from a snapshot.");
  auto options = std::make_shared<NewVolumeArguments>();
  options->declare(command);
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
