#include "cli/daemon.h"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <atomic>
#include <chrono>
#include <csignal>
#include <optional>

#include "cli/fence_command.h"
#include "cli/file_limit.h"
#include "cli/keeper_line.h"
#include "cli/member_search.h"
#include "cli/mount_table.h"
#include "cli/registry.h"
#include "cli/shared_pool.h"
#include "cli/stop_watch.h"
#include "core/log.h"
#include "core/pool.h"
#include "fuse/session.h"
#include "sync/control_server.h"
#include "sync/coordinator.h"
#include "sync/joined_pool.h"
#include "sync/view_exports.h"

namespace vsnap::cli {
namespace {

constexpr std::chrono::seconds kLongestLettingGo(3); // of a keeper that was stopped

// Memory that this process needs to write out dirty pages must not wait for dirty pages to be written out.
void become_io_flusher() {
#ifdef PR_SET_IO_FLUSHER
  if (::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0)
    log::debug("PR_SET_IO_FLUSHER was refused: errno {}", errno);
#endif
}

MountOptions mount_options(const Pool& pool, const DaemonOptions& options) {
  MountOptions mount;
  mount.mount_point = options.mount_point;
  mount.allow_other = options.allow_other;
  mount.debug = options.debug;
  mount.io_uring = options.io_uring;
  mount.threads = options.threads;
  mount.fs_name = fs_name(options.pool);
  mount.read_only = pool.is_read_only();
  return mount;
}

Result<DaemonRecord> make_record(Pool& pool, const DaemonOptions& options) {
  VSNAP_TRY(prepare_runtime_dir());
  VSNAP_TRY_ASSIGN(const std::string socket, control_socket_path(options.pool));
  DaemonRecord record = own_record(Env::real(), options.pool, pool.status().uuid, options.mount_point, socket,
                                   options.keeper_pid);
  if (!options.members.empty()) record.first_member = options.members.front();
  return record;
}

// One life of a daemon.
class Daemon {
 public:
  Daemon(const DaemonOptions& options, const KeeperLine& keeper, const std::function<void()>& ready)
      : options_(options), keeper_(keeper), ready_(ready) {}
  ~Daemon() {
    if (mount_ && mount_->is_adopted()) mount_->leave(); // it failed; not so the next one, perhaps
  }
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;
  Result<> run(Inheritance inheritance);

 private:
  Result<> open_pool(std::vector<int> held);
  Result<> open_joined();
  Result<> serve();
  Result<> start_coordinator(bool again);
  void give_up_fencing() const;
  void stop_sharing();
  Result<std::unique_ptr<ControlServer>> start_server();
  Result<> make_session();
  Result<> serve_mount(ControlServer& server, bool again);
  void keep_mount();
  Result<> hand_over(const std::string& program);
  Result<> close_pool();

