// Waits for the moment a daemon has to stop: SIGTERM, SIGINT or a request from another thread.
//
// Invariants
// 1. The signals are blocked from construction on, so threads that are made later do not get them.
// 2. After finish() the function given to start() is not running and will not be called.
// Threads: construct before any other thread exists; request() from any thread; the rest from the owner.
#pragma once

#include <atomic>
#include <csignal>
#include <functional>
#include <thread>

#include "core/error.h"

namespace vsnap::cli {

class StopWatch {
 public:
  StopWatch();
  ~StopWatch();
  StopWatch(const StopWatch&) = delete;
  StopWatch& operator=(const StopWatch&) = delete;
  [[nodiscard]] Result<> ok() const;
  void request() const noexcept;
  void start(
      std::function<void()> stop); // called once, in a thread of its own; also for what came before start()
  void finish();
  // A signal came that nobody has taken: after the one that ended the wait, or after a request.
  [[nodiscard]] static bool is_signalled();

 private:
  int signal_fd_ = -1;
  int request_fd_ = -1;
  int finish_fd_ = -1;
  std::thread thread_;
};

} // namespace vsnap::cli
