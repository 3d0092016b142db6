// The hosts that share a pool (core/host.h) as rows of the tables `host` and `invitation`, and the epoch of
// their coordinator.
//
// Threads: only inside a body of Database::read() or write().
#pragma once

#include <SQLiteCpp/SQLiteCpp.h>

#include <optional>
#include <vector>

#include "core/host.h"

namespace vsnap::host_rows {

[[nodiscard]] bool known(SQLite::Database& db);    // not so in a catalog of before there were the tables
[[nodiscard]] Hosts load(SQLite::Database& db);    // as they are, but for keys of another length: left out
void insert(SQLite::Database& db, HostInfo& host); // gives it its id
void erase(SQLite::Database& db, std::uint64_t id);
void insert(SQLite::Database& db, const Invitation& invitation);
void erase_invitation(SQLite::Database& db, const HostKey& key);
// One higher than the last one.
[[nodiscard]] std::uint64_t next_epoch(SQLite::Database& db);

// Rows that cannot be what was written: what is wrong with each, and its row.
struct Wrong {
  std::string what;
  std::string remove; // the statement
};
[[nodiscard]] std::vector<Wrong> wrong_rows(SQLite::Database& db);

} // namespace vsnap::host_rows
