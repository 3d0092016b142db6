#include "core/volume_io.h"

#include <fmt/format.h>
#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "core/assert.h"
#include "core/change_range.h"
#include "core/log.h"
#include "core/volume_change.h"

namespace vsnap {

namespace {

constexpr std::array<std::byte, kBlockBytes> kZeros{};

bool continues(Entry previous, Entry e, std::uint64_t distance) {
  return e.kind() == BlockKind::data && e.place() == previous.place() + BlockCount(distance);
}

// The head may write to the place.
bool is_reserved_for(Entry e) { return e.own() && e.kind() == BlockKind::reserved && e.place().in_pool(); }

bool has_space(Entry e) { return e.mapped() && !e.place().is_zeros(); }

} // namespace

VolumeIo::VolumeIo(Engine& engine, Objects& objects, ObjectPtr object, std::shared_ptr<ViewCounters> counters)
    : engine_(engine),
      objects_(objects),
      object_(std::move(object)),
      counters_(counters ? std::move(counters) : std::make_shared<ViewCounters>()) {
  map_.branch = object_->branch;
  map_.head = object_->kind == ViewKind::volume || object_->draining;
  map_.number = object_->number;
  map_.line = object_->line;
  engine_.cache().add(map_);
}

VolumeIo::~VolumeIo() { engine_.cache().forget(map_); }

template <class Body>
Result<> VolumeIo::in_regions(std::uint64_t offset, std::uint64_t length, Body body) {
  std::uint64_t done = 0;
  while (done < length) {
    const std::uint64_t at = offset + done;
    const std::uint64_t in_region = at % kRegionBytes;
    const std::uint64_t size = std::min(length - done, kRegionBytes - in_region);
    VSNAP_TRY(body(Span{RegionIndex(at / kRegionBytes), in_region, in_region + size}, done));
    done += size;
  }
  return {};
}

Result<> VolumeIo::check_range(std::uint64_t offset, std::uint64_t length) const {
  if (!writable()) return failure(ErrorKind::failed, EROFS, "a snapshot never changes");
  if (offset > kMaxVolumeBytes || length > kMaxVolumeBytes - offset) {
    return failure(ErrorKind::usage, EFBIG, "beyond the largest size of a volume");
  }
  return engine_.check_writable();
}

// ---- reading ----

Result<std::size_t> VolumeIo::read(std::uint64_t offset, std::span<std::byte> out) {
  const std::uint64_t size = size_bytes();
  if (offset >= size) return std::size_t{0};
  out = out.first(static_cast<std::size_t>(std::min<std::uint64_t>(out.size(), size - offset)));
  {
    const Grace::Section section(engine_.grace());
    VSNAP_TRY(in_regions(offset, out.size(), [&](const Span& span, std::uint64_t done) {
      return read_piece(span, out.subspan(done, span.to - span.from));
    }));
  }
  engine_.cache().collect_some();
  counters_->reads.fetch_add(1, std::memory_order_relaxed);
  counters_->read_bytes.fetch_add(out.size(), std::memory_order_relaxed);
  return out.size();
}

// A read whose parts may go on without the thread that started it. It holds its grace section until all have
// ended; whoever lets the last part go ends it.
struct VolumeIo::PendingRead {
  Grace& grace;
  const Grace::Token token;
  const std::shared_ptr<ViewCounters> counters;
  const std::size_t length;
  ReadDone done;
  std::atomic<std::uint32_t> parts{1}; // one is the starter's
  Mutex mutex{};
  std::optional<Error> error{}; // under mutex, until all parts have ended

