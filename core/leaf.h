// The entries of a neighbourhood of blocks that are no run: one word each, of 64 bits or, where all places
// lie within 2 TiB, of 32 bits.
//
// Invariants
// 1. An entry is one atomic word. What it is relative to never changes.
// 2. A leaf lives as long as its region.
// Threads: entry() from any thread that found the leaf in the region; everything else under Region::mutex().
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "core/assert.h"
#include "core/entry.h"

namespace vsnap {

inline constexpr std::uint64_t kLeafBlocks = kNeighbourhoodBlocks;

// The lowest and the highest of some places, packed.
struct PlaceBounds {
  std::uint64_t lowest = ~0ULL, highest = 0;
  void add(Entry e) {
    if (!e.mapped()) return;
    lowest = std::min(lowest, e.place().packed());
    highest = std::max(highest, e.place().packed());
  }
};

class WideLeaf {
 public:
  [[nodiscard]] Entry entry(std::uint64_t at) const {
    return Entry::from_word(words_[at].load(std::memory_order_acquire));
  }
  void set(std::uint64_t at, Entry e) { words_[at].store(e.word(), std::memory_order_release); }

 private:
  std::array<std::atomic<std::uint64_t>, kLeafBlocks> words_{};
};

class NarrowLeaf {
 public:
  // Where a leaf has to start for these places; nullopt: they are too far from each other.
  static std::optional<std::uint64_t> base_for(const PlaceBounds& places) {
    if (places.lowest > places.highest) return 0; // there are none
    const std::uint64_t distance = places.highest - places.lowest;
    if (distance >= kReach) return std::nullopt;
    // In the middle, as later places may be lower or higher.
    return places.lowest - std::min(places.lowest, (kReach - 1 - distance) / 2);
  }
  void set_base(std::uint64_t base) { base_ = base; } // before the leaf is published
  [[nodiscard]] bool reaches(Entry e) const { return !e.mapped() || e.place().packed() - base_ < kReach; }
  [[nodiscard]] Entry entry(std::uint64_t at) const {
    const std::uint32_t word = words_[at].load(std::memory_order_acquire);
    const Entry e = Entry::from_flags(word >> kReachBits);
    return e.mapped() ? e.at(base_ + (word & (kReach - 1))) : e;
  }
  void set(std::uint64_t at, Entry e) {
    const std::uint64_t offset = e.mapped() ? e.place().packed() - base_ : 0;
    VSNAP_ASSERT(offset < kReach);
    words_[at].store(e.flags() << kReachBits | static_cast<std::uint32_t>(offset), std::memory_order_release);
  }

 private:
  static constexpr unsigned kReachBits = 32 - Entry::kFlagBits;
  static constexpr std::uint64_t kReach = 1ULL << kReachBits; // in blocks: 2 TiB
  std::uint64_t base_ = 0;
  std::array<std::atomic<std::uint32_t>, kLeafBlocks> words_{};
};

// Leaves of one region, allocated several at a time and freed together.
template <class Leaf>
class Slabs {
 public:
  [[nodiscard]] std::uint64_t size() const { return size_; }
  [[nodiscard]] bool full() const { return free_ == 0; }
  void grow(std::uint64_t leaves) { // full() before; std::bad_alloc changes nothing
    slabs_.push_back(std::make_unique<Leaf[]>(leaves));
    size_ += leaves;
    free_ = leaves;
  }
  Leaf& take() { return slabs_.back()[--free_]; } // not full() before

 private:
  std::vector<std::unique_ptr<Leaf[]>> slabs_;
  std::uint64_t size_ = 0;
  std::uint64_t free_ = 0; // in the last slab
};

} // namespace vsnap
