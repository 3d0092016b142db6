#include "fuse/session.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "core/log.h"
#include "fuse/operations.h"
#include "fuse/request_ring.h"
#include "fuse/wake_signal.h"

namespace vsnap {
namespace {

constexpr unsigned kDefaultThreads = 4; // more raise the latency of a single client on small machines
constexpr auto kWakeInterval = std::chrono::milliseconds(2);

thread_local std::string last_complaint; // of libfuse, in this thread: the reason why it would not mount
std::atomic<bool> mount_is_up{false};    // from then on nobody asks for the last complaint: it is logged

void log_line(fuse_log_level level, const char* format, va_list arguments) {
  std::array<char, 1024> line{};
  std::vsnprintf(line.data(), line.size(), format, arguments);
  std::string text = line.data();
  while (!text.empty() && text.back() == '\n') text.pop_back();
  if (text.starts_with("fuse: ")) text.erase(0, 6);
  if (level <= FUSE_LOG_ERR) {
    if (mount_is_up) {
      log::error("fuse: {}", text);
    } else {
      last_complaint = text;
    }
  } else if (level <= FUSE_LOG_WARNING) {
    log::warning("fuse: {}", text);
  } else if (level <= FUSE_LOG_INFO) {
    log::info("fuse: {}", text); // of which there is hardly any: that rings could not be started
  } else {
    log::debug("fuse: {}", text);
  }
}

bool found_in_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::string_view rest = path != nullptr ? path : "/usr/bin:/bin";
  while (!rest.empty()) {
    const auto colon = rest.find(':');
    if (::access(fmt::format("{}/{}", rest.substr(0, colon), program).c_str(), X_OK) == 0) return true;
    rest = colon == std::string_view::npos ? "" : rest.substr(colon + 1);
  }
  return false;
}

// Everything that commonly goes wrong is looked for first, because libfuse only prints what it found.
Result<> check_mount_point(const std::string& path) {
  struct stat there = {};
  if (::stat(path.c_str(), &there) != 0) {
    const int error = errno;
    if (error == ENOENT) {
      return failure(ErrorKind::not_found, fmt::format("{}: no such directory (mkdir it first)", path));
    }
    if (error == ENOTCONN) {
      return failure(
          ErrorKind::busy, error,
          fmt::format("{}: left behind by a daemon that died (fusermount3 -u {} removes it)", path, path));
    }
    return system_failure(error, path);
  }
  if (!S_ISDIR(there.st_mode)) {
    return failure(ErrorKind::usage, ENOTDIR, fmt::format("{}: not a directory (a mount needs one)", path));
  }
  struct stat above = {};
  if (::stat((path + "/..").c_str(), &above) == 0 && above.st_dev != there.st_dev) {
    return failure(ErrorKind::busy,
                   fmt::format("{}: something is mounted there already (umount it first)", path));
  }
  return {};
}

Result<> check_fuse() {
  const int fd = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (fd >= 0) {
    ::close(fd);
  } else if (errno == ENOENT || errno == ENODEV || errno == ENXIO) {
    return failure(ErrorKind::failed, ENODEV,
                   "/dev/fuse: not there (modprobe fuse; in a container, pass the device in)");
  } else {
    return system_failure(errno, "/dev/fuse: cannot be opened (the user needs read and write access)");
  }
  if (::geteuid() != 0 && !found_in_path("fusermount3")) {
    return failure(ErrorKind::failed, ENOENT,
                   "fusermount3: not found (install the package fuse3, or mount as root)");
  }
  return {};
}

class FuseSession final : public MountSession {
 public:
  FuseSession(Pool& pool, const MountOptions& options)
      : options_(options), operations_(pool, ::geteuid(), ::getegid()) {
    operations_.over_ring = options.io_uring;
  }
  ~FuseSession() override;
  Result<> mount();
  Result<> serve() override;
  void stop() override;

 private:
  Result<> add_arguments(fuse_args& arguments) const;
  void unmount();

