#include "core/engine.h"

#include <algorithm>
#include <cstring>

#include "core/assert.h"
#include "core/budget.h"
#include "core/catalog.h"
#include "core/planted.h"

namespace vsnap {
namespace {

constexpr std::uint64_t kLooksForSpace = 64; // of so many commits one looks for more, though there was none

// One transaction. The more it has, the more changes share a page of the catalog.
constexpr std::uint64_t kMaxBatchChanges = 16384;
// One that gave way is tried again with half of what it came to, or this, and does not give way then; each
// that comes to its end lets the next be twice as large. So snapshots that come one after the other do not
// stop commits, and find them short.
constexpr std::uint64_t kMinPoliteChanges = 512;
// Changes for which maps that are to be loaded, and snapshots, wait.
constexpr std::uint64_t kChangesABreath = 256;

} // namespace

std::optional<PlaceRun> Engine::allocate(BlockCount wanted, std::optional<Place> near, std::uint64_t phase) {
  if (metadata_low()) return std::nullopt;
  return allocator_.allocate(wanted, near, phase);
}

std::optional<PlaceRun> Engine::allocate_among(std::span<const std::uint32_t> members, BlockCount wanted,
                                               std::uint64_t phase) {
  if (metadata_low()) return std::nullopt;
  return allocator_.allocate_among(members, wanted, phase);
}

void Engine::fail(const Error& why) {
  failure_.fail(why);
  if (needs_check()) mark_failure();
}

void Engine::find_lost_places() {
  if (!members_->flush_failed() || !log_ || failure_.knows_lost_places()) return;
  if (planted(Fault::lost_places_forgotten)) return;
  std::vector<LogRecord> records;
  log_->copy(std::max(committed(), journal_->flushed()), log_->last(), records);
  failure_.set_lost_places(records);
}

Result<> Engine::flush() { return checked_flush(members_->flush_data()); }

Result<> Engine::checked_flush(Result<> flushed) {
  if (!flushed) mark_failure();
  return flushed;
}

void Engine::mark_failure() {
  if (tail_) tail_->end();
  find_lost_places();
  failure_.mark_members();
}

// ---- commit ----

Result<> Engine::commit() {
  const std::uint64_t wanted = log_->last();
  for (;;) {
    {
      MutexLock lock(commit_mutex_);
      VSNAP_TRY(commit_with({}));
    }
    if (committed() >= wanted) return {};
    wait_for_hurry();
  }
}

Result<> Engine::make_room() {
  for (;;) {
    {
      MutexLock lock(commit_mutex_);
      if (!log_->full()) return {}; // somebody else has committed
      VSNAP_TRY(commit_with({}));
    }
    wait_for_hurry();
  }
}

Engine::Hurry::Hurry(Engine& engine) : engine_(engine) {
  MutexLock lock(engine_.hurry_mutex_);
  ++engine_.hurry_;
}

Engine::Hurry::~Hurry() {
  MutexLock lock(engine_.hurry_mutex_);
  --engine_.hurry_;
  engine_.hurry_over_.notify_all();
}

void Engine::wait_for_hurry() {
  MutexLock lock(hurry_mutex_);
  while (hurry_.load() > 0) hurry_over_.wait(hurry_mutex_);
}

// What is said here needs no failing pool: nothing has been promised to writers yet.
Result<> Engine::prepare_line() {
  VSNAP_TRY(check_writable());
  const std::uint64_t last = log_->last();
  VSNAP_TRY(flush());
  if (committed() < last && !planted(Fault::snapshot_without_frame)) {
    VSNAP_TRY_ASSIGN(const bool journaled, journal_->sync(last));
    if (!journaled) VSNAP_TRY(commit_with({}));
  }
  return transact([&](SQLite::Database& db, std::vector<PlaceRun>&) -> Result<> {
    catalog::set_value(db, "applied", committed());
    return {};
  });
}

std::uint64_t Engine::draw_line() {
  commit_asked_.store(false);
  line_ = journal_->line();
  return log_->draw_line();
}

Result<> Engine::record_line(const Step& step) {
  VSNAP_TRY(check_writable());
  VSNAP_TRY(flush());
  bool journaled = planted(Fault::snapshot_without_frame);
  if (!journaled) {
    VSNAP_TRY_ASSIGN(journaled, journal_->sync(log_->line()));
  }
  if (!journaled) return commit_line(step);
  const std::uint64_t line = log_->line();
  log_->withdraw_line(); // they are for the next commit
  VSNAP_TRY(transact([&](SQLite::Database& db, std::vector<PlaceRun>&) -> Result<> {
    if (!planted(Fault::line_not_told)) catalog::set_value(db, "line", line); // see pool_degraded.cpp
    return step(db);
  }));
  keep_headroom();
  return {};
}

Result<> Engine::commit_if_needed() { return committed() < log_->last() ? commit() : Result<>(); }

std::uint32_t Engine::base_member(BranchId branch) const {
  const auto found = bases_.find(branch);
  VSNAP_ASSERT(found != bases_.end());
  return found->second;
}

void Engine::set_base_member(BranchId branch, std::uint32_t member) {
  MutexLock lock(commit_mutex_);
  bases_[branch] = member;
}

// Images take no part: what is in them is at its place in any case, and may be much. One flush where all that
// is not flushed are saves, which checksums tell from what a power cut left of them; else two.
Result<> Engine::make_durable(std::uint64_t sequence) {
  if (is_durable(sequence)) return {};
  VSNAP_TRY(check_writable());
  const bool one_flush = journal_->needs_no_flush(sequence);
  if (!one_flush && !planted(Fault::saved_without_flush))
    VSNAP_TRY(checked_flush(members_->flush_members()));
  auto journaled = one_flush ? journal_->sync_and_flush(sequence) : journal_->sync(sequence);
  if (!journaled) {
    fail(journaled.error());
    return Failure(journaled.error());
  }
  if (!*journaled && !is_durable(sequence)) return failure(ErrorKind::busy, EAGAIN, "the journal is full");
  if (journal_->crowded()) ask_for_commit();
  return {};
}

Result<> Engine::sync() {
  const std::uint64_t wanted = log_->last();
  if (!planted(Fault::sync_without_flush)) VSNAP_TRY(flush());
  return sync_records(wanted);
}

Result<> Engine::sync(std::uint32_t base_member) {
  const std::uint64_t wanted = log_->last();
  if (!planted(Fault::sync_without_flush)) {
    if (base_member != 0 && !planted(Fault::image_not_flushed))
      VSNAP_TRY(checked_flush(members_->flush_base(base_member)));
    VSNAP_TRY(checked_flush(members_->flush_members()));
  }
  return sync_records(wanted);
}

// The caller has flushed what they are about.
Result<> Engine::sync_records(std::uint64_t wanted) {
  if (committed() >= wanted) return check_writable();
  auto journaled = journal_->sync(wanted);
  if (!journaled) {
    fail(journaled.error());
    return Failure(journaled.error());
  }
  if (*journaled) {
    if (journal_->crowded()) ask_for_commit();
    return check_writable();
  }
  return committed() >= wanted ? check_writable() : commit();
}

Result<> Engine::commit_with(const Step& step) {
  VSNAP_TRY(check_writable());
  draw_line();
  return commit_line(step);
}

// Everything up to the log's line, and nothing beyond it.
Result<> Engine::commit_line(const Step& step) {
  const std::uint64_t line = log_->line();
  if (!planted(Fault::commit_without_flush)) VSNAP_TRY(flush());
  std::vector<PlaceRun> freed;
  Result<> finished;
  std::uint64_t limit = largest_batch();
  const int in_a_hurry = hurry_.load();
  for (bool more = true; more && finished;) {
    Batch batch = next_batch(line, std::min(limit, polite_limit_));
    if (!step && !gave_way_) batch.gives_way = in_a_hurry;
    // A step may refuse; then the changes before it must stand on their own.
    const bool last = batch.last == line && (batch.net.by_version.empty() || !step);
    finished = apply_batch(batch, last ? step : Step(), freed);
    gave_way_ = batch.gave_way;
    polite_limit_ = gave_way_ ? std::max(batch.applied / 2, kMinPoliteChanges)
                              : std::min(polite_limit_ * 2, kMaxBatchChanges);
    if (gave_way_) {
      finished = {};
      break;
    }
    if (!finished && finished.error().kind == ErrorKind::no_space && limit > smallest_batch()) {
      limit = std::max(limit / 8, smallest_batch()); // the WAL may hold less than it usually does
      finished = {};
      continue;
    }
    more = !last && (step || hurry_.load() == 0);
  }
  if (committed() < line) log_->withdraw_line();
  release(freed);
  cache_->collect();
  keep_headroom();
  return finished;
}

// What a WAL that cannot grow certainly holds.
std::uint64_t Engine::smallest_batch() const { return budget::wal_blocks(pool_blocks_) / 16; }

// What it holds in all likelihood.
std::uint64_t Engine::largest_batch() const {
  const std::uint64_t pages = vfs_->capacity_bytes(MetadataFile::wal) / kBlockBytes / 4;
  const std::uint64_t used = metadata_used_bytes_.load() / kBlockBytes;
  return std::clamp(budget::changes_that_fit(pages, used), smallest_batch(), kMaxBatchChanges);
}

Engine::Batch Engine::next_batch(std::uint64_t line, std::uint64_t limit) const {
  Batch batch;
  batch.last = committed();
  while (batch.last < line && batch.net.size() < limit) {
    const std::uint64_t to = std::min(line, batch.last + 16);
    log_->each(batch.last, to, [&](const LogRecord& record) {
      if (changes_map(record.type)) batch.net.add(change_of(record));
    });
    batch.last = to;
  }
  return batch;
}

// An overtaken place that the catalog names is freed with its row, by the change that overtook it.
std::vector<PlaceRun> Engine::unnamed(const std::vector<PlaceRun>& overtaken) const {
  std::vector<PlaceRun> found;
  for (const PlaceRun& run : overtaken) {
    for (std::uint64_t i = 0; i < run.count.value(); ++i) {
      const Place place = run.start + BlockCount(i);
      if (allocator_.is_durable(place)) continue;
      if (!found.empty() && found.back().start + found.back().count == place) {
        found.back().count = found.back().count + BlockCount(1);
      } else {
        found.push_back({place, BlockCount(1)});
      }
    }
  }
  return found;
}

// One transaction: the catalog has every record up to the batch's last, or none of the batch.
Result<> Engine::apply_batch(Batch& batch, const Step& step, std::vector<PlaceRun>& freed) {
  // Places that no transaction ever named: nobody but in-flight I/O can know them.
  const std::vector<PlaceRun> never_named = unnamed(batch.net.overtaken);
  if (planted(Fault::applied_before_rows)) {
    VSNAP_TRY(db_->write([&](SQLite::Database& db) -> Result<> {
      catalog::set_value(db, "applied", batch.last);
      return {};
    }));
  }
  Places places;
  auto done = db_->write([&](SQLite::Database& db) VSNAP_NO_THREAD_SAFETY_ANALYSIS -> Result<> {
    VSNAP_TRY(apply_changes(batch, places));
    index_->store_space(allocator_.take_changed_groups());
    return store_figures(db, batch, step);
  });
  if (!done) {
    // Without space (ours, or below the members) everything stays as it was and pending; so it does when the
    // step refuses. Anything else leaves the catalog behind for good.
    undo_durable(places.added, places.freed);
    if (batch.gave_way) return done;
    if (extra_step_failed_) extra_step_failed_();
    if (done.error().errno_value == EIO || done.error().kind == ErrorKind::damaged) fail(done.error());
    return done;
  }
  freed.insert(freed.end(), never_named.begin(), never_named.end());
  freed.insert(freed.end(), places.freed.begin(), places.freed.end());
  freed.insert(freed.end(), places.unused.begin(), places.unused.end());
  const bool moved = stores_position(batch); // the catalog starts a replay there now
  for (const auto& [version, changes] : batch.net.by_version) {
    std::uint64_t& blocks = applied_blocks_[version.first];
    for (const auto& [start, change] : changes) blocks += change.count.value();
  }
  log_->set_committed(batch.last);
  cache_->set_committed(batch.last);
  if (moved) journal_->trim(line_);
  return {};
}

Result<> Engine::apply_changes(Batch& batch, Places& places) {
  std::vector<MapChange> saves; // of one region
  for (const auto& [version, changes] : batch.net.by_version) {
    for (auto at = changes.begin(); at != changes.end();) {
      const MapChange& change = at->second;
      ++at;
      ++batch.applied;
      if (!change.saves) {
        index_->apply(change, allocator_, places.freed, &places.added);
      } else {
        saves.push_back(change);
        if (saves.size() < kChangesABreath && at != changes.end() && at->second.saves &&
            region_of(at->first) == region_of(change.start))
          continue;
        ExtentIndex::CopiedOut copied;
        index_->apply_copy_outs(saves, base_member(change.branch), allocator_, copied);
        saves.clear();
        places.added.insert(places.added.end(), copied.added.begin(), copied.added.end());
        places.unused.insert(places.unused.end(), copied.unused.begin(), copied.unused.end());
        VSNAP_TRY(breathe(batch));
        continue;
      }
      if (batch.applied % kChangesABreath == 0) VSNAP_TRY(breathe(batch));
    }
  }
  return {};
}

// Lets in who waits for the catalog, or gives way altogether.
Result<> Engine::breathe(Batch& batch) {
  db_->breathe();
  batch.gave_way = batch.gives_way && hurry_.load() > *batch.gives_way;
  return batch.gave_way ? failure(ErrorKind::busy, "a snapshot comes first") : Result<>();
}

void Engine::undo_durable(const std::vector<PlaceRun>& added, const std::vector<PlaceRun>& freed) {
  if (planted(Fault::undo_forgotten)) return;
  for (const PlaceRun& run : added) allocator_.set_durable(run, false);
  for (const PlaceRun& run : freed) allocator_.set_durable(run, true);
}

bool Engine::stores_position(const Batch& batch) const {
  return batch.last != committed() && batch.last == log_->line() && journal_->attached();
}

Result<> Engine::store_figures(SQLite::Database& db, const Batch& batch, const Step& step) {
  for (const auto& [branch, change] : batch.net.mapped_change) {
    if (change != 0) catalog::add_mapped(db, branch, change);
  }
  if (batch.last != committed()) catalog::set_value(db, "applied", batch.last);
  if (stores_position(batch)) {
    catalog::set_value(db, "journal_frame", line_.frame);
    catalog::set_value(db, "journal_offset", line_.offset);
  }
  if (step) VSNAP_TRY(step(db)); // may refuse; the extra step cannot be taken back
  if (extra_step_) VSNAP_TRY(extra_step_(db));
  return {};
}

Result<> Engine::transact(const std::function<Result<>(SQLite::Database&, std::vector<PlaceRun>&)>& body) {
  VSNAP_TRY(check_writable());
  std::vector<PlaceRun> freed;
  auto done = db_->write([&](SQLite::Database& db) -> Result<> {
    VSNAP_TRY(body(db, freed));
    index_->store_space(allocator_.take_changed_groups());
    return {};
  });
  if (!done) {
    undo_durable({}, freed);
    if (done.error().kind != ErrorKind::no_space) fail(done.error());
    return done;
  }
  release(freed);
  return {};
}

void Engine::release(std::vector<PlaceRun>& freed) {
  if (freed.empty()) return;
  grace_.synchronize();
  release_unnamed(freed);
  freed.clear();
}

void Engine::release_unnamed(const std::vector<PlaceRun>& runs) {
  for (const PlaceRun& run : runs) {
    // A sparse image file or a thin device gets long runs back; short ones are about to be used again.
    if (run.count.value() >= kNeighbourhoodBlocks) members_->discard(run);
    allocator_.release(run);
  }
}

void Engine::keep_headroom() {
  const auto used = db_->read([&](SQLite::Database& db) -> Result<std::uint64_t> {
    const auto count = [&db](std::unique_ptr<SQLite::Statement>& prepared, const char* sql) {
      if (!prepared) prepared = std::make_unique<SQLite::Statement>(db, sql);
      prepared->executeStep();
      const std::int64_t pages = prepared->getColumn(0).getInt64();
      prepared->reset();
      return static_cast<std::uint64_t>(pages);
    };
    return count(page_count_, "PRAGMA page_count") - count(free_count_, "PRAGMA freelist_count");
  });
  if (!used) return;
  metadata_used_bytes_.store(*used * kBlockBytes);
  const std::uint64_t target = headroom_target_blocks();
  const auto unused = [&] {
    return vfs_->capacity_bytes(MetadataFile::catalog) / kBlockBytes -
           std::min(*used, vfs_->capacity_bytes(MetadataFile::catalog) / kBlockBytes);
  };
  // Where all free space is scattered, finding that out takes a look at all of it: not for every commit.
  const bool look = allocator_.free_blocks() >= grow_at_free_ || ++not_grown_ % kLooksForSpace == 0;
  while (look && unused() < target) {
    const std::uint64_t quarter = vfs_->capacity_bytes(MetadataFile::catalog) / kBlockBytes / 4;
    if (!vfs_->grow(MetadataFile::catalog, BlockCount(std::max<std::uint64_t>(quarter, 256)))) {
      grow_at_free_ = allocator_.free_blocks() + budget::kMinHeadroomBlocks;
      break;
    }
  }
  const bool copy_is_short =
      vfs_->capacity_bytes(MetadataFile::copy) < vfs_->capacity_bytes(MetadataFile::catalog);
  if (look && log_ && copy_is_short) make_catalog_copy(); // which takes the database's lock
  if (log_) log_->set_limit(budget::log_limit(*used, unused()));
  metadata_low_.store(unused() < target / 2, std::memory_order_relaxed);
}

SpaceInfo Engine::space() {
  SpaceInfo info;
  info.size_bytes = pool_blocks_.load() * kBlockBytes;
  const std::uint64_t free = allocator_.free_blocks();
  std::uint64_t metadata = members_->count() * format::kHeaderBlocks;
  for (const MetadataSegment& segment : members_->layout().segments) metadata += segment.run.count.value();
  info.metadata_bytes = metadata * kBlockBytes;
  info.metadata_used_bytes = metadata_used_bytes_.load() + members_->count() * format::kHeaderBytes;
  info.free_bytes = free * kBlockBytes;
  info.data_bytes = info.size_bytes - info.free_bytes - info.metadata_bytes;
  info.available_bytes = metadata_low() ? 0 : info.free_bytes;
  return info;
}

} // namespace vsnap
