// vsnap split: makes a full-sized snapshot a volume of its own.
#include <fmt/format.h>

#include "cli/new_volume_argument.h"
#include "cli/output.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

Result<int> run(const CommonOptions& common, const NewVolumeArguments& arguments) {
  VSNAP_TRY_ASSIGN(const NewVolume volume, resolve_new_volume(arguments, "split"));
  wire::ControlRequest request;
  *request.mutable_split()->mutable_from() = wire::to_wire(volume.from);
  request.mutable_split()->set_new_volume(volume.name);
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(volume.pool, std::move(request)));
  if (common.json) print_json({{"view", view_json(volume.pool, wire::from_wire(reply.view()))}});
  if (common.verbose && !common.json)
    fmt::print("{0}/{1} is now {0}/{2}\n", volume.pool, volume.from.text(), volume.name);
  return 0;
}

} // namespace

void register_split(Program& program) {
  Command command =
      program.add("split", "POOL/VOL@SNAP NEWVOL", "Make a full-sized snapshot a volume of its own.");
  auto options = std::make_shared<NewVolumeArguments>();
  options->declare(command);
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
