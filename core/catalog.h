// The rows of volumes, snapshots, branches and single values: all statements on those tables, but for those
// that make them (schema.cpp).
// Threads: only inside a body of Database::read() or write().
#pragma once

#include <SQLiteCpp/SQLiteCpp.h>

#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/objects.h"

namespace vsnap::catalog {

// Everything into `objects`. Kind damaged where rows contradict each other.
Result<> load(SQLite::Database& db, Objects& objects);

// That nothing which is counted on from a stored value can run over: each is below 2^62.
Result<> check_counters(SQLite::Database& db);

std::uint64_t value(SQLite::Database& db, const char* key);
void set_value(SQLite::Database& db, const char* key, std::uint64_t value);
void erase_value(SQLite::Database& db, const char* key);
// Returns the value and makes it one higher.
std::uint64_t take_number(SQLite::Database& db, const char* key);

void insert_branch(SQLite::Database& db, const Branch& branch);
void update_branch(SQLite::Database& db, BranchId branch, Version number);
void set_parent(SQLite::Database& db, BranchId branch, const Branch* parent, Version number); // nullptr: none
void set_mapped(SQLite::Database& db, BranchId branch, std::int64_t mapped);
[[nodiscard]] std::int64_t mapped(SQLite::Database& db, BranchId branch);
void add_mapped(SQLite::Database& db, BranchId branch, std::int64_t change);
void delete_branch(SQLite::Database& db, BranchId branch);

void insert_volume(SQLite::Database& db, const Object& volume);
// Size, times, mode, owner, trim.
void update_volume(SQLite::Database& db, Objects& objects, const Object& volume)
    VSNAP_EXCLUDES(objects.mutex());
void point_volume(SQLite::Database& db, ObjectId volume, BranchId branch, std::uint64_t size_bytes);
void insert_snapshot(SQLite::Database& db, const Object& snapshot);
void set_snapshot_mapped(SQLite::Database& db, ObjectId snapshot, std::uint64_t mapped);
// The snapshots of a volume become those of another.
void move_snapshots(SQLite::Database& db, ObjectId from, ObjectId to);
// A volume without a name that is a draining image, and the one that goes on in its place; see
// Object::draining.
void insert_preserved(SQLite::Database& db, ObjectId image, ObjectId volume, const std::string& name);
// It is a snapshot from now on. `preserved` keeps the row until the volume's count of mapped blocks is right.
void make_final(SQLite::Database& db, const Object& image);
void erase_preserved(SQLite::Database& db, ObjectId image);
// Final images whose volume's count of mapped blocks is not right yet, and those volumes.
std::vector<std::pair<ObjectId, ObjectId>> uncounted(SQLite::Database& db);
void resize_volume(SQLite::Database& db, ObjectId volume, std::uint64_t size_bytes);
void rename(SQLite::Database& db, const Object& object, const std::string& name); // "": unlinked
void erase(SQLite::Database& db, const Object& object); // with its level, or its properties

} // namespace vsnap::catalog
