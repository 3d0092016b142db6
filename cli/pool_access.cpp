#include "cli/pool_access.h"

#include <fmt/format.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <memory>
#include <thread>

#include "cli/in_use.h"
#include "cli/pool_daemon.h"
#include "cli/registry.h"
#include "cli/resuming_sink.h"
#include "cli/shared_pool.h"

namespace vsnap::cli {
namespace {

constexpr int kMostTries = 10; // a request that kills whoever is asked ends some time

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "set by a signal handler");

void on_interrupt(int) { interrupted = true; }

} // namespace

CommandSink::CommandSink(const CommonOptions& options, std::string what, ProgressUnit unit)
    : meter_(std::move(what), unit, !options.quiet && !options.json) {
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  action.sa_flags = static_cast<int>(SA_RESETHAND); // the second one ends the program
  ::sigaction(SIGINT, &action, nullptr);
}

CommandSink::~CommandSink() { ::signal(SIGINT, SIG_DFL); }

bool CommandSink::progress(std::uint64_t done, std::uint64_t total) {
  meter_.update(done, total);
  return !interrupted;
}

bool CommandSink::diff(std::span<const DiffRange> ranges) {
  for (const DiffRange& range : ranges) {
    if (on_diff) on_diff(range);
  }
  return !interrupted && std::ferror(stdout) == 0;
}

Result<PoolAccess> PoolAccess::open(const std::string& pool, bool for_check) {
  VSNAP_TRY(check_name("pool", pool));
  PoolAccess access;
  access.name_ = pool;
  access.for_check_ = for_check;
  Env& env = Env::real();
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    VSNAP_TRY_ASSIGN(auto daemon, daemon_of(pool));
    if (!daemon) break;
    // Of the same record, or its successor has come.
    const auto is_alive = [&env, record = *daemon] {
      return is_running(env, record) && read_record(record.pool) == record;
    };
    auto client = ControlClient::connect({daemon->socket_path, pool, is_alive, std::chrono::seconds(10)});
    if (client) {
      access.client_ = std::move(*client);
      access.daemon_ = std::move(daemon);
      return access;
    }
    if (client.error().errno_value != ECONNREFUSED) return Failure(client.error());
    const bool kept = is_kept(env, *daemon);
    if (!kept && !is_running(env, *daemon)) break;
    if (std::chrono::steady_clock::now() - start > kLongestChange) {
      if (!kept) break; // it is ending: whoever holds the lock decides
      return failure(ErrorKind::busy,
                     fmt::format("{}: mounted, but its daemon has died and none comes to serve "
                                 "it (try again; its log is {})",
                                 pool, daemon_log_path(pool)));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10)); // a successor, or the end, is about to come
  }
  VSNAP_TRY(access.open_own());
  return access;
}

Result<> PoolAccess::open_own() {
  VSNAP_TRY(check_not_guest(name_));
  VSNAP_TRY_ASSIGN(const RegistryEntry entry, registry_find(name_));
  VSNAP_TRY(check_members_present(entry));
  OpenPoolOptions options;
  options.member_paths = entry.members;
  options.expected_uuid = entry.uuid;
  options.for_check = for_check_;
  VSNAP_TRY_ASSIGN(pool_, Pool::open(Env::real(), std::move(options)));
  return {};
}

namespace {

// Whether another is to be asked: the daemon has ended, or gave up for its successor.
bool ask_again(const Result<wire::ControlReply>& reply) {
  if (!reply) return reply.error().kind == ErrorKind::no_answer && reply.error().errno_value == ECONNRESET;
  if (!reply->has_error()) return false;
  const Error error = wire::from_wire(reply->error());
  return error.kind == ErrorKind::busy && error.errno_value == EAGAIN;
}

// Of this command, on this machine and any other.
std::uint64_t new_request_id() {
  const Uuid random = Env::real().random_uuid();
  std::uint64_t id = 0;
  std::memcpy(&id, random.data() + random.size() / 2, sizeof id); // the half without the variant's version
  return std::max<std::uint64_t>(id >> 1, 1);
}

} // namespace

Result<wire::ControlReply> PoolAccess::ask_daemons(wire::ControlRequest request, ControlSink& sink) {
  ResumingSink resuming(sink);
  std::optional<Error> lost; // of the first answer that did not come: from then on nothing is known
  for (int tries = 1;; ++tries) {
    if (!client_) return execute(*pool_, request, resuming);
    auto reply = client_->call(request, resuming);
    if (!ask_again(reply) || resuming.gave_up()) return reply;
    if (!reply && !lost) lost = reply.error();
    if (tries == kMostTries) return lost ? Failure(*lost) : std::move(reply);
    request.set_again(lost.has_value());
    auto next = open(name_, for_check_);
    if (!next) return Failure(lost ? *lost : next.error());
    *this = std::move(*next);
  }
}

Result<wire::ControlReply> PoolAccess::call(wire::ControlRequest request, ControlSink& sink) {
  request.set_version(wire::kProtocolVersion);
  request.set_id(new_request_id());
  VSNAP_TRY_ASSIGN(wire::ControlReply reply, ask_daemons(std::move(request), sink));
  if (reply.has_error()) {
    Error error = wire::from_wire(reply.error());
    if (daemon_) error = with_holders(std::move(error), daemon_->pool, daemon_->mount_point);
    return Failure(std::move(error));
  }
  return reply;
}

Result<wire::ControlReply> PoolAccess::call(wire::ControlRequest request) {
  SilentSink silent;
  return call(std::move(request), silent);
}

Result<ViewInfo> PoolAccess::info(const ViewName& name) {
  wire::ControlRequest request;
  *request.mutable_info()->mutable_name() = wire::to_wire(name);
  VSNAP_TRY_ASSIGN(const auto reply, call(std::move(request)));
  return wire::from_wire(reply.view());
}

Result<> PoolAccess::close() {
  client_.reset();
  const auto pool = std::move(pool_);
  return pool ? pool->close() : Result<>();
}

Result<wire::ControlReply> ask_pool(const std::string& pool, wire::ControlRequest request,
                                    ControlSink& sink) {
  VSNAP_TRY_ASSIGN(PoolAccess access, PoolAccess::open(pool));
  auto reply = access.call(std::move(request), sink);
  const auto closed = access.close();
  if (reply) VSNAP_TRY(closed);
  return reply;
}

Result<wire::ControlReply> ask_pool(const std::string& pool, wire::ControlRequest request) {
  SilentSink silent;
  return ask_pool(pool, std::move(request), silent);
}

bool can_ask() { return ::isatty(STDIN_FILENO) == 1; }

bool would_ask(const CommonOptions& options) { return !options.dry_run && !options.yes && can_ask(); }

Result<> confirm(const CommonOptions& options, const std::string& what, const std::string& plan) {
  if (!would_ask(options)) return {};
  // Whoever can answer has to see the question, wherever standard error goes.
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> terminal(
      ::isatty(STDERR_FILENO) == 1 ? nullptr : std::fopen("/dev/tty", "we"),
      [](std::FILE* file) { return file != nullptr ? std::fclose(file) : 0; });
  std::FILE* const out = terminal ? terminal.get() : stderr;
  fmt::print(out, "{}Go on? [y/N] ", plan);
  std::fflush(out);
  std::string line;
  if (std::getline(std::cin, line) && (line == "y" || line == "Y" || line == "yes")) return {};
  return failure(ErrorKind::failed, ECANCELED, fmt::format("{}: not done", what));
}

} // namespace vsnap::cli
