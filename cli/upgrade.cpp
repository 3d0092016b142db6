// vsnap upgrade: the program of a mount's daemon is replaced, and the mount stays.
#include <fmt/format.h>
#include <unistd.h>
#include <chrono>
#include <filesystem>
#include <thread>

#include "cli/command.h"
#include "cli/output.h"
#include "cli/pool_access.h"
#include "cli/pool_daemon.h"
#include "cli/registry.h"
#include "sync/control_client.h"

namespace vsnap::cli {
namespace {

constexpr std::chrono::milliseconds kLookEvery(10);
constexpr std::chrono::seconds kLongest(120); // for the last commit of a large pool on a slow disk
constexpr std::chrono::seconds kSilence(10);

Result<wire::ControlReply> ask(const DaemonRecord& daemon, wire::ControlRequest request) {
  VSNAP_TRY_ASSIGN(const auto client,
                   ControlClient::connect({daemon.socket_path, daemon.pool,
                                           [&] { return is_running(Env::real(), daemon); }, kSilence}));
  SilentSink silent;
  return client->call(std::move(request), silent);
}

// A daemon of another protocol version does what is asked, and answers in words that are not understood here.
// EAGAIN: that one ends before it can do so, and its successor is to be asked.
Result<> ask_for(const DaemonRecord& daemon, const std::string& program) {
  wire::ControlRequest request;
  request.mutable_upgrade()->set_program(program);
  const auto reply = ask(daemon, std::move(request));
  if (!reply) {
    Error error = reply.error();
    if (error.errno_value == EPROTO) return {};
    if (error.errno_value == ECONNREFUSED || error.errno_value == ECONNRESET) error.errno_value = EAGAIN;
    return Failure(std::move(error));
  }
  if (reply->has_error()) return Failure(wire::from_wire(reply->error()));
  return {};
}

Result<DaemonRecord> wait_for_successor(const DaemonRecord& before) {
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - start < kLongest) {
    const auto record = read_record(before.pool);
    if (!record || (!is_running(Env::real(), *record) && !is_kept(Env::real(), *record))) {
      return failure(ErrorKind::failed, fmt::format("{}: its mount has ended (log: {})", before.pool,
                                                    daemon_log_path(before.pool)));
    }
    if (record->pid != before.pid && is_running(Env::real(), *record)) return *record;
    std::this_thread::sleep_for(kLookEvery);
  }
  return failure(ErrorKind::no_answer,
                 fmt::format("{}: no new daemon serves it after {} s (log: {})", before.pool,
                             kLongest.count(), daemon_log_path(before.pool)));
}

// The successor may be one of the program before, where this one did not come to serve.
Result<> check_program(const DaemonRecord& daemon, const std::string& program) {
  std::error_code code;
  const std::string runs = fmt::format("/proc/{}/exe", daemon.pid);
  if (std::filesystem::equivalent(runs, program, code)) return {};
  return failure(ErrorKind::failed,
                 fmt::format("{}: the daemon of {} did not come to serve, the one before goes on (log: {})",
                             daemon.pool, program, daemon_log_path(daemon.pool)));
}

// By a daemon that was asked for it, however many others come and go meanwhile.
Result<DaemonRecord> replace(DaemonRecord daemon, const std::string& program) {
  for (;;) {
    const auto asked = ask_for(daemon, program);
    if (!asked && (asked.error().errno_value != EAGAIN || !is_kept(Env::real(), daemon)))
      return Failure(asked.error());
    VSNAP_TRY_ASSIGN(daemon, wait_for_successor(daemon));
    if (asked || check_program(daemon, program)) return daemon;
  }
}

Result<int> run(const CommonOptions& common, const std::string& pool) {
  VSNAP_TRY(check_name("pool", pool));
  VSNAP_TRY_ASSIGN(const auto daemon, daemon_of(pool));
  if (!daemon) {
    VSNAP_TRY(registry_find(pool));
    return failure(ErrorKind::failed, fmt::format("{0}: not mounted, so there is nothing to replace", pool));
  }
  std::error_code code;
  const std::string program = std::filesystem::read_symlink("/proc/self/exe", code).string();
  if (code) return system_failure(code.value(), "/proc/self/exe");
  Json said{{"dry_run", common.dry_run}, {"pool", pool}, {"program", program}, {"pid_before", daemon->pid}};
  std::string text = fmt::format("{}: would be served by {} {} instead of pid {}", pool, program,
                                 VSNAP_VERSION, daemon->pid);
  if (!common.dry_run) {
    const auto start = std::chrono::steady_clock::now();
    VSNAP_TRY_ASSIGN(const DaemonRecord after, replace(*daemon, program));
    VSNAP_TRY(check_program(after, program));
    const auto took =
        std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start);
    said["pid"] = after.pid;
    said["took_ms"] = took.count();
    text = fmt::format("{}: served by {} {}, pid {} (before: pid {}), after {} ms", pool, program,
                       VSNAP_VERSION, after.pid, daemon->pid, took.count());
  }
  if (common.json) {
    print_json(std::move(said));
  } else if (!common.quiet) {
    fmt::print("{}\n", text);
  }
  return 0;
}

} // namespace

void register_upgrade(Program& program) {
  Command command =
      program.add("upgrade", "[-n] POOL",
                  "Replace the daemon of a mounted pool by this program; the mount stays.", Takes::dry_run);
  auto pool = std::make_shared<std::string>();
  command.argument("POOL", *pool);
  program.on(command, [pool](const CommonOptions& common) { return run(common, *pool); });
}

} // namespace vsnap::cli
