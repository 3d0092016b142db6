#include "core/granted_rows.h"

#include "core/format.h"

namespace vsnap::granted_rows {

std::optional<PlaceRun> Row::run(std::span<const std::uint64_t> member_blocks) const {
  if (member < 0 || static_cast<std::uint64_t>(member) >= member_blocks.size()) return std::nullopt;
  const std::uint64_t size = member_blocks[static_cast<std::size_t>(member)];
  const auto first = static_cast<std::uint64_t>(start);
  const auto count = static_cast<std::uint64_t>(blocks);
  if (start < static_cast<std::int64_t>(format::kHeaderBlocks) || blocks <= 0) return std::nullopt;
  if (first >= size || count > size - first) return std::nullopt;
  return PlaceRun{Place(static_cast<std::uint32_t>(member), first), BlockCount(count)};
}

bool known(SQLite::Database& db) { return db.tableExists("granted"); }

std::vector<Row> load(SQLite::Database& db) {
  std::vector<Row> rows;
  if (!known(db)) return rows;
  SQLite::Statement s(
      db, "SELECT delegation, member, start, blocks FROM granted ORDER BY delegation, member, start");
  while (s.executeStep()) {
    rows.push_back({static_cast<std::uint64_t>(s.getColumn(0).getInt64()), s.getColumn(1).getInt64(),
                    s.getColumn(2).getInt64(), s.getColumn(3).getInt64()});
  }
  return rows;
}

std::set<std::uint64_t> with_some_of(SQLite::Database& db, std::span<const PlaceRun> runs) {
  std::set<std::uint64_t> found;
  SQLite::Statement s(db,
                      "SELECT DISTINCT delegation FROM granted "
                      "WHERE member = ? AND start < ? AND start + blocks > ?");
  for (const PlaceRun& run : runs) {
    const auto start = static_cast<std::int64_t>(run.start.block());
    s.bind(1, run.start.member());
    s.bind(2, start + run.count.sql());
    s.bind(3, start);
    while (s.executeStep()) found.insert(static_cast<std::uint64_t>(s.getColumn(0).getInt64()));
    s.reset();
  }
  return found;
}

void insert(SQLite::Database& db, std::uint64_t delegation, std::span<const PlaceRun> runs) {
  SQLite::Statement s(db, "INSERT INTO granted(delegation, member, start, blocks) VALUES(?,?,?,?)");
  for (const PlaceRun& run : runs) {
    s.bind(1, static_cast<std::int64_t>(delegation));
    s.bind(2, run.start.member());
    s.bind(3, static_cast<std::int64_t>(run.start.block()));
    s.bind(4, run.count.sql());
    s.exec();
    s.reset();
  }
}

void erase(SQLite::Database& db, std::uint64_t delegation) {
  if (!known(db)) return;
  SQLite::Statement s(db, "DELETE FROM granted WHERE delegation = ?");
  s.bind(1, static_cast<std::int64_t>(delegation));
  s.exec();
}

void erase_row(SQLite::Database& db, const Row& row) {
  SQLite::Statement s(db, "DELETE FROM granted WHERE member = ? AND start = ?");
  s.bind(1, row.member);
  s.bind(2, row.start);
  s.exec();
}

} // namespace vsnap::granted_rows
