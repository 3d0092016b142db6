// The extent index: all statements on the tables extent, space and sweep, but for those that make them.
//
//   extent(branch, start, born -> count, kind, member, physical)
//
// A view is (branch, number): for each block the newest row with born <= number counts; where there is none,
// the block of the image if the branch is that of an adopted volume, or the parent's view; where there is
// none, zeros. Nothing is ever copied to make a view.
//
// Invariants
// 1. Rows do not cross a region. Rows of one branch and one `born` do not overlap; nor, once the branch is
//    swept, do rows born after the floor.
// 2. No two rows name the same block of a member. Rows that name a block of an image are those of its own
//    branch, at the block's own number, newest versions all of them: nothing else is kept there. A row of
//    kind `reserved` at Place::zeros() says that its blocks were found to hold zeros, and names none.
// 3. The space table has exactly the blocks that rows name, in every committed state.
// 4. The value "extents" of the table pool is the number of rows, in every committed state; a catalog without
//    it gets it with the next change.
// 5. A row that contradicts itself, or names what the pool does not have, is damage: reading it throws
//    SQLITE_CORRUPT, which Database makes an error of kind damaged. Only scan() goes past it.
// Threads: only inside a body of Database::read() or write() of its own database.
#pragma once

#include <SQLiteCpp/SQLiteCpp.h>

#include <array>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <vector>

#include "core/allocator.h"
#include "core/branch.h"
#include "core/map_change.h"
#include "core/region.h"

namespace vsnap {

struct ExtentRow {
  BlockIndex start;
  std::uint64_t born = 0;
  BlockCount count;
  BlockKind kind = BlockKind::data;
  Place place;
  [[nodiscard]] BlockIndex end() const { return start + count; }
  [[nodiscard]] ExtentRow part(BlockIndex from, BlockIndex to) const {
    return {from, born, to - from, kind, kind == BlockKind::hole ? place : place + (from - start)};
  }
};

class ExtentIndex {
 public:
  // `member_blocks`: sizes of the members, in order.
  ExtentIndex(SQLite::Database& db, std::vector<std::uint64_t> member_blocks);
  ~ExtentIndex();
  ExtentIndex(const ExtentIndex&) = delete;
  ExtentIndex& operator=(const ExtentIndex&) = delete;
  void add_member(std::uint64_t blocks) { member_blocks_.push_back(blocks); }

  // Fills the map of a region as seen at `number` of `branch`; `head_floor`: of a head, rows born after it
  // are its own.
  void load_region(const Branch& branch, Version number, std::optional<std::int64_t> head_floor,
                   Region& region);
  // Rows of one branch in one region, by start and born; no more than `limit`.
  static constexpr std::size_t kAll = static_cast<std::size_t>(std::numeric_limits<std::int64_t>::max());
  std::vector<ExtentRow> rows(BranchId branch, RegionIndex region, std::size_t limit = kAll);
  // The first region >= `from` in which the branch has a row.
  std::optional<RegionIndex> next_region(BranchId branch, RegionIndex from);
  // The same, or one that an adopted volume has in its image.
  std::optional<RegionIndex> next_mapped_region(const Branch& branch, RegionIndex from);
  std::uint64_t count_rows();
  // Every row by branch, start and born, also a damaged one: `problem` says what is wrong with it, nullptr:
  // nothing. Ends early where `each` returns false.
  void scan(const std::function<bool(BranchId branch, const ExtentRow& row, const char* problem)>& each);

  // Writes one net change of a head. Places that nobody owns any more are added to `freed`, as by give_up();
  // places that the catalog did not name before are added to `added`.
  void apply(const MapChange& change, Allocator& allocator, std::vector<PlaceRun>& freed,
             std::vector<PlaceRun>* added = nullptr);
  // The same for changes that save, all of one branch, version and region: see extent_copy_out.cpp. Places
  // that turn out not to be needed are added to `unused`; no row ever named them.
  struct CopiedOut {
    std::vector<PlaceRun> added, unused;
  };
  void apply_copy_outs(std::span<const MapChange> changes, std::uint32_t base_member, Allocator& allocator,
                       CopiedOut& places);
  void insert(BranchId branch, const ExtentRow& row);
  void remove(BranchId branch, const ExtentRow& row);
  void remove_all(BranchId branch, RegionIndex region);
  // The places of a row that goes: out of the allocator's durable map and into `freed`.
  static void give_up(PlaceRun run, Allocator& allocator, std::vector<PlaceRun>& freed);

  // What every transaction that changes rows ends with: the parts of the space table that changed, and the
  // number of rows.
  void store_space(const std::vector<SpaceGroup>& groups);
  void set_row_count(std::uint64_t rows);
  void load_space(const std::function<void(const SpaceGroup&)>& each);
  void delete_space(std::uint32_t member, std::uint64_t group);

  // Until its sweep has ended, dead rows of a branch may lie under newer ones, also above the floor.
  void start_sweep(BranchId branch);
  void set_sweep(BranchId branch, BlockIndex next);
  void end_sweep(BranchId branch);
  // The first that is not held, of branches after `after`.
  std::optional<std::pair<BranchId, BlockIndex>> first_sweep(BranchId after = BranchId(0));
  [[nodiscard]] std::vector<BranchId> sweeps();
  // Rows that sweeps still have to look at, and one for each sweep.
  std::uint64_t count_rows_to_sweep();
  // A held sweep waits: while a flatten puts rows under those of the head.
  void hold_sweep(BranchId branch, bool hold);

 private:
  SQLite::Statement& prepared(std::unique_ptr<SQLite::Statement>& slot, const char* sql);
  [[nodiscard]] const char* problem_of(const ExtentRow& row, std::int64_t member,
                                       std::int64_t physical) const;
  const char* decode(SQLite::Statement& s, int first, ExtentRow& row) const;
  ExtentRow row_of(SQLite::Statement& s) const;
  SQLite::Statement& rows_before(BranchId branch, BlockIndex end); // in its region, from right to left
  void note_rows(std::int64_t change);
  void store_row_count();
  void cut_own_rows(const MapChange& change, Allocator& allocator, std::vector<PlaceRun>& freed,
                    std::vector<PlaceRun>& kept);
  std::optional<ExtentRow> row_to_extend(const MapChange& change);
  bool extend_left(const MapChange& change);
  void remember(BranchId branch, const ExtentRow& row);
  [[nodiscard]] bool unswept(BranchId branch);

  SQLite::Database& db_;
  std::vector<std::uint64_t> member_blocks_;
  std::set<BranchId> held_;
  std::int64_t rows_change_ = 0; // in the transaction under way
  bool hears_rollback_ = false;
  // Rows that apply() wrote lately, by branch and end: what the next change may continue, so that it need not
  // be looked for. A hint: since then a row may have been changed, or its transaction undone.
  struct RowEnd {
    BranchId branch;
    BlockIndex end;
    bool operator==(const RowEnd&) const = default;
  };
  struct RowEndHash {
    std::size_t operator()(const RowEnd& e) const {
      return static_cast<std::size_t>(e.end.value() * 0x9E3779B97F4A7C15ULL ^ e.branch.value() << 32);
    }
  };
  std::unordered_map<RowEnd, ExtentRow, RowEndHash> row_ends_;
  std::unique_ptr<SQLite::Statement> region_rows_, view_rows_, next_row_, before_, insert_, delete_,
      delete_all_, grow_, space_store_, count_store_, first_sweep_, set_sweep_, end_sweep_, unswept_;
};

} // namespace vsnap
