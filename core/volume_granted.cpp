// Blocks that the host which a volume is delegated to has written itself, to places that it was granted: how
// they come into the map. See core/delegation.h.
#include "core/change_range.h"
#include "core/granted_space.h"
#include "core/planted.h"
#include "core/volume_change.h"

namespace vsnap {
namespace {

bool lies_at(Entry e, Place place) { return e.own() && e.kind() == BlockKind::data && e.place() == place; }

} // namespace

Result<bool> VolumeIo::lies_there(const MapRun& run) {
  for (std::uint64_t done = 0; done < run.count.value();) {
    const BlockIndex start = run.start + BlockCount(done);
    const std::uint64_t first = start.value() % kRegionBlocks;
    const std::uint64_t count = std::min(run.count.value() - done, kRegionBlocks - first);
    const IoGate::Passage passage(map_.branch->gate);
    const Grace::Section section(engine_.grace());
    VSNAP_TRY_ASSIGN(Region * region, engine_.cache().get(map_, region_of(start)));
    region->refresh_own(map_.branch->version());
    for (std::uint64_t i = 0; i < count; ++i) {
      if (!lies_at(region->entry(first + i), run.place + BlockCount(done + i))) return false;
    }
    done += count;
  }
  return true;
}

Result<> VolumeIo::name_granted(const MapRun& run, const Grant& grant) {
  return change(run.start.value() * kBlockBytes, bytes(run.count), [&](const Span& span, std::uint64_t done) {
    return name_piece(span, run.place + BlockCount(done / kBlockBytes), grant);
  });
}

// Whether the delegation stands is asked inside the gate: whoever draws the line with which it is given up
// waits for this change, or comes first.
Result<> VolumeIo::name_piece(const Span& span, Place first, const Grant& grant) {
  for (;;) {
    VSNAP_TRY_ASSIGN(Region * region, engine_.cache().get(map_, span.region));
    const ChangeRange range(*this, *region, span.first_block(), span.end_block());
    if (!range.held()) continue;
    if (!grant.stands()) return failure(ErrorKind::failed, ESTALE, "the volume is not delegated any more");
    const BlockIndex end_block = first_block(span.region) + BlockCount(span.end_block());
    if (end_block.value() > blocks_for(size_bytes()).value())
      return failure(ErrorKind::failed, EINVAL, "a block past the end of the volume");
    region->refresh_own(map_.branch->version());
    for (std::uint64_t block = span.first_block(); block < span.end_block();) {
      const Place place = first + BlockCount(block - span.first_block());
      std::uint64_t end = block + 1;
      if (!lies_at(region->entry(block), place)) {
        for (; end < span.end_block(); ++end) {
          if (lies_at(region->entry(end), first + BlockCount(end - span.first_block()))) break;
        }
        VSNAP_TRY(name_run(*region, block, {place, BlockCount(end - block)}, grant));
      }
      block = end;
    }
    return {};
  }
}

// What the head had there of its own is freed as by any write that goes elsewhere. The limit on snapshots
// counts it and refuses nothing: while there is one, nothing is granted.
Result<> VolumeIo::name_run(Region& region, std::uint64_t block, PlaceRun places, const Grant& grant) {
  if (!grant.space.take(grant.delegation, places) && !planted(Fault::commit_of_foreign_place))
    return failure(ErrorKind::failed, EINVAL, "a place that is not granted, or is another block's");
  const std::uint64_t end = block + places.count.value();
  if (SnapshotLimit& limit = object_->snapshot_limit; limit.active()) {
    limit.add(Counted{end, {}}.kept(region, block, end));
    if (counts_by_guess()) limit.note_guess();
  }
  try {
    record(region, block, places.count.value(), BlockKind::data, places.start);
  } catch (...) { // without memory; nothing is recorded then
    if (!grant.space.put_back(grant.delegation, places)) engine_.allocator().release(places);
    throw;
  }
  counters_->writes.fetch_add(1, std::memory_order_relaxed);
  counters_->written_bytes.fetch_add(bytes(places.count), std::memory_order_relaxed);
  note_modified();
  return {};
}

} // namespace vsnap
