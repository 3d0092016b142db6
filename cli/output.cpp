#include "cli/output.h"

#include <fmt/format.h>
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <ctime>
#include <numeric>

#include "core/names.h"

namespace vsnap::cli {
namespace {

constexpr std::int64_t kNsPerSecond = 1'000'000'000;

std::string cased(std::string text, int (*convert)(int)) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [convert](char c) { return static_cast<char>(convert(static_cast<unsigned char>(c))); });
  return text;
}

// Characters of UTF-8; what a terminal takes two places for counts as one.
std::size_t width_of(const std::string& text) {
  return static_cast<std::size_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U; }));
}

std::string padded(const std::string& text, std::size_t width, bool right) {
  const std::string blanks(width - std::min(width, width_of(text)), ' ');
  return right ? blanks + text : text + blanks;
}

std::string time_text(std::int64_t ns, std::tm* (*convert)(const std::time_t*, std::tm*),
                      const char* format) {
  const std::time_t seconds = ns / kNsPerSecond;
  std::tm parts{};
  char out[32] = "-";
  if (convert(&seconds, &parts) != nullptr) std::strftime(out, sizeof out, format, &parts);
  return out;
}

bool less(const Json& a, const Json& b) {
  if (a.is_number() && b.is_number()) return a.get<std::uint64_t>() < b.get<std::uint64_t>();
  if (a.is_string() && b.is_string())
    return a.get_ref<const std::string&>() < b.get_ref<const std::string&>();
  return a.is_null() && !b.is_null();
}

} // namespace

Cell Cell::none() { return {"-", "-", nullptr}; }
Cell Cell::text(std::string text) { return {text, text, text}; }
Cell Cell::optional_text(const std::optional<std::string>& text) { return text ? Cell::text(*text) : none(); }
Cell Cell::text_if(const std::string& text) { return text.empty() ? none() : Cell::text(text); }
Cell Cell::size(std::uint64_t size_bytes) {
  return {format_size(size_bytes), std::to_string(size_bytes), size_bytes};
}
Cell Cell::number(std::uint64_t number) { return {std::to_string(number), std::to_string(number), number}; }
Cell Cell::time(std::int64_t ns) { return {local_time(ns), std::to_string(ns / kNsPerSecond), utc_time(ns)}; }

void Table::add(std::vector<Cell> row) {
  row.resize(columns_.size(), Cell::none());
  rows_.push_back(std::move(row));
}

Result<std::size_t> Table::find(const std::string& name) const {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    if (columns_[i].name == cased(name, std::tolower)) return i;
    names.push_back(columns_[i].name);
  }
  const auto near = nearest(name, names);
  return failure(ErrorKind::usage,
                 fmt::format("{}: no such column ({}{})", vsnap::quoted(name),
                             near ? fmt::format("did you mean {}? ", *near) : "", fmt::join(names, " ")));
}

Result<std::vector<std::size_t>> Table::chosen(const std::string& list) const {
  std::vector<std::size_t> out;
  for (std::size_t i = 0; list.empty() && i < columns_.size(); ++i) {
    if (columns_[i].by_default) out.push_back(i);
  }
  for (std::size_t at = 0; !list.empty() && at <= list.size();) {
    const std::size_t comma = std::min(list.find(',', at), list.size());
    VSNAP_TRY_ASSIGN(const std::size_t column, find(list.substr(at, comma - at)));
    out.push_back(column);
    at = comma + 1;
  }
  return out;
}

Result<std::vector<std::size_t>> Table::order(const std::string& by) const {
  std::vector<std::size_t> out(rows_.size());
  std::iota(out.begin(), out.end(), std::size_t{0});
  if (by.empty()) return out;
  VSNAP_TRY_ASSIGN(const std::size_t column, find(by));
  std::stable_sort(out.begin(), out.end(), [&](std::size_t a, std::size_t b) {
    return less(rows_[a][column].value, rows_[b][column].value);
  });
  return out;
}

Result<> Table::check(const CommonOptions& options) const {
  VSNAP_TRY(chosen(options.columns));
  VSNAP_TRY(order(options.sort));
  return {};
}

Result<std::string> Table::text(const CommonOptions& options) const {
  VSNAP_TRY_ASSIGN(const auto columns, chosen(options.columns));
  VSNAP_TRY_ASSIGN(const auto order_of_rows, order(options.sort));
  const auto shown = [&](const Cell& cell) -> const std::string& {
    return options.exact ? cell.exact : cell.shown;
  };
  std::vector<std::vector<std::string>> lines;
  if (!options.no_header) {
    auto& header = lines.emplace_back();
    for (const std::size_t c : columns) header.push_back(cased(columns_[c].name, std::toupper));
  }
  for (const std::size_t r : order_of_rows) {
    auto& line = lines.emplace_back();
    for (const std::size_t c : columns) line.push_back(shown(rows_[r][c]));
  }
  std::vector<std::size_t> widths(columns.size());
  for (const auto& line : lines) {
    for (std::size_t c = 0; c < line.size(); ++c) widths[c] = std::max(widths[c], width_of(line[c]));
  }
  std::string out;
  for (const auto& line : lines) {
    std::string text_line;
    for (std::size_t c = 0; c < line.size(); ++c) {
      if (c != 0) text_line += options.no_header ? "\t" : "  ";
      text_line += options.no_header ? line[c] : padded(line[c], widths[c], columns_[columns[c]].right);
    }
    if (!options.no_header) text_line.erase(text_line.find_last_not_of(' ') + 1);
    out += text_line + "\n";
  }
  return out;
}

