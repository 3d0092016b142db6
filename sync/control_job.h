// One request on its way through the daemon: executed by a worker, answered by the actor.
//
// Invariants
// 1. At most ControlServer::kMaxQueuedBatches batches wait; the worker waits for the actor to send some, or
//    gives up.
// 2. The reply is the last message queued.
//
// Threads: peer and request never change. cancel(), hand_over() and abandon() from any thread; run() by one
// worker; the rest by the actor.
#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "core/mutex.h"
#include "sync/control_handler.h"

namespace vsnap {

// Kind busy, EAGAIN: the successor of this daemon is to be asked.
[[nodiscard]] Error handed_over(const std::string& pool);

class ControlJob final : private ControlSink {
 public:
  // `wake` is called after something was queued.
  ControlJob(std::string peer, wire::ControlRequest request, std::function<void()> wake);

  [[nodiscard]] const std::string& peer() const { return peer_; }
  using Answerer = std::function<std::optional<wire::ControlReply>(const wire::ControlRequest&)>;
  // Queues the reply: that of `before_pool`, if it has one.
  void run(Pool& pool, const Answerer& before_pool);
  void cancel() VSNAP_EXCLUDES(mutex_); // asks a long operation to stop
  // The same, for a successor to be asked: one that gave up for it says so.
  void hand_over() VSNAP_EXCLUDES(mutex_);
  void abandon() VSNAP_EXCLUDES(mutex_); // nobody listens any more: nothing is queued from now on

  // The serialized message to send next, which stays until pop(); nullopt: nothing now.
  [[nodiscard]] std::optional<std::string> front() VSNAP_EXCLUDES(mutex_);
  void pop() VSNAP_EXCLUDES(mutex_);
  // What to say when time has passed: how far the job is if that has changed, else that it is alive.
  [[nodiscard]] std::string sign_of_life(bool& is_progress) VSNAP_EXCLUDES(mutex_);
  // It has run, and everything it had to say was taken or is of no interest any more.
  [[nodiscard]] bool over() VSNAP_EXCLUDES(mutex_);

 private:
  bool progress(std::uint64_t done, std::uint64_t total) override VSNAP_EXCLUDES(mutex_);
  bool diff(std::span<const DiffRange> ranges) override VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] bool only_looks() const; // changes nothing: need not finish for nobody

  const std::string peer_;
  const wire::ControlRequest request_;
  const std::function<void()> wake_;
  Mutex mutex_;
  CondVar taken_;
  std::deque<std::string> queue_ VSNAP_GUARDED_BY(mutex_);
  std::optional<std::pair<std::uint64_t, std::uint64_t>> progress_ VSNAP_GUARDED_BY(mutex_); // not yet told
  bool cancelled_ VSNAP_GUARDED_BY(mutex_) = false;
  bool handed_over_ VSNAP_GUARDED_BY(mutex_) = false; // before anybody else cancelled it
  bool abandoned_ VSNAP_GUARDED_BY(mutex_) = false;
  bool finished_ VSNAP_GUARDED_BY(mutex_) = false;
};

} // namespace vsnap
