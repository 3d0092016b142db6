// Space that was granted with delegations (core/granted_space.h) as rows of the table `granted`.
//
// Invariants
// 1. The rows of a delegation have, in every committed state, all places that are left of what its host was
//    granted. They may have more: places that were committed since. So of a row those places count that
//    nothing else names: no row of the extent index, no record, no segment of metadata.
// 2. No two rows have a place in common.
// Threads: only inside a body of Database::read() or write().
#pragma once

#include <SQLiteCpp/SQLiteCpp.h>

#include <optional>
#include <set>
#include <span>
#include <vector>

#include "core/units.h"

namespace vsnap::granted_rows {

struct Row { // as it is, also a damaged one
  std::uint64_t delegation = 0;
  std::int64_t member = 0;
  std::int64_t start = 0;
  std::int64_t blocks = 0;
  // nullopt: not all of it lies on the members, of which these are the sizes.
  [[nodiscard]] std::optional<PlaceRun> run(std::span<const std::uint64_t> member_blocks) const;
};

[[nodiscard]] bool known(SQLite::Database& db); // not so in a catalog of before there was the table
[[nodiscard]] std::vector<Row> load(SQLite::Database& db); // by delegation
// Delegations that have some of these places.
[[nodiscard]] std::set<std::uint64_t> with_some_of(SQLite::Database& db, std::span<const PlaceRun> runs);
void insert(SQLite::Database& db, std::uint64_t delegation, std::span<const PlaceRun> runs);
void erase(SQLite::Database& db, std::uint64_t delegation);
void erase_row(SQLite::Database& db, const Row& row);

} // namespace vsnap::granted_rows
