// Maps in memory: loads regions of open views from the extent index, and lets go of those that were not used
// lately when they take more than the limit allows (clock, or second chance: Corbató 1968). A region grows
// when it is written to in pieces; that counts as well.
//
// Invariants
// 1. A region with changes that are not committed stays (Region::retire()), so the index plus the regions in
//    memory always say all.
// 2. Regions that were taken out are freed by collect(), after a grace period.
// 3. get() never takes out the region that it returns.
// 4. A map that shows places in the image of an adopted volume, and is not that volume's own, never shows one
//    whose content is about to change: see switch_to_saved(). Invariant 3 of copy_out.h.
// 5. What the log has of a snapshot and the catalog has not is laid over what is loaded. As a rule there is
//    nothing: a snapshot is opened after a commit, unless the pool commits no more.
// Threads: get() from any thread inside a grace section. collect() outside. drop_all() with the branch's gate
// closed.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include "core/branch.h"
#include "core/change_log.h"
#include "core/database.h"
#include "core/extent_index.h"
#include "core/grace.h"
#include "core/pending_saves.h"
#include "core/region_table.h"

namespace vsnap {

struct ViewMap { // the map of one open view; the cache knows it from add() to forget()
  Branch* branch = nullptr;
  Version number;         // of a snapshot
  std::uint64_t line = 0; // of a snapshot: records up to this one may belong to it
  bool head = false;
  RegionTable table;
};

class RegionCache {
 public:
  RegionCache(Database& db, ExtentIndex& index, Grace& grace, std::uint64_t limit_bytes);
  // Before there are snapshots to read.
  void set_log(const ChangeLog& log) { log_ = &log; }
  // The map records that the log has of the snapshot and the catalog has not, in order.
  [[nodiscard]] std::vector<MapChange> pending(const ViewMap& map) const;

  void add(ViewMap& map) VSNAP_EXCLUDES(load_mutex_);

  // The blocks of a head of an adopted volume that are about to be overwritten: `saves` says where in the
  // pool their content is now. Every other map that shows their places in the image shows the saved ones from
  // now on, and so does every one that is loaded; then `record` makes the change in the log and the head's
  // own map, and gives its number. A failure (no memory) comes before that, and some maps show the saved
  // places already: they stay as they are.
  [[nodiscard]] Result<> switch_to_saved(const ViewMap& head, const MapChange& saves,
                                         const std::function<std::uint64_t()>& record)
      VSNAP_EXCLUDES(load_mutex_);

  // See PendingSaves::last().
  [[nodiscard]] std::uint64_t last_save(const Branch& branch, BlockIndex start, BlockCount count) const {
    return saves_.last(branch.id, start, count);
  }

  [[nodiscard]] Result<Region*> get(ViewMap& map, RegionIndex index) VSNAP_EXCLUDES(load_mutex_);
  // Records up to this number are in the catalog.
  void set_committed(std::uint64_t sequence) {
    committed_.store(sequence, std::memory_order_release);
    saves_.forget_until(sequence);
  }
  // Takes out every region of the map, after `change` was called; no region is loaded in between.
  void drop_all(ViewMap& map, const std::function<void()>& change) VSNAP_EXCLUDES(load_mutex_);
  // Before a map is destroyed.
  void forget(ViewMap& map) VSNAP_EXCLUDES(load_mutex_);
  void collect() VSNAP_EXCLUDES(load_mutex_);
  // Called now and then outside of grace sections and locks: takes out what is too much because regions have
  // grown, and frees what was taken out, if that is much.
  void collect_some() VSNAP_EXCLUDES(load_mutex_) {
    if (bytes_.load(std::memory_order_relaxed) >= evict_at_.load(std::memory_order_relaxed)) shrink();
    if (retired_bytes_.load(std::memory_order_relaxed) >= kCollectAt) collect();
  }
  // So many fit, whatever they map.
  [[nodiscard]] std::uint64_t limit_regions() const {
    return std::max<std::uint64_t>(limit_bytes_ / Region::max_bytes(), kMinRegions);
  }
  // Also of regions that were taken out and are not freed yet.
  [[nodiscard]] std::uint64_t bytes_in_use() const { return bytes_.load() + retired_bytes_.load(); }

 private:
  struct Slot {
    ViewMap* map = nullptr;
    RegionIndex index;
  };
  static constexpr std::uint64_t kMinRegions = 16;
  static constexpr std::uint64_t kCollectAt = 1 << 20;
  // Where nothing can be taken out, it is tried again only after growth by that much.
  static constexpr std::uint64_t kEvictStep = 256 << 10;
  void shrink() VSNAP_EXCLUDES(load_mutex_);
  struct Saved {
    MapChange save;
    Place identity; // of its first block, in the image
  };
  // What was saved of the branches that the map reads through, and the catalog may not have. Under the
  // database's lock, before the rows are read: so nothing falls between.
  [[nodiscard]] std::vector<Saved> saves_under(const ViewMap& map, RegionIndex index) const;
  // `loaded`: stays; or nullptr.
  void evict(const Region* loaded) VSNAP_REQUIRES(load_mutex_);
  void retire(const Slot& slot) VSNAP_REQUIRES(load_mutex_);

  Database& db_;
  ExtentIndex& index_;
  Grace& grace_;
  const ChangeLog* log_ = nullptr;
  const std::uint64_t limit_bytes_;
  std::atomic<std::uint64_t> committed_{0};
  std::atomic<std::uint64_t> bytes_{0}; // of regions in tables
  std::atomic<std::uint64_t> evict_at_; // bytes_, for collect_some()
  std::atomic<std::uint64_t> retired_bytes_{0};
  PendingSaves saves_;
  Mutex load_mutex_;
  std::vector<ViewMap*> maps_ VSNAP_GUARDED_BY(load_mutex_);
  std::vector<Slot> clock_ VSNAP_GUARDED_BY(load_mutex_);
  std::size_t hand_ VSNAP_GUARDED_BY(load_mutex_) = 0;
  std::vector<std::unique_ptr<Region>> retired_ VSNAP_GUARDED_BY(load_mutex_);
};

} // namespace vsnap
