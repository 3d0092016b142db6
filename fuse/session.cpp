#include "fuse/session.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>
#include <vector>

#include "core/log.h"
#include "fuse/fuse_log.h"
#include "fuse/operations.h"
#include "fuse/request_channel.h"
#include "fuse/request_ring.h"
#include "fuse/wake_signal.h"

namespace vsnap {
namespace {

constexpr auto kWakeInterval = std::chrono::milliseconds(2);
constexpr std::uint64_t kSentAgain = 1ULL << 63; // in a request's number: FUSE_UNIQUE_RESEND of Linux 6.9
constexpr std::size_t kPage = 4096;
constexpr const char* kNowhere = "/dev/null";

// Where a worker's requests lie: such that the data of a write starts with a page. It is there from the
// start, because a worker that is killed while the kernel looks for a page of it loses the request.
class RequestBuffer {
 public:
  RequestBuffer()
      : memory_(::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
                       -1, 0)) {}
  ~RequestBuffer() {
    if (ok()) ::munmap(memory_, kBytes);
  }
  RequestBuffer(const RequestBuffer&) = delete;
  RequestBuffer& operator=(const RequestBuffer&) = delete;
  [[nodiscard]] bool ok() const { return memory_ != MAP_FAILED; }
  [[nodiscard]] std::span<std::byte> bytes() const {
    return {static_cast<std::byte*>(memory_) + kHead, kBytes - kHead};
  }

 private:
  static constexpr std::size_t kHead = kPage - sizeof(fuse_in_header) - sizeof(fuse_write_in);
  static constexpr std::size_t kBytes = kPage + Operations::kMaxWriteBytes + kPage;
  void* const memory_;
};

// What libfuse answers. A good answer is noted before the kernel can know it.
ssize_t send_answer(int, iovec* parts, int count, void* userdata) {
  const RequestOrigin& at = current_request();
  KernelMount& mount = static_cast<Operations*>(userdata)->mount;
  fuse_out_header header{};
  std::memcpy(&header, parts[0].iov_base, sizeof header);
  if (header.unique == mount.state().init_request()) {
    std::vector<std::byte> answer;
    for (const iovec& part : std::span(parts, static_cast<std::size_t>(count))) {
      const auto* const bytes = static_cast<const std::byte*>(part.iov_base);
      answer.insert(answer.end(), bytes, bytes + part.iov_len);
    }
    static_cast<Operations*>(userdata)->other_terms = !mount.state().agree_on(answer);
  }
  if (header.unique != 0 && header.error == 0) mount.state().note_answer(header.unique & ~kSentAgain);
  return ::writev(at.channel >= 0 ? at.channel : mount.device(), parts, count);
}

ssize_t read_nothing(int, void*, std::size_t, void*) { // libfuse wants one; workers read by themselves
  errno = ENODEV;
  return -1;
}

class FuseSession final : public MountSession {
 public:
  FuseSession(Pool& pool, const MountOptions& options, std::unique_ptr<KernelMount> mount)
      : options_(options), mount_(std::move(mount)), operations_(pool, *mount_, ::geteuid(), ::getegid()) {
    operations_.over_ring = options.io_uring;
  }
  ~FuseSession() override;
  Result<> prepare();
  Result<> serve() override;
  void stop(Stop how) override;
  void leave_waiting() override;
  Result<> check_hand_over() override;
  [[nodiscard]] bool was_handed_over() const override { return operations_.hands_over; }

 private:
  [[nodiscard]] Result<> serve_by_library();
  [[nodiscard]] Result<> serve_by_channels();
  void work(int channel, std::atomic<pid_t>& thread);
  [[nodiscard]] Result<> negotiate();
  void take_up();
  void look_at(const fuse_in_header& header);
  [[nodiscard]] bool was_stopped() {
    MutexLock lock(mutex_);
    return stopped_;
  }
  void stop_waiting();
  void finish();

