// vsnap pool list, status: the pools known here and how they are.
#include <unistd.h>

#include "cli/command.h"
#include "cli/output.h"
#include "cli/pool_report.h"
#include "cli/registry.h"
#include "core/names.h"
#include "sync/daemon_record.h"

namespace vsnap::cli {
namespace {

// Looks only at the registry, at records of daemons and at whether members exist: works beside any lock.
std::vector<Cell> row_of(const std::string& name) {
  const auto entry = registry_find(name);
  if (!entry) return {Cell::text(name), Cell::text("damaged"), Cell::none(), Cell::none(), Cell::none()};
  std::string state = "idle";
  Cell where = Cell::none();
  for (const std::string& member : entry->members) {
    if (::access(member.c_str(), F_OK) != 0 && state == "idle") {
      state = "missing";
      where = Cell::text(member);
    }
  }
  if (const auto daemon = live_daemon(Env::real(), name)) {
    state = "mounted";
    where = Cell::text(daemon->mount_point);
  }
  return {Cell::text(name), Cell::text(state), where, Cell::number(entry->members.size()),
          Cell::text(entry->uuid)};
}

Table make_table() {
  return Table({{"name"}, {"state"}, {"where"}, {"members", true}, {"uuid", false, false}});
}

Result<int> run_list(const CommonOptions& common) {
  Table table = make_table();
  VSNAP_TRY(table.check(common));
  VSNAP_TRY_ASSIGN(const auto names, registry_list());
  for (const std::string& name : names) table.add(row_of(name));
  VSNAP_TRY(table.print(common, "pools"));
  return 0;
}

} // namespace

void register_pool_list(Program& program) {
  Command list =
      program.add("list", "", "List the pools known here: mounted (where), idle, or missing (which member).",
                  Takes::list, "pool");
  list.columns(make_table().names());
  program.on(list, run_list);

  Command status =
      program.add("status", "NAME", "Show health, space and members of a pool.", Takes::nothing, "pool");
  auto name = std::make_shared<std::string>();
  status.argument("NAME", *name);
  program.on(status, [name](const CommonOptions& common) { return report_pool(common, *name); });
}

} // namespace vsnap::cli
