// A lock over ranges of blocks, for many at a time or for one alone. Who wants a range alone goes before
// those who come after: each such turn makes entries that are made once, so the many are not kept for long.
//
// Invariants
// 1. Ranges share a lock where they share a stripe of 1 MiB, or one that is a multiple of 64 MiB away.
// 2. A range takes its stripes in ascending order of their locks; so two ranges never wait for each other.
// 3. A thread holds at most one range of one object.
// Threads: any. Held across I/O.
#pragma once

#include <pthread.h>

#include <array>
#include <cstdint>

#include "core/units.h"

namespace vsnap {

class RangeTurns {
 public:
  RangeTurns();
  ~RangeTurns();
  RangeTurns(const RangeTurns&) = delete;
  RangeTurns& operator=(const RangeTurns&) = delete;

  enum class Turn { shared, alone };
  class Held {
   public:
    // `turns` may be nullptr: nothing is held. Blocks [from, from + count) of a view.
    Held(RangeTurns* turns, BlockIndex from, BlockCount count, Turn turn);
    ~Held();
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;

   private:
    RangeTurns* const turns_;
    std::uint64_t stripes_ = 0; // a bit each
  };

 private:
  static constexpr std::uint64_t kStripeBlocks = 256;
  static constexpr unsigned kStripes = 64;
  std::array<pthread_rwlock_t, kStripes> locks_;
};

} // namespace vsnap