  const MountOptions options_;
  const std::unique_ptr<KernelMount> mount_;
  Operations operations_;
  fuse_session* session_ = nullptr;
  std::vector<std::atomic<pid_t>> workers_; // 0: has ended, or not begun
  Mutex mutex_;
  CondVar ended_;
  bool serving_ VSNAP_GUARDED_BY(mutex_) = false;
  bool stopped_ VSNAP_GUARDED_BY(mutex_) = false;
  bool served_ = false;
  std::atomic<int> error_{0}; // of a worker
};

// The mount's own options were said when it was made.
Result<> FuseSession::prepare() {
  install_wake_signal();
  std::signal(SIGPIPE, SIG_IGN);
  const FuseComplaint complaint;
  fuse_args arguments = FUSE_ARGS_INIT(0, nullptr);
  bool added = fuse_opt_add_arg(&arguments, "vsnap") == 0;
  if (options_.debug) added = added && fuse_opt_add_arg(&arguments, "-odebug") == 0;
  if (const char* option = ring_mount_option(); mount_->is_of_library() && option != nullptr)
    added = added && fuse_opt_add_arg(&arguments, "-o") == 0 && fuse_opt_add_arg(&arguments, option) == 0;
  if (added) {
    const fuse_lowlevel_ops table = operation_table();
    session_ = fuse_session_new(&arguments, &table, sizeof table, &operations_);
  }
  fuse_opt_free_args(&arguments);
  if (session_ == nullptr)
    return failure(ErrorKind::failed, fmt::format("{}: libfuse: {}", options_.mount_point, complaint.text()));
  // The session closes its descriptor when it is destroyed. With channels of ours it needs none.
  const int own = mount_->is_of_library() ? ::fcntl(mount_->device(), F_DUPFD_CLOEXEC, 0)
                                          : ::open(kNowhere, O_RDWR | O_CLOEXEC);
  if (own < 0) return system_failure(errno, options_.mount_point);
  fuse_custom_io io{};
  io.writev = send_answer;
  io.read = read_nothing;
  const int failed = mount_->is_of_library()
                         ? fuse_session_mount(session_, fmt::format("/dev/fd/{}", own).c_str())
                         : fuse_session_custom_io(session_, &io, own);
  if (failed != 0) {
    ::close(own);
    return failure(ErrorKind::failed, fmt::format("{}: libfuse: {}", options_.mount_point, complaint.text()));
  }
  operations_.pool.keep_tenure(&mount_->state().tenure());
  if (!mount_->is_adopted()) return {};
  VSNAP_TRY(negotiate());
  operations_.files.restore(operations_.pool); // before any command can ask for them
  operations_.shared_copies.restore();
  return {};
}

// Tells libfuse what the kernel said at first. The answer goes to the kernel each time: it takes the first.
Result<> FuseSession::negotiate() {
  std::vector<std::byte> init(mount_->state().init().begin(), mount_->state().init().end());
  fuse_buf buffer{};
  buffer.mem = init.data();
  buffer.size = init.size();
  fuse_session_process_buf(session_, &buffer);
  if (mount_->is_adopted() && operations_.other_terms) {
    return failure(ErrorKind::failed, EPROTO,
                   fmt::format("{}: mounted by a vsnap or libfuse that agreed with the kernel on other terms "
                               "than this one would (umount and mount anew)",
                               options_.mount_point));
  }
  return {};
}

void FuseSession::take_up() {
  // The predecessor may have died before it told the kernel.
  for (const ViewInfo& info : operations_.pool.list()) operations_.notifier.content_changed(info.id);
  for (const MountState::Handle& handle : mount_->state().handles())
    operations_.notifier.content_changed(handle.view);
  mount_->ask_again();
}

void FuseSession::look_at(const fuse_in_header& header) {
  if ((header.unique & kSentAgain) != 0) return operations_.files.came_again(header.unique & ~kSentAgain);
  // These are handed out before all others.
  const bool before =
      header.opcode == FUSE_FORGET || header.opcode == FUSE_BATCH_FORGET || header.opcode == FUSE_INTERRUPT;
  if (!before) operations_.files.came_first();
}

void FuseSession::work(int channel, std::atomic<pid_t>& thread) {
  allow_wake_signal();
  thread = ::gettid();
  const RequestBuffer buffer;
  if (!buffer.ok()) {
    error_ = ENOMEM;
    fuse_session_exit(session_);
  }
  while (fuse_session_exited(session_) == 0) {
    const ssize_t length = ::read(channel, buffer.bytes().data(), buffer.bytes().size());
    if (length < 0) {
      if (errno == EINTR || errno == EAGAIN || errno == ENOENT) continue; // ENOENT: the request was given up
      if (errno != ENODEV) error_ = errno; // ENODEV: unmounted, which the others are told as well
      fuse_session_exit(session_);
      break;
    }
    fuse_in_header header{};
    std::memcpy(&header, buffer.bytes().data(), std::min(sizeof header, static_cast<std::size_t>(length)));
    current_request() = {channel, header.unique & ~kSentAgain, (header.unique & kSentAgain) != 0};
    look_at(header);
    fuse_buf request{};
    request.mem = buffer.bytes().data();
    request.size = static_cast<std::size_t>(length);
    fuse_session_process_buf(session_, &request);
  }
  current_request() = {};
  thread = 0;
  stop_waiting(); // or another worker may never hear of the end
  // After an error the main one, which ends the others, may wait for its next request.
  while (error_ != 0 && workers_.front() != 0) {
    send_wake_signal(workers_.front());
    std::this_thread::sleep_for(kWakeInterval);
  }
}

Result<> FuseSession::serve_by_channels() {
  const std::vector<int>& channels = mount_->channels();
  std::vector<std::thread> threads;
  Result<> result;
  try {
    for (std::size_t i = 1; i < channels.size(); ++i)
      threads.emplace_back([this, i] { work(mount_->channels()[i], workers_[i]); });
  } catch (const std::system_error& e) {
    if (threads.empty()) log::warning("{}: one thread only: {}", options_.mount_point, e.what());
  }
  work(channels.front(), workers_.front());
  // It ends for all of them together; the others may still wait in the kernel.
  for (std::size_t i = 0; i < threads.size(); ++i) {
    while (const pid_t worker = workers_[i + 1].load()) {
      send_wake_signal(worker);
      std::this_thread::sleep_for(kWakeInterval);
    }
    threads[i].join();
  }
  if (error_ != 0)
    result = system_failure(error_, fmt::format("{}: serving the mount", options_.mount_point));
  return result;
}

Result<> FuseSession::serve_by_library() {
  const std::unique_ptr<fuse_loop_config, decltype(&fuse_loop_cfg_destroy)> config(fuse_loop_cfg_create(),
                                                                                   fuse_loop_cfg_destroy);
  constexpr unsigned kThreads = 4;
  const unsigned threads = options_.threads != 0 ? options_.threads : kThreads;
  fuse_loop_cfg_set_clone_fd(config.get(), 1);
  fuse_loop_cfg_set_max_threads(config.get(), threads);
  // None may end before the session: stop() counts on the first one.
  fuse_loop_cfg_set_idle_threads(config.get(), threads);
  const int error = fuse_session_loop_mt(session_, config.get());
  if (error < 0) return system_failure(-error, fmt::format("{}: serving the mount", options_.mount_point));
  return {};
}

Result<> FuseSession::serve() {
  {
    MutexLock lock(mutex_);
    if (stopped_) return {};
    workers_ = std::vector<std::atomic<pid_t>>(mount_->channels().size());
    serving_ = true;
  }
  served_ = true;
  mount_->state().begin_notes();
  const bool by_library = mount_->is_of_library();
  Result<> served;
  try {
    operations_.notifier.start(session_, by_library ? std::vector<int>() : mount_->channels());
    operations_.pool.set_observer(&operations_.notifier);
    if (mount_->is_adopted()) {
      take_up();
    } else if (!by_library) {
      served = negotiate();
    }
    if (served) served = by_library ? serve_by_library() : serve_by_channels();
  } catch (const std::exception& e) { // no memory, or no threads
    error_ = EAGAIN;
    served = failure(ErrorKind::failed, EAGAIN,
                     fmt::format("{}: serving the mount: {}", options_.mount_point, e.what()));
  }
  finish();
  return served;
}

// The end has begun, and workers and threads of views may be at writes that wait for room. Where another
// process goes on these are left to it, so whether one does is said before.
void FuseSession::stop_waiting() {
  if (error_ != 0 && mount_->is_kept()) operations_.hands_over = true; // another may have more luck
  operations_.pool.stop_waiting();
}

// The notifier's threads have the mount's descriptors as well, so they end first.
void FuseSession::finish() {
  stop_waiting();
  operations_.set_aside.end();
  operations_.pending_reads.wait_for_all();
  operations_.pool.set_observer(nullptr);
  operations_.notifier.stop();
  if (operations_.hands_over) {
    operations_.pool.keep_unlinked();
  } else { // nobody answers any more: whoever still waits gets ENOTCONN instead
    if (const int nowhere = ::open(kNowhere, O_RDWR | O_CLOEXEC); nowhere >= 0) {
      ::dup3(nowhere, fuse_session_fd(session_), O_CLOEXEC);
      ::close(nowhere);
    }
    mount_->end();
    operations_.files.remove_all();
  }
  MutexLock lock(mutex_);
  serving_ = false;
  ended_.notify_all();
}

void FuseSession::leave_waiting() {
  operations_.hands_over = true;
  operations_.pool.stop_waiting();
}

Result<> FuseSession::check_hand_over() {
  if (operations_.notifier.names_settle()) return {};
  return failure(ErrorKind::busy,
                 "a file is being removed or renamed in the mount, and waits for a write that waits for room "
                 "(vsnap pool status says for which volume; vsnap set POOL/VOL on-full=error ends that)");
}

// The notifier goes first, while there are workers to answer what a notification may wait for. A worker looks
// at the end of the session between two requests only, so those that wait for one are interrupted until all
// have gone; of libfuse's own the one that surely lives.
void FuseSession::stop(Stop how) {
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    operations_.hands_over = how == Stop::hand_over;
    if (!serving_) return;
  }
  if (how == Stop::hand_over) operations_.notifier.set_successor();
  operations_.pool.stop_waiting(); // a worker may be at such a write, and a notification wait for it
  operations_.pool.set_observer(nullptr);
  operations_.notifier.stop();
  fuse_session_exit(session_);
  MutexLock lock(mutex_);
  while (serving_) {
    if (const pid_t worker = operations_.first_worker.load(); worker != 0) send_wake_signal(worker);
    for (const std::atomic<pid_t>& one : workers_) {
      if (const pid_t worker = one.load(); worker != 0) send_wake_signal(worker);
    }
    ended_.wait_for(mutex_, kWakeInterval);
  }
}

FuseSession::~FuseSession() {
  if (operations_.hands_over || (mount_->is_adopted() && !served_ && !was_stopped())) {
    operations_.pool.keep_unlinked();
    mount_->leave();
  }
  operations_.pool.keep_tenure(nullptr);
  mount_->end();
  operations_.files
      .remove_all(); // those that were left until here: commands may have asked whether they are open
  if (session_ != nullptr) fuse_session_destroy(session_);
}

} // namespace

Result<std::unique_ptr<MountSession>> MountSession::over(Pool& pool, const MountOptions& options,
                                                         std::unique_ptr<KernelMount> mount) {
  auto session = std::make_unique<FuseSession>(pool, options, std::move(mount));
  VSNAP_TRY(session->prepare());
  return session;
}

} // namespace vsnap
