#include "core/properties.h"

#include <fmt/format.h>
#include <algorithm>
#include <array>
#include <charconv>

#include "core/names.h"

namespace vsnap {
namespace {

constexpr std::string_view kLimit = "snapshot-limit";
constexpr std::string_view kOnFull = "on-full";
constexpr std::string_view kNone = "none";
constexpr std::uint64_t kMostPercent = 1000;

constexpr std::array kKinds = {
    PropertyKind{kLimit, kNone, "SIZE of at least 4K, PERCENT% of the volume from 1% to 1000%, or none"},
    PropertyKind{kOnFull, "error", "error, pause or drop-oldest"},
};
constexpr std::array kOnFullNames = {
    std::pair{OnFull::error, std::string_view("error")},
    std::pair{OnFull::pause, std::string_view("pause")},
    std::pair{OnFull::drop_oldest, std::string_view("drop-oldest")},
};

std::optional<std::uint64_t> whole_number(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// "none", "10%", or bytes.
std::optional<std::string> checked_limit(std::string_view value) {
  if (value == kNone) return std::string(value);
  if (value.ends_with('%')) {
    const auto percent = whole_number(value.substr(0, value.size() - 1));
    if (!percent || *percent == 0 || *percent > kMostPercent) return std::nullopt;
    return fmt::format("{}%", *percent);
  }
  const auto size = parse_size(value);
  if (!size || *size < kBlockBytes) return std::nullopt;
  return std::to_string(*size);
}

std::optional<OnFull> on_full_from(std::string_view value) {
  for (const auto& [on_full, name] : kOnFullNames) {
    if (name == value) return on_full;
  }
  return std::nullopt;
}

const PropertyKind* find_kind(std::string_view name) {
  const auto* const found =
      std::find_if(kKinds.begin(), kKinds.end(), [&](const PropertyKind& kind) { return kind.name == name; });
  return found == kKinds.end() ? nullptr : found;
}

} // namespace

std::span<const PropertyKind> property_kinds() { return kKinds; }

Result<> check_property_name(std::string_view name) {
  if (find_kind(name) != nullptr) return {};
  std::vector<std::string> names;
  for (const PropertyKind& kind : kKinds) names.emplace_back(kind.name);
  return failure(ErrorKind::usage, fmt::format("{}: no such property (there are {})", vsnap::quoted(name),
                                               fmt::join(names, ", ")));
}

Result<std::string> checked_property(std::string_view name, std::string_view value) {
  VSNAP_TRY(check_property_name(name));
  std::optional<std::string> kept;
  if (name == kLimit)
    kept = checked_limit(value);
  else if (on_full_from(value))
    kept = std::string(value);
  if (kept) return std::move(*kept);
  return failure(ErrorKind::usage, fmt::format("{}={}: no such value ({})", name, vsnap::quoted(value),
                                               find_kind(name)->values));
}

std::string_view to_string(OnFull on_full) {
  for (const auto& [known, name] : kOnFullNames) {
    if (known == on_full) return name;
  }
  return kOnFullNames.front().second;
}

std::optional<std::uint64_t> SnapshotSettings::limit_of(std::uint64_t volume_bytes) const {
  if (!limit_percent) return limit_bytes;
  if (volume_bytes / 100 >= kMaxVolumeBytes / *limit_percent) return kMaxVolumeBytes;
  // No room at all would refuse every snapshot.
  return std::max(kBlockBytes,
                  volume_bytes / 100 * *limit_percent + volume_bytes % 100 * *limit_percent / 100);
}

SnapshotSettings snapshot_settings(const Properties& properties) {
  SnapshotSettings settings;
  if (const auto found = properties.find(kLimit); found != properties.end() && found->second != kNone) {
    const std::string_view value = found->second;
    if (value.ends_with('%'))
      settings.limit_percent = whole_number(value.substr(0, value.size() - 1));
    else
      settings.limit_bytes = whole_number(value);
  }
  if (const auto found = properties.find(kOnFull); found != properties.end())
    settings.on_full = on_full_from(found->second).value_or(OnFull::error);
  return settings;
}

namespace property_rows {

std::vector<Row> load(SQLite::Database& db) {
  std::vector<Row> rows;
  if (!db.tableExists("property")) return rows;
  SQLite::Statement s(db, "SELECT volume, name, value FROM property ORDER BY volume, name");
  while (s.executeStep()) {
    rows.push_back({ObjectId(static_cast<std::uint64_t>(s.getColumn(0).getInt64())),
                    s.getColumn(1).getString(), s.getColumn(2).getString()});
  }
  return rows;
}

void put(SQLite::Database& db, ObjectId volume, const std::string& name, const std::string& value) {
  SQLite::Statement s(db, "INSERT OR REPLACE INTO property(volume, name, value) VALUES(?,?,?)");
  s.bind(1, volume.sql());
  s.bind(2, name);
  s.bind(3, value);
  s.exec();
}

void move(SQLite::Database& db, ObjectId from, ObjectId to) {
  if (!db.tableExists("property")) return;
  SQLite::Statement s(db, "UPDATE property SET volume = ? WHERE volume = ?");
  s.bind(1, to.sql());
  s.bind(2, from.sql());
  s.exec();
}

void erase(SQLite::Database& db, const Row& row) {
  SQLite::Statement s(db, "DELETE FROM property WHERE volume = ? AND name = ?");
  s.bind(1, row.volume.sql());
  s.bind(2, row.name);
  s.exec();
}

void erase_all(SQLite::Database& db, ObjectId volume) {
  if (!db.tableExists("property")) return;
  SQLite::Statement s(db, "DELETE FROM property WHERE volume = ?");
  s.bind(1, volume.sql());
  s.exec();
}

} // namespace property_rows
} // namespace vsnap
