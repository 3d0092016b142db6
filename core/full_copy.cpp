#include "core/full_copy.h"

#include <fmt/format.h>
#include <algorithm>
#include <charconv>

namespace vsnap {

std::string state_of(const FullCopy& copy) {
  if (copy.finished()) return {};
  // Not 100 before it has ended: then nothing is under way any more.
  const std::uint64_t percent =
      copy.total_blocks == 0 ? 0 : std::min<std::uint64_t>(copy.copied_blocks * 100 / copy.total_blocks, 99);
  std::string state = fmt::format("copying {} %", percent);
  if (copy.paused)
    state += ", paused";
  else if (!copy.trouble.empty())
    state += ", paused: " + copy.trouble;
  return state;
}

namespace catalog {
namespace {

std::string members_text(const std::vector<std::uint32_t>& members) {
  return fmt::format("{}", fmt::join(members, ","));
}

std::vector<std::uint32_t> members_of(const std::string& text) {
  std::vector<std::uint32_t> members;
  const char* const end = text.data() + text.size();
  for (const char* at = text.data(); at < end; ++at) {
    std::uint32_t member = 0;
    const auto [after, error] = std::from_chars(at, end, member);
    if (error != std::errc()) break;
    members.push_back(member);
    at = after; // on the comma
  }
  return members;
}

} // namespace

std::vector<StoredCopy> load_copies(SQLite::Database& db) {
  std::vector<StoredCopy> copies;
  if (!db.tableExists("copy")) return copies;
  SQLite::Statement s(db, "SELECT branch, snapshot, next, copied, members, rate, paused FROM copy");
  while (s.executeStep()) {
    StoredCopy found;
    found.branch = BranchId(static_cast<std::uint64_t>(s.getColumn(0).getInt64()));
    FullCopy& copy = found.copy;
    if (!s.getColumn(1).isNull())
      copy.snapshot = ObjectId(static_cast<std::uint64_t>(s.getColumn(1).getInt64()));
    copy.next.reset();
    if (!s.getColumn(2).isNull())
      copy.next = BlockIndex(static_cast<std::uint64_t>(s.getColumn(2).getInt64()));
    copy.copied_blocks = static_cast<std::uint64_t>(s.getColumn(3).getInt64());
    copy.members = members_of(s.getColumn(4).getString());
    copy.bytes_per_second = static_cast<std::uint64_t>(s.getColumn(5).getInt64());
    copy.paused = s.getColumn(6).getInt() != 0;
    copies.push_back(std::move(found));
  }
  return copies;
}

void store_copy(SQLite::Database& db, BranchId branch, const FullCopy& copy) {
  SQLite::Statement s(db,
                      "INSERT OR REPLACE INTO copy(branch, snapshot, next, copied, members, rate, paused) "
                      "VALUES(?,?,?,?,?,?,?)");
  s.bind(1, branch.sql());
  if (copy.snapshot) s.bind(2, copy.snapshot->sql());
  if (copy.next) s.bind(3, copy.next->sql());
  s.bind(4, static_cast<std::int64_t>(copy.copied_blocks));
  if (!copy.members.empty()) s.bind(5, members_text(copy.members));
  if (copy.bytes_per_second != 0) s.bind(6, static_cast<std::int64_t>(copy.bytes_per_second));
  s.bind(7, copy.paused ? 1 : 0);
  s.exec();
}

void erase_copy(SQLite::Database& db, BranchId branch) {
  SQLite::Statement s(db, "DELETE FROM copy WHERE branch = ?");
  s.bind(1, branch.sql());
  s.exec();
}

} // namespace catalog
} // namespace vsnap
