// The copy that a branch gets of everything it sees through its parent: what makes a snapshot full-sized. As
// a plain value beside the branch in memory, and as a row of the table `copy` in the catalog.
//
// Invariants
// 1. A branch with an unfinished copy has a parent, and a sweep that is held: copies may come to lie under
//    newer rows once a volume writes to it. Of a finished one the branch has no parent any more; its row
//    stays as long as the snapshot does, and says that this one is full-sized.
// 2. Of the blocks below `next` every one that is seen through the parent alone is unmapped there.
// Threads: as the branch that it belongs to (under the mutex of Objects); statements inside a body of
// Database::read() or write().
#pragma once

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/units.h"

namespace vsnap {

struct FullCopy {
  std::optional<ObjectId> snapshot;              // that is full-sized by it; nullopt: it was split off since
  std::optional<BlockIndex> next{BlockIndex(0)}; // done below it; nullopt: finished
  std::uint64_t copied_blocks = 0;
  std::uint64_t total_blocks = 0;     // at most; not in the catalog, which has it with the view
  std::vector<std::uint32_t> members; // that the copies may lie on; none: any
  std::uint64_t bytes_per_second = 0; // at most; 0: no limit
  bool paused = false;                // on request

  // In memory alone
  std::uint64_t line = 0;         // the source is complete in the catalog from this record on
  std::string trouble;            // why it does not get on at present: "no space"; empty: it does
  std::int64_t not_before_ns = 0; // monotonic: the next step

  [[nodiscard]] bool finished() const { return !next; }
};

// "copying 43 %", "copying 43 %, paused", "copying 43 %, paused: no space"; empty: it is finished.
[[nodiscard]] std::string state_of(const FullCopy& copy);

namespace catalog {

struct StoredCopy {
  BranchId branch;
  FullCopy copy;
};
// All rows; none where the catalog is of before there was the table.
[[nodiscard]] std::vector<StoredCopy> load_copies(SQLite::Database& db);
void store_copy(SQLite::Database& db, BranchId branch, const FullCopy& copy); // new or changed
void erase_copy(SQLite::Database& db, BranchId branch);

} // namespace catalog
} // namespace vsnap
