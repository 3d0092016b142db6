#include "core/snapshot_level.h"

#include <string>

namespace vsnap {

std::string_view to_string(SnapshotLevel level) {
  switch (level) {
    case SnapshotLevel::crash:
      return "crash";
    case SnapshotLevel::fs:
      return "fs";
    case SnapshotLevel::app:
      return "app";
  }
  return "crash";
}

std::optional<SnapshotLevel> level_from(std::string_view text) {
  for (const SnapshotLevel level : {SnapshotLevel::crash, SnapshotLevel::fs, SnapshotLevel::app}) {
    if (text == to_string(level)) return level;
  }
  return std::nullopt;
}

namespace catalog::level_rows {

std::vector<StoredLevel> load(SQLite::Database& db) {
  std::vector<StoredLevel> found;
  if (!db.tableExists("level")) return found;
  SQLite::Statement s(db, "SELECT snapshot, level FROM level ORDER BY snapshot");
  while (s.executeStep()) {
    found.push_back({ObjectId(static_cast<std::uint64_t>(s.getColumn(0).getInt64())),
                     level_from(s.getColumn(1).getString())});
  }
  return found;
}

void store(SQLite::Database& db, ObjectId snapshot, SnapshotLevel level) {
  SQLite::Statement s(db, "INSERT OR REPLACE INTO level(snapshot, level) VALUES(?, ?)");
  s.bind(1, snapshot.sql());
  s.bind(2, std::string(to_string(level)));
  s.exec();
}

void erase(SQLite::Database& db, ObjectId snapshot) {
  if (!db.tableExists("level")) return;
  SQLite::Statement s(db, "DELETE FROM level WHERE snapshot = ?");
  s.bind(1, snapshot.sql());
  s.exec();
}

} // namespace catalog::level_rows
} // namespace vsnap
