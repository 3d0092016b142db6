// vsnap df: where the space of a pool is.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"
#include "cli/registry.h"

namespace vsnap::cli {
namespace {

Table make_table() {
  return Table({{"name"},
                {"type", false, false},
                {"size", true},
                {"used", true},
                {"avail", true},
                {"frees", true},
                {"form"},
                {"state"},
                {"origin", false, false},
                {"base", false, false},
                {"snaplimit", true, false},
                {"snapused", true, false}});
}

// Of a pool all; of a volume its row and those of its snapshots; of a snapshot its own.
bool is_asked_for(const Spec& spec, const ViewName& name) {
  return !spec.view || (spec.view->is_snapshot() ? name == *spec.view : name.volume == spec.view->volume);
}

void add_rows(Table& table, const Spec& spec, const DiskUsage& usage) {
  const std::string& pool = spec.pool;
  const SpaceInfo& space = usage.space;
  if (!spec.view)
    table.add({Cell::text(pool), Cell::text("pool"), Cell::size(space.size_bytes),
               Cell::size(space.data_bytes + space.metadata_bytes), Cell::size(space.available_bytes),
               Cell::none()});
  for (const UsageRow& row : usage.rows) {
    if (!is_asked_for(spec, row.view.name)) continue;
    const auto [limit, snapshots_use] = snapshot_space_cells(row.view);
    table.add({Cell::text(pool + "/" + row.view.name.text()),
               Cell::text(row.view.kind == ViewKind::snapshot ? "snapshot" : "volume"),
               Cell::size(row.view.size_bytes), Cell::size(row.view.used_bytes), Cell::none(),
               Cell::size(row.frees_bytes), Cell::text(std::string(to_string(row.view.form))),
               Cell::text_if(row.view.state), Cell::optional_text(origin_text(pool, row.view)),
               Cell::text_if(row.view.base), limit, snapshots_use});
  }
}

Json usage_json(const Spec& spec, const DiskUsage& usage) {
  const std::string& pool = spec.pool;
  Json views = Json::array();
  for (const UsageRow& row : usage.rows) {
    if (!is_asked_for(spec, row.view.name)) continue;
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

Result<DiskUsage> usage_of(const Spec& spec) {
  VSNAP_TRY_ASSIGN(PoolAccess access, PoolAccess::open(spec.pool));
  if (spec.view) VSNAP_TRY(access.info(*spec.view)); // so that a name that does not exist is an error
  wire::ControlRequest request;
  request.mutable_disk_usage();
  VSNAP_TRY_ASSIGN(const auto reply, access.call(std::move(request)));
  VSNAP_TRY(access.close());
  return wire::from_wire(reply.disk_usage());
}

Result<int> run(const CommonOptions& common, const std::string& target) {
  std::vector<Spec> specs;
  if (target.empty()) {
    VSNAP_TRY_ASSIGN(const auto pools, registry_list());
    for (const std::string& pool : pools) specs.push_back({pool, std::nullopt});
  } else {
    VSNAP_TRY_ASSIGN(const Spec spec, resolve_target(target));
    specs.push_back(spec);
  }
  Table table = make_table();
  VSNAP_TRY(table.check(common));
  Json json = Json::array();
  int code = 0;
  for (const Spec& spec : specs) {
    const auto usage = usage_of(spec);
    if (!usage && !target.empty()) return Failure(usage.error());
    if (!usage) {
      code = print_error(usage.error()); // and go on: one that does not open hides no other
      continue;
    }
    add_rows(table, spec, *usage);
    json.push_back(usage_json(spec, *usage));
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
      "df", "[POOL | POOL/VOL]",
      "Show where the space of a pool is. FREES is what removing exactly this volume or snapshot would "
      "free.",
      Takes::list);
  auto target = std::make_shared<std::string>();
  command.columns(make_table().names());
  command.argument("POOL", *target, Command::Need::optional);
  program.on(command, [target](const CommonOptions& common) { return run(common, *target); });
}

} // namespace vsnap::cli
