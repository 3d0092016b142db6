// The map of one region (32 MiB) of one view, in memory: where each of its 8,192 blocks lies.
//
// Invariants
// 1. An entry is one atomic word; readers take no lock. A place read from it inside a grace section stays
//    what it was until the section ends.
// 2. Entries of a head are changed only by the holder of a RangeLock over their blocks, under mutex(), and
//    together with the record of the change (see ChangeLog). Maps of snapshots never change.
// 3. `own` is set exactly where no view but the head can see the block's newest version: there the head may
//    overwrite in place. After a snapshot the bits are cleared at the next write to the region
//    (refresh_own()).
// 4. A retired region takes no new RangeLock; whoever finds it so looks the region up again.
// Threads: any, as above.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/mutex.h"
#include "core/units.h"

namespace vsnap {

enum class BlockKind : std::uint8_t {
  none = 0, // no version anywhere: zeros
  data = 1,
  reserved = 2, // has a place that was never written: zeros
  hole = 3,     // discarded: zeros
};

class Entry {
 public:
  constexpr Entry() = default;
  constexpr Entry(BlockKind kind, Place place, bool own)
      : word_((static_cast<std::uint64_t>(kind) << kKindShift) | (own ? kOwn : 0) | place.packed()) {}
  static constexpr Entry from_word(std::uint64_t word) {
    Entry e;
    e.word_ = word;
    return e;
  }
  [[nodiscard]] constexpr std::uint64_t word() const { return word_; }
  [[nodiscard]] constexpr BlockKind kind() const { return static_cast<BlockKind>((word_ >> kKindShift) & 3); }
  [[nodiscard]] constexpr bool own() const { return (word_ & kOwn) != 0; }
  [[nodiscard]] constexpr Place place() const { return Place::unpack(word_ & kPlaceMask); }
  [[nodiscard]] constexpr bool mapped() const {
    return kind() == BlockKind::data || kind() == BlockKind::reserved;
  }
  [[nodiscard]] constexpr Entry frozen() const { return from_word(word_ & ~kOwn); }

 private:
  static constexpr unsigned kKindShift = 50;
  static constexpr std::uint64_t kOwn = 1ULL << 52;
  static constexpr std::uint64_t kPlaceMask = (1ULL << (Place::kBlockBits + Place::kMemberBits)) - 1;
  std::uint64_t word_ = 0;
};
static_assert(Place::kBlockBits + Place::kMemberBits <= 50);

class Region {
 public:
  Region(RegionIndex index, Version version) : index_(index), own_version_(version.value()) {}
  [[nodiscard]] RegionIndex index() const { return index_; }
  [[nodiscard]] Entry entry(std::uint64_t block) const {
    return Entry::from_word(entries_[block].load(std::memory_order_acquire));
  }
  void set_entry(std::uint64_t block, Entry e) { entries_[block].store(e.word(), std::memory_order_release); }

  Mutex& mutex() VSNAP_THREAD_ANNOTATION(lock_returned(mutex_)) { return mutex_; }
  // Clears the own bits if the branch's number has moved on since they were set. Inside the branch's gate,
  // where the number stands still; takes the mutex only if there is something to do.
  void refresh_own(Version current) VSNAP_EXCLUDES(mutex_) {
    if (own_version_.load(std::memory_order_acquire) != current.value()) clear_own(current);
  }

  // Highest sequence number of a record about this region.
  void note_record(std::uint64_t sequence) { last_record_.store(sequence, std::memory_order_release); }
  [[nodiscard]] std::uint64_t last_record() const { return last_record_.load(std::memory_order_acquire); }
  // True: nobody holds a range, nothing newer than `committed` is recorded, and from now on nobody gets a
  // range.
  [[nodiscard]] bool retire(std::uint64_t committed) VSNAP_EXCLUDES(mutex_);

  std::atomic<bool> used_lately{true}; // second chance of the cache's clock

 private:
  void clear_own(Version current) VSNAP_EXCLUDES(mutex_);
  friend class RangeLock;
  struct Range {
    std::uint64_t from = 0, to = 0;
  };
  const RegionIndex index_;
  std::array<std::atomic<std::uint64_t>, kRegionBlocks> entries_{};
  std::atomic<std::uint64_t> last_record_{0};
  Mutex mutex_;
  CondVar released_;
  std::vector<Range> held_ VSNAP_GUARDED_BY(mutex_);
  std::uint32_t waiting_ VSNAP_GUARDED_BY(mutex_) = 0;
  std::atomic<std::uint64_t> own_version_; // changed under mutex_, after the bits
  bool retired_ VSNAP_GUARDED_BY(mutex_) = false;
};

// Exclusive right to change blocks [from, to) of a region, among writers. The range is held across I/O; the
// mutex is not.
class RangeLock {
 public:
  RangeLock(Region& region, std::uint64_t from, std::uint64_t to);
  ~RangeLock();
  RangeLock(const RangeLock&) = delete;
  RangeLock& operator=(const RangeLock&) = delete;
  [[nodiscard]] bool held() const { return held_; } // false: the region is retired

 private:
  Region& region_;
  std::uint64_t from_, to_;
  bool held_ = false;
};

} // namespace vsnap
