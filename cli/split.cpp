// vsnap split: makes a full-sized snapshot a volume of its own.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::string from;
  std::string to;
};

Result<int> run(const CommonOptions& common, const Options& options) {
  VSNAP_TRY_ASSIGN(const Spec from, resolve_view(options.from));
  std::string name = options.to; // alone, or with the pool in front
  if (name.find('/') != std::string::npos) {
    VSNAP_TRY_ASSIGN(const Spec to, resolve_volume(name, Naming::fresh));
    if (to.pool != from.pool) {
      return failure(ErrorKind::usage,
                     fmt::format("{}: the volume stays in the pool of its snapshot, {}", name, from.pool));
    }
    name = to.view->volume;
  }
  VSNAP_TRY(check_name("volume", name));
  wire::ControlRequest request;
  *request.mutable_split()->mutable_from() = wire::to_wire(*from.view);
  request.mutable_split()->set_new_volume(name);
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(from.pool, std::move(request)));
  if (common.json) print_json({{"view", view_json(from.pool, wire::from_wire(reply.view()))}});
  if (common.verbose && !common.json)
    fmt::print("{0}/{1} is now {0}/{2}\n", from.pool, from.view->text(), name);
  return 0;
}

} // namespace

void register_split(Program& program) {
  Command command =
      program.add("split", "POOL/VOL@SNAP NEWVOL", "Make a full-sized snapshot a volume of its own.");
  auto options = std::make_shared<Options>();
  command.argument("SNAPSHOT", options->from);
  command.argument("NEWVOL", options->to);
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
