// Copy-out: how the image of an adopted volume is overwritten while snapshots see what it held.
//
// The head's content is in the image, always, each block at its own number: so the image is a valid raw image
// at every moment. A block that another view sees goes one way, once for each version:
//
//            save                         copy and record durable        overwrite
//   unsaved ──────► saving: a copy lies  ───────────────► saved: everybody ─────────► own: the head alone
//                   in the pool, maps                     else reads the              sees what the image
//                   has, are switched to it                    copy, for ever              and overwrites it
//                   freely
//                                                                                       │ snapshot
//   unsaved ◄─────────────────────────────────────────────────────────────────────────┘
//
// Invariants
// 1. Order: copy written, maps switched and record made (in this order, RegionCache::switch_to_saved()), copy
//    and record durable, image overwritten. A crash between any two leaves a copy that nobody needs. Copy and
//    record need no order between them, and share a flush: the record has the copy's checksum, and counts for
//    nothing after a power cut that left it without (journal.h, 8).
// 2. No block is overwritten before all records that save it are durable. Entries are own before that, so
//    every change of the image asks for its blocks (RegionCache::last_save()).
// 3. A reader of another view that finds a block in the image reads it there and then asks its map again: if
//    the block is still there, nobody had begun to overwrite it; if not, the copy counts.
// 4. A map that is loaded shows what was saved, in the catalog or not (PendingSaves).
// 5. What held zeros goes nowhere (zeros.h): its record alone is its copy.
// The image itself needs no flush for any of this: that of a snapshot or an fsync covers it.
// What is saved at once is 64 KiB where that is soon durable, up to 256 KiB where it takes as long as copying
// so much, and up to 1 MiB for writes in sequence. Concurrent writers share flushes and frames.
// Threads: any.
#pragma once

#include <atomic>

#include "core/engine.h"
#include "core/snapshot_limit.h"

namespace vsnap {

class CopyOut {
 public:
  CopyOut(Engine& engine, SnapshotLimit& limit) : engine_(engine), limit_(limit) {}

  struct Range { // blocks of a region
    std::uint64_t from = 0, to = 0;
  };
  // What a writer of [from, to) has to hold: the same, or more where more is to be saved with it. Inside the
  // gate, after refresh_own().
  [[nodiscard]] Range range_for(const Region& region, Range wanted);
  // Saves what other views see of the range; the caller holds it. What is saved counts against the limit.
  [[nodiscard]] Result<> save(const ViewMap& head, Region& region, Range range);
  // Before each change of the image, for what it changes: invariant 2. Kind busy, errno EAGAIN: see
  // Engine::make_durable().
  [[nodiscard]] Result<> settle(const ViewMap& head, const Region& region, Range range);
  // One of the last changes had to wait for that, so the next may. A hint.
  [[nodiscard]] bool waited_lately() const { return waited_lately_.load(std::memory_order_relaxed) != 0; }
  // Lives while a change of the image is carried out, from before its save on.
  class Change {
   public:
    explicit Change(CopyOut& copy_out) : copy_out_(copy_out) {
      copy_out_.changes_.fetch_add(1, std::memory_order_relaxed);
    }
    ~Change() { copy_out_.changes_.fetch_sub(1, std::memory_order_relaxed); }
    Change(const Change&) = delete;
    Change& operator=(const Change&) = delete;

   private:
    CopyOut& copy_out_;
  };
  // A hint as well.
  [[nodiscard]] bool is_under_way() const { return changes_.load(std::memory_order_relaxed) != 0; }

 private:
  [[nodiscard]] Result<> save_run(const ViewMap& head, Region& region, Range run);
  [[nodiscard]] MapChange change_of(const ViewMap& head, const Region& region, std::uint64_t from,
                                    BlockCount count) const;
  // From that block on; how many were saved.
  [[nodiscard]] Result<BlockCount> save_zeros(const ViewMap& head, Region& region, std::uint64_t from,
                                              BlockCount count);
  [[nodiscard]] Result<BlockCount> save_content(const ViewMap& head, Region& region, std::uint64_t from,
                                                std::span<const std::byte> content);
  [[nodiscard]] Result<> switch_to(const ViewMap& head, Region& region, const MapChange& change);

  Engine& engine_;
  SnapshotLimit& limit_; // of the volume
  // Where a write in sequence would go on, and how much to save then. A hint, that any writer may change.
  std::atomic<std::uint64_t> expected_{~std::uint64_t{0}};
  std::atomic<std::uint64_t> pace_{0};
  std::atomic<std::int64_t> settle_ns_{0};       // how long the last one took
  std::atomic<std::uint32_t> waited_lately_{0}; // for so many changes more
  std::atomic<std::uint32_t> changes_{0};       // under way
};

} // namespace vsnap
