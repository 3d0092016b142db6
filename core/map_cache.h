// Maps of snapshots that another host has open, as it told them (exported_map.h): those of all views that
// this host has open of a pool, region by region.
//
// Invariants
// 1. What is found was kept in the same session, for the same view, since that was opened.
// 2. All together have max_runs runs at most, with kRunsOfARegion for each region, but for the region that
//    was kept last. What was used longest ago goes first, of whichever view it is.
// Threads: any; a leaf lock.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <utility>

#include "core/exported_map.h"
#include "core/mutex.h"

namespace vsnap {

class MapCache {
 public:
  using Map = std::shared_ptr<const RegionMap>;
  static constexpr std::size_t kMaxRuns = 4U << 20; // 32 bytes each
  static constexpr std::size_t kRunsOfARegion = 8;  // what one takes that has none

  explicit MapCache(std::size_t max_runs = kMaxRuns) : max_runs_(max_runs) {}
  // A number for a view that is being opened; another one each time.
  [[nodiscard]] std::uint64_t add_view() VSNAP_EXCLUDES(mutex_);
  void drop_view(std::uint64_t view) VSNAP_EXCLUDES(mutex_);
  // nullptr: it is not kept. Sessions have higher numbers than those before.
  [[nodiscard]] Map find(std::uint64_t session, std::uint64_t view, RegionIndex region)
      VSNAP_EXCLUDES(mutex_);
  // What comes late, in a session that is over, is not kept.
  void keep(std::uint64_t session, std::uint64_t view, RegionIndex region, const Map& map)
      VSNAP_EXCLUDES(mutex_);

 private:
  using Key = std::pair<std::uint64_t, RegionIndex>; // view, region
  struct Kept {
    Map map;
    std::list<Key>::iterator use; // in used_
  };
  using Maps = std::map<Key, Kept>;
  void begin(std::uint64_t session) VSNAP_REQUIRES(mutex_);
  Maps::iterator drop(Maps::iterator kept) VSNAP_REQUIRES(mutex_);

  const std::size_t max_runs_;
  Mutex mutex_;
  Maps kept_ VSNAP_GUARDED_BY(mutex_);
  std::list<Key> used_ VSNAP_GUARDED_BY(mutex_);       // the last used one first
  std::size_t runs_ VSNAP_GUARDED_BY(mutex_) = 0;      // kept
  std::uint64_t session_ VSNAP_GUARDED_BY(mutex_) = 0; // of all that is kept
  std::uint64_t views_ VSNAP_GUARDED_BY(mutex_) = 0;   // so far
};

} // namespace vsnap
