#include "core/grace.h"

#include <chrono>
#include <thread>

namespace vsnap {

Grace::Token Grace::enter() {
  static std::atomic<std::uint32_t> next_thread{0};
  thread_local const std::uint32_t shard = next_thread.fetch_add(1, std::memory_order_relaxed) % kShards;
  const std::uint32_t epoch = epoch_.load(std::memory_order_seq_cst);
  shards_[shard].inside[epoch].fetch_add(1, std::memory_order_seq_cst);
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
  // Twice: a thread may have read the epoch before the first turn and count itself in only after its wait.
  for (int turn = 0; turn < 2; ++turn) {
    const std::uint32_t old_epoch = epoch_.load(std::memory_order_seq_cst);
    epoch_.store(old_epoch ^ 1U, std::memory_order_seq_cst);
    wait_for_epoch(old_epoch);
  }
}

} // namespace vsnap