std::string Table::names() const {
  std::vector<std::string> shown;
  std::vector<std::string> more;
  for (const Column& column : columns_) (column.by_default ? shown : more).push_back(column.name);
  return fmt::format("{}{}{}", fmt::join(shown, ", "), more.empty() ? "" : "; with -o also ",
                     fmt::join(more, ", "));
}

Json Table::json() const {
  Json out = Json::array();
  for (const auto& row : rows_) {
    Json object = Json::object();
    for (std::size_t c = 0; c < columns_.size(); ++c) object[columns_[c].name] = row[c].value;
    out.push_back(std::move(object));
  }
  return out;
}

Result<> Table::print(const CommonOptions& options, const std::string& key) const {
  VSNAP_TRY_ASSIGN(const std::string out, text(options));
  if (options.json) {
    print_json({{key, json()}});
  } else {
    std::fputs(out.c_str(), stdout);
  }
  return {};
}

void print_json(Json object) {
  Json out = Json::object();
  out["schema"] = 1;
  for (auto& [key, value] : object.items()) out[key] = std::move(value);
  std::puts(out.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
}

void print_pairs(const std::vector<std::pair<std::string, std::string>>& pairs) {
  std::size_t width = 0;
  for (const auto& [key, value] : pairs) width = std::max(width, key.size() + 1);
  for (const auto& [key, value] : pairs) fmt::print("{}  {}\n", padded(key + ":", width, false), value);
}

std::string local_time(std::int64_t ns) { return time_text(ns, ::localtime_r, "%Y-%m-%d %H:%M"); }
std::string utc_time(std::int64_t ns) { return time_text(ns, ::gmtime_r, "%Y-%m-%dT%H:%M:%SZ"); }

std::optional<std::string> origin_text(const std::string& pool, const ViewInfo& view) {
  if (!view.origin || view.origin->starts_with('(')) return view.origin; // "(removed snapshot)"
  return pool + "/" + *view.origin;
}

std::optional<std::string> level_text(const ViewInfo& view) {
  if (view.kind != ViewKind::snapshot || view.draining) return std::nullopt;
  return std::string(to_string(view.level));
}

std::pair<Cell, Cell> snapshot_space_cells(const ViewInfo& view) {
  if (!view.snapshot_space) return {Cell::none(), Cell::none()};
  const SnapshotSpace& space = *view.snapshot_space;
  return {Cell::size(space.limit_bytes), space.used_bytes ? Cell::size(*space.used_bytes) : Cell::none()};
}

Json view_json(const std::string& pool, const ViewInfo& view) {
  Json out = Json::object();
  out["name"] = pool + "/" + view.name.text();
  out["pool"] = pool;
  out["volume"] = view.name.volume;
  out["snapshot"] = view.name.is_snapshot() ? Json(view.name.snapshot) : Json(nullptr);
  out["type"] = view.kind == ViewKind::snapshot ? "snapshot" : "volume";
  out["form"] = to_string(view.form);
  out["state"] = view.state.empty() ? Json(nullptr) : Json(view.state);
  const auto level = level_text(view);
  out["level"] = level ? Json(*level) : Json(nullptr);
  out["base"] = view.base.empty() ? Json(nullptr) : Json(view.base);
  out["snapshot_limit"] = view.snapshot_space ? Json(view.snapshot_space->limit_bytes) : Json(nullptr);
  const auto used = view.snapshot_space ? view.snapshot_space->used_bytes : std::nullopt;
  out["snapshot_used"] = used ? Json(*used) : Json(nullptr);
  out["on_full"] = view.snapshot_space ? Json(to_string(view.snapshot_space->on_full)) : Json(nullptr);
  Json holds = Json::array();
  for (const HoldInfo& hold : view.holds)
    holds.push_back({{"tag", hold.tag}, {"created", utc_time(hold.created_ns)}});
  out["holds"] = std::move(holds);
  out["size"] = view.size_bytes;
  out["used"] = view.used_bytes;
  const auto origin = origin_text(pool, view);
  out["origin"] = origin ? Json(*origin) : Json(nullptr);
  out["created"] = utc_time(view.created_ns);
  out["modified"] = utc_time(view.modified_ns);
  out["mode"] = fmt::format("{:04o}", view.mode);
  out["uid"] = view.uid;
  out["gid"] = view.gid;
  out["open"] = view.open_handles;
  out["id"] = view.id.value();
  return out;
}

Json space_json(const SpaceInfo& space) {
  Json out = Json::object();
  out["size"] = space.size_bytes;
  out["used"] = space.data_bytes + space.metadata_bytes;
  out["available"] = space.available_bytes;
  out["free"] = space.free_bytes;
  out["data"] = space.data_bytes;
  out["freeing"] = space.freeing_bytes;
  out["metadata"] = space.metadata_bytes;
  out["metadata_used"] = space.metadata_used_bytes;
  return out;
}

} // namespace vsnap::cli
