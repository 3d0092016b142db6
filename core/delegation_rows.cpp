#include "core/delegation_rows.h"

#include <algorithm>

#include "core/catalog.h"
#include "core/granted_rows.h"

namespace vsnap::delegation_rows {
namespace {

constexpr const char* kLast = "last_delegation"; // in the table pool

std::uint64_t number_in(const SQLite::Column& column) {
  return static_cast<std::uint64_t>(column.getInt64());
}

} // namespace

bool known(SQLite::Database& db) { return db.tableExists("delegation"); }

std::vector<Row> load(SQLite::Database& db) {
  std::vector<Row> rows;
  if (!known(db)) return rows;
  SQLite::Statement s(db, "SELECT number, volume, host, since, snapshot FROM delegation ORDER BY number");
  while (s.executeStep()) {
    Row row;
    row.delegation = {number_in(s.getColumn(0)), ObjectId(number_in(s.getColumn(1))),
                      number_in(s.getColumn(2))};
    row.since_ns = s.getColumn(3).getInt64();
    if (!s.getColumn(4).isNull()) row.left = ObjectId(number_in(s.getColumn(4)));
    rows.push_back(row);
  }
  return rows;
}

std::uint64_t next_number(SQLite::Database& db) {
  const std::int64_t newest = db.execAndGet("SELECT coalesce(max(number), 0) FROM delegation").getInt64();
  return std::max(catalog::value(db, kLast), static_cast<std::uint64_t>(newest)) + 1;
}

void insert(SQLite::Database& db, const Row& row) {
  catalog::set_value(db, kLast, row.delegation.number);
  SQLite::Statement s(db, "INSERT INTO delegation(number, volume, host, since, snapshot) VALUES(?,?,?,?,?)");
  s.bind(1, static_cast<std::int64_t>(row.delegation.number));
  s.bind(2, row.delegation.volume.sql());
  s.bind(3, static_cast<std::int64_t>(row.delegation.host));
  s.bind(4, row.since_ns);
  if (row.left) s.bind(5, row.left->sql());
  s.exec();
}

void set_left(SQLite::Database& db, std::uint64_t number, ObjectId snapshot) {
  SQLite::Statement s(db, "UPDATE delegation SET snapshot = ? WHERE number = ?");
  s.bind(1, snapshot.sql());
  s.bind(2, static_cast<std::int64_t>(number));
  s.exec();
}

void erase(SQLite::Database& db, std::uint64_t number) {
  granted_rows::erase(db, number);
  SQLite::Statement s(db, "DELETE FROM delegation WHERE number = ?");
  s.bind(1, static_cast<std::int64_t>(number));
  s.exec();
}

void erase_all(SQLite::Database& db, ObjectId volume) {
  if (!known(db)) return;
  if (granted_rows::known(db)) {
    SQLite::Statement granted(
        db, "DELETE FROM granted WHERE delegation IN (SELECT number FROM delegation WHERE volume = ?)");
    granted.bind(1, volume.sql());
    granted.exec();
  }
  SQLite::Statement s(db, "DELETE FROM delegation WHERE volume = ?");
  s.bind(1, volume.sql());
  s.exec();
}

} // namespace vsnap::delegation_rows
