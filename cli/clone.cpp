// vsnap clone: makes a writable volume that starts from a snapshot.
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
  if (options.from.find('@') == std::string::npos && options.to.find('@') != std::string::npos) {
    return failure(ErrorKind::usage, fmt::format("clone: the snapshot comes first (vsnap clone {} {})",
                                                 options.to, options.from));
  }
  VSNAP_TRY_ASSIGN(const Spec from, resolve_view(options.from));
  std::string name = options.to; // alone, or with the pool in front
  if (name.find('/') != std::string::npos) {
    VSNAP_TRY_ASSIGN(const Spec to, resolve_volume(name, Naming::fresh));
    if (to.pool != from.pool) {
      return failure(ErrorKind::usage,
                     fmt::format("{}: a clone stays in the pool of its snapshot, {}", name, from.pool));
    }
    name = to.view->volume;
  }
  VSNAP_TRY(check_name("volume", name));
  wire::ControlRequest request;
  *request.mutable_clone()->mutable_from() = wire::to_wire(*from.view);
  request.mutable_clone()->set_new_volume(name);
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(from.pool, std::move(request)));
  if (common.json) print_json({{"view", view_json(from.pool, wire::from_wire(reply.view()))}});
  if (common.verbose && !common.json) fmt::print("created {}/{}\n", from.pool, name);
  return 0;
}

} // namespace

void register_clone(Program& program) {
  Command command =
      program.add("clone", "POOL/VOL@SNAP NEWVOL", "Make a writable volume that starts from a snapshot.");
  auto options = std::make_shared<Options>();
  command.argument("SNAPSHOT", options->from);
  command.argument("NEWVOL", options->to);
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
