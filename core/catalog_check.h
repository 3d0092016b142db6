// Holds the rows of a catalog against each other and against the members' layout: what check finds beyond
// superblocks and SQLite's own integrity.
//
// Invariants
// 1. The catalog stands still meanwhile: it is a copy, or that of a pool nobody uses.
// 2. Nothing is made worse: while a row cannot be read, no space is given back.
// Threads: one; run() and repair() inside bodies of Database::read() and write().
#pragma once

#include <SQLiteCpp/SQLiteCpp.h>

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/allocator.h"
#include "core/description.h"
#include "core/error.h"
#include "core/extent_index.h"
#include "core/granted_rows.h"
#include "core/hold.h"
#include "core/objects.h"
#include "core/superblock.h"

namespace vsnap {

class CatalogCheck {
 public:
  CatalogCheck(SQLite::Database& db, Superblock layout, CheckReport& report);

  Result<> run(const Progress& progress);
  // Rewrites what can be mended without loss, as run() found it.
  void repair();
  // What was found beyond the longest list, in one line. At the end.
  void close();

 private:
  // Who owns each block: one bit a block of each member.
  class Ownership {
   public:
    explicit Ownership(const Superblock& layout);
    bool claim(PlaceRun run); // false: outside the members, or one of the blocks was owned already
    [[nodiscard]] bool owned(std::uint32_t member, std::uint64_t block) const;
    [[nodiscard]] std::uint64_t blocks(std::uint32_t member) const { return owned_[member].size(); }

   private:
    std::vector<std::vector<bool>> owned_;
  };
  struct RegionRows { // those of one branch in one region, as far as they can be read
    BranchId branch;
    RegionIndex index;
    std::vector<ExtentRow> rows;
  };
  struct Wrong { // blocks
    std::uint64_t leaked = 0;
    std::uint64_t unrecorded = 0;
  };
  using Counts = std::map<std::uint64_t, std::int64_t>; // mapped blocks as of each number that somebody sees

  void find(std::string what, bool repairable = false);
  Result<> check_extents(const Progress& progress);
  void check_region(const RegionRows& region);
  void check_space();
  bool compare_group(SpaceGroup& expected, const SpaceGroup* stored, Wrong& wrong);
  Result<> check_objects();
  Counts count_mapped(const Branch& branch, const std::map<BranchId, Counts>& done);
  void compare_counts(const std::map<BranchId, Counts>& counts);
  void check_levels();
  void check_properties();
  void check_holds();
  void check_hosts();
  void check_delegations();
  void check_granted(const std::set<std::uint64_t>& delegations);

  SQLite::Database& db_;
  const Superblock layout_;
  CheckReport& report_;
  Objects objects_;
  ExtentIndex index_;
  Ownership ownership_;
  std::set<BranchId> sweeps_;  // being swept
  std::set<BranchId> unknown_; // have rows and do not exist
  bool readable_ = true;       // every row so far
  std::uint64_t more_ = 0;
  std::uint64_t more_repairable_ = 0;
  bool repaired_ = false;
  // For repair()
  std::vector<SpaceGroup> right_space_;
  std::vector<std::pair<std::uint32_t, std::uint64_t>> no_space_; // member, part: rows to be deleted
  std::optional<std::uint64_t> right_row_count_;
  std::map<BranchId, std::int64_t> right_mapped_;
  std::map<ObjectId, std::uint64_t> right_snapshot_mapped_;
  std::vector<ObjectId> wrong_levels_;               // rows to be deleted
  std::vector<property_rows::Row> wrong_properties_; // rows to be deleted
  std::vector<hold_rows::Row> wrong_holds_;
  std::vector<std::string> removals_of_hosts_;
  std::vector<std::uint64_t> wrong_delegations_; // their numbers
  std::vector<granted_rows::Row> wrong_grants_;
};

} // namespace vsnap
