// vsnap host join: this host becomes one of those that share a pool which another coordinates.
#include <fmt/format.h>
#include <algorithm>
#include <chrono>
#include <iostream>

#include "cli/command.h"
#include "cli/member_search.h"
#include "cli/output.h"
#include "cli/registry.h"
#include "cli/shared_pool.h"
#include "core/names.h"
#include "sync/invitation_token.h"
#include "sync/join.h"

namespace vsnap::cli {
namespace {

constexpr std::chrono::seconds kLongest(10);

struct Options {
  std::string token;
  std::string name;
  std::vector<std::string> members;
};

// What stands in a command line others can read in the list of processes: "-" is standard input.
Result<std::string> token_text(const std::string& argument) {
  if (argument != "-") return argument;
  std::string line;
  if (!std::getline(std::cin, line))
    return failure(ErrorKind::usage, "host join: no token on standard input");
  return line;
}

// A pool of this host's own under that name would not be found any more.
Result<> check_name_free(const InvitationToken& token) {
  const auto known = registry_find(token.pool);
  if (known && known->uuid != to_string(token.pool_uuid)) {
    return failure(
        ErrorKind::busy, EEXIST,
        fmt::format("{0}: another pool of this name is known here (vsnap pool detach {0} forgets it)",
                    token.pool));
  }
  VSNAP_TRY_ASSIGN(const auto shared, shared_pool_find(token.pool));
  if (!shared || shared->uuid == token.pool_uuid) return {};
  return failure(
      ErrorKind::busy, EEXIST,
      fmt::format("{0}: this host is a guest of another pool of this name, coordinated by {1} (vsnap "
                  "pool detach {0} forgets it)",
                  token.pool, shared->address));
}

Result<int> run(const CommonOptions& common, const Options& options) {
  Env& env = Env::real();
  VSNAP_TRY_ASSIGN(const std::string text, token_text(options.token));
  VSNAP_TRY_ASSIGN(const InvitationToken token, invitation_token::from_text(text));
  const std::string name = options.name.empty() ? env.host_name() : options.name;
  if (auto valid = check_name("host", name); !valid) {
    if (options.name.empty()) valid.error().message += " (--name gives it another)";
    return Failure(valid.error());
  }
  VSNAP_TRY(check_name_free(token));
  VSNAP_TRY_ASSIGN(const KeyPair own, host_key());
  SharedPool entry{token.pool, token.pool_uuid, token.address, token.server_key, name, {}};
  if (!options.members.empty()) {
    VSNAP_TRY_ASSIGN(entry.members, check_members(env, token.pool_uuid, options.members));
  } else {
    entry.members = find_members(env, token.pool_uuid);
  }
  VSNAP_TRY_ASSIGN(entry.host, join_pool(env, token, own, name, kLongest));
  VSNAP_TRY(shared_pool_save(entry));
  if (common.json) {
    print_json({{"pool", entry.pool},
                {"uuid", to_string(entry.uuid)},
                {"address", entry.address},
                {"name", entry.host},
                {"members", entry.members}});
  } else if (!common.quiet) {
    fmt::print("{}: joined as {}; {} coordinates it; members found here: {}\n", entry.pool, entry.host,
               entry.address,
               entry.members.empty() ? "none" : fmt::format("{}", fmt::join(entry.members, ", ")));
  }
  return 0;
}

} // namespace

void register_host_join(Program& program) {
  Command command = program.add("join", "TOKEN [--name HOSTNAME] [--member PATH]...",
                                "Join the hosts that share a pool, by a token of vsnap host invite.",
                                Takes::nothing, "host");
  auto options = std::make_shared<Options>();
  command.argument("TOKEN", options->token);
  command.option("--name", options->name, "of this host there; its host name", "HOSTNAME");
  command.repeated_option("--member", options->members, "of the pool, on this host; else they are looked for",
                          "PATH");
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
