// The map of one region (32 MiB) of one view, in memory: where each of its 8,192 blocks lies. It has a word
// for each chunk of 16 blocks that is a run (one kind, consecutive places), and a leaf for each other chunk.
//
// Invariants
// 1. An entry is found through atomic words that are changed one at a time; readers take no lock and see what
//    it was before a change or after it. A place read from it inside a grace section stays what it was until
//    the section ends.
// 2. Entries of a head are changed only by the holder of a RangeLock over their blocks, under mutex(), and
//    together with the record of the change (see ChangeLog). What a map of a snapshot stands for never
//    changes; where it shows a place in the image of an adopted volume, it shows the place of the saved copy
//    once there is one (RegionCache::switch_to_saved()). A map of a clone does the same, beside what its
//    writers change.
// 3. `own` is set exactly where no view but the head can see the block's newest version: there the head may
//    overwrite in place. After a snapshot the bits are cleared at the next write to the region
//    (refresh_own()).
// 4. A retired region takes no new RangeLock; whoever finds it so looks the region up again.
// 5. A chunk that has got a leaf keeps it, or a wide one instead of a narrow one, until the region goes: so a
//    reader may go on looking at either, and a chunk takes at most one of each. Loading the region again
//    makes runs of what are runs by then.
// Threads: any, as above.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/entry.h"
#include "core/leaf.h"
#include "core/mutex.h"
#include "core/units.h"

namespace vsnap {

class Region {
 public:
  Region(RegionIndex index, Version version) : index_(index), own_version_(version.value()) {}
  [[nodiscard]] RegionIndex index() const { return index_; }
  [[nodiscard]] Entry entry(std::uint64_t block) const {
    const std::uint64_t word = chunks_[block / kLeafBlocks].load(std::memory_order_acquire);
    const std::uint64_t at = block % kLeafBlocks;
    if ((word & kLeaf) == 0) return Entry::from_word(word).further(at);
    return (word & kWide) == 0 ? narrow(word).entry(at) : wide(word).entry(at);
  }
  // Fills a region that is new.
  void load(const std::array<Entry, kRegionBlocks>& entries) VSNAP_EXCLUDES(mutex_);
  // Makes the blocks [from, from + count) a run that begins with `first`. Throws std::bad_alloc only if
  // make_room() was not called for the same run before, under the same lock.
  void set_run(std::uint64_t from, std::uint64_t count, Entry first) VSNAP_REQUIRES(mutex_);
  // Changes no entry. May throw std::bad_alloc.
  void make_room(std::uint64_t from, std::uint64_t count, Entry first) VSNAP_REQUIRES(mutex_);

  // What the region takes, with its leaves.
  [[nodiscard]] std::uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  // The most that may be: with a narrow and a wide leaf for every chunk.
  static constexpr std::uint64_t max_bytes() {
    return sizeof(Region) + kChunks * (sizeof(NarrowLeaf) + sizeof(WideLeaf));
  }
  // Adds bytes() to `total`, and from now on what it grows by. Before others see the region.
  void count_in(std::atomic<std::uint64_t>& total);

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
  // Highest number of a record that saves (copy_out.h): once it is durable, all that was saved here is.
  void note_save(std::uint64_t sequence) { last_save_.store(sequence, std::memory_order_release); }
  [[nodiscard]] std::uint64_t last_save() const { return last_save_.load(std::memory_order_acquire); }

  std::atomic<bool> used_lately{true}; // second chance of the cache's clock

 private:
  static constexpr std::uint64_t kChunks = kRegionBlocks / kLeafBlocks;
  // A chunk's word is the entry of its first block, all 16 being a run; or the address of a leaf with these.
  static constexpr std::uint64_t kLeaf = 1ULL << 63;
  static constexpr std::uint64_t kWide = 1ULL << 62;
  struct Part { // of a run: the blocks [from, to) of one chunk
    std::uint64_t chunk = 0, from = 0, to = 0;
    Entry first;
  };
  static NarrowLeaf& narrow(std::uint64_t word) { return *reinterpret_cast<NarrowLeaf*>(word & ~kLeaf); }
  static WideLeaf& wide(std::uint64_t word) { return *reinterpret_cast<WideLeaf*>(word & ~(kLeaf | kWide)); }
  static void set_in_leaf(std::uint64_t word, std::uint64_t at, Entry e);
  template <class Each>
  static void in_chunks(std::uint64_t from, std::uint64_t count, Entry first, Each each);
  [[nodiscard]] bool has_room(const Part& part) const VSNAP_REQUIRES(mutex_);
  void set_part(const Part& part) VSNAP_REQUIRES(mutex_);
  void break_up(const Part& part) VSNAP_REQUIRES(mutex_);
  template <class Leaf>
  void grow(Slabs<Leaf>& slabs, std::uint64_t leaves) VSNAP_REQUIRES(mutex_);
  template <class Leaf>
  Leaf& take(Slabs<Leaf>& slabs) VSNAP_REQUIRES(mutex_);
  void publish(std::uint64_t chunk, const Entry* entries, std::optional<std::uint64_t> base)
      VSNAP_REQUIRES(mutex_);
  void clear_own(Version current) VSNAP_EXCLUDES(mutex_);
  friend class RangeLock;
  struct Range {
    std::uint64_t from = 0, to = 0;
  };
  const RegionIndex index_;
  std::array<std::atomic<std::uint64_t>, kChunks> chunks_{}; // changed under mutex_
  std::atomic<std::uint64_t> last_record_{0};
  std::atomic<std::uint64_t> last_save_{0}; // changed under mutex_
  Mutex mutex_;
  CondVar released_;
  std::vector<Range> held_ VSNAP_GUARDED_BY(mutex_);
  std::uint32_t waiting_ VSNAP_GUARDED_BY(mutex_) = 0;
  std::atomic<std::uint64_t> own_version_; // changed under mutex_, after the bits
  bool retired_ VSNAP_GUARDED_BY(mutex_) = false;
  Slabs<NarrowLeaf> narrow_ VSNAP_GUARDED_BY(mutex_);
  Slabs<WideLeaf> wide_ VSNAP_GUARDED_BY(mutex_);
  std::atomic<std::uint64_t> bytes_{sizeof(Region)}; // changed under mutex_
  std::atomic<std::uint64_t>* total_ = nullptr;
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