  const MountOptions options_;
  Operations operations_;
  fuse_session* session_ = nullptr;
  bool mounted_ = false;
  Mutex mutex_;
  CondVar ended_;
  bool serving_ VSNAP_GUARDED_BY(mutex_) = false;
  bool stopped_ VSNAP_GUARDED_BY(mutex_) = false;
};

Result<> FuseSession::add_arguments(fuse_args& arguments) const {
  char* list = nullptr;
  bool added =
      fuse_opt_add_opt(&list, "default_permissions") == 0 && fuse_opt_add_opt(&list, "subtype=vsnap") == 0;
  if (!options_.fs_name.empty()) {
    added = added && fuse_opt_add_opt_escaped(&list, ("fsname=" + options_.fs_name).c_str()) == 0;
  }
  if (options_.allow_other) added = added && fuse_opt_add_opt(&list, "allow_other") == 0;
  if (options_.debug) added = added && fuse_opt_add_opt(&list, "debug") == 0;
  if (const char* option = ring_mount_option(); options_.io_uring && option != nullptr)
    added = added && fuse_opt_add_opt(&list, option) == 0;
  added = added && fuse_opt_add_arg(&arguments, "vsnap") == 0 && fuse_opt_add_arg(&arguments, "-o") == 0 &&
          fuse_opt_add_arg(&arguments, list) == 0;
  std::free(list);
  if (!added) return system_failure(ENOMEM, options_.mount_point);
  return {};
}

Result<> FuseSession::mount() {
  VSNAP_TRY(check_fuse());
  VSNAP_TRY(check_mount_point(options_.mount_point));
  fuse_set_log_func(log_line);
  install_wake_signal();
  std::signal(SIGPIPE, SIG_IGN);
  last_complaint.clear();
  mount_is_up = false;
  fuse_args arguments = FUSE_ARGS_INIT(0, nullptr);
  if (const Result<> added = add_arguments(arguments); !added) {
    fuse_opt_free_args(&arguments);
    return added;
  }
  const fuse_lowlevel_ops table = operation_table();
  session_ = fuse_session_new(&arguments, &table, sizeof table, &operations_);
  fuse_opt_free_args(&arguments);
  if (session_ == nullptr) {
    return failure(ErrorKind::usage,
                   fmt::format("{}: bad mount options: {}", options_.mount_point, last_complaint));
  }
  if (fuse_session_mount(session_, options_.mount_point.c_str()) != 0) {
    return failure(
        ErrorKind::failed, EPERM,
        fmt::format("{}: cannot be mounted: {}", options_.mount_point,
                    last_complaint.empty() ? "fusermount3 refused (its reason is above)" : last_complaint));
  }
  mounted_ = true;
  mount_is_up = true;
  return {};
}

Result<> FuseSession::serve() {
  {
    MutexLock lock(mutex_);
    if (stopped_) return {};
    serving_ = true;
  }
  operations_.notifier.start(session_);
  operations_.pool.set_observer(&operations_.notifier);
  const std::unique_ptr<fuse_loop_config, decltype(&fuse_loop_cfg_destroy)> config(fuse_loop_cfg_create(),
                                                                                   fuse_loop_cfg_destroy);
  const unsigned threads = options_.threads != 0 ? options_.threads : kDefaultThreads;
  fuse_loop_cfg_set_clone_fd(config.get(), 1);
  fuse_loop_cfg_set_max_threads(config.get(), threads);
  // None may end before the session: stop() counts on the first one.
  fuse_loop_cfg_set_idle_threads(config.get(), threads);
  const int error = fuse_session_loop_mt(session_, config.get());
  operations_.pending_reads.wait_for_all();
  unmount(); // nobody answers any more, so whoever still waits gets ENOTCONN instead
  operations_.pool.set_observer(nullptr);
  operations_.notifier.stop();
  operations_.files.remove_all();
  MutexLock lock(mutex_);
  serving_ = false;
  ended_.notify_all();
  if (error < 0) return system_failure(-error, fmt::format("{}: serving the mount", options_.mount_point));
  return {};
}

// The notifier goes first, while there are workers to answer what a notification may wait for. A worker looks
// at the end of the session between two requests only, so the one that surely lives is interrupted until all
// have gone.
void FuseSession::stop() {
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    if (!serving_) return;
  }
  operations_.pool.set_observer(nullptr);
  operations_.notifier.stop();
  fuse_session_exit(session_);
  MutexLock lock(mutex_);
  while (serving_) {
    if (const pid_t worker = operations_.first_worker.load(); worker != 0) send_wake_signal(worker);
    ended_.wait_for(mutex_, kWakeInterval);
  }
}

void FuseSession::unmount() {
  if (mounted_) {
    fuse_session_unmount(session_); // closes the connection first, so it does not wait for open files
  }
  mounted_ = false;
}

FuseSession::~FuseSession() {
  unmount();
  if (session_ != nullptr) fuse_session_destroy(session_);
}

} // namespace

Result<std::unique_ptr<MountSession>> MountSession::mount(Pool& pool, const MountOptions& options) {
  auto session = std::make_unique<FuseSession>(pool, options);
  VSNAP_TRY(session->mount());
  return session;
}

} // namespace vsnap
