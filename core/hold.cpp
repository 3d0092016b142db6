#include "core/hold.h"

namespace vsnap::hold_rows {

std::vector<Row> load(SQLite::Database& db) {
  std::vector<Row> rows;
  if (!db.tableExists("hold")) return rows;
  SQLite::Statement s(db, "SELECT snapshot, tag, created FROM hold ORDER BY snapshot, tag");
  while (s.executeStep()) {
    rows.push_back({ObjectId(static_cast<std::uint64_t>(s.getColumn(0).getInt64())),
                    s.getColumn(1).getString(), s.getColumn(2).getInt64()});
  }
  return rows;
}

void insert(SQLite::Database& db, const Row& row) {
  SQLite::Statement s(db, "INSERT INTO hold(snapshot, tag, created) VALUES(?,?,?)");
  s.bind(1, row.snapshot.sql());
  s.bind(2, row.tag);
  s.bind(3, row.created_ns);
  s.exec();
}

void erase(SQLite::Database& db, ObjectId snapshot, const std::string& tag) {
  SQLite::Statement s(db, "DELETE FROM hold WHERE snapshot = ? AND tag = ?");
  s.bind(1, snapshot.sql());
  s.bind(2, tag);
  s.exec();
}

} // namespace vsnap::hold_rows
