#include "core/extent_index.h"

#include <fmt/format.h>
#include <sqlite3.h>
#include <algorithm>
#include <array>
#include <cstring>

#include "core/assert.h"
#include "core/format.h"

namespace vsnap {
namespace {

// A statement left in the middle keeps its read transaction open, and the WAL could never start anew.
class Run {
 public:
  explicit Run(SQLite::Statement& s) : s_(s) {}
  ~Run() { s_.tryReset(); }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;
  bool step() { return s_.executeStep(); }
  [[nodiscard]] SQLite::Column column(int i) { return s_.getColumn(i); }
  SQLite::Statement& statement() { return s_; }

 private:
  SQLite::Statement& s_;
};

std::uint64_t unsigned_column(SQLite::Statement& s, int i) {
  return static_cast<std::uint64_t>(s.getColumn(i).getInt64());
}

constexpr int kCorrupt = 11;                      // SQLITE_CORRUPT
constexpr std::size_t kRememberedRows = 1U << 15; // 3 MiB
constexpr std::uint64_t kMaxBlocks = blocks_for(kMaxVolumeBytes).value();

bool has_place(BlockKind kind) { return kind != BlockKind::hole; }
bool takes_space(const ExtentRow& row) { return has_place(row.kind) && row.place.in_pool(); }

// The member and the block there; both NULL where the kind has no place.
void bind_place(SQLite::Statement& s, int first, BlockKind kind, Place place) {
  if (has_place(kind)) {
    s.bind(first, place.member());
    s.bind(first + 1, static_cast<std::int64_t>(place.block()));
  } else {
    s.bind(first);
    s.bind(first + 1);
  }
}

} // namespace

ExtentIndex::ExtentIndex(SQLite::Database& db, std::vector<std::uint64_t> member_blocks)
    : db_(db), member_blocks_(std::move(member_blocks)) {}

ExtentIndex::~ExtentIndex() {
  if (hears_rollback_) sqlite3_rollback_hook(db_.getHandle(), nullptr, nullptr);
}

SQLite::Statement& ExtentIndex::prepared(std::unique_ptr<SQLite::Statement>& slot, const char* sql) {
  if (!slot) slot = std::make_unique<SQLite::Statement>(db_, sql);
  return *slot;
}

const char* ExtentIndex::problem_of(const ExtentRow& row, std::int64_t member, std::int64_t physical) const {
  if (row.kind < BlockKind::data || row.kind > BlockKind::hole) return "its kind is unknown";
  if (row.count.value() == 0 || row.count.value() > kRegionBlocks - row.start.value() % kRegionBlocks)
    return "its length is impossible";
  if (row.start.value() >= kMaxBlocks || static_cast<std::int64_t>(row.born) < 0) return "it is out of range";
  if (!has_place(row.kind)) return nullptr;
  if (member >= Place::kFirstBase && member < Place::kFirstBase + Place::kMaxBases)
    return static_cast<std::uint64_t>(physical) == row.start.value() ? nullptr : "lies outside its image";
  if (member == Place::kZeros) {
    const bool own_number = static_cast<std::uint64_t>(physical) == row.start.value();
    return own_number && row.kind == BlockKind::reserved ? nullptr : "lies nowhere, and is not zeros";
  }
  if (member < 0 || static_cast<std::uint64_t>(member) >= member_blocks_.size() ||
      physical < static_cast<std::int64_t>(format::kHeaderBlocks)) {
    return "lies outside the members";
  }
  const std::uint64_t blocks = member_blocks_[static_cast<std::size_t>(member)];
  const auto first = static_cast<std::uint64_t>(physical);
  return first < blocks && row.count.value() <= blocks - first ? nullptr : "lies outside the members";
}

ExtentRow ExtentIndex::row_of(SQLite::Statement& s) const {
  ExtentRow row;
  const char* const problem = decode(s, 0, row);
  if (problem != nullptr) throw SQLite::Exception(fmt::format("extent row: {}", problem), kCorrupt);
  return row;
}

// Columns from `first` on: start, born, count, kind, member, physical. The place is set only where it exists.
const char* ExtentIndex::decode(SQLite::Statement& s, int first, ExtentRow& row) const {
  row.start = BlockIndex(unsigned_column(s, first));
  row.born = unsigned_column(s, first + 1);
  row.count = BlockCount(unsigned_column(s, first + 2));
  const std::int64_t kind = s.getColumn(first + 3).getInt64();
  row.kind = kind < 0 || kind > 3 ? BlockKind::none : static_cast<BlockKind>(kind);
  const std::int64_t member = s.getColumn(first + 4).getInt64();
  const std::int64_t physical = s.getColumn(first + 5).getInt64();
  const char* const problem = problem_of(row, member, physical);
  if (problem == nullptr && has_place(row.kind))
    row.place = Place(static_cast<std::uint32_t>(member), static_cast<std::uint64_t>(physical));
  return problem;
}

void ExtentIndex::load_region(const Branch& branch, Version number, std::optional<std::int64_t> head_floor,
                              Region& region) {
  // Blocks still to be found, and of those that were found in this link the age of what was found.
  thread_local std::array<std::int64_t, kRegionBlocks> born;
  thread_local std::array<bool, kRegionBlocks> settled;
  thread_local std::array<Entry, kRegionBlocks> found;
  settled.fill(false);
  found.fill(Entry());
  std::uint64_t open = kRegionBlocks;
  const std::uint64_t base = first_block(region.index()).value();
  std::uint64_t seen_number = number.value();
  for (const Branch* link = &branch; link != nullptr && open > 0; link = link->seen_parent()) {
    born.fill(-1);
    auto& s = prepared(view_rows_,
                       "SELECT start, born, count, kind, member, physical FROM extent "
                       "WHERE branch = ? AND start >= ? AND start < ? AND born <= ? ORDER BY start, born");
    s.bind(1, link->id.sql());
    s.bind(2, static_cast<std::int64_t>(base));
    s.bind(3, static_cast<std::int64_t>(base + kRegionBlocks));
    s.bind(4, static_cast<std::int64_t>(seen_number));
    Run run(s);
    while (run.step()) {
      const ExtentRow row = row_of(s);
      if (row.place.is_base() && !link->adopted()) continue; // the image was given back
      const bool own = link == &branch && head_floor && static_cast<std::int64_t>(row.born) > *head_floor;
      for (std::uint64_t i = 0; i < row.count.value(); ++i) {
        const std::uint64_t block = row.start.value() - base + i;
        if (settled[block] || static_cast<std::int64_t>(row.born) < born[block]) continue;
        if (born[block] < 0) --open;
        born[block] = static_cast<std::int64_t>(row.born);
        found[block] = Entry(row.kind, has_place(row.kind) ? row.place + BlockCount(i) : Place(), own);
      }
    }
    const bool own = link == &branch && head_floor && *head_floor < 0;
    for (std::uint64_t block = 0; block < kRegionBlocks; ++block) {
      if (settled[block]) continue;
      if (born[block] < 0 && link->covers(BlockIndex(base + block))) {
        found[block] = Entry(BlockKind::data, link->identity(BlockIndex(base + block)), own);
        born[block] = 0;
        --open;
      }
      settled[block] = born[block] >= 0;
    }
    seen_number = link->parent_number.value();
  }
  region.load(found);
}

std::vector<ExtentRow> ExtentIndex::rows(BranchId branch, RegionIndex region, std::size_t limit) {
  auto& s = prepared(region_rows_,
                     "SELECT start, born, count, kind, member, physical FROM extent "
                     "WHERE branch = ? AND start >= ? AND start < ? ORDER BY start, born LIMIT ?");
  s.bind(1, branch.sql());
  s.bind(2, first_block(region).sql());
  s.bind(3, first_block(region).sql() + static_cast<std::int64_t>(kRegionBlocks));
  s.bind(4, static_cast<std::int64_t>(limit));
  Run run(s);
  std::vector<ExtentRow> rows;
  while (run.step()) rows.push_back(row_of(s));
  return rows;
}

std::optional<RegionIndex> ExtentIndex::next_region(BranchId branch, RegionIndex from) {
  auto& s =
      prepared(next_row_, "SELECT start FROM extent WHERE branch = ? AND start >= ? ORDER BY start LIMIT 1");
  s.bind(1, branch.sql());
  s.bind(2, first_block(from).sql());
  Run run(s);
  if (!run.step()) return std::nullopt;
  const BlockIndex start(unsigned_column(s, 0));
  if (start.value() >= kMaxBlocks) throw SQLite::Exception("extent row: it is out of range", kCorrupt);
  return region_of(start);
}

std::optional<RegionIndex> ExtentIndex::next_mapped_region(const Branch& branch, RegionIndex from) {
  if (branch.covers(first_block(from))) return from;
  return next_region(branch.id, from);
}

std::uint64_t ExtentIndex::count_rows() {
  return static_cast<std::uint64_t>(
      db_.execAndGet("SELECT coalesce((SELECT value FROM pool WHERE key = 'extents'), "
                     "(SELECT count(*) FROM extent))")
          .getInt64());
}

void ExtentIndex::note_rows(std::int64_t change) {
  rows_change_ += change;
  if (hears_rollback_) return;
  // Not before: a check has an index of its own on the same connection, which has one hook.
  sqlite3_rollback_hook(
      db_.getHandle(), [](void* index) { static_cast<ExtentIndex*>(index)->rows_change_ = 0; }, this);
  hears_rollback_ = true;
}

void ExtentIndex::store_row_count() {
  if (rows_change_ == 0) return;
  auto& s = prepared(count_store_, "UPDATE pool SET value = value + ? WHERE key = 'extents'");
  s.bind(1, rows_change_);
  Run(s).step();
  if (db_.getChanges() == 0) db_.exec("INSERT INTO pool(key, value) SELECT 'extents', count(*) FROM extent");
  rows_change_ = 0;
}

void ExtentIndex::set_row_count(std::uint64_t rows) {
  SQLite::Statement s(db_, "INSERT OR REPLACE INTO pool(key, value) VALUES('extents', ?)");
  s.bind(1, static_cast<std::int64_t>(rows));
  s.exec();
}

void ExtentIndex::scan(const std::function<bool(BranchId, const ExtentRow&, const char*)>& each) {
  SQLite::Statement s(db_,
                      "SELECT branch, start, born, count, kind, member, physical FROM extent "
                      "ORDER BY branch, start, born");
  while (s.executeStep()) {
    ExtentRow row;
    const char* const problem = decode(s, 1, row);
    if (!each(BranchId(unsigned_column(s, 0)), row, problem)) return;
  }
}

void ExtentIndex::insert(BranchId branch, const ExtentRow& row) {
  VSNAP_ASSERT(row.count.value() > 0 &&
               row.start.value() % kRegionBlocks + row.count.value() <= kRegionBlocks);
  auto& s = prepared(
      insert_,
      "INSERT INTO extent(branch, start, born, count, kind, member, physical) VALUES(?,?,?,?,?,?,?)");
  s.bind(1, branch.sql());
  s.bind(2, row.start.sql());
  s.bind(3, static_cast<std::int64_t>(row.born));
  s.bind(4, row.count.sql());
  s.bind(5, static_cast<int>(row.kind));
  bind_place(s, 6, row.kind, row.place);
  Run(s).step();
  note_rows(1);
}

void ExtentIndex::remove(BranchId branch, const ExtentRow& row) {
  auto& s = prepared(delete_, "DELETE FROM extent WHERE branch = ? AND start = ? AND born = ?");
  s.bind(1, branch.sql());
  s.bind(2, row.start.sql());
  s.bind(3, static_cast<std::int64_t>(row.born));
  Run(s).step();
  note_rows(-1);
}

void ExtentIndex::remove_all(BranchId branch, RegionIndex region) {
  auto& s = prepared(delete_all_, "DELETE FROM extent WHERE branch = ? AND start >= ? AND start < ?");
  s.bind(1, branch.sql());
  s.bind(2, first_block(region).sql());
  s.bind(3, first_block(region).sql() + static_cast<std::int64_t>(kRegionBlocks));
  Run(s).step();
  note_rows(-db_.getChanges());
}

void ExtentIndex::cut_own_rows(const MapChange& change, Allocator& allocator, std::vector<PlaceRun>& freed,
                               std::vector<PlaceRun>& kept) {
  const BlockIndex end = change.start + change.count;
  std::vector<ExtentRow> overlapping;
  {
    const bool overlapping_rows = unswept(change.branch);
    auto& s = rows_before(change.branch, end);
    Run run(s);
    while (run.step()) {
      const ExtentRow row = row_of(s);
      if (static_cast<std::int64_t>(row.born) <= change.floor) continue;
      if (row.place.is_base()) continue; // of an image that was given back; goes with the sweep
      if (row.end() <= change.start) {
        if (overlapping_rows) continue;
        break; // own rows do not overlap: none further left can reach here
      }
      overlapping.push_back(row);
    }
  }
  for (const ExtentRow& row : overlapping) {
    remove(change.branch, row);
    const BlockIndex from = std::max(row.start, change.start);
    const BlockIndex to = std::min(row.end(), end);
    if (row.start < from) insert(change.branch, row.part(row.start, from));
    if (to < row.end()) insert(change.branch, row.part(to, row.end()));
    if (!takes_space(row)) continue;
    const PlaceRun run{row.place + (from - row.start), to - from};
    if (has_place(change.kind) && run.start == change.place + (from - change.start)) {
      kept.push_back(run);
    } else {
      give_up(run, allocator, freed);
    }
  }
}

SQLite::Statement& ExtentIndex::rows_before(BranchId branch, BlockIndex end) {
  auto& s = prepared(before_,
                     "SELECT start, born, count, kind, member, physical FROM extent "
                     "WHERE branch = ? AND start >= ? AND start < ? ORDER BY start DESC, born DESC");
  s.bind(1, branch.sql());
  s.bind(2, first_block(region_of(BlockIndex(end.value() - 1))).sql());
  s.bind(3, end.sql());
  return s;
}

void ExtentIndex::give_up(PlaceRun run, Allocator& allocator, std::vector<PlaceRun>& freed) {
  for (std::uint64_t i = 0; i < run.count.value(); ++i) {
    if (!allocator.is_durable(run.start + BlockCount(i)))
      throw SQLite::Exception("extent row: its blocks count as free", kCorrupt);
  }
  allocator.set_durable(run, false);
  freed.push_back(run);
}

// The row that ends where the change starts, if it is of the same age and its places lie just before.
std::optional<ExtentRow> ExtentIndex::row_to_extend(const MapChange& change) {
  if (!change.may_join || change.start.value() % kRegionBlocks == 0) return std::nullopt;
  ExtentRow left;
  if (const auto known = row_ends_.find({change.branch, change.start}); known != row_ends_.end()) {
    left = known->second;
    row_ends_.erase(known);
  } else {
    auto& s = rows_before(change.branch, change.start);
    Run run(s);
    if (!run.step()) return std::nullopt;
    left = row_of(s);
  }
  if (left.end() != change.start || left.born != change.born.value() || left.kind != change.kind)
    return std::nullopt;
  if (has_place(change.kind) && left.place + left.count != change.place) return std::nullopt;
  return left;
}

// Makes that row longer. The row may be one that was remembered and is another by now, or gone: then it is
// left as it is, and the change gets a row of its own.
bool ExtentIndex::extend_left(const MapChange& change) {
  const auto left = row_to_extend(change);
  if (!left) return false;
  auto& s = prepared(grow_,
                     "UPDATE extent SET count = ? WHERE branch = ? AND start = ? AND born = ? AND count = ? "
                     "AND kind = ? AND member IS ? AND physical IS ?");
  ExtentRow grown = *left;
  grown.count = left->count + change.count;
  s.bind(1, grown.count.sql());
  s.bind(2, change.branch.sql());
  s.bind(3, left->start.sql());
  s.bind(4, static_cast<std::int64_t>(left->born));
  s.bind(5, left->count.sql());
  s.bind(6, static_cast<int>(left->kind));
  bind_place(s, 7, left->kind, left->place);
  Run(s).step();
  if (s.getChanges() == 0) return false;
  remember(change.branch, grown);
  return true;
}

void ExtentIndex::remember(BranchId branch, const ExtentRow& row) {
  if (row_ends_.size() >= kRememberedRows) row_ends_.clear();
  row_ends_[{branch, row.end()}] = row;
}

void ExtentIndex::apply(const MapChange& change, Allocator& allocator, std::vector<PlaceRun>& freed,
                        std::vector<PlaceRun>* added) {
  std::vector<PlaceRun> kept; // places of the change that a row named already
  if (!change.fresh) cut_own_rows(change, allocator, freed, kept);
  if (change.kind == BlockKind::hole && !change.keep_hole) return;
  if (!extend_left(change)) {
    const ExtentRow row{change.start, change.born.value(), change.count, change.kind, change.place};
    insert(change.branch, row);
    remember(change.branch, row);
  }
  if (!has_place(change.kind)) return;
  std::sort(kept.begin(), kept.end(), [](const PlaceRun& a, const PlaceRun& b) { return a.start < b.start; });
  Place at = change.place;
  const Place end = change.place + change.count;
  const auto claim = [&](Place from, Place to) {
    if (!(from < to)) return;
    const PlaceRun run{from, BlockCount(to.block() - from.block())};
    allocator.set_durable(run, true);
    if (added != nullptr) added->push_back(run);
  };
  for (const PlaceRun& run : kept) {
    claim(at, run.start);
    at = run.start + run.count;
  }
  claim(at, end);
}

void ExtentIndex::store_space(const std::vector<SpaceGroup>& groups) {
  auto& s = prepared(space_store_,
                     "INSERT INTO space(member, part, bitmap) VALUES(?,?,?) "
                     "ON CONFLICT(member, part) DO UPDATE SET bitmap = excluded.bitmap");
  for (const SpaceGroup& group : groups) {
    s.bind(1, group.member);
    s.bind(2, static_cast<std::int64_t>(group.group));
    s.bindNoCopy(3, group.bitmap.data(), static_cast<int>(group.bitmap.size()));
    Run(s).step();
  }
  store_row_count();
}

void ExtentIndex::load_space(const std::function<void(const SpaceGroup&)>& each) {
  SQLite::Statement s(db_, "SELECT member, part, bitmap FROM space");
  while (s.executeStep()) {
    const SQLite::Column blob = s.getColumn(2);
    SpaceGroup group{s.getColumn(0).getUInt(), unsigned_column(s, 1), {}};
    group.bitmap.resize(static_cast<std::size_t>(blob.getBytes()));
    if (!group.bitmap.empty()) std::memcpy(group.bitmap.data(), blob.getBlob(), group.bitmap.size());
    each(group);
  }
}

void ExtentIndex::delete_space(std::uint32_t member, std::uint64_t group) {
  SQLite::Statement s(db_, "DELETE FROM space WHERE member = ? AND part = ?");
  s.bind(1, member);
  s.bind(2, static_cast<std::int64_t>(group));
  s.exec();
}

void ExtentIndex::start_sweep(BranchId branch) { set_sweep(branch, BlockIndex(0)); }

void ExtentIndex::set_sweep(BranchId branch, BlockIndex next) {
  auto& s = prepared(
      set_sweep_,
      "INSERT INTO sweep(branch, next) VALUES(?,?) ON CONFLICT(branch) DO UPDATE SET next = excluded.next");
  s.bind(1, branch.sql());
  s.bind(2, next.sql());
  Run(s).step();
}

void ExtentIndex::end_sweep(BranchId branch) {
  auto& s = prepared(end_sweep_, "DELETE FROM sweep WHERE branch = ?");
  s.bind(1, branch.sql());
  Run(s).step();
}

std::optional<std::pair<BranchId, BlockIndex>> ExtentIndex::first_sweep(BranchId after) {
  auto& s = prepared(first_sweep_, "SELECT branch, next FROM sweep WHERE branch > ? ORDER BY branch");
  s.bind(1, after.sql());
  Run run(s);
  while (run.step()) {
    const BranchId branch(unsigned_column(s, 0));
    if (!held_.contains(branch)) return std::pair(branch, BlockIndex(unsigned_column(s, 1)));
  }
  return std::nullopt;
}

std::vector<BranchId> ExtentIndex::sweeps() {
  SQLite::Statement s(db_, "SELECT branch FROM sweep ORDER BY branch");
  std::vector<BranchId> branches;
  while (s.executeStep()) branches.emplace_back(unsigned_column(s, 0));
  return branches;
}

std::uint64_t ExtentIndex::count_rows_to_sweep() {
  return static_cast<std::uint64_t>(
      db_.execAndGet("SELECT coalesce(sum((SELECT count(*) FROM extent WHERE extent.branch = sweep.branch "
                     "AND start >= next) + 1), 0) FROM sweep")
          .getInt64());
}

void ExtentIndex::hold_sweep(BranchId branch, bool hold) {
  if (hold)
    held_.insert(branch);
  else
    held_.erase(branch);
}

bool ExtentIndex::unswept(BranchId branch) {
  auto& s = prepared(unswept_, "SELECT 1 FROM sweep WHERE branch = ?");
  s.bind(1, branch.sql());
  return Run(s).step();
}

} // namespace vsnap
