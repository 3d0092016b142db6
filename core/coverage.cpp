#include "core/coverage.h"

#include <algorithm>

#include "core/planted.h"

namespace vsnap {

Coverage::Coverage(ExtentIndex& index, Family family) : index_(index), family_(std::move(family)) {
  for (const auto& [id, relative] : family_) {
    if (relative.parent && !relative.parent_draining) children_[*relative.parent].push_back(id);
  }
  std::erase_if(children_, [this](const auto& link) {
    const auto& [pin, children] = link;
    const auto found = family_.find(pin.branch);
    return found == family_.end() || found->second.adopted ||
           found->second.pins.count(*pin.number) != children.size();
  });
}

bool Coverage::children_alone(BranchId branch, std::uint64_t born,
                              std::optional<std::uint64_t> overtaken) const {
  const auto found = family_.find(branch);
  if (found == family_.end() || (found->second.has_head && !overtaken)) return false;
  const auto& pins = found->second.pins;
  const auto end = overtaken ? pins.lower_bound(*overtaken) : pins.end();
  const auto first = pins.lower_bound(born);
  return first != end && std::all_of(first, end, [&](std::uint64_t number) {
           return children_.contains({branch, number});
         });
}

std::vector<bool> Coverage::out_of_sight(BranchId branch, std::uint64_t born,
                                         std::optional<std::uint64_t> overtaken, BlockIndex start,
                                         BlockCount count) {
  if (region_of(start) != region_) reached_.clear();
  region_ = region_of(start);
  Blocks reached(count.value());
  const auto end = overtaken ? children_.lower_bound({branch, *overtaken})
                             : children_.lower_bound({BranchId(branch.value() + 1), std::nullopt});
  for (auto link = children_.lower_bound({branch, born}); link != end; ++link)
    add_reached_by_children(link->first, 0, (start - first_block(region_)).value(), reached);
  reached.flip();
  return reached;
}

void Coverage::add_reached_by_children(const Pin& link, int depth, std::size_t first, Blocks& reached) {
  for (const BranchId child : children_.at(link)) {
    const Blocks& some = reached_through(child, depth);
    for (std::size_t i = 0; i < reached.size(); ++i) {
      if (some[first + i]) reached[i] = true;
    }
  }
}

const Coverage::Blocks& Coverage::reached_through(BranchId branch, int depth) {
  if (const auto known = reached_.find(branch); known != reached_.end()) return known->second;
  constexpr std::uint64_t kNone = ~std::uint64_t{0};
  const Relative& relative = family_.at(branch);
  const std::uint64_t base = first_block(region_).value();
  std::vector<std::uint64_t> oldest(kRegionBlocks, kNone);
  for (const ExtentRow& row : index_.rows(branch, region_)) {
    if (row.place.is_base() && row.kind != BlockKind::hole) continue; // says nothing once the image is gone
    for (std::uint64_t i = row.start.value() - base; i < row.end().value() - base; ++i)
      oldest[i] = std::min(oldest[i], row.born);
  }
  Blocks reached(kRegionBlocks);
  const auto reaches = [&](std::uint64_t number) { // a view of the branch at that number
    for (std::size_t i = 0; i < reached.size(); ++i) {
      if (oldest[i] > number && !(planted(Fault::covered_by_later) && oldest[i] != kNone)) reached[i] = true;
    }
  };
  if (relative.has_head) reaches(kNone - 1);
  for (auto pin = relative.pins.begin(); pin != relative.pins.end(); pin = relative.pins.upper_bound(*pin)) {
    const Pin link{branch, *pin};
    if (!children_.contains(link) || depth == kMaxDepth) { // a snapshot: nobody above it reaches further
      reaches(*pin);
      break;
    }
    Blocks beyond(kRegionBlocks);
    add_reached_by_children(link, depth + 1, 0, beyond);
    for (std::size_t i = 0; i < reached.size(); ++i) {
      if (beyond[i] && oldest[i] > *pin) reached[i] = true;
    }
  }
  return reached_[branch] = std::move(reached);
}

} // namespace vsnap
