// The engine's beginning and end: its parts, the catalog, what a crash left, and what older pools lack.
#include <fmt/format.h>
#include <cstring>

#include "core/assert.h"
#include "core/budget.h"
#include "core/catalog.h"
#include "core/catalog_copy.h"
#include "core/engine.h"
#include "core/log.h"
#include "core/planted.h"
#include "core/schema.h"

namespace vsnap {

Engine::Engine(Env& env, std::unique_ptr<MemberSet> members, std::uint64_t cache_bytes)
    : env_(env), cache_bytes_(cache_bytes), members_(std::move(members)), failure_(*members_) {
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

// SQLite brings the WAL back and empties it when its connection ends.
Result<> Engine::close_catalog() {
  page_count_.reset();
  free_count_.reset();
  cache_.reset();
  index_.reset();
  db_.reset();
  if (vfs_->stream(MetadataFile::wal).size_bytes() != 0) return {}; // it could not
  VSNAP_TRY(members_->flush_members());
  return members_->mark_closed();
}

std::uint64_t Engine::headroom_target_blocks() const { return budget::headroom_blocks(pool_blocks_.load()); }

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
    VSNAP_TRY(vfs_->grow(MetadataFile::wal, BlockCount(budget::wal_blocks(pool_blocks_))));
  }
  VSNAP_TRY_ASSIGN(db_, Database::open(MetadataVfs::kDatabaseFile, vfs_->vfs_name(),
                                       static_cast<int>(budget::wal_blocks(pool_blocks_) / 4)));
  return {};
}

Result<> Engine::create_catalog() {
  VSNAP_TRY(start(true));
  VSNAP_TRY(db_->write([](SQLite::Database& db) -> Result<> {
    db.exec(schema::kCreate);
    db.exec(schema::kAddedIn2);
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
    if (const int version = db.execAndGet("PRAGMA user_version").getInt();
        version < 1 || version > schema::kVersion) {
      return failure(
          ErrorKind::failed, ENOTSUP,
          fmt::format("catalog version {}; this vsnap knows version {}", version, schema::kVersion));
    }
    VSNAP_TRY(members_->check_together(catalog::value(db, "opened")));
    VSNAP_TRY(catalog::check_counters(db));
    applied = catalog::value(db, "applied");
    tail_token_ = catalog::value(db, "tail");
    losses_ = catalog::value(db, "losses");
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
  log_ = std::make_unique<ChangeLog>(applied, budget::kMinLogRecords, cache_->limit_regions() / 4);
  cache_->set_log(*log_);
  cache_->set_committed(applied);
  journal_ = std::make_unique<Journal>(*members_, *log_);
  const Superblock layout = members_->layout();
  for (const MetadataSegment& segment : layout.segments) {
    if (segment.file != MetadataFile::journal) continue;
    if (members_->missing_at(segment.run.start) == nullptr)
      journal_->attach(segment.run, layout.pool_uuid);
    else
      leaves_out_records_ = !members_->was_closed();
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
  if (!journal_->attached()) line_.offset = 0;
  VSNAP_TRY(journal_->replay(line_, committed(), each));
  // After a failed flush its records may name places that the data never reached.
  may_have_lost_ = members_->needs_check();
  if (may_have_lost_) {
    log::info("what no fsync had confirmed may be lost: a flush has failed");
    return log_->last() > committed();
  }
  VSNAP_TRY_ASSIGN(const auto tail,
                   Tail::find(env_, members_->layout().pool_uuid, tail_token_, committed(), takes_over));
  if (tail) {
    for (const LogRecord& record : (*tail)->records(log_->last())) VSNAP_TRY(each(record));
    leaves_out_records_ = false; // it has all that the catalog has not
  }
  may_have_lost_ = !tail && tail_token_ != 0;
  if (may_have_lost_)
    log::info("what no fsync had confirmed is lost: the process before has left no memory of it");
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
  std::uint64_t token = keep ? kTokenOfNone : 0;
  if (!planted(Fault::tail_not_ended) && !Tail::remove(env_, pool)) keep = false;
  std::unique_ptr<Tail> tail;
  if (keep) {
    const Uuid random = env_.random_uuid();
    std::uint64_t own = 0;
    std::memcpy(&own, random.data(), sizeof own);
    own = own >> 2U | 1U; // what SQLite stores as it is, and not 0
    auto made = Tail::make(env_, pool, own, log_->last(), members_->path(0));
    if (made) {
      tail = std::move(*made);
      token = own;
    } else {
      log::warning("what no fsync confirmed is lost if this process is killed: {}", made.error().message);
    }
  }
  const std::uint64_t losses = losses_ + (may_have_lost_ ? 1 : 0);
  if ((token != tail_token_ || may_have_lost_) && !planted(Fault::tail_not_ended)) {
    VSNAP_TRY(db_->write([&](SQLite::Database& db) -> Result<> {
      catalog::set_value(db, "tail", token);
      if (may_have_lost_) catalog::set_value(db, "losses", losses);
      return {};
    }));
  }
  tail_token_ = token;
  losses_ = losses;
  may_have_lost_ = false;
  tail_ = std::move(tail);
  if (tail_) log_->move_to(tail_->slots(), tail_->last(), tail_->committed());
  return {};
}

// The catalog has everything. Where that cannot be told, the next process takes something for lost.
void Engine::end_tail() {
  if (tail_token_ != 0) {
    const auto stored = db_->write([](SQLite::Database& db) -> Result<> {
      catalog::set_value(db, "tail", 0);
      return {};
    });
    if (!stored) log::debug("the tail's end: {}", stored.error().message);
  }
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
  const auto run = allocator_.allocate_segment(BlockCount(budget::kMinJournalBlocks),
                                               BlockCount(budget::journal_blocks(pool_blocks_)));
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

Result<> Engine::upgrade_catalog() {
  return db_->write([](SQLite::Database& db) -> Result<> {
    if (db.execAndGet("PRAGMA user_version").getInt() >= schema::kVersion) return {};
    db.exec(schema::kAddedIn2);
    db.exec(fmt::format("PRAGMA user_version={}", schema::kVersion));
    return {};
  });
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

} // namespace vsnap
