// The page table of one open view: region number to region, a radix tree whose look-up is a few loads and no
// lock.
//
// Invariants
// 1. Nodes live as long as the table; a region that is taken out is freed only after a grace period.
// 2. At most one region of a number is in the table.
// Threads: find() from any thread inside a grace section. insert() and remove() under the cache's lock.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>

#include "core/region.h"

namespace vsnap {

class RegionTable {
 public:
  RegionTable();
  ~RegionTable(); // frees all regions; nobody may be using the table any more
  RegionTable(const RegionTable&) = delete;
  RegionTable& operator=(const RegionTable&) = delete;

  [[nodiscard]] Region* find(RegionIndex index) const;
  void insert(Region* region); // owns it from now on
  [[nodiscard]] std::unique_ptr<Region> remove(RegionIndex index);
  // All regions, in order of their index, from `first` on; stops when the visitor returns false.
  void visit(RegionIndex first, const std::function<bool(Region&)>& visitor) const;

 private:
  static constexpr unsigned kLevelBits = 8;
  static constexpr unsigned kLevels = 5; // 40 bits of region number; 2^63 bytes are 2^38 regions
  static constexpr std::size_t kFan = 1U << kLevelBits;
  struct Node {
    std::array<std::atomic<void*>, kFan> child{};
  };
  static unsigned slot(RegionIndex index, unsigned level);
  static void free_node(Node* node, unsigned level);
  static bool visit_node(const Node& node, unsigned level, std::uint64_t prefix, std::uint64_t first,
                         const std::function<bool(Region&)>& visitor);
  std::unique_ptr<Node> root_;
};

} // namespace vsnap
