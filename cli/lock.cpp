// vsnap lock: who has which volumes and snapshots of a pool open, on which host; and taking a volume from
// one.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/holders.h"
#include "cli/output.h"
#include "cli/pool_access.h"
#include "cli/pool_daemon.h"
#include "core/names.h"
#include "sync/wire.h"

namespace vsnap::cli {
namespace {

Table list_table() {
  return Table({{"name"}, {"host"}, {"mode"}, {"open", true}, {"since"}, {"state"}, {"left"}, {"holders"}});
}

std::string mode_of(const wire::LockEntry& lock) {
  switch (lock.mode()) {
    case wire::LOCK_DELEGATED:
      return "delegated";
    case wire::LOCK_RECALLED:
      return "recalled";
    case wire::LOCK_LOST:
      return "lost";
    default:
      return lock.may_write() ? "write" : "read";
  }
}

// The snapshot that keeps what the host may still write to; empty: there is none.
std::string left_of(const std::string& pool, const wire::LockEntry& lock) {
  return lock.has_left() ? pool + "/" + wire::from_wire(lock.left()).text() : std::string();
}

// Programs on this host that have the view open under its mount; what cannot be found out is left out.
std::string holders_here(const std::string& mount_point, const ViewName& view) {
  std::string all;
  if (mount_point.empty()) return all;
  for (const std::string& who : holders_of_file(mount_point + "/" + view.text()))
    all += (all.empty() ? "" : ", ") + who;
  return all;
}

Result<int> run_list(const CommonOptions& common, const std::string& pool) {
  Table table = list_table();
  VSNAP_TRY(table.check(common));
  wire::ControlRequest request;
  request.mutable_list_locks();
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(pool, std::move(request)));
  VSNAP_TRY_ASSIGN(const auto daemon, daemon_of(pool));
  for (const wire::LockEntry& lock : reply.locks().locks()) {
    const ViewName view = wire::from_wire(lock.view());
    const bool here = lock.host().empty();
    table.add({Cell::text(pool + "/" + view.text()), Cell::text_if(lock.host()), Cell::text(mode_of(lock)),
               Cell::number(lock.handles()),
               lock.since_ns() == 0 ? Cell::none() : Cell::time(lock.since_ns()),
               Cell::text(lock.is_ending() ? "ending" : "open"), Cell::text_if(left_of(pool, lock)),
               Cell::text_if(here && daemon ? holders_here(daemon->mount_point, view) : std::string())});
  }
  if (common.json) {
    print_json({{"pool", pool}, {"locks", table.json()}});
    return 0;
  }
  VSNAP_TRY(table.print(common, "locks"));
  return 0;
}

struct BreakOptions {
  std::string volume;
  std::string host;
  bool fenced = false;
};

Result<wire::LockList> ask_to_break(const Spec& spec, const BreakOptions& options, bool dry_run) {
  wire::ControlRequest request;
  *request.mutable_break_lock()->mutable_volume() = wire::to_wire(*spec.view);
  request.mutable_break_lock()->set_host(options.host);
  request.mutable_break_lock()->set_fenced(options.fenced);
  request.mutable_break_lock()->set_dry_run(dry_run);
  VSNAP_TRY_ASSIGN(auto reply, ask_pool(spec.pool, std::move(request)));
  return std::move(*reply.mutable_locks());
}

std::uint64_t handles_of(const wire::LockList& locks) {
  std::uint64_t handles = 0;
  for (const wire::LockEntry& lock : locks.locks()) handles += lock.handles();
  return handles;
}

std::vector<std::string> left_of(const std::string& pool, const wire::LockList& locks) {
  std::vector<std::string> all;
  for (const wire::LockEntry& lock : locks.locks()) {
    if (lock.has_left()) all.push_back(left_of(pool, lock));
  }
  return all;
}

std::string plan_of(const BreakOptions& options, const std::string& pool, const wire::LockList& locks) {
  if (!options.fenced) {
    return fmt::format(
        "would take {} from {}: {} of its programs would get errors until they open it again\n",
        options.volume, options.host, handles_of(locks));
  }
  const auto left = left_of(pool, locks);
  return fmt::format(
      "would give up what {} had of {}{}{}: if it is not off, nor cut from the members, what it "
      "still writes may damage any volume\n",
      options.host, options.volume, left.empty() ? "" : ", and remove ", fmt::join(left, ", "));
}

Result<int> run_break(const CommonOptions& common, const BreakOptions& options) {
  VSNAP_TRY_ASSIGN(const Spec spec, parse_spec(options.volume));
  if (!spec.view || spec.view->is_snapshot())
    return failure(ErrorKind::usage, "lock break: name a volume, as in lab/vm1, and a host");
  VSNAP_TRY(check_name("host", options.host));
  wire::LockList broken;
  if (common.dry_run || would_ask(common)) {
    VSNAP_TRY_ASSIGN(broken, ask_to_break(spec, options, true));
    const std::string plan = plan_of(options, spec.pool, broken);
    VSNAP_TRY(confirm(common, "lock break", plan));
    if (common.dry_run && !common.json) fmt::print("{}", plan);
  }
  if (!common.dry_run) {
    VSNAP_TRY_ASSIGN(broken, ask_to_break(spec, options, false));
  }
  if (common.json) {
    print_json({{"dry_run", common.dry_run},
                {"name", options.volume},
                {"host", options.host},
                {"open", handles_of(broken)},
                {"left", left_of(spec.pool, broken)}});
  }
  return 0;
}

} // namespace

void register_lock(Program& program) {
  Command list = program.add("ls", "POOL", "List who has what open, on which host.", Takes::list, "lock");
  auto pool = std::make_shared<std::string>();
  list.argument("POOL", *pool);
  list.columns(list_table().names());
  program.on(list, [pool](const CommonOptions& common) { return run_list(common, *pool); });

  Command breaks = program.add("break", "POOL/VOL HOST", "Take a volume from a host that has it open.",
                               Takes::dry_run | Takes::yes, "lock");
  auto options = std::make_shared<BreakOptions>();
  breaks.argument("POOL/VOL", options->volume);
  breaks.argument("HOST", options->host);
  breaks.flag("--fenced", options->fenced,
              "the host is certainly off, or cut from the members: what it was lost with ends");
  program.on(breaks, [options](const CommonOptions& common) { return run_break(common, *options); });
}

} // namespace vsnap::cli
