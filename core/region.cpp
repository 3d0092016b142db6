#include "core/region.h"

#include <algorithm>

namespace vsnap {

void Region::clear_own(Version current) {
  MutexLock lock(mutex_);
  if (own_version_.load(std::memory_order_relaxed) == current.value()) return;
  for (std::uint64_t block = 0; block < kRegionBlocks; ++block) {
    const Entry e = entry(block);
    if (e.own()) set_entry(block, e.frozen());
  }
  own_version_.store(current.value(), std::memory_order_release);
}

bool Region::retire(std::uint64_t committed) {
  MutexLock lock(mutex_);
  if (!held_.empty() || waiting_ > 0 || last_record() > committed) return false;
  retired_ = true;
  return true;
}

RangeLock::RangeLock(Region& region, std::uint64_t from, std::uint64_t to)
    : region_(region), from_(from), to_(to) {
  MutexLock lock(region_.mutex_);
  const auto overlaps = [this](const Region::Range& r) { return r.from < to_ && from_ < r.to; };
  while (!region_.retired_ && std::any_of(region_.held_.begin(), region_.held_.end(), overlaps)) {
    ++region_.waiting_;
    region_.released_.wait(region_.mutex_);
    --region_.waiting_;
  }
  if (region_.retired_) return;
  region_.held_.push_back({from_, to_});
  held_ = true;
}

RangeLock::~RangeLock() {
  if (!held_) return;
  MutexLock lock(region_.mutex_);
  const auto mine = std::find_if(region_.held_.begin(), region_.held_.end(),
                                 [this](const Region::Range& r) { return r.from == from_ && r.to == to_; });
  *mine = region_.held_.back();
  region_.held_.pop_back();
  if (region_.waiting_ > 0) region_.released_.notify_all();
}

} // namespace vsnap
