// vsnap df: where the space of a pool is.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"
#include "cli/registry.h"

namespace vsnap::cli {
namespace {

void add_rows(Table& table, const std::string& pool, const DiskUsage& usage) {
  const SpaceInfo& space = usage.space;
  table.add({Cell::text(pool), Cell::text("pool"), Cell::size(space.size_bytes),
             Cell::size(space.data_bytes + space.metadata_bytes), Cell::size(space.available_bytes),
             Cell::none()});
  for (const UsageRow& row : usage.rows) {
    table.add({Cell::text(pool + "/" + row.view.name.text()),
               Cell::text(row.view.kind == ViewKind::snapshot ? "snapshot" : "volume"),
               Cell::size(row.view.size_bytes), Cell::size(row.view.used_bytes), Cell::none(),
               Cell::size(row.frees_bytes)});
  }
}

Json usage_json(const std::string& pool, const DiskUsage& usage) {
  Json views = Json::array();
  for (const UsageRow& row : usage.rows) {
    Json view = view_json(pool, row.view);
    view["frees"] = row.frees_bytes;
    views.push_back(std::move(view));
  }
  Json out = Json::object();
  out["name"] = pool;
  out["space"] = space_json(usage.space);
  out["views"] = std::move(views);
  return out;
}

Result<DiskUsage> usage_of(const std::string& pool) {
  wire::ControlRequest request;
  request.mutable_disk_usage();
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(pool, std::move(request)));
  return wire::from_wire(reply.disk_usage());
}

Result<int> run(const CommonOptions& common, const std::string& target) {
  std::vector<std::string> pools;
  if (target.empty()) {
    VSNAP_TRY_ASSIGN(pools, registry_list());
  } else {
    VSNAP_TRY_ASSIGN(const Spec spec, resolve_target(target));
    if (spec.view)
      return failure(ErrorKind::usage, fmt::format("{}: a pool is needed (vsnap df {})", target, spec.pool));
    pools.push_back(spec.pool);
  }
  Table table(
      {{"name"}, {"type", false, false}, {"size", true}, {"used", true}, {"avail", true}, {"frees", true}});
  VSNAP_TRY(table.check(common));
  Json json = Json::array();
  int code = 0;
  for (const std::string& pool : pools) {
    const auto usage = usage_of(pool);
    if (!usage && !target.empty()) return Failure(usage.error());
    if (!usage) {
      code = print_error(usage.error()); // and go on: one that does not open hides no other
      continue;
    }
    add_rows(table, pool, *usage);
    json.push_back(usage_json(pool, *usage));
  }
  if (common.json) {
    print_json({{"pools", std::move(json)}});
  } else {
    VSNAP_TRY(table.print(common, "rows"));
  }
  return code;
}

} // namespace

void register_df(Program& program) {
  Command command = program.add(
      "df", "[POOL]",
      "Show where the space of a pool is. FREES is what removing exactly this volume or snapshot would "
      "free.",
      Takes::list);
  auto target = std::make_shared<std::string>();
  command.argument("POOL", *target, Command::Need::optional);
  program.on(command, [target](const CommonOptions& common) { return run(common, *target); });
}

} // namespace vsnap::cli
