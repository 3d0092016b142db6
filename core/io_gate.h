// The gate that writes to one branch pass, so that a snapshot can draw its line: closed, it lets nobody in;
// drained, nobody is inside.
//
// Invariant: between close_and_drain() and open() no write to the branch is in flight.
// Threads: any. A thread inside the gate must not wait for the commit lock (its holder may be waiting in
// close_and_drain()).
#pragma once

#include <atomic>
#include <cstdint>

namespace vsnap {

class IoGate {
 public:
  void enter() {
    for (;;) {
      if ((state_.fetch_add(1, std::memory_order_acq_rel) & kClosed) == 0) return;
      leave();
      std::uint32_t seen = state_.load(std::memory_order_acquire);
      while ((seen & kClosed) != 0) {
        state_.wait(seen);
        seen = state_.load(std::memory_order_acquire);
      }
    }
  }
  // False: it is closed, and nobody waits for that to change.
  [[nodiscard]] bool try_enter() {
    if ((state_.fetch_add(1, std::memory_order_acq_rel) & kClosed) == 0) return true;
    leave();
    return false;
  }
  void leave() {
    // The last one out of a closed gate wakes the one that drains it.
    if (state_.fetch_sub(1, std::memory_order_acq_rel) == kClosed + 1) state_.notify_all();
  }
  // Callers take turns (commit lock).
  void close() { state_.fetch_or(kClosed, std::memory_order_acq_rel); }
  void drain() {
    for (std::uint32_t seen = state_.load(std::memory_order_acquire); seen != kClosed;) {
      state_.wait(seen);
      seen = state_.load(std::memory_order_acquire);
    }
  }
  void open() {
    state_.fetch_and(~kClosed, std::memory_order_acq_rel);
    state_.notify_all();
  }

  class Passage {
   public:
    explicit Passage(IoGate& gate) : gate_(gate) { gate_.enter(); }
    ~Passage() { gate_.leave(); }
    Passage(const Passage&) = delete;
    Passage& operator=(const Passage&) = delete;

   private:
    IoGate& gate_;
  };

 private:
  static constexpr std::uint32_t kClosed = 1U << 31;
  std::atomic<std::uint32_t> state_{0}; // writers inside, and the closed bit
};

} // namespace vsnap
