// Changes of maps in net form: of each block, and of each version of it, only the last one counts; of saves
// (copy_out.h) the first, as what is saved once more in a version was never seen by anybody: it is saved for
// a snapshot that was not confirmed before a crash (recovery.cpp).
//
// Invariants
// 1. Pieces of one branch and version do not overlap and do not cross a region.
// 2. A piece is fresh only if every change that it stands for was.
// 3. Places of changes that were overtaken before they reached the catalog are in `overtaken`, unless the one
//    that overtook them kept the place (a reserved block that became data): nobody owns them.
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "core/map_change.h"

namespace vsnap {

struct NetChanges {
  // In the order in which they are to be applied: an older version first.
  std::map<std::pair<BranchId, Version>, std::map<BlockIndex, MapChange>> by_version;
  std::map<BranchId, std::int64_t> mapped_change;
  std::vector<PlaceRun> overtaken;
  [[nodiscard]] std::uint64_t size() const; // pieces
  void add(const MapChange& change);

 private:
  void put(const MapChange& change);
  void put_first(const MapChange& save);
};

} // namespace vsnap
