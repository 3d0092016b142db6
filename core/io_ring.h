// Reads from devices that take their time, which go on while no thread waits for them: io_uring, and one
// thread that hands them to it and hears of their ends.
//
// Invariants
// 1. A read that was taken ends once: its Done is called, by the ring's own thread.
// 2. The ring and its thread are made for the first read that needs them, so a process may fork before. Where
//    the kernel gives none, no read is taken, and one line in the log says so.
// 3. Only the ring's thread submits: the kernel finishes a buffered read in the thread that submitted it,
//    which must not be waiting for another device meanwhile.
// 4. No read is in flight when it is destroyed.
// Threads: any, but Done must neither wait for another read nor destroy the ring.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "core/mutex.h"

namespace vsnap {

class IoRing {
 public:
  using Done = std::function<void(int error)>; // errno; ENODATA where the file ended before
  IoRing();
  ~IoRing();
  IoRing(const IoRing&) = delete;
  IoRing& operator=(const IoRing&) = delete;

  // False: not taken, and `done` will not be called; the caller has to read by itself.
  [[nodiscard]] bool read(int fd, std::uint64_t offset, std::span<std::byte> out, Done done)
      VSNAP_EXCLUDES(mutex_);

  // A thread that waits for a device by itself is the fastest for a client that has one request at a time;
  // but so few may do it that the threads which serve requests do not all wait.
  class WaitHere {
   public:
    explicit WaitHere(IoRing& ring)
        : ring_(ring), allowed_(ring.waiting_.fetch_add(1, std::memory_order_relaxed) < kMayWait) {}
    ~WaitHere() { ring_.waiting_.fetch_sub(1, std::memory_order_relaxed); }
    WaitHere(const WaitHere&) = delete;
    WaitHere& operator=(const WaitHere&) = delete;
    [[nodiscard]] bool allowed() const { return allowed_; }

   private:
    IoRing& ring_;
    const bool allowed_;
  };

 private:
  static constexpr unsigned kMayWait = 2; // of the four workers that a mount has unless told otherwise
  struct Request;
  struct Kernel; // io_uring's own
  [[nodiscard]] bool start() VSNAP_REQUIRES(mutex_);
  void run();
  void submit_queued() VSNAP_EXCLUDES(mutex_);
  void submit(Request* request);
  void finish(Request* request, int result) VSNAP_EXCLUDES(mutex_);

  std::atomic<unsigned> waiting_{0};
  std::unique_ptr<Kernel> kernel_; // the ring's thread's, once that runs
  Mutex mutex_;
  std::thread thread_ VSNAP_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Request>> queue_ VSNAP_GUARDED_BY(mutex_); // not submitted yet
  std::size_t in_flight_ VSNAP_GUARDED_BY(mutex_) = 0;                   // with those in queue_
  bool refused_ VSNAP_GUARDED_BY(mutex_) = false;
  bool ended_ VSNAP_GUARDED_BY(mutex_) = false;
};

} // namespace vsnap
