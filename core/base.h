// The image of an adopted volume: what the catalog keeps of it, and whether it is still what it was.
//
// Invariants
// 1. A branch has at most one; its number is free for another once the row is gone and no row of `extent` of
// a
//    branch that somebody sees names it.
// 2. `open` is durable before the first change of the image, and goes when it has been flushed and stamped.
// 3. Nothing is said to be unchanged that is not: what cannot be told (a device after a crash) is stated in
//    vsnap-adopt(1).
// Threads: row functions inside bodies of Database::read() or write(); the others any.
#pragma once

#include <SQLiteCpp/SQLiteCpp.h>

#include <optional>
#include <string>
#include <vector>

#include "core/env.h"
#include "core/error.h"
#include "core/units.h"

namespace vsnap {

struct Base {
  std::uint32_t member = 0;
  BranchId branch;
  std::string path;
  std::uint64_t blocks = 0;
  FileStamp stamp;
  bool open = false;             // then the time in the stamp is that of a change of ours, or a little before
  std::optional<Version> target; // of a rollback that is under way
};

namespace base_rows {

Result<std::vector<Base>> load(SQLite::Database& db);
void insert(SQLite::Database& db, const Base& base);
void update(SQLite::Database& db, const Base& base); // all but branch and blocks
void erase(SQLite::Database& db, std::uint32_t member);

} // namespace base_rows

// Why the image is not the one that was left; nullopt: nothing says so. `size_bytes`: of the volume.
[[nodiscard]] std::optional<std::string> what_changed(const Base& base, const FileStamp& now,
                                                      std::uint64_t size_bytes);
[[nodiscard]] std::string to_text(const FileStamp& stamp);
[[nodiscard]] std::optional<FileStamp> stamp_from(const std::string& text);

} // namespace vsnap
