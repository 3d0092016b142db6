// What the map of a view says: where its data lies, what is mapped, where data and holes begin.
#include <algorithm>
#include <atomic>

#include "core/volume_io.h"

namespace vsnap {

// Of a head inside the gate, where the number stands still that tells what is its own.
Result<> VolumeIo::copy_map(RegionIndex index, RegionMap& map) {
  std::optional<IoGate::Passage> passage;
  if (map_.head) passage.emplace(map_.branch->gate);
  const Grace::Section section(engine_.grace());
  VSNAP_TRY_ASSIGN(Region * region, engine_.cache().get(map_, index));
  if (map_.head) region->refresh_own(map_.branch->version());
  for (std::uint64_t block = 0; block < kRegionBlocks;) {
    const Entry entry = region->entry(block);
    std::uint64_t end = block + 1;
    if (entry.kind() == BlockKind::data) {
      while (end < kRegionBlocks && region->entry(end) == entry.further(end - block)) ++end;
      map.push_back({first_block(index) + BlockCount(block), BlockCount(end - block), entry.kind(),
                     entry.place(), map_.head && entry.own()});
    }
    block = end;
  }
  return {};
}

// ---- seeking ----

Result<std::optional<RegionIndex>> VolumeIo::next_mapped_region(RegionIndex from) {
  std::optional<RegionIndex> best;
  // Changes that the catalog does not have yet are in the map; everything else is in the catalog.
  {
    const Grace::Section section(engine_.grace());
    map_.table.visit(from, [&](Region& region) {
      if (region.last_record() <= engine_.committed()) return true;
      best = region.index();
      return false;
    });
  }
  for (const MapChange& change : engine_.cache().pending(map_)) {
    const RegionIndex found = region_of(change.start);
    if (found >= from && (!best || found < *best)) best = found;
  }
  if (ImagePair* const pair = below_.load(std::memory_order_acquire)) {
    VSNAP_TRY_ASSIGN(const auto found, pair->first().next_mapped_region(from));
    if (found && (!best || *found < *best)) best = found;
  }
  VSNAP_TRY(engine_.db().read([&](SQLite::Database&) -> Result<> {
    for (const Branch* link = map_.branch; link != nullptr; link = link->seen_parent()) {
      const auto found = engine_.index().next_mapped_region(*link, from);
      if (found && (!best || *found < *best)) best = found;
    }
    return {};
  }));
  return best;
}

Result<std::uint64_t> VolumeIo::count_mapped(std::uint64_t offset, std::uint64_t length) {
  std::uint64_t mapped = 0;
  const std::uint64_t first = offset / kBlockBytes;
  const std::uint64_t end = blocks_for(offset + length).value();
  for (RegionIndex index = region_of(BlockIndex(first));; index = RegionIndex(index.value() + 1)) {
    VSNAP_TRY_ASSIGN(const auto found, next_mapped_region(index));
    if (!found || first_block(*found).value() >= end) return mapped;
    index = *found;
    const Grace::Section section(engine_.grace());
    ImagePair* const pair = below_.load(std::memory_order_acquire); // before the map; see read_piece()
    VSNAP_TRY_ASSIGN(Region * region, engine_.cache().get(map_, index));
    const std::uint64_t base = first_block(index).value();
    const std::uint64_t to = std::min(kRegionBlocks, end - base);
    for (std::uint64_t block = first > base ? first - base : 0; block < to; ++block) {
      VSNAP_TRY_ASSIGN(const Entry seen, seen_entry(pair, *region, block));
      mapped += seen.mapped() ? 1 : 0;
    }
  }
}

Result<std::optional<std::uint64_t>> VolumeIo::seek(std::uint64_t offset, bool data) {
  const std::uint64_t size = size_bytes();
  if (offset >= size) return std::optional<std::uint64_t>();
  RegionIndex region_index(offset / kRegionBytes);
  std::uint64_t block = offset % kRegionBytes / kBlockBytes;
  for (;;) {
    VSNAP_TRY_ASSIGN(const auto mapped, next_mapped_region(region_index));
    if (!mapped || *mapped != region_index) { // a hole up to there
      if (!data) return std::max(offset, first_block(region_index).value() * kBlockBytes);
      if (!mapped || mapped->value() * kRegionBytes >= size) return std::optional<std::uint64_t>();
      region_index = *mapped;
      block = 0;
    }
    const Grace::Section section(engine_.grace());
    ImagePair* const pair = below_.load(std::memory_order_acquire); // before the map; see read_piece()
    VSNAP_TRY_ASSIGN(Region * region, engine_.cache().get(map_, region_index));
    for (; block < kRegionBlocks; ++block) {
      const std::uint64_t at = (first_block(region_index).value() + block) * kBlockBytes;
      if (at >= size) return data ? std::optional<std::uint64_t>() : std::optional(size);
      VSNAP_TRY_ASSIGN(const Entry seen, seen_entry(pair, *region, block));
      if ((seen.kind() == BlockKind::data) == data) return std::max(offset, at);
    }
    region_index = RegionIndex(region_index.value() + 1);
    block = 0;
    if (region_index.value() * kRegionBytes >= size)
      return data ? std::optional<std::uint64_t>() : std::optional(size);
  }
}

Result<std::optional<std::uint64_t>> VolumeIo::seek_data(std::uint64_t offset) { return seek(offset, true); }
Result<std::optional<std::uint64_t>> VolumeIo::seek_hole(std::uint64_t offset) { return seek(offset, false); }

} // namespace vsnap