  const DaemonOptions& options_;
  const KeeperLine& keeper_;
  const std::function<void()>& ready_;
  StopWatch watch_;
  std::unique_ptr<Pool> pool_;
  JoinedPool* joined_ = nullptr; // pool_, where another host coordinates it
  DaemonRecord record_;
  std::unique_ptr<KernelMount> mount_; // until the session has it
  std::unique_ptr<MountSession> session_;
  std::optional<FenceCommand> fence_;
  std::unique_ptr<ViewExports> exports_; // where the pool is shared, as the next
  std::unique_ptr<Coordinator> coordinator_;
  std::atomic<bool> kept_{false}; // the mount has a keeper
  enum class Wanted { nothing, end, successor };
  std::atomic<Wanted> wanted_{Wanted::nothing}; // the first that somebody asked for
  bool handed_over_ = false;
};

Result<> Daemon::open_joined() {
  VSNAP_TRY_ASSIGN(const auto shared, shared_pool_find(options_.pool));
  if (!shared || to_string(shared->uuid) != options_.uuid)
    return failure(ErrorKind::not_found,
                   fmt::format("{}: this host is no guest of it any more", options_.pool));
  JoinedPool::Options open;
  open.link = {options_.pool, shared->uuid, shared->address, shared->server_key, {}};
  VSNAP_TRY_ASSIGN(open.link.own, host_key());
  open.members = options_.members;
  open.search = [uuid = shared->uuid] { return devices_of(Env::real(), uuid); };
  open.only = options_.only;
  VSNAP_TRY_ASSIGN(auto pool, JoinedPool::open(Env::real(), std::move(open)));
  joined_ = pool.get();
  pool_ = std::move(pool);
  return {};
}

// A successor takes the members as the registry knows them now: some may have been added.
Result<> Daemon::open_pool(std::vector<int> held) {
  if (options_.joined) return open_joined();
  OpenPoolOptions open;
  open.member_paths = options_.members;
  if (const auto entry = registry_find(options_.pool); mount_ && entry && entry->uuid == options_.uuid)
    open.member_paths = entry->members;
  open.expected_uuid = options_.uuid;
  open.role = "daemon";
  open.background = true;
  open.keep_tail = true;
  open.direct = options_.direct;
  open.degraded = options_.degraded;
  if (options_.cache_bytes != 0) open.cache_bytes = options_.cache_bytes;
  open.takes_over = mount_ != nullptr;
  if (mount_) {
    for (const MountState::Handle& handle : mount_->state().handles()) open.still_open.push_back(handle.view);
  }
  open.held_members = held;
  auto opened = Pool::open(Env::real(), std::move(open));
  for (const int fd : held) ::close(fd);
  VSNAP_TRY_ASSIGN(pool_, std::move(opened));
  if (pool_->name() == options_.pool) return {};
  return failure(ErrorKind::failed,
                 fmt::format("{0}: expected members of this pool, found those of {1} (vsnap pool detach "
                             "{0} and vsnap pool attach MEMBER... put it right)",
                             options_.pool, pool_->name()));
}

// Gives the mount to the keeper, where somebody can go on with it.
void Daemon::keep_mount() {
  Result<> can = mount_->can_outlive();
  if (can && !pool_->survives_kill())
    can = failure(ErrorKind::failed, "what writes change could not be kept in shared memory");
  if (options_.restart && !can)
    log::warning("{}: should the daemon die, the mount dies with it: {}", options_.pool, can.error().message);
  // What the predecessor gave it, it has: after this daemon nobody is to go on.
  if (mount_->is_adopted() && !can && keeper_.send(Word::let_go)) keeper_.wait(kLongestLettingGo);
  if (options_.restart && can) {
    kept_ = mount_->is_adopted() || keeper_.send_descriptors(Word::keep, mount_->descriptors());
    keeper_.send_descriptors(Word::hold, pool_->member_descriptors());
    // Also if only some went there.
    mount_->set_on_end([this] {
      if (keeper_.send(Word::let_go)) keeper_.wait(kLongestLettingGo);
    });
  }
  if (kept_) mount_->set_kept();
  if (!kept_) record_.keeper_pid = 0;
}

// Asked for by a command, whose own program is to go on.
Result<> Daemon::hand_over(const std::string& program) {
  if (!kept_) {
    return failure(
        ErrorKind::failed,
        fmt::format("{0}: its daemon cannot be replaced while it is mounted, see its log, {1} (vsnap "
                    "umount {0}, then vsnap mount)",
                    options_.pool, daemon_log_path(options_.pool)));
  }
  if (!program.starts_with('/') || ::access(program.c_str(), X_OK) != 0)
    return failure(ErrorKind::failed, fmt::format("{}: {}: no such program", options_.pool, program));
  if (auto free = session_->check_hand_over(); !free)
    return failure(free.error().kind, EBUSY, fmt::format("{}: {}", options_.pool, free.error().message));
  Wanted found = Wanted::nothing;
  if (!wanted_.compare_exchange_strong(found, Wanted::successor)) {
    return failure(ErrorKind::busy, found == Wanted::successor ? EAGAIN : EBUSY,
                   fmt::format("{}: its daemon is ending already", options_.pool));
  }
  if (!keeper_.send(Word::next, program)) {
    wanted_ = Wanted::nothing;
    return failure(ErrorKind::failed,
                   fmt::format("{0}: the mount's keeper was killed, so nobody can replace the daemon (vsnap "
                               "umount {0}, then vsnap mount)",
                               options_.pool));
  }
  watch_.request();
  return {};
}

Result<> Daemon::make_session() {
  keep_mount();
  VSNAP_TRY_ASSIGN(session_, MountSession::over(*pool_, mount_options(*pool_, options_), std::move(mount_)));
  return {};
}

Result<> Daemon::serve_mount(ControlServer& server, bool again) {
  VSNAP_TRY(write_record(record_));
  watch_.start([this, &server] {
    Wanted none = Wanted::nothing;
    wanted_.compare_exchange_strong(none, Wanted::end);
    give_up_fencing();
    if (wanted_ != Wanted::successor) return session_->stop(MountSession::Stop::unmount);
    if (joined_ != nullptr) joined_->end_forwards();
    session_->leave_waiting(); // also of other hosts, to whose writes the coordinator would listen
    // While there is somebody who tells the kernel what commands have changed.
    server.stop(ControlServer::Stop::hand_over);
    if (coordinator_) coordinator_->stop();
    session_->stop(MountSession::Stop::hand_over);
  });
  ready_();
  if (!again) log::info("{}: mounted at {}, pid {}", record_.pool, record_.mount_point, record_.pid);
  if (coordinator_)
    log::info("{}: shared with other hosts at {}, epoch {}", record_.pool, options_.listen,
              coordinator_->epoch());
  const auto served = session_->serve();
  watch_.finish();
  give_up_fencing();
  handed_over_ = session_->was_handed_over();
  if (handed_over_ && StopWatch::is_signalled()) ::kill(static_cast<pid_t>(options_.keeper_pid), SIGTERM);
  if (joined_ != nullptr) joined_->end_forwards();
  // Running jobs give up, and answer.
  server.stop(handed_over_ ? ControlServer::Stop::hand_over : ControlServer::Stop::for_good);
  if (coordinator_) coordinator_->stop();
  return served;
}

// A successor serves its mount whether or not other hosts can reach it.
Result<> Daemon::start_coordinator(bool again) {
  if (options_.listen.empty()) return {};
  const auto started = [&]() -> Result<> {
    if (pool_->is_read_only())
      return failure(ErrorKind::usage, fmt::format("{}: read-only, so it is not shared", options_.pool));
    Coordinator::Options coordinator;
    coordinator.address = options_.listen;
    coordinator.keep_trying = again;
    if (options_.lease_ns != 0) coordinator.lease_ns = options_.lease_ns;
    Fence fence;
    if (!options_.fence.empty()) {
      fence_.emplace(options_.fence, options_.pool);
      fence = [this](const std::string& host) { return fence_->run(host); };
    }
    VSNAP_TRY_ASSIGN(exports_,
                     ViewExports::start(*pool_, Env::real(), coordinator.lease_ns, std::move(fence)));
    coordinator.listener = exports_.get();
    coordinator.serve = [this](const HostInfo& host, const wire::LinkRequest& request) {
      return exports_->serve(host, request);
    };
    coordinator.answer_first = [this](const wire::ControlRequest& request) {
      return exports_->answer(request);
    };
    coordinator.count_open = [this] { return exports_->open_by_hosts(); };
    VSNAP_TRY_ASSIGN(coordinator.key, host_key());
    VSNAP_TRY_ASSIGN(coordinator_, Coordinator::start(*pool_, Env::real(), std::move(coordinator)));
    exports_->set_coordinator(coordinator_.get());
    return {};
  }();
  if (started || !again) return started;
  log::error("{}: not shared with other hosts any more: {}", options_.pool, started.error().message);
  return {};
}

// Whoever waits for what a lost host has not returned need not wait for the command.
void Daemon::give_up_fencing() const {
  if (fence_) fence_->give_up();
}

void Daemon::stop_sharing() {
  give_up_fencing();
  if (exports_) exports_->set_coordinator(nullptr);
  coordinator_.reset(); // nobody asks it any more
  exports_.reset();
}

Result<std::unique_ptr<ControlServer>> Daemon::start_server() {
  ControlServer::Options options;
  options.identity = record_;
  options.on_shutdown = [this] { watch_.request(); };
  options.on_upgrade = [this](const std::string& program) { return hand_over(program); };
  if (joined_ != nullptr)
    options.before_pool = [this](const wire::ControlRequest& request) {
      return std::optional(joined_->forward(request));
    };
  if (coordinator_)
    options.before_pool = [this](const wire::ControlRequest& request) {
      return coordinator_->answer(request);
    };
  return ControlServer::start(*pool_, std::move(options));
}

// The record goes while the pool is still locked: the next daemon cannot have written its own yet. Should the
// process die from then on, the empty last words say so. Who hands over leaves it: commands wait for the
// successor then. Whoever is to be found open is so before the first command can ask.
Result<> Daemon::serve() {
  const bool again = mount_ != nullptr;
  if (again) VSNAP_TRY(make_session());
  VSNAP_TRY(start_coordinator(again));
  VSNAP_TRY_ASSIGN(auto server, start_server());
  if (!again) {
    VSNAP_TRY_ASSIGN(mount_, KernelMount::make(mount_options(*pool_, options_)));
    VSNAP_TRY(make_session());
  }
  const Result<> result = serve_mount(*server, again);
  server->stop();
  stop_sharing();
  session_.reset();
  if (handed_over_ || (again && !result)) return result;
  leave_last_words(record_, false, {});
  remove_record(record_);
  return result;
}

Result<> Daemon::close_pool() {
  const auto closed = pool_->close();
  if (handed_over_) {
    if (!closed) log::error("{}: closing the pool: {}", options_.pool, closed.error().message);
    return {}; // the successor has what is in the tail
  }
  if (closed) {
    take_back_last_words(record_);
  } else {
    log::error("{}: closing the pool: {}", options_.pool, closed.error().message);
    leave_last_words(record_, closed.error().kind == ErrorKind::no_space, closed.error().message);
  }
  return closed;
}

Result<> Daemon::run(Inheritance inheritance) {
  if (!inheritance.mount.empty()) {
    VSNAP_TRY_ASSIGN(mount_, KernelMount::adopt(options_.mount_point, std::move(inheritance.mount)));
  }
  VSNAP_TRY(watch_.ok());
  VSNAP_TRY(open_pool(std::move(inheritance.members)));
  VSNAP_TRY_ASSIGN(record_, make_record(*pool_, options_));
  const auto served = serve();
  session_.reset(); // where it was made and something else failed
  stop_sharing();
  const auto closed = close_pool();
  VSNAP_TRY(served);
  return closed;
}

} // namespace

Result<> run_daemon(const DaemonOptions& options, const KeeperLine& keeper, Inheritance inheritance,
                    const std::function<void()>& ready) {
  raise_file_limit();
  log::set_level(options.debug ? log::Level::debug : log::Level::info);
  become_io_flusher();
  ::umask(0077);
  Daemon daemon(options, keeper, ready);
  return daemon.run(std::move(inheritance));
}

} // namespace vsnap::cli
