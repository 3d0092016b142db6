// Requests that may wait for long for something else than their device (View::write_wait()), taken off the
// workers of the mount: threads of the view carry them out, so that all other requests go on. A wait for one
// flush of one's own costs less than handing the request over, so a worker may stay at that.
//
//   worker: put() ──► waiting, in order ──► a thread of the view ──► answered
//                                  └──► end(): left unanswered
//
// Invariants
// 1. A request that was put is carried out and answered by one thread, or left unanswered by end(): then the
//    kernel sends it again to a successor, or nobody waits for it any more.
// 2. Requests of a view are begun in the order in which they were put. That is all: the kernel has several
//    under way only where their order is free, and whoever waits for an answer gets it once the request was
//    carried out, as from a worker. So an fsync covers what was answered before it.
// 3. Of a view kMostBusyAView threads are begun at most that do not wait for room in core (wait_listener.h),
//    so that what needs none goes on beside those that do; kMostAView with them. All together have
//    kMostThreads, but for the first of each view: however many requests of one view wait, those of another
//    go on.
// 4. The data of a request is copied, as the worker's buffer takes the next one. Copies come to kMostBytes at
//    most; what is more, workers carry out by themselves, and so they do where there is no thread or memory.
// 5. The file of a request is open until it was answered: the kernel sends its release after that. Whoever
//    ends the session calls end() before it closes what is left open.
// 6. Of the workers half at most stay at such a request, and one of its view at a time as a rule; what they
//    wait for ends by itself.
// A thread is made when a request waits and none is idle, and ends after a while without one.
// Threads: put() by workers; end() when no worker puts any more.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>

#include "core/error.h"
#include "core/mutex.h"
#include "core/units.h"
#include "fuse/kernel_api.h"
#include "fuse/request_channel.h"

namespace vsnap {

struct Operations;

class SetAside {
 public:
  static constexpr unsigned kMostBusyAView = 32;
  static constexpr unsigned kMostAView = 96; // some are left to others
  static constexpr unsigned kMostThreads = 128; // see ChangeLog::kMaxWriters
  static constexpr std::size_t kMostBytes = 1U << 30; // as 1024 requests of the largest size

  explicit SetAside(std::size_t workers) : most_staying_(static_cast<unsigned>(workers / 2)) {}
  ~SetAside() { end(); }
  SetAside(const SetAside&) = delete;
  SetAside& operator=(const SetAside&) = delete;

  // As the body of answer() in reply.h, with a copy of the data.
  using Body = std::function<Result<>(Operations&, std::span<const std::byte> data)>;
  // False: the caller has to carry it out.
  [[nodiscard]] bool put(fuse_req_t req, ObjectId view, std::span<const std::byte> data, Body body)
      VSNAP_EXCLUDES(mutex_);
  // The leave of a worker to carry out by itself what waits for a flush only (WriteWait::flush).
  class Stay {
   public:
    Stay(SetAside& all, bool wanted);
    ~Stay() {
      if (granted_) all_.staying_.fetch_sub(1, std::memory_order_relaxed);
    }
    Stay(const Stay&) = delete;
    Stay& operator=(const Stay&) = delete;
    [[nodiscard]] bool granted() const { return granted_; }

   private:
    SetAside& all_;
    bool granted_ = false;
  };
  // What nobody has begun stays unanswered; returns when what was begun has ended.
  void end() VSNAP_EXCLUDES(mutex_);

 private:
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  struct Request {
    fuse_req_t req;
    RequestOrigin origin;
    std::unique_ptr<std::byte, Free> bytes;
    std::size_t length;
    Body body;
  };
  struct Group { // of a view; exists while it has a thread
    std::deque<Request> waiting;
    CondVar changed; // something waits, or it shall end
    unsigned threads = 0;
    unsigned idle = 0;
    unsigned paused = 0; // wait for room in core
  };
  class Pause;
  bool add_thread(ObjectId view, Group& group) VSNAP_REQUIRES(mutex_);
  void work(ObjectId view, Group& group) VSNAP_EXCLUDES(mutex_);
  void carry_out(ObjectId view, Group& group, Request request) noexcept VSNAP_REQUIRES(mutex_);

  const unsigned most_staying_;
  std::atomic<unsigned> staying_{0};
  Mutex mutex_;
  CondVar ended_; // the last thread
  std::map<ObjectId, Group> groups_ VSNAP_GUARDED_BY(mutex_);
  unsigned threads_ VSNAP_GUARDED_BY(mutex_) = 0;
  std::size_t bytes_ VSNAP_GUARDED_BY(mutex_) = 0;
  bool ending_ VSNAP_GUARDED_BY(mutex_) = false;
};

} // namespace vsnap
