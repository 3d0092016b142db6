// What a user may set of a volume, as text: names, values and what they mean; and their rows in the catalog.
//
// Invariants
// 1. What is in memory or in a row went through checked_property(): one way to write each value.
// 2. A property without a row has its default.
// Threads: pure functions, any; row functions inside a body of Database::read() or write().
#pragma once

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/units.h"

namespace vsnap {

struct PropertyKind {
  std::string_view name;
  std::string_view otherwise; // its default
  std::string_view values;    // for people: what it may be
};
[[nodiscard]] std::span<const PropertyKind> property_kinds();

// Those of one volume that are set, by name.
using Properties = std::map<std::string, std::string, std::less<>>;

// The value as it is kept; kind usage, with what would be right, where name or value is none.
[[nodiscard]] Result<std::string> checked_property(std::string_view name, std::string_view value);
// "NAME" alone: kind usage where there is no such property.
[[nodiscard]] Result<> check_property_name(std::string_view name);

// When snapshots have no room any more, what of a write that needs some?
enum class OnFull {
  error,       // ENOSPC
  pause,       // it waits
  drop_oldest, // a snapshot goes for it
};
[[nodiscard]] std::string_view to_string(OnFull on_full); // "error", "pause", "drop-oldest"

// snapshot-limit and on-full.
struct SnapshotSettings {
  std::optional<std::uint64_t> limit_bytes;
  std::optional<std::uint64_t> limit_percent; // of the size of the volume; at most one of the two
  OnFull on_full = OnFull::error;

  // nullopt: no limit.
  [[nodiscard]] std::optional<std::uint64_t> limit_of(std::uint64_t volume_bytes) const;
};
[[nodiscard]] SnapshotSettings snapshot_settings(const Properties& properties);

namespace property_rows {

struct Row {
  ObjectId volume;
  std::string name, value;
};
// As they are, whatever they name; none where the catalog is of before there was the table.
[[nodiscard]] std::vector<Row> load(SQLite::Database& db);
void put(SQLite::Database& db, ObjectId volume, const std::string& name, const std::string& value);
void move(SQLite::Database& db, ObjectId from, ObjectId to);
void erase(SQLite::Database& db, const Row& row);
void erase_all(SQLite::Database& db, ObjectId volume);

} // namespace property_rows
} // namespace vsnap
