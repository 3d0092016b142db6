#include "core/copy_out.h"

#include <algorithm>
#include <vector>

#include "core/assert.h"
#include "core/planted.h"
#include "core/superblock.h"
#include "core/zeros.h"

namespace vsnap {
namespace {

constexpr std::uint64_t kLeast = 16;       // blocks: 64 KiB
constexpr std::uint64_t kMost = 256;       // 1 MiB
constexpr std::uint64_t kMostApart = 64;   // 256 KiB, of writes that do not follow each other
constexpr std::uint32_t kLately = 64;      // changes
constexpr std::int64_t kNsABlock = 50'000; // a disk that copies 80 MB a second
// A piece of a request makes no more records than that, with what is saved besides.
constexpr std::uint64_t kPiece = ChangeLog::kMaxPieceRecords;
static_assert(kRegionBlocks % kPiece == 0 && kPiece % kMost == 0);

bool to_be_saved(const Region& region, std::uint64_t block) {
  const Entry e = region.entry(block);
  return e.kind() == BlockKind::data && !e.own();
}

} // namespace

CopyOut::Range CopyOut::range_for(const Region& region, Range wanted) {
  std::uint64_t first = wanted.from;
  while (first < wanted.to && !to_be_saved(region, first)) ++first;
  if (first == wanted.to) return wanted;
  if (limit_.is_near(kMost)) return wanted; // what is left is for what is wanted
  const std::uint64_t here = first_block(region.index()).value();
  const auto worth = static_cast<std::uint64_t>(settle_ns_.load(std::memory_order_relaxed) / kNsABlock);
  std::uint64_t pace = std::clamp(worth / kLeast * kLeast, kLeast, kMostApart);
  if (expected_.load(std::memory_order_relaxed) == here + first)
    pace = std::min(pace_.load(std::memory_order_relaxed) * 2, kMost);
  pace_.store(pace, std::memory_order_relaxed);
  // Within its piece: the neighbourhood of the first, or as much from it on.
  const std::uint64_t piece_end = (wanted.from / kPiece + 1) * kPiece;
  Range range{std::min(wanted.from, first / kLeast * kLeast),
              std::max(wanted.to, std::min(first / kLeast * kLeast + pace, piece_end))};
  range.from = std::max(range.from, wanted.from / kPiece * kPiece);
  expected_.store(here + range.to, std::memory_order_relaxed);
  return range;
}

Result<> CopyOut::save(const ViewMap& head, Region& region, Range range) {
  for (std::uint64_t block = range.from; block < range.to;) {
    if (!to_be_saved(region, block)) {
      ++block;
      continue;
    }
    std::uint64_t end = block + 1;
    while (end < range.to && to_be_saved(region, end)) ++end;
    VSNAP_TRY(save_run(head, region, {block, end}));
    block = end;
  }
  return {};
}

Result<> CopyOut::save_run(const ViewMap& head, Region& region, Range run) {
  thread_local std::vector<std::byte> buffer;
  buffer.resize((run.to - run.from) * kBlockBytes);
  const BlockIndex start = first_block(region.index()) + BlockCount(run.from);
  VSNAP_TRY(engine_.members().read(head.branch->identity(start), 0, buffer));
  std::span<const std::byte> rest(buffer);
  while (run.from < run.to) {
    const ZeroPart part = first_part(first_block(region.index()) + BlockCount(run.from), rest);
    const auto content = rest.first(bytes(part.count));
    VSNAP_TRY_ASSIGN(const BlockCount saved, part.zeros ? save_zeros(head, region, run.from, part.count)
                                                        : save_content(head, region, run.from, content));
    run.from += saved.value();
    rest = rest.subspan(bytes(saved));
  }
  return {};
}

MapChange CopyOut::change_of(const ViewMap& head, const Region& region, std::uint64_t from,
                             BlockCount count) const {
  MapChange change;
  change.branch = head.branch->id;
  change.start = first_block(region.index()) + BlockCount(from);
  change.count = count;
  change.born = head.branch->version();
  change.floor = head.branch->floor.load(std::memory_order_relaxed);
  change.saves = true;
  return change;
}

Result<BlockCount> CopyOut::save_zeros(const ViewMap& head, Region& region, std::uint64_t from,
                                       BlockCount count) {
  MapChange change = change_of(head, region, from, count);
  change.kind = BlockKind::reserved;
  change.place = Place::zeros(change.start);
  VSNAP_TRY(switch_to(head, region, change));
  return count;
}

// As much of it as there is room and a place for.
Result<BlockCount> CopyOut::save_content(const ViewMap& head, Region& region, std::uint64_t from,
                                         std::span<const std::byte> content) {
  const std::uint64_t wanted = content.size() / kBlockBytes;
  const bool limited = limit_.active();
  const std::uint64_t room = limited ? limit_.take(wanted) : wanted;
  if (room == 0) return SnapshotLimit::refusal();
  const auto place = engine_.allocate(BlockCount(room), std::nullopt, from % kNeighbourhoodBlocks);
  if (limited) limit_.give_back(room - (place ? place->count.value() : 0));
  if (!place) return failure(ErrorKind::no_space, "the pool is full (vsnap rm, or vsnap pool add)");
  content = content.first(bytes(place->count));
  if (auto written = engine_.members().write(place->start, 0, content); !written) {
    engine_.allocator().release(*place);
    if (limited) limit_.give_back(place->count.value());
    return Failure(std::move(written).error());
  }
  MapChange change = change_of(head, region, from, place->count);
  change.place = place->start;
  change.checksum = crc32c(content);
  VSNAP_TRY(switch_to(head, region, change));
  return place->count;
}

// Where this fails, maps may show the place already: it stays taken until the pool is opened again.
Result<> CopyOut::switch_to(const ViewMap& head, Region& region, const MapChange& change) {
  const std::uint64_t from = (change.start - first_block(region.index())).value();
  const Entry own(BlockKind::data, head.branch->identity(change.start), true);
  {
    MutexLock lock(region.mutex());
    region.make_room(from, change.count.value(), own);
  }
  return engine_.cache().switch_to_saved(head, change, [&] {
    MutexLock lock(region.mutex());
    const std::uint64_t sequence =
        engine_.log().append(change, region.last_record() <= engine_.log().line());
    region.note_record(sequence);
    region.note_save(sequence);
    region.set_run(from, change.count.value(), own);
    return sequence;
  });
}

Result<> CopyOut::settle(const ViewMap& head, const Region& region, Range range) {
  if (planted(Fault::overwritten_before_record)) return {};
  std::uint64_t last = region.last_save();
  if (!engine_.is_durable(last)) {
    last = engine_.cache().last_save(*head.branch, first_block(region.index()) + BlockCount(range.from),
                                     BlockCount(range.to - range.from));
  }
  if (!engine_.is_durable(last)) {
    waited_lately_.store(kLately, std::memory_order_relaxed);
    const std::int64_t begin_ns = engine_.env().monotonic_ns();
    VSNAP_TRY(engine_.make_durable(last));
    settle_ns_.store(engine_.env().monotonic_ns() - begin_ns, std::memory_order_relaxed);
  } else if (const std::uint32_t lately = waited_lately_.load(std::memory_order_relaxed); lately != 0) {
    waited_lately_.store(lately - 1, std::memory_order_relaxed);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst); // see VolumeIo::read_through_image()
  return {};
}

} // namespace vsnap
