// vsnap refresh: gives a snapshot the content that its volume has now.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pause.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

// What the old one alone needs goes, as if it were removed; refused in the same cases, too.
Result<int> say(const CommonOptions& common, const Spec& spec) {
  wire::ControlRequest request;
  *request.mutable_remove()->add_names() = wire::to_wire(*spec.view);
  request.mutable_remove()->set_dry_run(true);
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(spec.pool, std::move(request)));
  const std::uint64_t frees = reply.removal().frees_bytes();
  const std::string name = spec.pool + "/" + spec.view->text();
  if (common.json)
    print_json({{"dry_run", true}, {"refreshed", name}, {"frees", frees}});
  else
    fmt::print("would give up what {} shows now\nwould free {}\n", name, format_size(frees));
  return 0;
}

Result<int> run(const CommonOptions& common, const std::string& target) {
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_view(target));
  if (common.dry_run) return say(common, spec);
  wire::ControlRequest request;
  *request.mutable_refresh()->mutable_name() = wire::to_wire(*spec.view);
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(spec.pool, std::move(request)));
  const std::string name = spec.pool + "/" + spec.view->text();
  if (common.json) {
    Json out{{"view", view_json(spec.pool, wire::from_wire(reply.view()))}};
    add_pause(out, reply);
    print_json(std::move(out));
  } else if (common.verbose) {
    fmt::print("refreshed {}\n{}", name, pause_text(name, reply));
  }
  return 0;
}

} // namespace

void register_refresh(Program& program) {
  Command command = program.add("refresh", "POOL/VOL@SNAP",
                                "Give a snapshot the content that its volume has now.", Takes::dry_run);
  auto target = std::make_shared<std::string>();
  command.argument("SNAPSHOT", *target);
  program.on(command, [target](const CommonOptions& common) { return run(common, *target); });
}

} // namespace vsnap::cli
