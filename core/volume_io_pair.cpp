// A view that is one of two images of a volume: what is read and changed through the pair (image_pair.h).
#include <algorithm>
#include <cstring>
#include <thread>

#include "core/change_range.h"

namespace vsnap {

void VolumeIo::set_below(std::shared_ptr<ImagePair> pair) {
  below_.store(pair.get(), std::memory_order_release);
  if (pair) pairs_.push_back(std::move(pair));
}

void VolumeIo::set_above(ImagePair* pair) { above_.store(pair, std::memory_order_release); }

void VolumeIo::let_pairs_go() {
  std::erase_if(pairs_,
                [this](const std::shared_ptr<ImagePair>& pair) { return pair.get() != below_.load(); });
}

Result<Entry> VolumeIo::seen_entry(ImagePair* pair, const Region& region, std::uint64_t block) {
  const Entry entry = region.entry(block);
  if (pair == nullptr || entry.kind() != BlockKind::none) return entry;
  VolumeIo& first = pair->first();
  ImagePair* const next = first.below_.load(std::memory_order_acquire);
  VSNAP_TRY_ASSIGN(const Region* const below, engine_.cache().get(first.map_, region.index()));
  return first.seen_entry(next, *below, block);
}

// Whether a part of a block has to be written to become zeros for good: where it shows data, or space of the
// first image, which that one may still write to.
bool VolumeIo::may_show(const Region& region, std::uint64_t block, Entry seen) {
  return seen.kind() == BlockKind::data ||
         (seen.mapped() && region.entry(block).kind() == BlockKind::none);
}

// Only blocks without an entry: others may have been written since by somebody who moved the end.
Result<> VolumeIo::hide_piece(const Span& span) {
  for (;;) {
    VSNAP_TRY_ASSIGN(Region * region, engine_.cache().get(map_, span.region));
    const ChangeRange range(*this, *region, span.first_block(), span.end_block());
    if (!range.held()) continue;
    for (std::uint64_t block = span.first_block(); block < span.end_block(); ++block) {
      if (region->entry(block).kind() != BlockKind::none) continue;
      VSNAP_TRY_ASSIGN(const Entry seen, seen_entry(below_.load(), *region, block));
      if (seen.mapped()) record(*region, block, 1, BlockKind::hole, Place());
    }
    return {};
  }
}

Result<> VolumeIo::read_as_below(const Span& span, std::span<std::byte> out) {
  const std::uint64_t base = span.region.value() * kRegionBytes;
  const std::uint64_t size = size_bytes();
  const std::uint64_t end = std::min(base + span.to, std::max(size, base + span.from)) - base;
  std::memset(out.data() + (end - span.from), 0, span.to - end);
  if (end == span.from) return {};
  return read_piece({span.region, span.from, end}, out.first(end - span.from));
}

Result<> VolumeIo::read_through(ImagePair& pair, const Span& span, std::span<std::byte> out) {
  const BlockIndex first(first_block(span.region).value() + span.first_block());
  const RangeTurns::Held held(planted(Fault::pair_read_unlocked) ? nullptr : &pair.turns(), first,
                              BlockCount(span.end_block() - span.first_block()), RangeTurns::Turn::shared);
  VSNAP_TRY_ASSIGN(const Region* const region, engine_.cache().get(map_, span.region));
  for (std::uint64_t block = span.first_block(); block < span.end_block();) {
    const Entry entry = region->entry(block);
    std::uint64_t end = block + 1;
    for (; end < span.end_block(); ++end) {
      const Entry e = region->entry(end);
      if (e.kind() != entry.kind()) break;
      if (e.kind() == BlockKind::data && e.place() != entry.place() + BlockCount(end - block)) break;
    }
    const Span part = span.part(block, end);
    const std::span<std::byte> into = out.subspan(part.from - span.from, part.bytes());
    if (entry.kind() == BlockKind::none) {
      for (int turns = 0; planted(Fault::pair_read_unlocked) && turns < 500; ++turns)
        std::this_thread::yield();
      VSNAP_TRY(pair.first().read_as_below(part, into));
    } else if (entry.kind() == BlockKind::data) {
      VSNAP_TRY(engine_.check_kept({entry.place(), BlockCount(end - block)}));
      if (entry.place().is_base()) // of an adopted volume that this one starts from
        VSNAP_TRY(read_through_image(span.region, block, entry, part.from % kBlockBytes, into));
      else
        VSNAP_TRY(engine_.members().read(entry.place(), part.from % kBlockBytes, into));
    } else {
      std::memset(into.data(), 0, into.size());
    }
    block = end;
  }
  return {};
}

} // namespace vsnap
