// vsnap preserve: a second image for a volume, while programs finish on the first.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pause.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

Result<int> run(const CommonOptions& common, const std::string& target) {
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_view(target, Naming::fresh));
  wire::ControlRequest request;
  *request.mutable_preserve()->mutable_name() = wire::to_wire(*spec.view);
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(spec.pool, std::move(request)));
  const ViewInfo view = wire::from_wire(reply.view());
  if (common.json) {
    Json out{{"view", view_json(spec.pool, view)}};
    add_pause(out, reply);
    print_json(std::move(out));
  } else if (common.verbose) {
    const std::string name = spec.pool + "/" + view.name.text();
    fmt::print("{}: {}\n{}", name, view.state.empty() ? "final: no program had the volume open" : view.state,
               pause_text(name, reply));
  }
  return 0;
}

} // namespace

void register_preserve(Program& program) {
  Command command = program.add(
      "preserve", "POOL/VOL@NAME",
      "Keep a volume as it is for the programs that have it open, and go on with a second image.");
  auto target = std::make_shared<std::string>();
  command.argument("IMAGE", *target);
  program.on(command, [target](const CommonOptions& common) { return run(common, *target); });
}

} // namespace vsnap::cli
