// Recovery: what the journal has and the catalog has not goes back into the log, as if it had just been
// written, and is committed before anybody reads.
//
// A record names the version and floor that its branch had. A version older than the catalog's is that of a
// snapshot which was confirmed before the record was committed. One that is newer comes from beyond the line
// of a snapshot which was not: then there was no snapshot, and the record belongs to the version that the
// catalog has.
#include <fmt/format.h>
#include <algorithm>

#include "core/log.h"
#include "core/planted.h"
#include "core/pool_impl.h"

namespace vsnap {
namespace {

Failure damaged(const LogRecord& record, std::string_view what) {
  return failure(
      ErrorKind::damaged,
      fmt::format("journal: record {}: {} (vsnap check --repair gives up what was written after it)",
                  record.sequence, what));
}

} // namespace

Result<> PoolImpl::recover() {
  const auto found =
      engine_->replay([this](const LogRecord& record) { return replay(record); }, options_.takes_over);
  VSNAP_TRY(take_granted());
  if (!found) return Failure(found.error());
  if (!*found) {
    if (!options_.for_check && !is_read_only()) engine_->start_headroom();
    return {};
  }
  const std::uint64_t records = engine_->log().last() - engine_->committed();
  replayed_places_.clear();
  VSNAP_TRY(engine_->mark_opened());
  VSNAP_TRY(engine_->commit());
  log::info("pool {}: recovered {} changes from the journal", name_, records);
  return {};
}

Result<> PoolImpl::replay(const LogRecord& record) {
  switch (record.type) {
    case RecordType::note:
      break;
    case RecordType::map:
    case RecordType::copy_out:
      return replay_change(record);
    case RecordType::size:
    case RecordType::attributes:
      return replay_figures(record);
  }
  engine_->log().append(record, false);
  return {};
}

Result<> PoolImpl::replay_figures(const LogRecord& record) {
  ObjectPtr volume;
  {
    MutexLock lock(objects_.mutex());
    volume = objects_.find(ObjectId(record.subject));
    if (!volume) { // removed beside it; its number is used all the same
      engine_->log().append(LogRecord(), false);
      return {};
    }
    if (volume->kind != ViewKind::volume && !volume->draining) return damaged(record, "not of a volume");
    volume->modified_ns.store(static_cast<std::int64_t>(record.born));
    if (record.type == RecordType::size && planted(Fault::replay_skips_sizes)) {
      engine_->log().append(LogRecord(), false);
      return {};
    }
    if (record.type == RecordType::size) {
      volume->size_bytes.store(record.start);
      volume->trim.store(record.place);
    } else {
      volume->mode = static_cast<std::uint32_t>(record.start);
      volume->uid = static_cast<std::uint32_t>(record.place);
      volume->gid = static_cast<std::uint32_t>(record.place >> 32U);
    }
  }
  objects_.note_changed(volume);
  engine_->log().append(record, false);
  return {};
}

Result<> PoolImpl::replay_change(const LogRecord& record) {
  MapChange change = change_of(record);
  Branch* branch = nullptr;
  {
    MutexLock lock(objects_.mutex());
    branch = objects_.branch(change.branch);
  }
  if (branch == nullptr || !branch->has_head) return damaged(record, "no such branch");
  if (change.born >= branch->version() && !planted(Fault::snapshot_kept_half)) {
    change.born = branch->version();
    change.floor = branch->floor.load();
    change.keep_hole = change.floor != kNoFloor || branch->parent != nullptr;
  }
  change.fresh = false;
  change.may_join = true;
  if (change.kind != BlockKind::hole && change.place.in_pool()) VSNAP_TRY(replay_places(record, change));
  branch->mapped.fetch_add(change.mapped_change);
  engine_->log().append(change, false);
  return {};
}

// A place is free, or the block's own already: reserved by the catalog or an earlier record, and now written.
Result<> PoolImpl::replay_places(const LogRecord& record, const MapChange& change) {
  std::vector<ExtentRow> rows;
  for (std::uint64_t i = 0; i < change.count.value(); ++i) {
    const Place place = change.place + BlockCount(i);
    const BlockIndex block = change.start + BlockCount(i);
    if (planted(Fault::replay_takes_no_places)) continue;
    if (engine_->allocator().take({place, BlockCount(1)})) {
      replayed_places_.emplace(place, std::pair(change.branch, block));
      continue;
    }
    if (const auto earlier = replayed_places_.find(place); earlier != replayed_places_.end()) {
      if (earlier->second == std::pair(change.branch, block)) continue; // reserved, and then written
      return damaged(record, "its place belongs to another block");
    }
    if (!engine_->allocator().is_durable(place)) return damaged(record, "its place is not one for data");
    if (rows.empty()) {
      VSNAP_TRY(engine_->db().read([&](SQLite::Database&) -> Result<> {
        rows = engine_->index().rows(change.branch, region_of(change.start));
        return {};
      }));
    }
    const bool own = std::any_of(rows.begin(), rows.end(), [&](const ExtentRow& row) {
      return row.kind == BlockKind::reserved && row.start <= block && block < row.end() &&
             row.place + (block - row.start) == place;
    });
    if (!own) return damaged(record, "its place belongs to something else");
  }
  return {};
}

} // namespace vsnap
