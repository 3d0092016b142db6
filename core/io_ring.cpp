#include "core/io_ring.h"

#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <system_error>
#include <utility>

#include "core/assert.h"
#include "core/log.h"
#include "core/planted.h"

namespace vsnap {
namespace {

// Entries of the queue to the kernel; that of the ends has twice as many. Each read in flight has at most one
// entry of either, and the wake-up has one, so both always have room, whatever the kernel puts off.
constexpr unsigned kEntries = 256;
constexpr std::size_t kMaxInFlight = kEntries - 1;
// Where a file system cannot go on by itself (FUSE), the kernel waits in threads of its own, this many at
// most.
constexpr unsigned kKernelThreads = 64;

} // namespace

struct IoRing::Request {
  int fd = -1;
  std::uint64_t offset = 0;
  std::span<std::byte> out;
  Done done;
};

struct IoRing::Kernel {
  Kernel() = default;
  ~Kernel() {
    if (error == 0) io_uring_queue_exit(&ring);
    if (wake >= 0) ::close(wake);
  }
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  io_uring ring{};
  const int error = -io_uring_queue_init(kEntries, &ring, 0);
  const int wake = ::eventfd(0, EFD_CLOEXEC); // something was queued, or it shall end
  const int wake_error = wake < 0 ? errno : 0;
  std::uint64_t wakes = 0;
};

IoRing::IoRing() = default;

IoRing::~IoRing() {
  std::thread thread;
  {
    MutexLock lock(mutex_);
    VSNAP_ASSERT(in_flight_ == 0);
    ended_ = true;
    thread = std::move(thread_);
  }
  if (!thread.joinable()) return;
  ::eventfd_write(kernel_->wake, 1);
  thread.join();
}

bool IoRing::start() {
  if (refused_) return false;
  if (thread_.joinable()) return true;
  kernel_ = std::make_unique<Kernel>();
  int error = kernel_->error != 0 ? kernel_->error : kernel_->wake_error;
  if (error == 0) {
    unsigned threads[2] = {kKernelThreads, 0};
    static_cast<void>(io_uring_register_iowq_max_workers(&kernel_->ring, threads)); // Linux 5.15
    try {
      thread_ = std::thread([this] { run(); });
      return true;
    } catch (const std::system_error& refusal) {
      error = refusal.code().value();
    }
  }
  refused_ = true;
  kernel_.reset();
  log::warning("no io_uring to be had ({}): threads wait for slow members", std::strerror(error));
  return false;
}

bool IoRing::read(int fd, std::uint64_t offset, std::span<std::byte> out, Done done) {
  auto request = std::make_unique<Request>(Request{fd, offset, out, std::move(done)});
  MutexLock lock(mutex_);
  if (in_flight_ == kMaxInFlight || !start()) return false;
  queue_.push_back(std::move(request));
  ++in_flight_;
  if (queue_.size() == 1) ::eventfd_write(kernel_->wake, 1);
  return true;
}

void IoRing::submit(Request* request) {
  io_uring_sqe* const entry = io_uring_get_sqe(&kernel_->ring);
  VSNAP_ASSERT(entry != nullptr); // see kEntries
  if (request == nullptr)
    io_uring_prep_read(entry, kernel_->wake, &kernel_->wakes, sizeof kernel_->wakes, 0);
  else
    io_uring_prep_read(entry, request->fd, request->out.data(), static_cast<unsigned>(request->out.size()),
                       request->offset);
  io_uring_sqe_set_data(entry, request);
}

void IoRing::submit_queued() {
  std::vector<std::unique_ptr<Request>> queued;
  {
    MutexLock lock(mutex_);
    queued.swap(queue_);
  }
  for (auto& request : queued) submit(request.release());
}

void IoRing::finish(Request* request, int result) {
  int error = result < 0 ? -result : 0;
  if (error == EINTR || error == EAGAIN) return submit(request);
  if (result == 0) error = ENODATA;
  if (error == 0) {
    request->out = request->out.subspan(static_cast<std::size_t>(result));
    request->offset += static_cast<std::uint64_t>(result);
    if (!request->out.empty() && !planted(Fault::short_ring_read_whole)) return submit(request);
  }
  const std::unique_ptr<Request> ended(request);
  {
    MutexLock lock(mutex_);
    --in_flight_;
  }
  ended->done(error);
}

void IoRing::run() {
  sigset_t all;
  sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
  submit(nullptr);
  for (;;) {
    const int submitted = io_uring_submit_and_wait(&kernel_->ring, 1);
    VSNAP_ASSERT(submitted >= 0 || submitted == -EINTR || submitted == -EAGAIN || submitted == -EBUSY ||
                 submitted == -ENOMEM);
    io_uring_cqe* end = nullptr;
    while (io_uring_peek_cqe(&kernel_->ring, &end) == 0) {
      auto* const request = static_cast<Request*>(io_uring_cqe_get_data(end));
      const int result = end->res;
      io_uring_cqe_seen(&kernel_->ring, end);
      if (request != nullptr) {
        finish(request, result);
        continue;
      }
      {
        MutexLock lock(mutex_);
        if (ended_) return;
      }
      submit(nullptr);
      submit_queued();
    }
  }
}

} // namespace vsnap
