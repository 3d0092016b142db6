#include "core/engine.h"

#include <fmt/format.h>
#include <algorithm>
#include <cstring>

#include "core/assert.h"
#include "core/catalog.h"
#include "core/catalog_copy.h"
#include "core/log.h"
#include "core/planted.h"
#include "core/schema.h"

namespace vsnap {
namespace {

// Headroom in the catalog's segments: 1/64 of the pool, at least 512 pages (2 MiB), at most 32,768 (128 MiB).
// Half of it is what pending changes may need; below half, writes that need rows are refused. See
// log_limit().
constexpr std::uint64_t kMinHeadroomBlocks = 512;
constexpr std::uint64_t kMaxHeadroomBlocks = 32768;
constexpr std::uint64_t kLooksForSpace = 64; // of so many commits one looks for more, though there was none

// The WAL: 1/64 of the pool, 1 to 64 MiB. It starts anew at a quarter; a transaction dirties at most a leaf,
// two split pages and a bitmap row (two pages) for each change, so that a 1/16 of its frames in changes
// always fits.
constexpr std::uint64_t kMinWalBlocks = 256;
constexpr std::uint64_t kMaxWalBlocks = 16384;

// Pending changes: in the log, and as many in the commit under way.
constexpr std::uint64_t kMinLogRecords = 512;

// One transaction. The more it has, the more changes share a page of the catalog.
constexpr std::uint64_t kMaxBatchChanges = 16384;
// One that gave way is tried again with half of what it came to, or this, and does not give way then; each
// that comes to its end lets the next be twice as large. So snapshots that come one after the other do not
// stop commits, and find them short.
constexpr std::uint64_t kMinPoliteChanges = 512;
// Changes for which maps that are to be loaded, and snapshots, wait.
constexpr std::uint64_t kChangesABreath = 256;

// The journal: 1/64 of the pool, 256 KiB to 64 MiB; a frame takes a block at least.
constexpr std::uint64_t kMinJournalBlocks = 64;
constexpr std::uint64_t kMaxJournalBlocks = 16384;

std::uint64_t wal_blocks(std::uint64_t pool_blocks) {
  return std::clamp(pool_blocks / 64, kMinWalBlocks, kMaxWalBlocks);
}
std::uint64_t headroom_blocks(std::uint64_t pool_blocks) {
  return std::clamp(pool_blocks / 64, kMinHeadroomBlocks, kMaxHeadroomBlocks);
}

std::uint64_t journal_blocks(std::uint64_t pool_blocks) {
  return std::clamp(pool_blocks / 64, kMinJournalBlocks, kMaxJournalBlocks);
}

// How many changes certainly need no more than `pages`, when the catalog has `used` of them.
//
// A change makes at most three rows of some 35 bytes; half-full pages hold 50 of them: 1/16 page a change.
// Besides, it may split a leaf that is full, but not more leaves than there are. So changes c cannot need
// more pages than min(c, used) + c / 16.
std::uint64_t changes_that_fit(std::uint64_t pages, std::uint64_t used) {
  return pages > used + used / 16 ? (pages - used) * 16 : pages * 16 / 17;
}

// How many changes may be pending when `used` pages of the catalog are in use and `unused` are not: what fits
// into half of those. With the smallest headroom, 512 records cannot add more than 512 pages, and to add that
// many they would need 512 full leaves (2 MiB of index), at which size half of the splits share a leaf: at
// most 256 pages, half the headroom.
std::uint64_t log_limit(std::uint64_t used, std::uint64_t unused) {
  return std::clamp(changes_that_fit(unused / 2, used) / 2, kMinLogRecords, ChangeLog::kMaxLimit);
}

} // namespace

Engine::Engine(Env& env, std::unique_ptr<MemberSet> members, std::uint64_t cache_bytes)
    : env_(env), cache_bytes_(cache_bytes), members_(std::move(members)) {
  members_->set_on_failed_flush([this] {
    if (tail_) tail_->end();
  });
}

Engine::~Engine() {
  page_count_.reset();
  free_count_.reset();
  cache_.reset();
  index_.reset();
  db_.reset();
  vfs_.reset();
}

std::uint64_t Engine::headroom_target_blocks() const { return headroom_blocks(pool_blocks_.load()); }

Result<> Engine::start(bool fresh) {
  const Superblock layout = members_->layout();
  for (const RosterEntry& member : layout.roster) {
    allocator_.add_member(member.blocks, format::kHeaderBlocks);
    pool_blocks_ += member.blocks;
  }
  for (const MetadataSegment& segment : layout.segments) {
    if (!allocator_.take(segment.run)) {
      return failure(ErrorKind::damaged, "metadata segments overlap (restore the members from a copy)");
    }
  }
  vfs_ = std::make_unique<MetadataVfs>(*members_, allocator_);
  VSNAP_TRY(vfs_->load());
  if (fresh) {
    const std::uint64_t headroom = headroom_target_blocks();
    VSNAP_TRY(vfs_->grow(MetadataFile::catalog, BlockCount(headroom + headroom / 4)));
    VSNAP_TRY(vfs_->grow(MetadataFile::wal, BlockCount(wal_blocks(pool_blocks_))));
  }
  VSNAP_TRY_ASSIGN(db_, Database::open(MetadataVfs::kDatabaseFile, vfs_->vfs_name(),
                                       static_cast<int>(wal_blocks(pool_blocks_) / 4)));
  return {};
}

Result<> Engine::create_catalog() {
  VSNAP_TRY(start(true));
  VSNAP_TRY(db_->write([](SQLite::Database& db) -> Result<> {
    db.exec(schema::kCreate);
    db.exec(fmt::format("PRAGMA application_id={}", schema::kApplicationId));
    db.exec(fmt::format("PRAGMA user_version={}", schema::kVersion));
    catalog::set_value(db, "generation", 1);
    catalog::set_value(db, "next_object", 2); // 1 would be the inode of the mount's root
    catalog::set_value(db, "next_branch", 1);
    return {};
  }));
  return checkpoint();
}

Result<> Engine::open_catalog(bool for_check) {
  VSNAP_TRY(start(false));
  MutexLock lock(commit_mutex_);
  std::uint64_t applied = 0;
  VSNAP_TRY(db_->read([&](SQLite::Database& db) VSNAP_NO_THREAD_SAFETY_ANALYSIS -> Result<> {
    if (db.execAndGet("PRAGMA application_id").getInt() != schema::kApplicationId) {
      return failure(ErrorKind::damaged,
                     "the catalog is missing or not a catalog (restore the members from a copy)");
    }
    if (const int version = db.execAndGet("PRAGMA user_version").getInt(); version != schema::kVersion) {
      return failure(
          ErrorKind::failed, ENOTSUP,
          fmt::format("catalog version {}; this vsnap knows version {}", version, schema::kVersion));
    }
    VSNAP_TRY(members_->check_together(catalog::value(db, "opened")));
    applied = catalog::value(db, "applied");
    tail_token_ = catalog::value(db, "tail");
    line_.frame = std::max<std::uint64_t>(catalog::value(db, "journal_frame"), 1);
    line_.offset = catalog::value(db, "journal_offset");
    std::vector<std::uint64_t> member_blocks;
    for (const RosterEntry& member : members_->layout().roster) member_blocks.push_back(member.blocks);
    index_ = std::make_unique<ExtentIndex>(db, std::move(member_blocks));
    index_->load_space([&](const SpaceGroup& group) { sound_ = allocator_.load_group(group) && sound_; });
    return {};
  }));
  if (!sound_ && !for_check) {
    return failure(ErrorKind::damaged,
                   "the catalog's record of used space contradicts the members (vsnap check --repair)");
  }
  cache_ = std::make_unique<RegionCache>(*db_, *index_, grace_, cache_bytes_);
  // Regions with pending changes stay in memory: those of the log and of a commit make half of what the cache
  // may hold.
  log_ = std::make_unique<ChangeLog>(applied, kMinLogRecords, cache_->limit_regions() / 4);
  cache_->set_committed(applied);
  journal_ = std::make_unique<Journal>(*members_, *log_);
  const Superblock layout = members_->layout();
  for (const MetadataSegment& segment : layout.segments) {
    if (segment.file == MetadataFile::journal) journal_->attach(segment.run, layout.pool_uuid);
  }
  return {};
}

void Engine::start_headroom() {
  MutexLock lock(commit_mutex_);
  if (sound_) keep_headroom();
}

Result<bool> Engine::replay(const Journal::Each& each, bool takes_over) {
  MutexLock lock(commit_mutex_);
  if (!sound_) return false; // once it was repaired
  VSNAP_TRY(journal_->replay(line_, committed(), each));
  // After a failed flush its records may name places that the data never reached.
  if (members_->needs_check()) return log_->last() > committed();
  VSNAP_TRY_ASSIGN(const auto tail,
                   Tail::find(env_, members_->layout().pool_uuid, tail_token_, committed(), takes_over));
  if (tail) {
    for (const LogRecord& record : (*tail)->records(log_->last())) VSNAP_TRY(each(record));
  }
  return log_->last() > committed();
}

Result<> Engine::reset_journal() {
  VSNAP_TRY(commit()); // what came before the damage
  VSNAP_TRY(journal_->reset());
  return start_tail(false);
}

// Old records are out of the way before the catalog may need others, whatever fails in between: with nothing
// pending they say nothing that the catalog does not.
Result<> Engine::start_tail(bool keep) {
  MutexLock lock(commit_mutex_);
  VSNAP_ASSERT(!tail_ && log_->committed() == log_->last());
  const Uuid pool = members_->layout().pool_uuid;
  if (!planted(Fault::tail_not_ended) && !Tail::remove(env_, pool)) keep = false;
  std::uint64_t token = 0;
  std::unique_ptr<Tail> tail;
  if (keep) {
    const Uuid random = env_.random_uuid();
    std::memcpy(&token, random.data(), sizeof token);
    token = token >> 2U | 1U; // what SQLite stores as it is, and not 0
    auto made = Tail::make(env_, pool, token, log_->last(), members_->path(0));
    if (!made)
      log::warning("what no fsync confirmed is lost if this process is killed: {}", made.error().message);
    else
      tail = std::move(*made);
  }
  if (!tail) token = 0;
  if (token != tail_token_ && !planted(Fault::tail_not_ended)) {
    VSNAP_TRY(db_->write([&](SQLite::Database& db) -> Result<> {
      catalog::set_value(db, "tail", token);
      return {};
    }));
  }
  tail_token_ = token;
  tail_ = std::move(tail);
  if (tail_) log_->move_to(tail_->slots(), tail_->last(), tail_->committed());
  return {};
}

void Engine::end_tail() {
  if (tail_) tail_->remove_own(env_, members_->layout().pool_uuid);
}

// Also where it lies in another /dev/shm than ours: the catalog does not name it any more.
Result<> Engine::forget_tail() {
  MutexLock lock(commit_mutex_);
  if (tail_token_ != 0) {
    VSNAP_TRY(db_->write([](SQLite::Database& db) -> Result<> {
      catalog::set_value(db, "tail", 0);
      return {};
    }));
    tail_token_ = 0;
  }
  static_cast<void>(Tail::remove(env_, members_->layout().pool_uuid));
  return {};
}

void Engine::make_journal() {
  if (journal_->attached()) return;
  const auto run =
      allocator_.allocate_segment(BlockCount(kMinJournalBlocks), BlockCount(journal_blocks(pool_blocks_)));
  if (!run) return;
  auto stored = members_->update_layout([&](Superblock& layout) {
    layout.segments.push_back({MetadataFile::journal, *run});
    layout.incompat |= format::kFeatureJournal;
  });
  if (!stored) {
    log::warning("no journal: {}", stored.error().message);
    return;
  }
  // Into the other copy as well: should this one be damaged later, a layout without the journal would count.
  static_cast<void>(members_->update_layout([](Superblock&) {}));
  journal_->attach(*run, members_->layout().pool_uuid);
}

void Engine::make_catalog_copy() {
  static_cast<void>(db_->read([&](SQLite::Database&) -> Result<> {
    vfs_->extend_copy();
    return {};
  }));
}

Result<std::vector<std::string>> Engine::check_catalog_copy(bool repair) {
  constexpr std::uint64_t kPagesAtATime = 1024; // writers wait for the lock
  CatalogCopy::Findings found;
  std::uint64_t pages = 1;
  for (std::uint64_t page = 0; page < pages; page += kPagesAtATime) {
    VSNAP_TRY(db_->read([&](SQLite::Database& db) -> Result<> {
      pages = static_cast<std::uint64_t>(db.execAndGet("PRAGMA page_count").getInt64());
      VSNAP_TRY_ASSIGN(const auto some,
                       vfs_->copy().compare(page, std::min(page + kPagesAtATime, pages), repair));
      found.mended_database += some.mended_database;
      found.mended_copy += some.mended_copy;
      return {};
    }));
  }
  std::vector<std::string> remarks;
  if (found.mended_database > 0) {
    remarks.push_back(fmt::format("catalog: {} of its pages are damaged, and their copies are good",
                                  found.mended_database));
  }
  if (found.mended_copy > 0)
    remarks.push_back(
        fmt::format("catalog: the copies of {} pages are missing or damaged", found.mended_copy));
  return remarks;
}

Result<> Engine::mark_opened() {
  auto marked = [&]() -> Result<> {
    VSNAP_TRY_ASSIGN(const std::uint64_t sequence, members_->mark_opened());
    if (sequence == 0) return {};
    return db_->write([&](SQLite::Database& db) -> Result<> {
      catalog::set_value(db, "opened", sequence);
      return {};
    });
  }();
  if (marked || marked.error().kind != ErrorKind::no_space) return marked;
  // No room below the members: what is there can still be read, and that is worth more than the mark.
  log::warning("noting that the pool was opened: {}", marked.error().message);
  return {};
}

void Engine::note_member_added(std::uint64_t blocks) {
  // The index first: as soon as the allocator has the member, rows may name it.
  static_cast<void>(db_->read([&](SQLite::Database&) -> Result<> {
    index_->add_member(blocks);
    return {};
  }));
  allocator_.add_member(blocks, format::kHeaderBlocks);
  pool_blocks_ += blocks;
  MutexLock lock(commit_mutex_);
  grow_at_free_ = 0;
  keep_headroom();
}

std::optional<PlaceRun> Engine::allocate(BlockCount wanted, std::optional<Place> near, std::uint64_t phase) {
  if (metadata_low()) return std::nullopt;
  return allocator_.allocate(wanted, near, phase);
}

Result<> Engine::check_writable() const {
  if (!failed_.load(std::memory_order_acquire) && !members_->flush_failed()) return {};
  return failure(ErrorKind::failed, EIO, fmt::format("the pool takes no changes: {}", health()));
}

std::string Engine::health() const {
  constexpr std::string_view kNext = "unmount the pool and run vsnap check";
  MutexLock lock(failure_mutex_);
  if (!failure_.empty()) return needs_check() ? fmt::format("{} ({})", failure_, kNext) : failure_;
  if (members_->flush_failed()) return fmt::format("a flush failed: {}", kNext);
  return "ok";
}

void Engine::fail(const Error& why) {
  {
    MutexLock lock(failure_mutex_);
    if (failure_.empty()) {
      failure_ = why.message;
      log::error("the pool takes no more changes: {}", why.message);
    }
    if (why.kind != ErrorKind::no_space) needs_check_.store(true);
    failed_.store(true, std::memory_order_release);
  }
  if (needs_check()) mark_failure();
}

void Engine::find_lost_places() {
  if (!members_->flush_failed() || !log_ || lost_.load() != nullptr) return;
  if (planted(Fault::lost_places_forgotten)) return;
  std::vector<LogRecord> records;
  log_->copy(std::max(committed(), journal_->flushed()), log_->last(), records);
  MutexLock lock(failure_mutex_);
  if (lost_places_) return;
  lost_places_ = std::make_unique<const LostPlaces>(records);
  lost_.store(lost_places_.get(), std::memory_order_release);
}

Result<> Engine::lost_error(PlaceRun run) {
  return failure(ErrorKind::failed, EIO,
                 fmt::format("member {}, block {}: may be lost, as a flush has failed", run.start.member(),
                             run.start.block()));
}

Result<> Engine::flush() {
  auto flushed = members_->flush_data();
  if (!flushed) mark_failure();
  return flushed;
}

void Engine::mark_failure() {
  if (tail_) tail_->end();
  find_lost_places();
  if (!marked_.load()) marked_.store(members_->mark_needs_check());
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
  log_->withdraw_line(); // they are for the next commit
  VSNAP_TRY(transact([&](SQLite::Database& db, std::vector<PlaceRun>&) { return step(db); }));
  keep_headroom();
  return {};
}

Result<> Engine::commit_if_needed() { return committed() < log_->last() ? commit() : Result<>(); }

Result<> Engine::sync() {
  const std::uint64_t wanted = log_->last();
  if (!planted(Fault::sync_without_flush)) VSNAP_TRY(flush());
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
std::uint64_t Engine::smallest_batch() const { return wal_blocks(pool_blocks_) / 16; }

// What it holds in all likelihood.
std::uint64_t Engine::largest_batch() const {
  const std::uint64_t pages = vfs_->capacity_bytes(MetadataFile::wal) / kBlockBytes / 4;
  const std::uint64_t used = metadata_used_bytes_.load() / kBlockBytes;
  return std::clamp(changes_that_fit(pages, used), smallest_batch(), kMaxBatchChanges);
}

Engine::Batch Engine::next_batch(std::uint64_t line, std::uint64_t limit) const {
  Batch batch;
  batch.last = committed();
  while (batch.last < line && batch.net.size() < limit) {
    const std::uint64_t to = std::min(line, batch.last + 16);
    log_->each(batch.last, to, [&](const LogRecord& record) {
      if (record.type == RecordType::map) batch.net.add(change_of(record));
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
  const bool moved = stores_position(batch); // the catalog starts a replay there now
  log_->set_committed(batch.last);
  cache_->set_committed(batch.last);
  if (moved) journal_->trim(line_);
  return {};
}

Result<> Engine::apply_changes(Batch& batch, Places& places) {
  for (const auto& [version, changes] : batch.net.by_version) {
    for (const auto& [start, change] : changes) {
      index_->apply(change, allocator_, places.freed, &places.added);
      if (++batch.applied % kChangesABreath != 0) continue;
      db_->breathe();
      batch.gave_way = batch.gives_way && hurry_.load() > *batch.gives_way;
      if (batch.gave_way) return failure(ErrorKind::busy, "a snapshot comes first");
    }
  }
  return {};
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
  for (const PlaceRun& run : freed) {
    // A sparse image file or a thin device gets long runs back; short ones are about to be used again.
    if (run.count.value() >= kNeighbourhoodBlocks) members_->discard(run);
    allocator_.release(run);
  }
  freed.clear();
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
      grow_at_free_ = allocator_.free_blocks() + kMinHeadroomBlocks;
      break;
    }
  }
  const bool copy_is_short =
      vfs_->capacity_bytes(MetadataFile::copy) < vfs_->capacity_bytes(MetadataFile::catalog);
  if (look && log_ && copy_is_short) make_catalog_copy(); // which takes the database's lock
  if (log_) log_->set_limit(log_limit(*used, unused()));
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
