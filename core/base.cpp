#include "core/base.h"

#include <fmt/format.h>
#include <sstream>

#include "core/names.h"

namespace vsnap {
namespace {

// How far behind the time in the catalog may be while the image is in use: it is renewed before a write when
// it is 10 seconds old (Engine::mark_base()), and a write may take its time.
constexpr std::int64_t kBehindNs = 30'000'000'000;

} // namespace

std::string to_text(const FileStamp& s) {
  return fmt::format("{} {} {} {} {} {}", s.size_bytes, s.inode, s.modified_ns, s.content, s.sectors,
                     s.boot.empty() ? "-" : s.boot);
}

std::optional<FileStamp> stamp_from(const std::string& text) {
  std::istringstream words(text);
  FileStamp s;
  words >> s.size_bytes >> s.inode >> s.modified_ns >> s.content >> s.sectors >> s.boot;
  if (!words) return std::nullopt;
  if (s.boot == "-") s.boot.clear();
  return s;
}

std::optional<std::string> what_changed(const Base& base, const FileStamp& now, std::uint64_t size_bytes) {
  const FileStamp& was = base.stamp;
  if (now.inode != was.inode) return "it is another file";
  // Growing makes the image longer first; nothing else of ours changes its length.
  if (base.open ? now.size_bytes < size_bytes : now.size_bytes != was.size_bytes) {
    return fmt::format("its size is {} and was {}", format_size(now.size_bytes),
                       format_size(base.open ? size_bytes : was.size_bytes));
  }
  if (base.open) {
    if (now.modified_ns > was.modified_ns + kBehindNs) return "it was written after we stopped";
    return std::nullopt;
  }
  if (now.modified_ns != was.modified_ns) return "it was written since";
  if (now.content != was.content) return "its content is another";
  if (now.boot == was.boot && now.sectors != was.sectors) return "it was written since";
  return std::nullopt;
}

namespace base_rows {

Result<std::vector<Base>> load(SQLite::Database& db) {
  std::vector<Base> found;
  if (!db.tableExists("base")) return found; // an older catalog that could not be brought up to date
  SQLite::Statement s(db, "SELECT member, branch, path, blocks, stamp, open, target FROM base");
  while (s.executeStep()) {
    Base base;
    base.member = s.getColumn(0).getUInt();
    base.branch = BranchId(static_cast<std::uint64_t>(s.getColumn(1).getInt64()));
    base.path = s.getColumn(2).getString();
    base.blocks = static_cast<std::uint64_t>(s.getColumn(3).getInt64());
    const auto stamp = stamp_from(s.getColumn(4).getString());
    base.open = s.getColumn(5).getInt() != 0;
    if (!s.getColumn(6).isNull())
      base.target = Version(static_cast<std::uint64_t>(s.getColumn(6).getInt64()));
    if (base.member < Place::kFirstBase || base.member >= Place::kFirstBase + Place::kMaxBases || !stamp ||
        base.blocks > blocks_for(kMaxVolumeBytes).value()) {
      return failure(ErrorKind::damaged,
                     fmt::format("the catalog contradicts itself: image {} (vsnap check)", base.member));
    }
    base.stamp = *stamp;
    found.push_back(std::move(base));
  }
  return found;
}

void insert(SQLite::Database& db, const Base& base) {
  SQLite::Statement s(
      db, "INSERT INTO base(member, branch, path, blocks, stamp, open, target) VALUES(?,?,?,?,?,?,NULL)");
  s.bind(1, base.member);
  s.bind(2, base.branch.sql());
  s.bind(3, base.path);
  s.bind(4, static_cast<std::int64_t>(base.blocks));
  s.bind(5, to_text(base.stamp));
  s.bind(6, base.open ? 1 : 0);
  s.exec();
}

void update(SQLite::Database& db, const Base& base) {
  SQLite::Statement s(db, "UPDATE base SET path = ?, stamp = ?, open = ?, target = ? WHERE member = ?");
  s.bind(1, base.path);
  s.bind(2, to_text(base.stamp));
  s.bind(3, base.open ? 1 : 0);
  if (base.target) s.bind(4, base.target->sql());
  s.bind(5, base.member);
  s.exec();
}

void erase(SQLite::Database& db, std::uint32_t member) {
  SQLite::Statement s(db, "DELETE FROM base WHERE member = ?");
  s.bind(1, member);
  s.exec();
}

} // namespace base_rows
} // namespace vsnap
