// vsnap info: everything about one volume, snapshot or pool.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"
#include "cli/pool_report.h"

namespace vsnap::cli {
namespace {

Result<int> run(const CommonOptions& common, const std::string& target) {
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_target(target));
  if (!spec.view) return report_pool(common, spec.pool);
  wire::ControlRequest request;
  *request.mutable_info()->mutable_name() = wire::to_wire(*spec.view);
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(spec.pool, std::move(request)));
  const ViewInfo view = wire::from_wire(reply.view());
  if (common.json) {
    print_json({{"view", view_json(spec.pool, view)}});
    return 0;
  }
  const auto size = [](std::uint64_t n) { return fmt::format("{} ({} bytes)", format_size(n), n); };
  std::vector<std::pair<std::string, std::string>> pairs{
      {"name", spec.pool + "/" + view.name.text()},
      {"type", view.kind == ViewKind::snapshot ? "snapshot" : "volume"},
      {"form", std::string(to_string(view.form))},
      {"state", view.state.empty() ? "-" : view.state},
      {"level", level_text(view).value_or("-")},
      {"base", view.base.empty() ? "-" : view.base},
      {"size", size(view.size_bytes)},
      {"used", size(view.used_bytes)},
      {"origin", origin_text(spec.pool, view).value_or("-")},
      {"created", local_time(view.created_ns)},
      {"modified", local_time(view.modified_ns)},
      {"mode", fmt::format("{:04o}", view.mode)},
      {"owner", fmt::format("{}:{}", view.uid, view.gid)},
      {"open", std::to_string(view.open_handles)},
      {"id", std::to_string(view.id.value())}};
  if (const auto& space = view.snapshot_space) {
    pairs.emplace_back("snapshots", fmt::format("use {} of {}, on-full={}",
                                                space->used_bytes ? format_size(*space->used_bytes) : "?",
                                                format_size(space->limit_bytes), to_string(space->on_full)));
  }
  for (const HoldInfo& hold : view.holds)
    pairs.emplace_back("held", fmt::format("{} since {}", hold.tag, local_time(hold.created_ns)));
  print_pairs(pairs);
  return 0;
}

} // namespace

void register_info(Program& program) {
  Command command = program.add("info", "POOL | POOL/VOL | POOL/VOL@SNAP",
                                "Show everything about one pool, volume or snapshot.");
  auto target = std::make_shared<std::string>();
  command.argument("SPEC", *target);
  program.on(command, [target](const CommonOptions& common) { return run(common, *target); });
}

} // namespace vsnap::cli
