// Delegations (core/delegation.h) as rows of the table `delegation`.
//
// Threads: only inside a body of Database::read() or write().
#pragma once

#include <SQLiteCpp/SQLiteCpp.h>

#include <optional>
#include <vector>

#include "core/delegation.h"

namespace vsnap::delegation_rows {

struct Row {
  Delegation delegation;
  std::int64_t since_ns = 0;    // since 1970
  std::optional<ObjectId> left; // of a lost one: the snapshot
};

[[nodiscard]] bool known(SQLite::Database& db); // not so in a catalog of before there was the table
[[nodiscard]] std::vector<Row> load(SQLite::Database& db);     // as they are, by number
[[nodiscard]] std::uint64_t next_number(SQLite::Database& db); // higher than any before
void insert(SQLite::Database& db, const Row& row);             // uses its number up
void set_left(SQLite::Database& db, std::uint64_t number, ObjectId snapshot);
// With the rows of the space that was granted with them.
void erase(SQLite::Database& db, std::uint64_t number);
void erase_all(SQLite::Database& db, ObjectId volume);

} // namespace vsnap::delegation_rows
