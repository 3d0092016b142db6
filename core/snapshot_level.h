// The levels of snapshots (core/description.h) as text, and as rows of the table `level`.
//
// Invariants
// 1. A snapshot without a row has the level crash; rows go with their snapshots, in the same transaction.
// Threads: rows only inside a body of Database::read() or write().
#pragma once

#include <SQLiteCpp/SQLiteCpp.h>

#include <optional>
#include <string_view>
#include <vector>

#include "core/description.h"

namespace vsnap {

[[nodiscard]] std::optional<SnapshotLevel> level_from(std::string_view text);

namespace catalog {

struct StoredLevel {
  ObjectId snapshot;
  std::optional<SnapshotLevel> level; // nullopt: the row says something else
};

namespace level_rows {

// None where the catalog is of before there was the table.
[[nodiscard]] std::vector<StoredLevel> load(SQLite::Database& db);
void store(SQLite::Database& db, ObjectId snapshot, SnapshotLevel level);
void erase(SQLite::Database& db, ObjectId snapshot);

} // namespace level_rows
} // namespace catalog
} // namespace vsnap
