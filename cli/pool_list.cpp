// vsnap pool list, status: the pools known here and how they are.
#include <fmt/format.h>
#include <cerrno>

#include "cli/command.h"
#include "cli/output.h"
#include "cli/pool_daemon.h"
#include "cli/pool_report.h"
#include "cli/registry.h"
#include "core/pool.h"

namespace vsnap::cli {
namespace {

struct State {
  std::string name = "idle";
  Cell where = Cell::none();
  Cell role = Cell::none(); // of the process that has the pool open
  Cell pid = Cell::none();
};

State in_use_by(const OwnerRecord& owner) {
  const std::string host = owner.host == Env::real().host_name() ? "" : " on " + owner.host;
  return {"in use", Cell::text(fmt::format("{} with pid {}{}", owner.role, owner.pid, host)),
          Cell::text(owner.role), Cell::number(static_cast<std::uint64_t>(owner.pid))};
}

bool is_of(const MemberLook& member, const RegistryEntry& pool) {
  return member.identity && to_string(member.identity->pool_uuid) == pool.uuid;
}

std::string member_state(const Result<MemberLook>& member, const RegistryEntry& pool) {
  if (!member) {
    const int code = member.error().errno_value;
    return code == ENOENT || code == ENOTDIR ? "missing" : "unreadable";
  }
  if (member->identity) return is_of(*member, pool) ? "idle" : "damaged";
  const ErrorKind kind = member->identity.error().kind;
  return kind == ErrorKind::damaged || kind == ErrorKind::not_found ? "damaged" : "unreadable";
}

// Who has it open says more than what is wrong with it here: that may be right where it was opened.
State unmounted_state(const RegistryEntry& pool) {
  State out;
  for (const std::string& path : pool.members) {
    const auto member = Pool::look(Env::real(), path);
    if (member && member->owner && is_of(*member, pool)) return in_use_by(*member->owner);
    if (out.name != "idle") continue;
    out.name = member_state(member, pool);
    if (out.name != "idle") {
      out.where = Cell::text(path);
    } else if (member->identity->member_count > pool.members.size()) {
      out.name = "missing"; // it was added where the pool is known by another list
      out.where =
          Cell::text(fmt::format("{} of {} members", member->identity->member_count - pool.members.size(),
                                 member->identity->member_count));
    }
  }
  return out;
}

State state_of(const RegistryEntry& pool) {
  const auto daemon = daemon_of(pool.pool); // an error: that of another pool of this name
  if (!daemon || !*daemon) return unmounted_state(pool);
  return {"mounted", Cell::text((*daemon)->mount_point), Cell::text("daemon"),
          Cell::number(static_cast<std::uint64_t>((*daemon)->pid))};
}

// Opens no pool, and so works beside whoever has one open.
std::vector<Cell> row_of(const std::string& name) {
  const auto entry = registry_find(name);
  if (!entry) return {Cell::text(name), Cell::text("damaged")};
  State state = state_of(*entry);
  return {Cell::text(name),        Cell::text(state.name),
          std::move(state.where),  Cell::number(entry->members.size()),
          Cell::text(entry->uuid), std::move(state.role),
          std::move(state.pid)};
}

Table make_table() {
  return Table({{"name"},
                {"state"},
                {"where"},
                {"members", true},
                {"uuid", false, false},
                {"role", false, false},
                {"pid", true, false}});
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
      program.add("list", "", "List the pools known here, where they are mounted, and by whom else used.",
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
