// Check finds each kind of damage, in plain words, and mends what can be mended.
#include <functional>

#include "core/allocator.h"
#include "core/database.h"
#include "core/metadata_vfs.h"
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

// A pool with a volume, a snapshot and a clone, whose catalog is then changed behind the engine's back.
class Damaged : public SmallPool {
 public:
  Damaged() {
    create("v", 8 * kMiB);
    {
      ViewHandle v = view("v");
      REQUIRE(v->write(0, block_of(1, kMiB)).has_value());
      REQUIRE(snapshot("v@s").has_value());
      REQUIRE(v->write(4096 * 3, block_of(2, 4096 * 5)).has_value());
    }
    REQUIRE(pool->clone({"v", "s"}, "c").has_value());
    REQUIRE(findings().empty());
    REQUIRE(pool->close().has_value());
    pool.reset();
  }

  void sql(const std::string& statement) {
    auto members = MemberSet::open(env, paths, "test", 0);
    REQUIRE(members.has_value());
    Allocator allocator;
    const Superblock layout = (*members)->layout();
    for (const RosterEntry& member : layout.roster)
      allocator.add_member(member.blocks, format::kHeaderBlocks);
    for (const MetadataSegment& segment : layout.segments) REQUIRE(allocator.take_metadata(segment.run));
    MetadataVfs vfs(**members, allocator);
    REQUIRE(vfs.load().has_value());
    auto db = Database::open(MetadataVfs::kDatabaseFile, vfs.vfs_name(), 1000);
    REQUIRE(db.has_value());
    const auto done = (*db)->write([&](SQLite::Database& connection) -> Result<> {
      connection.exec(statement);
      return {};
    });
    INFO((done ? "" : done.error().message));
    REQUIRE(done.has_value());
    db->reset();
  }

  std::vector<std::string> check(bool repair = false) {
    auto opened = Pool::open(env, {.member_paths = paths, .for_check = true});
    if (!opened) return {opened.error().message};
    const auto report = (*opened)->check(repair, {});
    if (!report) return {report.error().message};
    std::vector<std::string> what;
    for (const Finding& finding : report->findings) what.push_back(finding.what);
    return what;
  }

  void require_found(const std::string& words) {
    const auto found = check();
    for (const std::string& what : found) UNSCOPED_INFO(what);
    REQUIRE(std::any_of(found.begin(), found.end(),
                        [&](const std::string& what) { return what.find(words) != std::string::npos; }));
  }
};

} // namespace

TEST_CASE("check finds a block that belongs to two versions") {
  Damaged lab;
  lab.sql("INSERT INTO extent SELECT branch, 1000, born, 1, kind, member, physical FROM extent LIMIT 1");
  lab.require_found("belong to somebody else");
}

TEST_CASE("check finds a version that lies outside the members") {
  Damaged lab;
  lab.sql("INSERT INTO extent SELECT branch, 1000, born, 1, 1, 0, 99999999 FROM extent LIMIT 1");
  lab.require_found("outside the members");
}

TEST_CASE("check finds a version on a member that does not exist") {
  Damaged lab;
  lab.sql("INSERT INTO extent SELECT branch, 1000, born, 1, 1, 9, 5000 FROM extent LIMIT 1");
  lab.require_found("outside the members");
}

TEST_CASE("check finds a version from the future of its branch") {
  Damaged lab;
  lab.sql("INSERT INTO extent SELECT branch, 1000, 77, 1, 3, NULL, NULL FROM extent LIMIT 1");
  lab.require_found("future");
}

TEST_CASE("check finds versions of the same age that overlap") {
  Damaged lab;
  lab.sql(
      "INSERT INTO extent SELECT branch, start + 1, born, 1, 3, NULL, NULL FROM extent WHERE count > 2 LIMIT "
      "1");
  lab.require_found("overlaps");
}

TEST_CASE("check finds extents of a branch that does not exist") {
  Damaged lab;
  lab.sql("INSERT INTO extent VALUES(55, 0, 1, 1, 3, NULL, NULL)");
  lab.require_found("does not exist");
}

TEST_CASE("a row that contradicts itself is damage, not data") {
  Damaged lab;
  lab.sql("UPDATE extent SET count = 99999");
  lab.require_found("damaged");
}

TEST_CASE("check finds leaked space, repair gives it back") {
  Damaged lab;
  lab.sql("DELETE FROM extent WHERE count = 5");
  lab.require_found("belong to nobody");
  REQUIRE_FALSE(lab.check(true).empty());
  REQUIRE(lab.check().empty());
  lab.open();
  REQUIRE(lab.findings().empty());
}

TEST_CASE("check finds data that counts as free, repair protects it") {
  Damaged lab;
  lab.sql("UPDATE space SET bitmap = zeroblob(4096)");
  lab.require_found("count as free");
  REQUIRE_FALSE(lab.check(true).empty());
  REQUIRE(lab.check().empty());
  lab.open();
  REQUIRE(read_from(*lab.view("v@s"), 0) == block_of(1));
}

TEST_CASE("a volume without its branch keeps the pool from opening") {
  Damaged lab;
  lab.sql("UPDATE volume SET branch = 99 WHERE name = 'v'");
  const auto opened = Pool::open(lab.env, {.member_paths = lab.paths});
  REQUIRE_FALSE(opened.has_value());
  REQUIRE(opened.error().kind == ErrorKind::damaged);
}

TEST_CASE("a branch that is its own ancestor keeps the pool from opening") {
  Damaged lab;
  lab.sql("UPDATE branch SET parent = id, parent_number = 1");
  const auto opened = Pool::open(lab.env, {.member_paths = lab.paths});
  REQUIRE_FALSE(opened.has_value());
  REQUIRE(opened.error().kind == ErrorKind::damaged);
}

TEST_CASE("a damaged superblock copy is found and rewritten from the other") {
  for (const std::uint64_t offset : format::kSuperblockOffsets) {
    Damaged lab;
    lab.env.bytes_of("/a")[offset + 100] ^= std::byte{1};
    lab.require_found("superblock copy");
    REQUIRE_FALSE(lab.check(true).empty());
    REQUIRE(lab.check().empty());
  }
}

TEST_CASE(
    "a damaged catalog page is damage: the pool does not open or check says so, and nothing is made up") {
  Damaged lab;
  const std::vector<std::byte> whole = lab.env.bytes_of("/a");
  // The catalog is the first segment behind the header; every page of its used part in turn.
  for (std::uint64_t page = 0; page < 12; ++page) {
    std::vector<std::byte>& bytes = lab.env.bytes_of("/a");
    bytes = whole;
    std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(format::kHeaderBytes + page * 4096), 4096,
                std::byte{0x5a});
    INFO("page " << page);
    const auto found = lab.check();
    REQUIRE_FALSE(found.empty());
  }
}
