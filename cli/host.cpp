// vsnap host invite, list, revoke: which hosts share a pool, on the host that coordinates it.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/duration.h"
#include "cli/output.h"
#include "cli/pool_access.h"
#include "core/names.h"
#include "sync/curve_key.h"

namespace vsnap::cli {
namespace {

constexpr double kNsPerSecond = 1e9;

struct InviteOptions {
  std::string pool;
  std::string name;
  std::string expires = "1h";
};

Result<int> run_invite(const CommonOptions& common, const InviteOptions& options) {
  wire::ControlRequest request;
  if (!options.name.empty()) VSNAP_TRY(check_name("host", options.name));
  VSNAP_TRY_ASSIGN(const std::int64_t valid_ns, parse_duration(options.expires));
  request.mutable_invite_host()->set_name(options.name);
  request.mutable_invite_host()->set_valid_ns(valid_ns);
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(options.pool, std::move(request)));
  const wire::InvitationResult& invitation = reply.invitation();
  if (common.json) {
    print_json({{"pool", options.pool},
                {"name", options.name.empty() ? Json(nullptr) : Json(options.name)},
                {"token", invitation.token()},
                {"expires", utc_time(invitation.expires_ns())}});
  } else {
    fmt::print("{}\n", invitation.token());
  }
  return 0;
}

// ---- list ----

Table list_table(bool verbose) {
  return Table({{"name"},
                {"address"},
                {"session", true},
                {"lease", true},
                {"state"},
                {"lag", true},
                {"holds"},
                {"open", true, false},
                {"delegated", true, false},
                {"lost", true, false},
                {"refused", true, verbose},
                {"malformed", true, verbose},
                {"stale", true, verbose},
                {"joined", false, false},
                {"key", false, false}});
}

std::string state_text(wire::HostState state) {
  switch (state) {
    case wire::HOST_LIVE:
      return "live";
    case wire::HOST_LEFT:
      return "left";
    case wire::HOST_LOST:
      return "lost";
    case wire::HOST_INVITED:
      return "invited";
    default:
      return "away";
  }
}

Cell duration_cell(std::uint64_t ns) {
  const double seconds = static_cast<double>(ns) / kNsPerSecond;
  return {format_duration(static_cast<std::int64_t>(ns)), fmt::format("{:.1f}", seconds), seconds};
}

std::string key_of(const std::string& bytes) {
  HostKey key{};
  if (bytes.size() != key.size()) return {};
  std::copy(bytes.begin(), bytes.end(), key.begin());
  return key_text(key);
}

// "3 open, 1 delegated"
Cell holds_cell(const wire::HostEntry& host) {
  std::string text;
  const auto add = [&](std::uint64_t count, const char* what) {
    if (count > 0) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, what);
  };
  add(host.open(), "open");
  add(host.delegated(), "delegated");
  add(host.lost(), "lost");
  return Cell::text_if(text);
}

void add_row(Table& table, const wire::HostEntry& host) {
  const bool has_session = host.session() != 0;
  const std::uint64_t stale = host.refused_epoch() + host.refused_session() + host.refused_sequence();
  table.add(
      {Cell::text_if(host.name()), Cell::text_if(host.address()),
       has_session ? Cell::number(host.session()) : Cell::none(),
       has_session || host.state() == wire::HOST_INVITED ? duration_cell(host.lease_left_ns()) : Cell::none(),
       Cell::text(state_text(host.state())), has_session ? Cell::number(host.lag()) : Cell::none(),
       holds_cell(host), Cell::number(host.open()), Cell::number(host.delegated()), Cell::number(host.lost()),
       Cell::number(stale + host.refused_malformed() + host.refused_other()),
       Cell::number(host.refused_malformed()), Cell::number(stale), Cell::time(host.joined_ns()),
       Cell::text_if(key_of(host.key()))});
}

