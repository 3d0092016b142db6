// What has been saved of adopted volumes (copy_out.h) and is not in the catalog yet: who loads a map from the
// catalog looks here as well.
//
// Invariants
// 1. A save is here from before its record is in the log until the catalog has it.
// 2. Saves of one block are in the order of their versions.
// Threads: any; the mutex is a leaf.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "core/map_change.h"
#include "core/mutex.h"

namespace vsnap {

class PendingSaves {
 public:
  // May throw std::bad_alloc. The number of its record comes later: until then it stays.
  void add(const MapChange& save) VSNAP_EXCLUDES(mutex_);
  void set_sequence(const MapChange& save, std::uint64_t sequence) VSNAP_EXCLUDES(mutex_);
  // The highest number of a record that saves one of these blocks of a region; 0: the catalog has them all.
  // The caller holds their range, so none is under way.
  [[nodiscard]] std::uint64_t last(BranchId branch, BlockIndex start, BlockCount count) const
      VSNAP_EXCLUDES(mutex_);
  void forget_until(std::uint64_t sequence) VSNAP_EXCLUDES(mutex_);
  // Those of the region that lie under what number `seen` of the branch sees, oldest version first.
  void copy(BranchId branch, RegionIndex region, Version seen, std::vector<MapChange>& out) const
      VSNAP_EXCLUDES(mutex_);

 private:
  struct Save {
    MapChange change;
    std::uint64_t sequence = ~std::uint64_t{0};
  };
  mutable Mutex mutex_;
  std::map<std::pair<BranchId, RegionIndex>, std::vector<Save>> saves_ VSNAP_GUARDED_BY(mutex_);
};

} // namespace vsnap
