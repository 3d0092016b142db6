#include "cli/stop_watch.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>
#include <cerrno>
#include <cstdint>

#include "core/log.h"

namespace vsnap::cli {
namespace {

void raise_event(int fd) noexcept {
  const std::uint64_t one = 1;
  while (::write(fd, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

} // namespace

StopWatch::StopWatch() {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT}) ::sigaddset(&signals, signal);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  for (const int signal : {SIGHUP, SIGPIPE}) ::signal(signal, SIG_IGN);
  signal_fd_ = ::signalfd(-1, &signals, SFD_CLOEXEC);
  request_fd_ = ::eventfd(0, EFD_CLOEXEC);
  finish_fd_ = ::eventfd(0, EFD_CLOEXEC);
}

StopWatch::~StopWatch() {
  finish();
  for (const int fd : {signal_fd_, request_fd_, finish_fd_}) {
    if (fd >= 0) ::close(fd);
  }
}

Result<> StopWatch::ok() const {
  if (signal_fd_ >= 0 && request_fd_ >= 0 && finish_fd_ >= 0) return {};
  return failure(ErrorKind::failed, EMFILE, "no file descriptors for signals");
}

void StopWatch::request() const noexcept { raise_event(request_fd_); }

void StopWatch::start(std::function<void()> stop) {
  thread_ = std::thread([this, stop = std::move(stop)] {
    pollfd fds[] = {{finish_fd_, POLLIN, 0}, {signal_fd_, POLLIN, 0}, {request_fd_, POLLIN, 0}};
    while (::poll(fds, 3, -1) < 0 && errno == EINTR) {
    }
    if (fds[0].revents != 0) return;
    log::info("stopping: {}", fds[1].revents != 0 ? "signal" : "request");
    stop();
  });
}

bool StopWatch::is_signalled() {
  sigset_t pending;
  return ::sigpending(&pending) == 0 &&
         (::sigismember(&pending, SIGTERM) == 1 || ::sigismember(&pending, SIGINT) == 1);
}

void StopWatch::finish() {
  if (!thread_.joinable()) return;
  raise_event(finish_fd_);
  thread_.join();
}

} // namespace vsnap::cli
