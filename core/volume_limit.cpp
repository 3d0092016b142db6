// What a write to a thin volume adds to what its snapshots keep, and the room that it needs for that: see
// snapshot_limit.h.
#include "core/volume_io.h"

namespace vsnap {
namespace {

// What may be written before somebody looks at the hint again.
constexpr std::uint64_t kNearTheLimit = 16384; // blocks: 64 MiB

bool is_kept(Entry e) { return e.mapped() && !e.own() && e.place().in_pool(); }

} // namespace

WriteWait VolumeIo::write_wait() const {
  const SnapshotLimit& limit = object_->snapshot_limit;
  if (map_.head && limit.on_full() == OnFull::pause && limit.is_near(kNearTheLimit)) return WriteWait::others;
  if (!copy_out_.waited_lately()) return WriteWait::none; // for what it saves first
  return copy_out_.is_under_way() ? WriteWait::others : WriteWait::flush;
}

std::uint64_t VolumeIo::Counted::kept(const Region& region, std::uint64_t from, std::uint64_t to) const {
  std::uint64_t count = 0;
  for (std::uint64_t block = from; block < to; ++block)
    count += is_kept(region.entry(block)) && (shared.empty() || !shared[block]) ? 1 : 0;
  return count;
}

// The caller holds the range, inside the gate. At first everything is taken to be the volume's own, which is
// too much where it began as a clone; only where there is no room for that much somebody looks.
Result<VolumeIo::Counted> VolumeIo::count_kept(const Region& region, std::uint64_t block, std::uint64_t end) {
  SnapshotLimit& limit = object_->snapshot_limit;
  Counted counted{end};
  std::uint64_t wanted = counted.kept(region, block, end);
  if (wanted == 0) return counted;
  std::uint64_t granted = limit.take(wanted);
  const bool guess = counts_by_guess();
  if (guess && granted == wanted) limit.note_guess();
  if (guess && granted < wanted) {
    limit.give_back(granted);
    VSNAP_TRY_ASSIGN(counted.shared, shared_with_origin(region));
    wanted = counted.kept(region, block, end);
    if (wanted == 0) return counted;
    granted = limit.take(wanted);
  }
  if (granted == wanted) return counted;
  counted.end = block;
  for (std::uint64_t left = granted;; ++counted.end) {
    const std::uint64_t needs = counted.kept(region, counted.end, counted.end + 1);
    if (needs > left) break;
    left -= needs;
  }
  if (counted.end == block) return SnapshotLimit::refusal();
  return counted;
}

bool VolumeIo::counts_by_guess() {
  if (map_.branch->parent == nullptr) return false;
  MutexLock lock(objects_.mutex());
  const Branch* link = map_.branch;
  while (link->parent != nullptr && objects_.has_snapshot_at(*object_, *link->parent, link->parent_number))
    link = link->parent;
  return link->parent != nullptr;
}

// Blocks of the region that the volume sees in a branch that none of its own snapshots lies on: a place has
// one row, so they are those that the view it began with shows at the same place.
Result<std::vector<bool>> VolumeIo::shared_with_origin(const Region& region) {
  std::vector<bool> shared(kRegionBlocks);
  const Branch* link = map_.branch;
  {
    MutexLock lock(objects_.mutex());
    while (link->parent != nullptr && objects_.has_snapshot_on(*object_, *link->parent)) link = link->parent;
  }
  const Branch* const origin = link->seen_parent();
  if (origin == nullptr) return shared;
  const auto began = std::make_unique<Region>(region.index(), link->parent_number);
  VSNAP_TRY(engine_.db().read([&](SQLite::Database&) -> Result<> {
    engine_.index().load_region(*origin, link->parent_number, std::nullopt, *began);
    return {};
  }));
  for (std::uint64_t block = 0; block < kRegionBlocks; ++block) {
    const Entry e = region.entry(block);
    shared[block] = is_kept(e) && began->entry(block).mapped() && began->entry(block).place() == e.place();
  }
  return shared;
}

} // namespace vsnap
