// The changes of maps that the catalog does not have yet, in the order in which they happened.
//
// The I/O engine appends a record for every change of a head's map; a commit takes all records out, brings
// them into net form (the last change of a block counts) and writes them to the extent index.
//
// Invariants
// 1. Records about one block are appended in the order of the map's changes (both under the region's mutex).
// 2. A record names the version and floor its branch had when it was made; take() between two records of one
//    branch with different versions is what draws the line of a snapshot.
// 3. Places of changes that were overtaken before they reached the catalog come out in `overtaken`: nobody
//    owns them.
// Threads: append() from any thread; take() under the commit lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <vector>

#include "core/mutex.h"
#include "core/region.h"
#include "core/units.h"

namespace vsnap {

inline constexpr std::int64_t kNoFloor = -1;

struct MapChange {
  BranchId branch;
  BlockIndex start;
  BlockCount count;
  BlockKind kind = BlockKind::data; // data, reserved or hole
  Place place;                      // of the first block; holes have none
  Version born;                     // the branch's number
  std::int64_t floor =
      kNoFloor; // newest number below `born` that some other view sees; rows born later are the head's own
  bool fresh = false;             // the head had no row of its own for any of these blocks
  bool keep_hole = false;         // of a hole: older versions or a parent would show through without a row
  std::int64_t mapped_change = 0; // blocks mapped after minus before
};

// Records as they were appended.
struct TakenRecords {
  std::vector<MapChange> records;
  std::uint64_t sequence = 0; // of the last one
};

// What a commit brings to the catalog: for each branch, changes that do not overlap, in order of their
// blocks.
struct NetChanges {
  std::map<BranchId, std::map<BlockIndex, MapChange>> by_branch;
  std::map<BranchId, std::int64_t> mapped_change;
  std::vector<PlaceRun> overtaken;
  std::uint64_t sequence = 0; // the last record that is in here
  [[nodiscard]] std::uint64_t size() const;
  void add(const MapChange& change);
  void add(const TakenRecords& taken);
};

class ChangeLog {
 public:
  // Holds back writers at `limit` records, or at records in `region_limit` regions; see wants_commit().
  ChangeLog(std::uint64_t limit, std::uint64_t region_limit) : limit_(limit), region_limit_(region_limit) {}
  // Its sequence number, from 1. `first_of_region`: no other record of its region came after taken().
  std::uint64_t append(const MapChange& change, bool first_of_region) VSNAP_EXCLUDES(mutex_);
  // A change that has no record (a volume's size): the next commit has something to do.
  void note() VSNAP_EXCLUDES(mutex_);
  // Moves everything behind what `taken` has already; takes no time to speak of, as writers may be held.
  void take(TakenRecords& taken) VSNAP_EXCLUDES(mutex_);
  // The last record that take() has moved.
  [[nodiscard]] std::uint64_t taken() const { return taken_.load(std::memory_order_relaxed); }
  void set_limit(std::uint64_t limit) { limit_.store(limit, std::memory_order_relaxed); }
  // Changes that were taken and that a commit could not store.
  void set_backlog(std::uint64_t changes) { backlog_.store(changes, std::memory_order_relaxed); }
  // Should the caller commit before it goes on?
  [[nodiscard]] bool full() const {
    return reaches(1) || backlog_.load(std::memory_order_relaxed) >= limit_.load(std::memory_order_relaxed);
  }
  // Should somebody commit, so that it does not become full?
  [[nodiscard]] bool wants_commit() const { return reaches(4); }
  [[nodiscard]] std::uint64_t pending() const { return pending_.load(std::memory_order_relaxed); }
  // Sequence number of the newest record.
  [[nodiscard]] std::uint64_t last() const { return last_.load(std::memory_order_acquire); }

 private:
  [[nodiscard]] bool reaches(std::uint64_t part) const {
    return pending_.load(std::memory_order_relaxed) >= limit_.load(std::memory_order_relaxed) / part ||
           regions_.load(std::memory_order_relaxed) >= region_limit_ / part;
  }

  std::atomic<std::uint64_t> limit_;
  const std::uint64_t region_limit_;
  std::atomic<std::uint64_t> regions_{0}; // with records
  std::atomic<std::uint64_t> taken_{0};
  std::atomic<std::uint64_t> backlog_{0};
  Mutex mutex_;
  std::vector<MapChange> records_ VSNAP_GUARDED_BY(mutex_);
  std::uint64_t sequence_ VSNAP_GUARDED_BY(mutex_) = 0;
  std::atomic<std::uint64_t> pending_{0};
  std::atomic<std::uint64_t> last_{0};
};

} // namespace vsnap
