// The extent index: all statements on the tables extent, space and sweep.
//
//   extent(branch, start, born -> count, kind, member, physical)
//
// A view is (branch, number): for each block the newest row with born <= number counts; where there is none,
// the parent's view; where there is none, zeros. Nothing is ever copied to make a view.
//
// Invariants
// 1. Rows do not cross a region. Rows of one branch and one `born` do not overlap; nor, once the branch is
//    swept, do rows born after the floor.
// 2. No two rows name the same block of a member.
// 3. The space table has exactly the blocks that rows name, in every committed state.
// Threads: only inside a body of Database::read() or write() of its own database.
#pragma once

#include <SQLiteCpp/SQLiteCpp.h>

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "core/allocator.h"
#include "core/branch.h"
#include "core/change_log.h"
#include "core/region.h"

namespace vsnap {

struct ExtentRow {
  BlockIndex start;
  std::uint64_t born = 0;
  BlockCount count;
  BlockKind kind = BlockKind::data;
  Place place;
  [[nodiscard]] BlockIndex end() const { return start + count; }
};

class ExtentIndex {
 public:
  explicit ExtentIndex(SQLite::Database& db);

  // Fills the map of a region as seen at `number` of `branch`; `head_floor`: of a head, rows born after it
  // are its own.
  void load_region(const Branch& branch, Version number, std::optional<std::int64_t> head_floor,
                   Region& region);
  // Rows of one branch in one region, by start and born.
  std::vector<ExtentRow> rows(BranchId branch, RegionIndex region);
  // The first region >= `from` in which the branch has a row.
  std::optional<RegionIndex> next_region(BranchId branch, RegionIndex from);
  [[nodiscard]] bool has_rows(BranchId branch);
  std::uint64_t count_rows();
  std::uint64_t count_rows(BranchId branch);

  // Writes one net change of a head. Places that nobody owns any more are added to `freed`; they are already
  // out of the allocator's durable map.
  // Places that the catalog did not name before are added to `added`.
  void apply(const MapChange& change, Allocator& allocator, std::vector<PlaceRun>& freed,
             std::vector<PlaceRun>* added = nullptr);
  void insert(BranchId branch, const ExtentRow& row);
  void remove(BranchId branch, const ExtentRow& row);

  void store_space(const std::vector<SpaceGroup>& groups);
  void load_space(const std::function<void(const SpaceGroup&)>& each);

  // Until its sweep has ended, dead rows of a branch may lie under newer ones, also above the floor.
  void start_sweep(BranchId branch);
  void set_sweep(BranchId branch, BlockIndex next);
  void end_sweep(BranchId branch);
  std::optional<std::pair<BranchId, BlockIndex>> first_sweep();
  // The same state as during a sweep, without one: while a flatten puts rows under those of the head.
  void hold_unswept(BranchId branch, bool hold);

 private:
  SQLite::Statement& prepared(std::unique_ptr<SQLite::Statement>& slot, const char* sql);
  static ExtentRow row_of(SQLite::Statement& s);
  void cut_own_rows(const MapChange& change, Allocator& allocator, std::vector<PlaceRun>& freed,
                    std::vector<PlaceRun>& kept);
  bool extend_left(const MapChange& change);
  [[nodiscard]] bool unswept(BranchId branch) const {
    return sweeps_.contains(branch) || holds_.contains(branch);
  }

  SQLite::Database& db_;
  std::set<BranchId> sweeps_; // branches in the table sweep (or more, after a rollback)
  std::set<BranchId> holds_;
  std::unique_ptr<SQLite::Statement> region_rows_, view_rows_, next_row_, before_, insert_, delete_, grow_,
      space_store_;
};

} // namespace vsnap
