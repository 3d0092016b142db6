#include "core/map_cache.h"

namespace vsnap {

std::uint64_t MapCache::add_view() {
  MutexLock lock(mutex_);
  return ++views_;
}

void MapCache::drop_view(std::uint64_t view) {
  MutexLock lock(mutex_);
  for (auto it = kept_.lower_bound({view, RegionIndex(0)}); it != kept_.end() && it->first.first == view;)
    it = drop(it);
}

MapCache::Map MapCache::find(std::uint64_t session, std::uint64_t view, RegionIndex region) {
  MutexLock lock(mutex_);
  begin(session);
  const auto found = session == session_ ? kept_.find({view, region}) : kept_.end();
  if (found == kept_.end()) return {};
  used_.splice(used_.begin(), used_, found->second.use);
  return found->second.map;
}

void MapCache::keep(std::uint64_t session, std::uint64_t view, RegionIndex region, const Map& map) {
  MutexLock lock(mutex_);
  begin(session);
  const Key key{view, region};
  if (session != session_ || kept_.contains(key)) return; // or another thread has it, too
  used_.push_front(key);
  kept_[key] = {map, used_.begin()};
  runs_ += map->size() + kRunsOfARegion;
  while (runs_ > max_runs_ && used_.size() > 1) drop(kept_.find(used_.back()));
}

void MapCache::begin(std::uint64_t session) {
  if (session <= session_) return; // a thread of the session before comes late
  kept_.clear();
  used_.clear();
  runs_ = 0;
  session_ = session;
}

MapCache::Maps::iterator MapCache::drop(Maps::iterator kept) {
  runs_ -= kept->second.map->size() + kRunsOfARegion;
  used_.erase(kept->second.use);
  return kept_.erase(kept);
}

} // namespace vsnap
