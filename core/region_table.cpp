#include "core/region_table.h"

#include "core/assert.h"

namespace vsnap {

unsigned RegionTable::slot(RegionIndex index, unsigned level) {
  return static_cast<unsigned>(index.value() >> ((kLevels - 1 - level) * kLevelBits)) & (kFan - 1);
}

RegionTable::RegionTable() : root_(std::make_unique<Node>()) {}

RegionTable::~RegionTable() { free_node(root_.release(), 0); }

void RegionTable::free_node(Node* node, unsigned level) {
  for (auto& child : node->child) {
    void* const below = child.load(std::memory_order_relaxed);
    if (below == nullptr) continue;
    if (level + 1 == kLevels)
      delete static_cast<Region*>(below);
    else
      free_node(static_cast<Node*>(below), level + 1);
  }
  delete node;
}

Region* RegionTable::find(RegionIndex index) const {
  const Node* node = root_.get();
  for (unsigned level = 0;; ++level) {
    void* const below = node->child[slot(index, level)].load(std::memory_order_acquire);
    if (below == nullptr) return nullptr;
    if (level + 1 == kLevels) return static_cast<Region*>(below);
    node = static_cast<const Node*>(below);
  }
}

void RegionTable::insert(Region* region) {
  Node* node = root_.get();
  for (unsigned level = 0; level + 1 < kLevels; ++level) {
    auto& child = node->child[slot(region->index(), level)];
    if (child.load(std::memory_order_relaxed) == nullptr) {
      child.store(std::make_unique<Node>().release(), std::memory_order_release);
    }
    node = static_cast<Node*>(child.load(std::memory_order_relaxed));
  }
  auto& leaf = node->child[slot(region->index(), kLevels - 1)];
  VSNAP_ASSERT(leaf.load(std::memory_order_relaxed) == nullptr);
  leaf.store(region, std::memory_order_release);
}

std::unique_ptr<Region> RegionTable::remove(RegionIndex index) {
  Node* node = root_.get();
  for (unsigned level = 0; level + 1 < kLevels; ++level) {
    node = static_cast<Node*>(node->child[slot(index, level)].load(std::memory_order_relaxed));
    if (node == nullptr) return nullptr;
  }
  return std::unique_ptr<Region>(static_cast<Region*>(
      node->child[slot(index, kLevels - 1)].exchange(nullptr, std::memory_order_acq_rel)));
}

bool RegionTable::visit_node(const Node& node, unsigned level, std::uint64_t prefix, std::uint64_t first,
                             const std::function<bool(Region&)>& visitor) {
  const unsigned below_bits = (kLevels - 1 - level) * kLevelBits;
  for (std::uint64_t i = 0; i < kFan; ++i) {
    const std::uint64_t start = prefix | (i << below_bits);
    if (start + (1ULL << below_bits) <= first) continue;
    void* const below = node.child[i].load(std::memory_order_acquire);
    if (below == nullptr) continue;
    const bool on = level + 1 == kLevels
                        ? visitor(*static_cast<Region*>(below))
                        : visit_node(*static_cast<Node*>(below), level + 1, start, first, visitor);
    if (!on) return false;
  }
  return true;
}

void RegionTable::visit(RegionIndex first, const std::function<bool(Region&)>& visitor) const {
  visit_node(*root_, 0, 0, first.value(), visitor);
}

} // namespace vsnap
