// vsnap ls: lists volumes and snapshots.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"
#include "cli/registry.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::string target;
  std::string type = "all";
};

Table make_table() {
  return Table({{"name"},
                {"type"},
                {"form"},
                {"state"},
                {"size", true},
                {"used", true},
                {"origin"},
                {"created"},
                {"base", false, false},
                {"level", false, false},
                {"modified", false, false},
                {"mode", false, false},
                {"open", true, false},
                {"id", true, false},
                {"snaplimit", true, false},
                {"snapused", true, false},
                {"holds", false, false}});
}

// "keep,nightly"
Cell holds_cell(const ViewInfo& view) {
  std::string tags;
  for (const HoldInfo& hold : view.holds) tags += (tags.empty() ? "" : ",") + hold.tag;
  return tags.empty() ? Cell::none() : Cell::text(tags);
}

void add_row(Table& table, const std::string& pool, const ViewInfo& view) {
  const auto [limit, used] = snapshot_space_cells(view);
  table.add({Cell::text(pool + "/" + view.name.text()),
             Cell::text(view.kind == ViewKind::snapshot ? "snapshot" : "volume"),
             Cell::text(std::string(to_string(view.form))),
             Cell::text_if(view.state),
             Cell::size(view.size_bytes), Cell::size(view.used_bytes),
             Cell::optional_text(origin_text(pool, view)), Cell::time(view.created_ns),
             Cell::text_if(view.base), Cell::optional_text(level_text(view)),
             Cell::time(view.modified_ns), Cell::text(fmt::format("{:04o}", view.mode)),
             Cell::number(view.open_handles), Cell::number(view.id.value()), limit, used, holds_cell(view)});
}

Result<> add_pool(Table& table, const Spec& spec, const std::string& type) {
  VSNAP_TRY_ASSIGN(PoolAccess access, PoolAccess::open(spec.pool));
  if (spec.view) VSNAP_TRY(access.info(*spec.view)); // so that a name that does not exist is an error
  wire::ControlRequest list;
  list.mutable_list();
  VSNAP_TRY_ASSIGN(const auto reply, access.call(std::move(list)));
  VSNAP_TRY(access.close());
  for (const wire::ViewInfo& wire_view : reply.views().views()) {
    const ViewInfo view = wire::from_wire(wire_view);
    if (spec.view && spec.view->is_snapshot() && view.name != *spec.view) continue;
    if (spec.view && view.name.volume != spec.view->volume) continue;
    if (type == "volume" && view.kind != ViewKind::volume) continue;
    if (type == "snapshot" && view.kind != ViewKind::snapshot) continue;
    add_row(table, spec.pool, view);
  }
  return {};
}

Result<int> run(const CommonOptions& common, const Options& options) {
  Table table = make_table();
  VSNAP_TRY(table.check(common));
  int code = 0;
  if (!options.target.empty()) {
    VSNAP_TRY_ASSIGN(const Spec spec, resolve_target(options.target));
    VSNAP_TRY(add_pool(table, spec, options.type));
  } else { // all pools; one that does not open hides no other
    VSNAP_TRY_ASSIGN(const auto pools, registry_list());
    for (const std::string& pool : pools) {
      if (const auto added = add_pool(table, Spec{pool, std::nullopt}, options.type); !added) {
        code = print_error(added.error());
      }
    }
  }
  VSNAP_TRY(table.print(common, "views"));
  return code;
}

} // namespace

void register_ls(Program& program) {
  Command command = program.add("ls", "[POOL | POOL/VOL] [-t volume|snapshot|all]",
                                "List volumes and snapshots.", Takes::list);
  auto options = std::make_shared<Options>();
  command.argument("TARGET", options->target, Command::Need::optional);
  command.columns(make_table().names());
  command.choice("-t", options->type, "volume, snapshot or all", "TYPE", {"volume", "snapshot", "all"});
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
