#include "core/grace.h"

#include <chrono>
#include <thread>

namespace vsnap {

namespace {

// Who enters counts itself in and then looks at a map; who synchronizes took something out of a map and then
// looks at the counts. One of the two must see what the other did first, which neither acquire nor release
// promises: between its two steps each has a full fence. (The thread sanitizer knows no fences and needs
// none here: it sees that what was inside happened before what follows the wait.)
void full_fence() {
#if defined(__SANITIZE_THREAD__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"
#endif
  std::atomic_thread_fence(std::memory_order_seq_cst);
#if defined(__SANITIZE_THREAD__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
}

} // namespace

Grace::Token Grace::enter() {
  static std::atomic<std::uint32_t> next_thread{0};
  thread_local const std::uint32_t shard = next_thread.fetch_add(1, std::memory_order_relaxed) % kShards;
  const std::uint32_t epoch = epoch_.load(std::memory_order_seq_cst);
  shards_[shard].inside[epoch].fetch_add(1, std::memory_order_seq_cst);
  full_fence();
  return {shard, epoch};
}

void Grace::leave(Token token) {
  shards_[token.shard].inside[token.epoch].fetch_sub(1, std::memory_order_seq_cst);
}

void Grace::wait_for_epoch(std::uint32_t epoch) {
  for (int round = 0;; ++round) {
    std::uint64_t inside = 0;
    for (const Shard& shard : shards_) inside += shard.inside[epoch].load(std::memory_order_seq_cst);
    if (inside == 0) return;
    // Requests take microseconds; those on a slow disk milliseconds. Nobody is in a hurry here.
    if (round < 16)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

void Grace::synchronize() {
  MutexLock lock(mutex_);
  full_fence();
  // Twice: a thread may have read the epoch before the first turn and count itself in only after its wait.
  for (int turn = 0; turn < 2; ++turn) {
    const std::uint32_t old_epoch = epoch_.load(std::memory_order_seq_cst);
    epoch_.store(old_epoch ^ 1U, std::memory_order_seq_cst);
    wait_for_epoch(old_epoch);
  }
}

} // namespace vsnap
