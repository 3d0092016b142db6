// What commands print: lists as aligned columns, as tab-separated fields (-H) or as JSON; and single results
// as JSON.
//
// Invariants
// 1. JSON objects carry "schema": 1, have all keys whatever -o says, and sizes in bytes.
// 2. With -p every number is exact: sizes in bytes, times in seconds since 1970.
// 3. A cell without a value is "-" in text and null in JSON.
// Threads: values; the printing functions belong to the main thread.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/command.h"
#include "core/description.h"

namespace vsnap::cli {

using Json = nlohmann::ordered_json;

struct Cell {
  std::string shown; // for people
  std::string exact; // with -p
  Json value;
  static Cell none();
  static Cell text(std::string text);
  static Cell optional_text(const std::optional<std::string>& text);
  static Cell text_if(const std::string& text); // none if it is empty
  static Cell size(std::uint64_t size_bytes);
  static Cell number(std::uint64_t number);
  static Cell time(std::int64_t ns);
};

struct Column {
  std::string name; // lower case: the key in JSON and the word after -o; shown in capitals
  bool right = false;
  bool by_default = true;
};

class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add(std::vector<Cell> row);                                  // one cell for each column
  [[nodiscard]] Result<> check(const CommonOptions& options) const; // -o and -s name columns
  [[nodiscard]] Result<std::string> text(const CommonOptions& options) const;
  [[nodiscard]] std::string names() const; // "name, type, size"; those that only -o shows are marked
  [[nodiscard]] Json json() const;         // an array of objects
  // As the options ask; in JSON under `key`.
  Result<> print(const CommonOptions& options, const std::string& key) const;

 private:
  [[nodiscard]] Result<std::size_t> find(const std::string& name) const;
  [[nodiscard]] Result<std::vector<std::size_t>> chosen(const std::string& list) const;
  [[nodiscard]] Result<std::vector<std::size_t>> order(const std::string& by) const;

  std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
};

// Adds "schema" and prints it. Text that is not UTF-8 is printed with replacement characters.
void print_json(Json object);
// "key:  value" lines, values aligned.
void print_pairs(const std::vector<std::pair<std::string, std::string>>& pairs);

[[nodiscard]] std::string local_time(std::int64_t ns); // 2025-03-01 14:05
[[nodiscard]] std::string utc_time(std::int64_t ns);   // 2025-03-01T13:05:00Z
// POOL/VOLUME@SNAPSHOT that a clone starts from, or "(removed snapshot)".
[[nodiscard]] std::optional<std::string> origin_text(const std::string& pool, const ViewInfo& view);
// How good a snapshot is; of a volume nullopt.
[[nodiscard]] std::optional<std::string> level_text(const ViewInfo& view);
// Columns of lists: snaplimit and snapused, the limit on what snapshots take, and what they do.
[[nodiscard]] std::pair<Cell, Cell> snapshot_space_cells(const ViewInfo& view);
[[nodiscard]] Json view_json(const std::string& pool, const ViewInfo& view);
[[nodiscard]] Json space_json(const SpaceInfo& space);

} // namespace vsnap::cli
