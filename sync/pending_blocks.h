// Of a volume that is delegated to this host: the places that it has been granted to write to and that are
// left, and what it has written to others and not handed over (Pool::grant_space(), commit_blocks()).
//
// Invariants
// 1. A place is left, or taken by a writer, or pending for one block, until the coordinator has it.
// 2. Changes have ascending numbers: what has a number up to last() as it was before a flush of the members
//    is durable after it.
// 3. What is pending is in the memory that outlives the process (pending_memory.h), from add() on.
// 4. All that is pending is of one delegation: another begins only when nothing is.
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "core/exported_map.h"
#include "core/units.h"
#include "sync/pending_memory.h"

namespace vsnap {

class PendingBlocks {
 public:
  explicit PendingBlocks(ObjectId volume) : volume_(volume) {}
  ~PendingBlocks() { stop_granting(); } // what is pending stays in the memory
  PendingBlocks(const PendingBlocks&) = delete;
  PendingBlocks& operator=(const PendingBlocks&) = delete;

  // Nothing is pending. `memory` outlives this; nullptr: no space is used.
  void begin(std::uint64_t delegation, PendingMemory* memory);
  [[nodiscard]] std::uint64_t delegation() const { return delegation_; }
  [[nodiscard]] bool may_be_used() const { return memory_ != nullptr && delegation_ != 0; }

  // ---- space ----
  void grant(std::span<const PlaceRun> runs);                // throws std::bad_alloc
  void stop_granting();                                      // nothing is left, and no writer has any
  [[nodiscard]] std::uint64_t left() const { return left_; } // blocks
  // Places for so many, in few runs, and room to note them; empty: there is not enough. May throw
  // std::bad_alloc, and then has taken none.
  [[nodiscard]] std::vector<PlaceRun> take(std::uint64_t blocks);
  void put_back(PlaceRun run); // that was taken, and was not used; without memory it is left unused

  // ---- changes ----
  // The blocks from `first` on lie there, at places that were taken. May throw std::bad_alloc: then none
  // does.
  void add(BlockIndex first, PlaceRun run);
  [[nodiscard]] bool is_empty() const { return pending_.empty(); }
  [[nodiscard]] std::size_t size() const { return pending_.size(); }
  [[nodiscard]] bool overlaps(BlockIndex first, BlockCount count) const;
  [[nodiscard]] bool has(RegionIndex region) const {
    return overlaps(first_block(region), BlockCount(kRegionBlocks));
  }
  [[nodiscard]] std::uint64_t last() const { return last_; } // number
  [[nodiscard]] std::uint64_t first() const;                 // that is pending; 0: none is
  // Of those up to that number, in order, so many runs at most.
  [[nodiscard]] std::vector<MapRun> batch(std::uint64_t upto, std::size_t runs) const;
  void handed_over(std::span<const MapRun> runs);
  void lose(); // all of them

 private:
  struct Pending {
    Place place;
    std::uint64_t number = 0;
    std::uint32_t slot = 0;
  };
  const ObjectId volume_;
  std::uint64_t delegation_ = 0;
  PendingMemory* memory_ = nullptr;
  std::deque<PlaceRun> space_;
  std::uint64_t left_ = 0; // in it
  std::map<BlockIndex, Pending> pending_;
  std::map<std::uint64_t, std::uint64_t> counts_; // of what is pending, by number
  std::uint64_t last_ = 0;
};

} // namespace vsnap
