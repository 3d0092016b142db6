// What the children of a branch have themselves, and never look for in it.
//
// At some numbers of a branch there is no snapshot, only children are: clones of a snapshot that was removed,
// and what a volume became when it was rolled back. Versions that only such numbers see are out of sight in
// those blocks where whoever sees a child finds a row of the child; or where those who reach through the
// child are children in their turn, of which the same is true.
//
// Invariants
// 1. What is out of sight stays so. A row lasts as long as somebody sees it, or is out of sight itself; new
//    views of a branch come at its head, or at a number that somebody sees already; and no snapshot comes at
//    a number that has none.
// 2. Nothing is out of sight in the branch of an adopted volume, which has its blocks without rows.
// Threads: inside a body of Database::write(), under the commit lock, under which nobody comes or goes.
#pragma once

#include <map>
#include <vector>

#include "core/extent_index.h"
#include "core/family.h"

namespace vsnap {

class Coverage {
 public:
  // Generations that are looked through; who is further away is taken to need everything.
  static constexpr int kMaxDepth = 64;

  Coverage(ExtentIndex& index, Family family);

  // Whether a version of the branch is seen, and by children alone.
  [[nodiscard]] bool children_alone(BranchId branch, std::uint64_t born,
                                    std::optional<std::uint64_t> overtaken) const;
  // Of such a version: which of its blocks are out of sight; all of one region.
  [[nodiscard]] std::vector<bool> out_of_sight(BranchId branch, std::uint64_t born,
                                               std::optional<std::uint64_t> overtaken, BlockIndex start,
                                               BlockCount count);

 private:
  using Blocks = std::vector<bool>; // of a region
  // Blocks of `region_` for which somebody who sees the branch finds no row in it.
  const Blocks& reached_through(BranchId branch, int depth);
  // The same of the children at a number; `reached` begins `first` blocks after the region does.
  void add_reached_by_children(const Pin& link, int depth, std::size_t first, Blocks& reached);

  ExtentIndex& index_;
  Family family_;
  std::map<Pin, std::vector<BranchId>> children_; // by where they start; where no snapshot is
  std::map<BranchId, Blocks> reached_;            // of `region_`
  RegionIndex region_{0};
};

} // namespace vsnap
