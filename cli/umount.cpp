// vsnap umount: ends a mount and its daemon.
#include <fmt/format.h>
#include <unistd.h>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <thread>

#include "cli/command.h"
#include "cli/holders.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"
#include "cli/pool_daemon.h"
#include "cli/registry.h"
#include "fuse/unmount.h"
#include "sync/daemon_record.h"

namespace vsnap::cli {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLookEvery(20);
constexpr std::chrono::seconds kLongestEnd(300); // for the last commit of a large pool on a slow disk

struct Target {
  std::string pool;
  std::optional<std::string> mount_point;
  std::optional<DaemonRecord> daemon; // as it wrote itself down; it may be dead
};

bool has_mount(const std::vector<PoolMount>& mounts, const std::string& mount_point) {
  return std::any_of(mounts.begin(), mounts.end(),
                     [&](const PoolMount& mount) { return mount.mount_point == mount_point; });
}

// By directory: whatever pool is mounted there.
Result<Target> find_by_directory(const std::string& text) {
  const auto mounts = pool_mounts();
  std::error_code code;
  std::string path = std::filesystem::absolute(text, code).lexically_normal().string();
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  if (const auto real = absolute_path(text); real && !has_mount(mounts, path)) path = *real;
  for (const PoolMount& mount : mounts) {
    if (mount.mount_point != path) continue;
    const auto daemon = read_record(mount.pool);
    return Target{mount.pool, path, daemon && daemon->mount_point == path ? daemon : std::nullopt};
  }
  return failure(ErrorKind::failed,
                 fmt::format("{}: no pool is mounted there (vsnap pool list shows mounts)", path));
}

Failure ended_badly(const std::string& pool, const LastWords& words) {
  if (words.message.empty()) {
    return failure(ErrorKind::failed,
                   fmt::format("{}: its daemon did not end in order (log: {})", pool, daemon_log_path(pool)));
  }
  return failure(words.no_space ? ErrorKind::no_space : ErrorKind::failed,
                 fmt::format("{}: unmounted, but not all is on disk: {} (log: {})", pool, words.message,
                             daemon_log_path(pool)));
}

// By name: what the pool's daemon mounted, also when that daemon was killed since. Not any mount of that
// name: it may be another pool's, under another runtime directory.
Result<Target> find_by_name(const std::string& pool) {
  VSNAP_TRY(check_name("pool", pool));
  VSNAP_TRY(daemon_of(pool));
  Target target{pool, std::nullopt, read_record(pool)};
  if (target.daemon && has_mount(pool_mounts(), target.daemon->mount_point)) {
    target.mount_point = target.daemon->mount_point;
  }
  if (!target.daemon) {
    VSNAP_TRY(registry_find(pool)); // a wrong name is another error than one that is not mounted
    if (const auto words = read_last_words(pool)) return ended_badly(pool, *words);
    return failure(ErrorKind::failed, fmt::format("{}: not mounted", pool));
  }
  return target;
}

Result<Target> find_mount(const std::string& text) {
  const bool is_path = text.find('/') != std::string::npos || text.starts_with('.');
  return is_path ? find_by_directory(text) : find_by_name(text);
}

Failure in_use(const std::string& pool, const std::string& directory) {
  const auto who = holders_of_mount(directory);
  return failure(
      ErrorKind::busy,
      fmt::format("{}: {} is in use{}{} (close {} first; vsnap unmap detaches loop devices)", pool, directory,
                  who.empty() ? "" : " by ", fmt::join(who, ", "), who.empty() ? "its files" : "them"));
}

Result<> unmount(const std::string& pool, const std::string& directory) {
  const int code = unmount_directory(directory, Unmount::when_unused);
  if (code == 0 || code == EINVAL) return {}; // EINVAL: somebody else was quicker
  if (code == EBUSY) return in_use(pool, directory);
  return system_failure(code, fmt::format("{}: unmount {}", pool, directory));
}

// The mount is gone but the daemon is not: it was unmounted lazily, or is about to end.
void ask_to_stop(const DaemonRecord& daemon) {
  auto client = ControlClient::connect({daemon.socket_path, daemon.pool, {}, std::chrono::seconds(2)});
  if (!client) return; // it is ending already
  SilentSink silent;
  wire::ControlRequest request;
  request.mutable_shutdown();
  (void)(*client)->call(std::move(request), silent); // whether it ends is what counts, and is waited for
}

Result<> wait_for_end(const DaemonRecord& daemon) {
  const auto start = std::chrono::steady_clock::now();
  while (is_running(Env::real(), daemon) || is_kept(Env::real(), daemon)) {
    if (std::chrono::steady_clock::now() - start > kLongestEnd) {
      return failure(ErrorKind::no_answer,
                     fmt::format("{}: unmounted, but its daemon, pid {}, has not ended: whether all is "
                                 "on disk is not known (see {})",
                                 daemon.pool, daemon.pid, daemon_log_path(daemon.pool)));
    }
    std::this_thread::sleep_for(kLookEvery);
  }
  return {};
}

// How the daemon ended that is gone now; or, if that one was killed meanwhile, its successor.
Result<> look_at_end(const DaemonRecord& daemon) {
  if (const auto later = read_record(daemon.pool);
      later && later != daemon && !is_running(Env::real(), *later) && !is_kept(Env::real(), *later)) {
    return look_at_end(*later);
  }
  if (const auto words = read_last_words(daemon.pool); words && is_of(*words, daemon))
    return ended_badly(daemon.pool, *words);
  const auto left = read_record(daemon.pool);
  if (left != daemon) return {}; // taken away in order, and maybe there is a new one
  remove_record(daemon);
  return ended_badly(daemon.pool, {});
}

Result<int> run(const CommonOptions& common, const std::string& text) {
  VSNAP_TRY_ASSIGN(const Target target, find_mount(text));
  if (target.mount_point) {
    VSNAP_TRY(unmount(target.pool, *target.mount_point));
  } else {
    ask_to_stop(*target.daemon);
  }
  if (target.daemon) {
    VSNAP_TRY(wait_for_end(*target.daemon));
    VSNAP_TRY(look_at_end(*target.daemon));
  }
  if (common.json) {
    print_json({{"pool", target.pool},
                {"mount_point", target.mount_point ? Json(*target.mount_point) : Json(nullptr)}});
  }
  return 0;
}

} // namespace

void register_umount(Program& program) {
  Command command = program.add("umount", "DIR | POOL",
                                "End a mount; returns when all is on disk and its daemon has ended.");
  auto target = std::make_shared<std::string>();
  command.argument("TARGET", *target);
  program.on(command, [target](const CommonOptions& common) { return run(common, *target); });
}

} // namespace vsnap::cli