Result<int> run_list(const CommonOptions& common, const std::string& pool) {
  Table table = list_table(common.verbose);
  VSNAP_TRY(table.check(common));
  wire::ControlRequest request;
  request.mutable_list_hosts();
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(pool, std::move(request)));
  const wire::HostList& hosts = reply.hosts();
  for (const wire::HostEntry& host : hosts.hosts()) add_row(table, host);
  if (common.json) {
    const bool shared = hosts.has_epoch();
    const auto if_shared = [&](Json value) { return shared ? std::move(value) : Json(nullptr); };
    print_json({{"pool", pool},
                {"listen", if_shared(hosts.address())},
                {"epoch", if_shared(hosts.epoch())},
                {"lease", if_shared(static_cast<double>(hosts.lease_ns()) / kNsPerSecond)},
                {"refused_at_gate", if_shared(hosts.refused_at_gate())},
                {"refused_strangers", if_shared(hosts.refused_strangers())},
                {"hosts", table.json()}});
    return 0;
  }
  VSNAP_TRY(table.print(common, "hosts"));
  if (common.verbose && hosts.has_epoch()) {
    fmt::print(stderr,
               "{}: listens at {}, epoch {}; refused: {} connections under other keys, {} messages of hosts "
               "that were revoked\n",
               pool, hosts.address(), hosts.epoch(), hosts.refused_at_gate(), hosts.refused_strangers());
  }
  return 0;
}

// ---- revoke ----

struct RevokeOptions {
  std::string pool;
  std::string name;
};

Result<wire::HostList> ask_to_revoke(const RevokeOptions& options, bool dry_run) {
  wire::ControlRequest request;
  request.mutable_revoke_host()->set_name(options.name);
  request.mutable_revoke_host()->set_dry_run(dry_run);
  VSNAP_TRY_ASSIGN(auto reply, ask_pool(options.pool, std::move(request)));
  return std::move(*reply.mutable_hosts());
}

std::string plan_text(const std::string& pool, const wire::HostList& hosts) {
  std::string text;
  for (const wire::HostEntry& host : hosts.hosts()) {
    text += host.state() == wire::HOST_INVITED
                ? fmt::format("would revoke an invitation of {} to {}\n", host.name(), pool)
                : fmt::format("would revoke {}: it could not use {} any more\n", host.name(), pool);
  }
  return text;
}

Result<int> run_revoke(const CommonOptions& common, const RevokeOptions& options) {
  VSNAP_TRY(check_name("host", options.name));
  wire::HostList gone;
  if (common.dry_run || would_ask(common)) {
    VSNAP_TRY_ASSIGN(gone, ask_to_revoke(options, true));
    const std::string plan = plan_text(options.pool, gone);
    VSNAP_TRY(confirm(common, "host revoke", plan));
    if (common.dry_run && !common.json) fmt::print("{}", plan);
  }
  if (!common.dry_run) {
    VSNAP_TRY_ASSIGN(gone, ask_to_revoke(options, false));
  }
  if (common.json) {
    Json keys = Json::array();
    for (const wire::HostEntry& host : gone.hosts()) keys.push_back(key_of(host.key()));
    print_json({{"dry_run", common.dry_run}, {"pool", options.pool}, {"name", options.name}, {"keys", keys}});
  }
  return 0;
}

} // namespace

void register_host(Program& program) {
  Command invite = program.add("invite", "POOL [--expires DURATION] [--name NAME]",
                               "Print a token by which one host can join, once.", Takes::nothing, "host");
  auto invite_options = std::make_shared<InviteOptions>();
  invite.argument("POOL", invite_options->pool);
  invite.option("--expires", invite_options->expires, "how long it can be used; 1h", "DURATION");
  invite.option("--name", invite_options->name, "that the host is to have", "NAME");
  program.on(invite,
             [invite_options](const CommonOptions& common) { return run_invite(common, *invite_options); });

  Command list = program.add("list", "POOL", "List the hosts that share a pool.", Takes::list, "host");
  auto pool = std::make_shared<std::string>();
  list.argument("POOL", *pool);
  list.columns(list_table(false).names());
  program.on(list, [pool](const CommonOptions& common) { return run_list(common, *pool); });

  Command revoke = program.add("revoke", "POOL NAME", "Take a host out: it loses its session at once.",
                               Takes::dry_run | Takes::yes, "host");
  auto revoke_options = std::make_shared<RevokeOptions>();
  revoke.argument("POOL", revoke_options->pool);
  revoke.argument("NAME", revoke_options->name);
  program.on(revoke,
             [revoke_options](const CommonOptions& common) { return run_revoke(common, *revoke_options); });
}

} // namespace vsnap::cli
