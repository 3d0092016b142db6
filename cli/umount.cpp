// vsnap umount: ends a mount and its daemon.
#include <chrono>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "cli/command.h"
#include "cli/holders.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"
#include "cli/registry.h"
#include "sync/daemon_record.h"

extern char** environ;

namespace vsnap::cli {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLookEvery(20);
constexpr std::chrono::seconds kLongestEnd(300); // for the last commit of a large pool on a slow disk

struct Target {
  std::string pool;
  std::optional<std::string> mount_point;
  std::optional<DaemonRecord> daemon;
};

Result<Target> find_mount(const std::string& text) {
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_target(text));
  if (spec.view) {
    return failure(ErrorKind::usage,
                   fmt::format("{}: a whole pool is unmounted (vsnap umount {})", text, spec.pool));
  }
  Target target{spec.pool, std::nullopt, live_daemon(Env::real(), spec.pool)};
  for (const PoolMount& mount : pool_mounts()) {
    if (mount.pool == spec.pool) target.mount_point = mount.mount_point;
  }
  if (!target.mount_point && !target.daemon) {
    VSNAP_TRY(registry_find(spec.pool)); // a wrong name is another error than one that is not mounted
    return failure(ErrorKind::failed, fmt::format("{}: not mounted", spec.pool));
  }
  return target;
}

Failure in_use(const std::string& pool, const std::string& directory) {
  std::string who;
  for (const std::string& holder : holders_of_mount(directory)) who += (who.empty() ? "" : ", ") + holder;
  return failure(ErrorKind::busy,
                 fmt::format("{}: {} is in use{} (close {} first; vsnap unmap detaches loop devices)", pool,
                             directory, who.empty() ? "" : " by " + who, who.empty() ? "its files" : "them"));
}

// As an ordinary user only the set-uid helper may unmount. 0, or the errno it stands for.
int unmount_by_helper(const std::string& directory) {
  const char* arguments[] = {"fusermount3", "-u", "-q", "--", directory.c_str(), nullptr};
  pid_t child = 0;
  if (::posix_spawnp(&child, arguments[0], nullptr, nullptr, const_cast<char**>(arguments), environ) != 0)
    return ENOENT;
  int status = 0;
  if (::waitpid(child, &status, 0) != child) return ECHILD;
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : EBUSY;
}

Result<> unmount(const std::string& pool, const std::string& directory) {
  int code = ::umount2(directory.c_str(), UMOUNT_NOFOLLOW) == 0 ? 0 : errno;
  if (code == EPERM) code = unmount_by_helper(directory);
  if (code == 0 || code == EINVAL) return {}; // EINVAL: somebody else was quicker
  if (code == EBUSY) return in_use(pool, directory);
  return system_failure(code, fmt::format("{}: unmount {}", pool, directory));
}

// The mount is gone but the daemon is not: it was unmounted lazily, or is about to end.
void ask_to_stop(const DaemonRecord& daemon) {
  auto client = ControlClient::connect({daemon.socket_path, daemon.pool, {}, std::chrono::seconds(2)});
  if (!client) return; // it is ending already
  class Silent final : public ControlSink {
    bool progress(std::uint64_t, std::uint64_t) override { return true; }
    bool diff(std::span<const DiffRange>) override { return true; }
  } silent;
  wire::ControlRequest request;
  request.mutable_shutdown();
  (void)(*client)->call(std::move(request), silent); // whether it ends is what counts, and is waited for
}

Result<> wait_for_end(const DaemonRecord& daemon) {
  const auto start = std::chrono::steady_clock::now();
  while (is_running(Env::real(), daemon)) {
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

Result<int> run(const CommonOptions& common, const std::string& text) {
  VSNAP_TRY_ASSIGN(const Target target, find_mount(text));
  if (target.mount_point) {
    VSNAP_TRY(unmount(target.pool, *target.mount_point));
  } else {
    ask_to_stop(*target.daemon);
  }
  if (target.daemon) VSNAP_TRY(wait_for_end(*target.daemon));
  if (common.json) {
    print_json({{"pool", target.pool},
                {"mount_point", target.mount_point ? Json(*target.mount_point) : Json(nullptr)}});
  }
  return 0;
}

} // namespace

void register_umount(Program& program) {
  auto& command = program.add("umount", "DIR | POOL",
                              "End a mount; returns when all is on disk and its daemon has ended.");
  auto target = std::make_shared<std::string>();
  command.add_option("TARGET", *target)->required();
  program.on(command, [target](const CommonOptions& common) { return run(common, *target); });
}

} // namespace vsnap::cli
