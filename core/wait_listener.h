// Whoever carries out requests for others is told when one of his threads waits for room in core
// (snapshot_limit.h), or for a host (delegation.h), and may let another thread go on meanwhile; or have it
// wait for room no more.
//
// Invariant: a thread that waits holds nothing of core's, and goes on only after its listener was told so. A
// listener takes leaf locks only.
// Threads: everything here is of the calling thread.
#pragma once

#include <atomic>

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

[[nodiscard]] inline const std::atomic<bool>*& wait_given_up() {
  thread_local const std::atomic<bool>* given_up = nullptr;
  return given_up;
}

// While one lives the calling thread waits only as long as the flag is not set. Who sets it also calls
// Pool::look_for_room().
class WaitsUntil {
 public:
  explicit WaitsUntil(const std::atomic<bool>& given_up) : before_(wait_given_up()) {
    wait_given_up() = &given_up;
  }
  ~WaitsUntil() { wait_given_up() = before_; }
  WaitsUntil(const WaitsUntil&) = delete;
  WaitsUntil& operator=(const WaitsUntil&) = delete;

 private:
  const std::atomic<bool>* const before_;
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
