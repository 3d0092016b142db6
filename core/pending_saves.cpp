#include "core/pending_saves.h"

#include <algorithm>

#include "core/assert.h"

namespace vsnap {

void PendingSaves::add(const MapChange& save) {
  MutexLock lock(mutex_);
  saves_[{save.branch, region_of(save.start)}].push_back({save, ~std::uint64_t{0}});
}

void PendingSaves::set_sequence(const MapChange& save, std::uint64_t sequence) {
  MutexLock lock(mutex_);
  auto& list = saves_.at({save.branch, region_of(save.start)});
  const auto found = std::find_if(list.rbegin(), list.rend(), [&](const Save& s) {
    return s.change.start == save.start && s.change.born == save.born;
  });
  VSNAP_ASSERT(found != list.rend());
  found->sequence = sequence;
}

std::uint64_t PendingSaves::last(BranchId branch, BlockIndex start, BlockCount count) const {
  std::uint64_t last = 0;
  MutexLock lock(mutex_);
  const auto found = saves_.find({branch, region_of(start)});
  if (found == saves_.end()) return last;
  for (const Save& save : found->second) {
    const MapChange& change = save.change;
    const bool has_record = save.sequence != ~std::uint64_t{0}; // else it came to nothing
    if (has_record && change.start < start + count && start < change.start + change.count)
      last = std::max(last, save.sequence);
  }
  return last;
}

void PendingSaves::forget_until(std::uint64_t sequence) {
  MutexLock lock(mutex_);
  for (auto at = saves_.begin(); at != saves_.end();) {
    std::erase_if(at->second, [&](const Save& s) { return s.sequence <= sequence; });
    at = at->second.empty() ? saves_.erase(at) : std::next(at);
  }
}

void PendingSaves::copy(BranchId branch, RegionIndex region, Version seen,
                        std::vector<MapChange>& out) const {
  MutexLock lock(mutex_);
  const auto found = saves_.find({branch, region});
  if (found == saves_.end()) return;
  for (const Save& save : found->second) {
    if (save.change.born > seen) out.push_back(save.change);
  }
}

} // namespace vsnap