  void fail(Error what) {
    MutexLock lock(mutex);
    if (!error) error = std::move(what);
  }
  [[nodiscard]] bool let_go() { return parts.fetch_sub(1, std::memory_order_acq_rel) == 1; }
  // The view may be gone once the section is left.
  [[nodiscard]] Result<std::size_t> end() {
    grace.leave(token);
    if (error) return Failure(std::move(*error));
    counters->reads.fetch_add(1, std::memory_order_relaxed);
    counters->read_bytes.fetch_add(length, std::memory_order_relaxed);
    return length;
  }
};

Result<std::optional<std::size_t>> VolumeIo::start_read(std::uint64_t offset, std::span<std::byte> out,
                                                        ReadDone done) {
  const std::uint64_t size = size_bytes();
  if (offset >= size) return std::optional(std::size_t{0});
  out = out.first(static_cast<std::size_t>(std::min<std::uint64_t>(out.size(), size - offset)));
  std::unique_ptr<PendingRead> pending(
      new PendingRead{engine_.grace(), engine_.grace().enter(), counters_, out.size(), std::move(done)});
  try {
    auto started = in_regions(offset, out.size(), [&](const Span& span, std::uint64_t at) {
      return read_piece(span, out.subspan(at, span.to - span.from), pending.get());
    });
    if (!started) pending->fail(std::move(started).error());
  } catch (...) { // parts may go on, to which `pending` and `out` belong
    pending->fail({ErrorKind::failed, ENOMEM, {}});
  }
  if (!pending->let_go()) {
    static_cast<void>(pending.release()); // whoever ends it, deletes it
    return std::optional<std::size_t>();
  }
  VSNAP_TRY_ASSIGN(const std::size_t length, pending->end());
  engine_.cache().collect_some();
  return std::optional(length);
}

Result<> VolumeIo::start_part(PendingRead& pending, Place place, std::uint64_t offset,
                              std::span<std::byte> out) {
  File::Done done = [&pending](Result<> read) {
    if (!read) pending.fail(std::move(read).error());
    if (!pending.let_go()) return;
    const std::unique_ptr<PendingRead> ended(&pending);
    ended->done(ended->end());
  };
  pending.parts.fetch_add(1, std::memory_order_relaxed); // from here on nothing throws
  const auto progress = engine_.members().start_read(place, offset, out, std::move(done));
  if (progress && *progress == File::Progress::pending) return {};
  static_cast<void>(pending.let_go()); // never the last: the starter has one
  if (!progress) return Failure(progress.error());
  return {};
}

Result<> VolumeIo::read_piece(const Span& span, std::span<std::byte> out, PendingRead* pending) {
  // Before the map is looked at: it may be loaded anew, with what is below in it, and then there is no pair.
  if (ImagePair* const pair = below_.load(std::memory_order_acquire)) return read_through(*pair, span, out);
  VSNAP_TRY_ASSIGN(Region * region, engine_.cache().get(map_, span.region));
  for (std::uint64_t block = span.first_block(); block < span.end_block();) {
    const Entry entry = region->entry(block);
    std::uint64_t end = block + 1;
    const bool data = entry.kind() == BlockKind::data;
    while (end < span.end_block()) {
      const Entry e = region->entry(end);
      if (data ? !continues(entry, e, end - block) : e.kind() == BlockKind::data) break;
      ++end;
    }
    const std::uint64_t begin_byte = span.begin_in(block);
    const std::span<std::byte> part = out.subspan(begin_byte - span.from, span.end_in(end - 1) - begin_byte);
    if (data) VSNAP_TRY(engine_.check_kept({entry.place(), BlockCount(end - block)}));
    if (data) VSNAP_TRY(check_there(entry.place()));
    if (data && entry.place().is_base() && !in_image())
      VSNAP_TRY(read_through_image(span.region, block, entry, begin_byte % kBlockBytes, part));
    else if (data && pending != nullptr)
      VSNAP_TRY(start_part(*pending, entry.place(), begin_byte % kBlockBytes, part));
    else if (data && !planted(Fault::read_error_as_zeros))
      VSNAP_TRY(engine_.members().read(entry.place(), begin_byte % kBlockBytes, part));
    else if (data)
      static_cast<void>(engine_.members().read(entry.place(), begin_byte % kBlockBytes, part));
    else
      std::memset(part.data(), 0, part.size());
    block = end;
  }
  return {};
}

Result<> VolumeIo::check_there(Place place) {
  if (!engine_.members().frozen()) return {};
  const MissingMember* const missing = engine_.members().missing_at(place);
  if (missing == nullptr) return {};
  if (engine_.tells_missing(object_->id, missing->index)) {
    std::string name;
    {
      MutexLock lock(objects_.mutex());
      name = objects_.name_of(*object_).text();
    }
    log::error("{}: blocks of it are on {}, which is missing: reads of them fail", name, missing->text());
  }
  return failure(ErrorKind::failed, EIO, {});
}

Result<> VolumeIo::read_entry(Entry entry, std::span<std::byte> out) {
  if (entry.kind() == BlockKind::data) {
    VSNAP_TRY(engine_.check_kept({entry.place(), BlockCount(1)}));
    VSNAP_TRY(check_there(entry.place()));
    return engine_.members().read(entry.place(), 0, out);
  }
  std::memset(out.data(), 0, out.size());
  return {};
}

Result<> VolumeIo::read_block(const Region& region, std::uint64_t block, std::span<std::byte> out) {
  if (planted(Fault::merge_forgotten)) return read_entry(Entry(), out);
  for (;;) {
    const Entry entry = region.entry(block);
    if (ImagePair* const pair = below_.load(); pair != nullptr && entry.kind() == BlockKind::none)
      return pair->first().read_as_below({region.index(), block * kBlockBytes, (block + 1) * kBlockBytes},
                                         out);
    VSNAP_TRY(read_entry(entry, out));
    std::atomic_thread_fence(std::memory_order_seq_cst); // as in read_through_image()
    if (entry.kind() != BlockKind::data || !entry.place().is_base() || region.entry(block) == entry)
      return {};
  }
}

// ---- changing ----

Result<> VolumeIo::write(std::uint64_t offset, std::span<const std::byte> data) {
  VSNAP_TRY(check_range(offset, data.size()));
  VSNAP_TRY(prepare_growth(offset, data.size()));
  VSNAP_TRY(change(offset, data.size(), [&](const Span& span, std::uint64_t done) {
    const std::uint64_t size = span.to - span.from;
    return write_piece(span, data.subspan(done, size), offset + done + size);
  }));
  counters_->writes.fetch_add(1, std::memory_order_relaxed);
  counters_->written_bytes.fetch_add(data.size(), std::memory_order_relaxed);
  note_modified();
  return {};
}

void VolumeIo::note_modified() {
  object_->modified_ns.store(engine_.env().wall_clock_ns(), std::memory_order_relaxed);
  if (!object_->changed.load(std::memory_order_relaxed)) objects_.note_changed(object_);
}

// Past the end: the rest of the last block must read as zeros, whatever a crash left there.
Result<> VolumeIo::prepare_growth(std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t size = size_bytes();
  if (in_image()) return prepare_image(offset + length);
  if (length == 0 || offset + length <= size) return {};
  VSNAP_TRY(finish_trim());
  VSNAP_TRY(hide_below(size, offset + length));
  return offset > size ? zero_tail(size) : Result<>();
}

Result<> VolumeIo::hide_below(std::uint64_t from, std::uint64_t to) {
  if (below_.load() == nullptr) return {};
  const std::uint64_t begin = blocks_for(from).value() * kBlockBytes;
  const std::uint64_t end = blocks_for(to).value() * kBlockBytes;
  for (std::uint64_t at = begin; at < end;) {
    VSNAP_TRY_ASSIGN(const auto mapped, next_mapped_region(RegionIndex(at / kRegionBytes)));
    if (!mapped || mapped->value() * kRegionBytes >= end) return {};
    at = std::max(at, mapped->value() * kRegionBytes);
    const std::uint64_t piece_end = std::min(end, (at / kRegionBytes + 1) * kRegionBytes);
    VSNAP_TRY(change(at, piece_end - at, [&](const Span& span, std::uint64_t) { return hide_piece(span); }));
    at = piece_end;
  }
  return {};
}

// A volume grows while a range that holds its last block is held (write_piece), so that whoever finds the old
// size under that range can wipe nothing that was written meanwhile.
Result<> VolumeIo::zero_tail(std::uint64_t size) {
  if (size % kBlockBytes == 0 || planted(Fault::end_not_zeroed)) return {};
  const SnapshotLimit::Exempt exempt;
  return change(size, kBlockBytes - size % kBlockBytes, [&](const Span& span, std::uint64_t) -> Result<> {
    for (;;) {
      VSNAP_TRY_ASSIGN(Region * region, engine_.cache().get(map_, span.region));
      const ChangeRange range(*this, *region, span.first_block(), span.end_block());
      if (!range.held()) continue;
      VSNAP_TRY_ASSIGN(const Entry seen, seen_entry(below_.load(), *region, span.first_block()));
      if (size_bytes() != size || !may_show(*region, span.first_block(), seen)) return {};
      return write_held(*region, span, std::span(kZeros).first(span.to - span.from));
    }
  });
}

Result<> VolumeIo::finish_trim() {
  if (object_->trim.load(std::memory_order_acquire) == Object::kNoTrim) return {};
  MutexLock lock(trim_mutex_);
  const std::uint64_t from = object_->trim.load();
  if (from == Object::kNoTrim) return {};
  VSNAP_TRY(zero_tail(size_bytes()));
  VSNAP_TRY(unmap_blocks(BlockIndex(from), BlockIndex(blocks_for(kMaxVolumeBytes).value())));
  // Not before: a crash would find blocks behind the end that nobody knows of.
  VSNAP_TRY(engine_.commit());
  object_->trim.store(Object::kNoTrim);
  note_size();
  return {};
}

void VolumeIo::grow_to(std::uint64_t size) {
  std::uint64_t old = object_->size_bytes.load(std::memory_order_acquire);
  while (old < size && !object_->size_bytes.compare_exchange_weak(old, size)) {
  }
  if (old < size) note_size();
}

void VolumeIo::note_size() {
  // In the list before the log says there is something to commit: the commit that covers it finds it there.
  objects_.note_changed(object_);
  MutexLock lock(object_->size_mutex); // a record never says less than one before it
  engine_.log().append(
      size_record(object_->id, object_->size_bytes.load(), object_->modified_ns.load(), object_->trim.load()),
      false);
}

// Appends the record of a change and makes it in the map, as one step towards other writers of the region.
void VolumeIo::record(Region& region, std::uint64_t from, std::uint64_t count, BlockKind kind, Place place) {
  Branch& branch = *map_.branch;
  SnapshotLimit& limit = object_->snapshot_limit;
  if (kind == BlockKind::hole && limit.active()) {
    limit.add(Counted{from + count, {}}.kept(region, from, from + count));
    if (counts_by_guess()) limit.note_guess();
  }
  MapChange c;
  c.branch = branch.id;
  c.start = first_block(region.index()) + BlockCount(from);
  c.count = BlockCount(count);
  c.kind = kind;
  c.place = place;
  c.born = branch.version();
  c.floor = branch.floor.load(std::memory_order_relaxed);
  c.keep_hole = c.floor != kNoFloor || branch.parent != nullptr;
  c.fresh = true;
  Entry first(kind, place, true);
  if (kind == BlockKind::hole) first = c.keep_hole ? Entry(kind, Place(), true) : Entry();
  MutexLock lock(region.mutex());
  region.make_room(from, count, first); // before the log has the record
  for (std::uint64_t block = from; block < from + count; ++block) {
    const Entry old = region.entry(block);
    if (old.own()) c.fresh = false;
    c.mapped_change += (kind != BlockKind::hole ? 1 : 0) - (old.mapped() ? 1 : 0);
  }
  const Entry before = from > 0 ? region.entry(from - 1) : Entry();
  c.may_join = before.own() && before.kind() == kind &&
               (kind == BlockKind::hole || before.place() + BlockCount(1) == place);
  if (!planted(Fault::discard_unrecorded) || kind != BlockKind::hole)
    region.note_record(engine_.log().append(c, region.last_record() <= engine_.log().line()));
  region.set_run(from, count, first);
  branch.mapped.fetch_add(c.mapped_change, std::memory_order_relaxed);
}

Result<> VolumeIo::write_piece(const Span& span, std::span<const std::byte> data, std::uint64_t grown) {
  if (in_image()) return write_image(span, data);
  for (;;) {
    VSNAP_TRY_ASSIGN(Region * region, engine_.cache().get(map_, span.region));
    const ChangeRange range(*this, *region, span.first_block(), span.end_block());
    if (!range.held()) continue; // taken out of the cache meanwhile
    VSNAP_TRY(write_held(*region, span, data));
    grow_to(grown);
    return {};
  }
}

// The caller holds the range.
Result<> VolumeIo::write_held(Region& region, const Span& span, std::span<const std::byte> data) {
  if (!planted(Fault::own_not_refreshed)) region.refresh_own(map_.branch->version());
  for (std::uint64_t block = span.first_block(); block < span.end_block();) {
    const Entry entry = region.entry(block);
    VSNAP_TRY_ASSIGN(block, entry.own() && entry.kind() == BlockKind::data
                                ? write_in_place(region, span, block, data)
                                : write_elsewhere(region, span, block, data));
  }
  return {};
}

// From `block` on as far as the head's own places lie next to each other; returns where it stopped.
Result<std::uint64_t> VolumeIo::write_in_place(Region& region, const Span& span, std::uint64_t block,
                                               std::span<const std::byte> data) {
  const Entry first = region.entry(block);
  std::uint64_t end = block + 1;
  for (; end < span.end_block(); ++end) {
    const Entry e = region.entry(end);
    if (!e.own() || !continues(first, e, end - block)) break;
  }
  const std::uint64_t begin_byte = span.begin_in(block);
  auto written =
      engine_.members().write(first.place(), begin_byte % kBlockBytes,
                              data.subspan(begin_byte - span.from, span.end_in(end - 1) - begin_byte));
  if (!planted(Fault::write_error_ignored)) VSNAP_TRY(std::move(written));
  return end;
}

// Blocks that others may see, or that have no place yet: to a new place, then the map.
Result<std::uint64_t> VolumeIo::write_elsewhere(Region& region, const Span& span, std::uint64_t block,
                                                std::span<const std::byte> data) {
  const Entry first = region.entry(block);
  const bool reserved = is_reserved_for(first);
  std::uint64_t end = block + 1;
  for (; end < span.end_block(); ++end) {
    const Entry e = region.entry(end);
    if (e.own() && e.kind() == BlockKind::data) break;
    const bool reserved_too = is_reserved_for(e);
    if (reserved_too != reserved || (reserved && e.place() != first.place() + BlockCount(end - block))) break;
  }
  if (reserved) {
    VSNAP_TRY(write_run(span, data, first.place(), block, end - block, region));
    record(region, block, end - block, BlockKind::data, first.place());
    return end;
  }
  SnapshotLimit& limit = object_->snapshot_limit;
  const bool limited = limit.active();
  Counted counted;
  if (limited) {
    VSNAP_TRY_ASSIGN(counted, count_kept(region, block, end));
    end = counted.end;
  }
  // Next to the neighbour that was written before, if there is one: so that what is read together lies
  // together.
  std::optional<Place> near;
  const std::uint64_t phase = block % kNeighbourhoodBlocks;
  for (std::uint64_t other = block - phase; other < block - phase + kNeighbourhoodBlocks && !near; ++other) {
    const Entry e = region.entry(other);
    if (other == block || !e.own() || !e.mapped() || !e.place().in_pool()) continue;
    const std::uint64_t base = e.place().block() + block;
    if (base >= other) near = Place(e.place().member(), base - other);
  }
  const auto run = engine_.allocate(BlockCount(end - block), near, phase);
  const std::uint64_t run_end = block + (run ? run->count.value() : 0);
  if (limited) limit.give_back(counted.kept(region, run_end, end));
  if (!run) return failure(ErrorKind::no_space, "the pool is full (vsnap rm, or vsnap pool add)");
  if (auto written = write_run(span, data, run->start, block, run->count.value(), region); !written) {
    engine_.allocator().release(*run);
    if (limited) limit.give_back(counted.kept(region, block, run_end));
    return Failure(written.error());
  }
  record(region, block, run->count.value(), BlockKind::data, run->start);
  return block + run->count.value();
}

// Writes the span's part of `count` blocks from `block` on to consecutive places; blocks that it covers in
// part are merged with what the view has there now.
Result<> VolumeIo::write_run(const Span& span, std::span<const std::byte> data, Place place,
                             std::uint64_t block, std::uint64_t count, const Region& region) {
  std::uint64_t at = block;
  const std::uint64_t end = block + count;
  while (at < end) {
    const Place target = place + BlockCount(at - block);
    if (span.whole(at)) {
      std::uint64_t whole_end = at + 1;
      while (whole_end < end && span.whole(whole_end)) ++whole_end;
      VSNAP_TRY(engine_.members().write(
          target, 0, data.subspan(at * kBlockBytes - span.from, (whole_end - at) * kBlockBytes)));
      at = whole_end;
      continue;
    }
    std::array<std::byte, kBlockBytes> merged;
    VSNAP_TRY(read_block(region, at, merged));
    const std::uint64_t begin_byte = span.begin_in(at);
    const auto part = data.subspan(begin_byte - span.from, span.end_in(at) - begin_byte);
    std::memcpy(merged.data() + begin_byte % kBlockBytes, part.data(), part.size());
    VSNAP_TRY(engine_.members().write(target, 0, merged));
    ++at;
  }
  return {};
}

// ---- discarding and reserving ----

Result<> VolumeIo::discard(std::uint64_t offset, std::uint64_t length) {
  VSNAP_TRY(check_range(offset, std::min(length, kMaxVolumeBytes - std::min(offset, kMaxVolumeBytes))));
  counters_->discards.fetch_add(1, std::memory_order_relaxed);
  const std::uint64_t size = size_bytes();
  if (offset >= size) return {};
  std::uint64_t end = length > size - offset ? size : offset + length;
  if (in_image()) return zero_image(offset, end);
  const SnapshotLimit::Exempt exempt; // zeros at both ends
  if (end == size && end % kBlockBytes != 0) {
    const std::uint64_t last_block = end - end % kBlockBytes;
    VSNAP_TRY(discard_tail(std::max(offset, last_block), size));
    end = last_block;
  }
  std::uint64_t at = offset;
  while (at < end) {
    // Where nothing is mapped there is nothing to do: the ends are looked at, the regions between are jumped
    // over.
    VSNAP_TRY_ASSIGN(const auto mapped, next_mapped_region(RegionIndex(at / kRegionBytes)));
    if (!mapped || mapped->value() * kRegionBytes >= end) return {};
    at = std::max(at, mapped->value() * kRegionBytes);
    const std::uint64_t piece_end = std::min(end, (at / kRegionBytes + 1) * kRegionBytes);
    VSNAP_TRY(
        change(at, piece_end - at, [&](const Span& span, std::uint64_t) { return discard_piece(span); }));
    at = piece_end;
  }
  note_modified();
  return {};
}

// The last block goes as a whole if the range covers all of it up to the end, as what lies behind is zeros
// already; unless the volume has grown meanwhile.
Result<> VolumeIo::discard_tail(std::uint64_t from, std::uint64_t size) {
  return change(from, size - from, [&](const Span& span, std::uint64_t) -> Result<> {
    for (;;) {
      VSNAP_TRY_ASSIGN(Region * region, engine_.cache().get(map_, span.region));
      const ChangeRange range(*this, *region, span.first_block(), span.end_block());
      if (!range.held()) continue;
      VSNAP_TRY_ASSIGN(const Entry seen, seen_entry(below_.load(), *region, span.first_block()));
      if (!seen.mapped()) return {};
      if (from % kBlockBytes == 0 && size_bytes() == size)
        return unmap_in_region(*region, span.first_block(), span.end_block());
      if (!may_show(*region, span.first_block(), seen)) return {};
      return write_held(*region, span, std::span(kZeros).first(span.to - span.from));
    }
  });
}

Result<> VolumeIo::discard_piece(const Span& span) {
  std::uint64_t from = span.first_block();
  std::uint64_t to = span.end_block();
  const auto zero_part = [&](std::uint64_t block) -> Result<> {
    VSNAP_TRY_ASSIGN(Region * region, engine_.cache().get(map_, span.region));
    VSNAP_TRY_ASSIGN(const Entry seen, seen_entry(below_.load(), *region, block));
    if (!may_show(*region, block, seen)) return {};
    const Span part{span.region, span.begin_in(block), span.end_in(block)};
    return write_piece(part, std::span(kZeros).first(part.to - part.from));
  };
  if (!span.whole(from)) VSNAP_TRY(zero_part(from++));
  if (from < to && !span.whole(to - 1)) VSNAP_TRY(zero_part(--to));
  if (from >= to) return {};
  for (;;) {
    VSNAP_TRY_ASSIGN(Region * region, engine_.cache().get(map_, span.region));
    const ChangeRange range(*this, *region, from, to);
    if (!range.held()) continue;
    return unmap_in_region(*region, from, to);
  }
}

Result<> VolumeIo::unmap_in_region(Region& region, std::uint64_t from, std::uint64_t to) {
  region.refresh_own(map_.branch->version());
  for (std::uint64_t block = from; block < to;) {
    VSNAP_TRY_ASSIGN(const Entry seen, seen_entry(below_.load(), region, block));
    if (!seen.mapped()) {
      ++block;
      continue;
    }
    // Only with room for the row: a hole over older versions takes metadata and gives nothing back.
    const bool own = region.entry(block).own();
    if (engine_.metadata_low() && !own) {
      return failure(ErrorKind::no_space, "no space for metadata (vsnap rm, or vsnap pool add)");
    }
    std::uint64_t end = block + 1;
    for (; end < to && region.entry(end).own() == own; ++end) {
      VSNAP_TRY_ASSIGN(const Entry next, seen_entry(below_.load(), region, end));
      if (!next.mapped()) break;
    }
    record(region, block, end - block, BlockKind::hole, Place());
    block = end;
  }
  return {};
}

Result<> VolumeIo::unmap_blocks(BlockIndex from, BlockIndex to) {
  for (RegionIndex region = region_of(from);;) {
    VSNAP_TRY_ASSIGN(const auto mapped, next_mapped_region(region));
    if (!mapped || first_block(*mapped) >= to) return {};
    const std::uint64_t base = first_block(*mapped).value();
    const std::uint64_t lo = std::max(from.value(), base) - base;
    const std::uint64_t hi = std::min(to.value(), base + kRegionBlocks) - base;
    for (std::uint64_t at = lo; at < hi; at += ChangeLog::kMaxPieceRecords) {
      const std::uint64_t end = std::min(hi, at + ChangeLog::kMaxPieceRecords);
      VSNAP_TRY(change(0, 1, [&](const Span&, std::uint64_t) {
        return discard_piece(Span{*mapped, at * kBlockBytes, end * kBlockBytes});
      }));
    }
    region = RegionIndex(mapped->value() + 1);
  }
}

Result<> VolumeIo::reserve(std::uint64_t offset, std::uint64_t length, bool extend) {
  VSNAP_TRY(check_range(offset, length));
  if (!extend) length = offset >= size_bytes() ? 0 : std::min(length, size_bytes() - offset);
  if (length == 0) return {};
  if (in_image()) return prepare_image(offset + length); // it has all its blocks
  VSNAP_TRY_ASSIGN(const std::uint64_t mapped, count_mapped(offset, length));
  const std::uint64_t blocks = (offset + length - 1) / kBlockBytes - offset / kBlockBytes + 1;
  // Every block may get a row of its own once it is written: 64 bytes at most, with the tree around them.
  const std::uint64_t wanted = blocks - mapped;
  if (wanted + wanted / 64 > engine_.allocator().free_blocks()) {
    return failure(ErrorKind::no_space, "the pool has less free space than that (vsnap pool add)");
  }
  if (extend) VSNAP_TRY(prepare_growth(offset, length));
  if (const std::uint64_t size = size_bytes(); extend && offset + length > size) VSNAP_TRY(zero_tail(size));
  VSNAP_TRY(change(offset, length, [&](const Span& span, std::uint64_t) { return reserve_piece(span); }));
  if (extend) grow_to(offset + length);
  return {};
}

Result<> VolumeIo::reserve_piece(const Span& span) {
  for (;;) {
    VSNAP_TRY_ASSIGN(Region * region, engine_.cache().get(map_, span.region));
    const ChangeRange range(*this, *region, span.first_block(), span.end_block());
    if (!range.held()) continue;
    region->refresh_own(map_.branch->version());
    for (std::uint64_t block = span.first_block(); block < span.end_block();) {
      VSNAP_TRY_ASSIGN(const Entry seen, seen_entry(below_.load(), *region, block));
      if (has_space(seen)) {
        ++block;
        continue;
      }
      std::uint64_t end = block + 1;
      for (; end < span.end_block(); ++end) {
        VSNAP_TRY_ASSIGN(const Entry next, seen_entry(below_.load(), *region, end));
        if (has_space(next)) break;
      }
      const auto run = engine_.allocate(BlockCount(end - block), std::nullopt, block % kNeighbourhoodBlocks);
      if (!run) return failure(ErrorKind::no_space, "the pool is full (vsnap rm, or vsnap pool add)");
      record(*region, block, run->count.value(), BlockKind::reserved, run->start);
      block += run->count.value();
    }
    return {};
  }
}

Result<> VolumeIo::fsync() {
  if (!map_.head) return {};
  counters_->flushes.fetch_add(1, std::memory_order_relaxed);
  VSNAP_TRY(engine_.check_writable());
  return engine_.sync(map_.branch->base.member);
}

} // namespace vsnap
