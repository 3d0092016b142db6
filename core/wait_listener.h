// Whoever carries out requests for others is told when one of his threads waits for room in core
// (snapshot_limit.h), and may let another thread go on meanwhile.
//
// Invariant: a thread that waits holds nothing of core's, and goes on only after its listener was told so. A
// listener takes leaf locks only.
// Threads: everything here is of the calling thread.
#pragma once

namespace vsnap {

class WaitListener {
 public:
  virtual void waits() noexcept = 0;
  virtual void goes_on() noexcept = 0;

 protected:
  ~WaitListener() = default;
};

[[nodiscard]] inline WaitListener*& wait_listener() {
  thread_local WaitListener* listener = nullptr;
  return listener;
}

// While one lives the calling thread has this listener.
class ListenToWaits {
 public:
  explicit ListenToWaits(WaitListener& listener) : before_(wait_listener()) { wait_listener() = &listener; }
  ~ListenToWaits() { wait_listener() = before_; }
  ListenToWaits(const ListenToWaits&) = delete;
  ListenToWaits& operator=(const ListenToWaits&) = delete;

 private:
  WaitListener* const before_;
};

// Lives while the calling thread waits.
class Waits {
 public:
  Waits() {
    if (WaitListener* const listener = wait_listener()) listener->waits();
  }
  ~Waits() {
    if (WaitListener* const listener = wait_listener()) listener->goes_on();
  }
  Waits(const Waits&) = delete;
  Waits& operator=(const Waits&) = delete;
};

} // namespace vsnap
