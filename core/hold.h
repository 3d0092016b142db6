// Holds: tags on a snapshot, each of which keeps it from being removed, replaced or split off. As values, and
// as rows of the table `hold`. Tags are names (names.h).
// Threads: row functions inside a body of Database::read() or write().
#pragma once

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/units.h"

namespace vsnap::hold_rows {

struct Row {
  ObjectId snapshot;
  std::string tag;
  std::int64_t created_ns = 0;
};
// As they are, whatever they name; none where the catalog is of before there was the table.
[[nodiscard]] std::vector<Row> load(SQLite::Database& db);
void insert(SQLite::Database& db, const Row& row);
void erase(SQLite::Database& db, ObjectId snapshot, const std::string& tag);

} // namespace vsnap::hold_rows
