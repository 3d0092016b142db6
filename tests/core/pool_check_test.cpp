// Check finds each kind of damage, in plain words, and mends what can be mended.
#include <chrono>
#include <functional>
#include <future>

#include "core/allocator.h"
#include "core/database.h"
#include "core/metadata_vfs.h"
#include "tests/core/refusal.h"
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
    for (const MetadataSegment& segment : layout.segments) REQUIRE(allocator.take(segment.run));
    MetadataVfs vfs(**members, allocator);
    REQUIRE(vfs.load().has_value());
    auto db = Database::open(MetadataVfs::kDatabaseFile, vfs.vfs_name(), 1000);
    REQUIRE(db.has_value());
    const auto done = (*db)->write([&](SQLite::Database& connection) -> Result<> {
      connection.exec(statement);
      if (statement.find(" extent") !=
          std::string::npos) // rows that are there count; what is in them is wrong
        connection.exec("UPDATE pool SET value = (SELECT count(*) FROM extent) WHERE key = 'extents'");
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

TEST_CASE("check finds delegations of what does not exist, and drops them") {
  Damaged lab;
  lab.sql("INSERT INTO delegation(number, volume, host, since) VALUES(7, 999, 1, 0)");
  lab.require_found("delegation 7 of volume 999, which does not exist");
  lab.check(true);
  REQUIRE(lab.check().empty());
  lab.sql(
      "INSERT INTO delegation(number, volume, host, since, snapshot) SELECT 8, id, 1, 0, 999 FROM volume "
      "WHERE name = 'v'");
  lab.require_found("v: delegation 8 left snapshot 999, which does not exist");
  lab.check(true);
  REQUIRE(lab.check().empty());
}

TEST_CASE("a row that contradicts itself is damage, not data") {
  Damaged lab;
  lab.sql("UPDATE extent SET count = 99999");
  lab.require_found("length is impossible");
  lab.open();
  std::vector<std::byte> out(kBlockBytes);
  REQUIRE(refusal(lab.view("v@s")->read(0, out)).kind == ErrorKind::damaged);
}

TEST_CASE("check lists every row that is damaged, and gives nothing back meanwhile") {
  Damaged lab;
  lab.sql("INSERT INTO extent SELECT branch, 1000, born, 1, 9, 0, 5000 FROM extent LIMIT 1");
  lab.sql("INSERT INTO extent SELECT branch, 1001, born, 0, 1, 0, 5000 FROM extent LIMIT 1");
  lab.sql("INSERT INTO extent SELECT branch, -5, born, 1, 1, 0, 5000 FROM extent LIMIT 1");
  lab.sql("INSERT INTO extent SELECT branch, 1002, born, 1, 1, 0, 10 FROM extent LIMIT 1");
  lab.sql("UPDATE extent SET count = 0 WHERE count = 5"); // as if nobody owned its five blocks
  for (const bool repair : {true, false}) {
    const auto found = lab.check(repair);
    for (const std::string& what : found) UNSCOPED_INFO(what);
    REQUIRE(found.size() == 6);
    REQUIRE(found.back().find("belong to nobody") != std::string::npos);
  }
}

TEST_CASE("what a damaged row names is neither freed nor read: the command fails") {
  for (const char* place : {"9, 5000", "0, 99999999", "0, 10"}) {
    Damaged lab;
    lab.sql(std::string("INSERT INTO extent SELECT branch, 1000, born, 1, 1, ") + place +
            " FROM extent WHERE born = 2 LIMIT 1");
    lab.open();
    std::vector<std::byte> out(kBlockBytes);
    REQUIRE(refusal(lab.view("v")->read(0, out)).kind == ErrorKind::damaged);
    REQUIRE(refusal(lab.remove("v", {.recursive = true, .count_frees = true})).kind == ErrorKind::damaged);
  }
}

TEST_CASE("a version whose blocks count as free is not freed once more") {
  Damaged lab;
  lab.sql("UPDATE space SET bitmap = zeroblob(4096)");
  lab.open();
  REQUIRE(lab.remove("v", {.recursive = true}).has_value());
  REQUIRE(refusal(lab.pool->wait_for_removals({})).kind == ErrorKind::damaged);
}

TEST_CASE("check finds a volume's own versions that overlap, unless a sweep is to come") {
  Damaged lab;
  lab.sql("DELETE FROM snapshot");
  lab.sql("DELETE FROM volume WHERE name = 'c'");
  lab.sql("DELETE FROM branch WHERE parent IS NOT NULL");
  lab.require_found("only the volume itself sees");
  lab.sql("INSERT INTO sweep SELECT branch, 0 FROM extent LIMIT 1");
  REQUIRE(lab.check().empty());
}

TEST_CASE("a record of used space of a wrong size is found and written anew") {
  Damaged lab;
  lab.sql("UPDATE space SET bitmap = zeroblob(100)");
  lab.require_found("wrong size");
  REQUIRE(refusal(Pool::open(lab.env, {.member_paths = lab.paths})).kind == ErrorKind::damaged);
  REQUIRE_FALSE(lab.check(true).empty());
  REQUIRE(lab.check().empty());
  lab.open();
  REQUIRE(read_from(*lab.view("v@s"), 0) == block_of(1));
}

TEST_CASE("a record of used space of a member that does not exist is found and removed") {
  Damaged lab;
  lab.sql("INSERT INTO space VALUES(7, 0, zeroblob(4096)), (0, 1000, zeroblob(4096))");
  lab.require_found("member 7 part 0, which does not exist");
  REQUIRE(refusal(Pool::open(lab.env, {.member_paths = lab.paths})).kind == ErrorKind::damaged);
  REQUIRE(lab.check(true).size() == 2);
  REQUIRE(lab.check().empty());
  lab.open();
}

TEST_CASE("counts of mapped blocks that are wrong are found and mended") {
  Damaged lab;
  lab.sql("UPDATE branch SET mapped = mapped + 3 WHERE parent IS NOT NULL");
  lab.sql("UPDATE snapshot SET mapped = mapped - 1");
  lab.require_found("c: 259 blocks count as mapped, 256 are");
  lab.require_found("v@s: 255 blocks count as mapped, 256 are");
  REQUIRE(lab.check(true).size() == 2);
  REQUIRE(lab.check().empty());
  lab.open();
  REQUIRE(lab.pool->find({"c", {}})->used_bytes == kMiB);
}

TEST_CASE("a number of extents that is wrong is found and mended") {
  Damaged lab;
  lab.sql("UPDATE pool SET value = value + 7 WHERE key = 'extents'");
  REQUIRE(lab.check(true).size() == 1);
  REQUIRE(lab.check().empty());
}

TEST_CASE("a catalog that has no number of extents gets it with the next change") {
  Damaged lab;
  lab.sql("DELETE FROM pool WHERE key = 'extents'");
  lab.open();
  const std::uint64_t before = lab.pool->status().extents;
  REQUIRE(before > 0);
  lab.create("w", kMiB);
  REQUIRE(lab.view("w")->write(0, block_of(3)).has_value());
  REQUIRE(lab.pool->sync().has_value());
  REQUIRE(lab.pool->status().extents == before + 1);
  REQUIRE(lab.findings().empty());
}

TEST_CASE("levels of snapshots that do not exist, or that are none, are found and removed") {
  Damaged lab;
  lab.sql("INSERT INTO level VALUES(4711, 'fs')");
  lab.sql("INSERT INTO level SELECT id, 'golden' FROM snapshot LIMIT 1");
  lab.require_found("the level of snapshot 4711, which does not exist");
  lab.require_found("v@s: its level is none there is");
  lab.open(); // neither keeps the pool from being used
  CHECK(lab.pool->find({"v", "s"})->level == SnapshotLevel::crash);
  REQUIRE(lab.pool->close().has_value());
  lab.pool.reset();
  CHECK(lab.check(true).size() == 2);
  CHECK(lab.check().empty());
}

TEST_CASE("of very many problems check says how many more there are") {
  Damaged lab;
  lab.sql(
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 250) "
      "INSERT INTO extent SELECT 1, 2000 + i, 77, 1, 3, NULL, NULL FROM n");
  const auto found = lab.check();
  REQUIRE(found.size() == 101);
  REQUIRE(found.back() == "and 150 more");
}

TEST_CASE("a pool in use is not mended, and says so") {
  Damaged lab;
  lab.sql("UPDATE branch SET mapped = mapped + 3 WHERE parent IS NOT NULL");
  lab.open();
  const auto report = lab.pool->check(true, {});
  REQUIRE(report.has_value());
  REQUIRE(report->findings.size() == 1);
  REQUIRE(report->findings[0].repairable);
  REQUIRE_FALSE(report->findings[0].repaired);
}

TEST_CASE("commits go on while a pool in use is checked") {
  SmallPool lab;
  lab.create("v", 8 * kMiB);
  ViewHandle v = lab.view("v");
  REQUIRE(v->write(0, block_of(1)).has_value());
  std::vector<std::future<bool>> others;
  bool in_time = true;
  const auto report = lab.pool->check(false, [&](std::uint64_t done, std::uint64_t) {
    others.push_back(std::async(std::launch::async, [&v, block = others.size() + 1] {
      return v->write(block * kBlockBytes, block_of(2)).has_value() && v->fsync().has_value();
    }));
    in_time = in_time && others.back().wait_for(std::chrono::seconds(10)) == std::future_status::ready;
    return in_time && done < 100;
  });
  REQUIRE(in_time);
  REQUIRE(report.has_value());
  REQUIRE(report->findings.empty());
  REQUIRE(others.size() >= 2); // while it is copied, and while the copy is looked at
  for (auto& other : others) REQUIRE(other.get());
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
  const SparseBytes whole = lab.env.bytes_of("/a");
  // The catalog is the first segment behind the header; every page of its used part in turn.
  for (std::uint64_t page = 0; page < 12; ++page) {
    SparseBytes& bytes = lab.env.bytes_of("/a");
    bytes = whole;
    std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(format::kHeaderBytes + page * 4096), 4096,
                std::byte{0x5a});
    INFO("page " << page);
    const auto found = lab.check();
    REQUIRE_FALSE(found.empty());
  }
}

TEST_CASE("check finds properties and holds of nothing, or that say nothing, and repairs them away") {
  const std::pair<const char*, const char*> rows[] = {
      {"INSERT INTO property VALUES(4711, 'on-full', 'pause')", "a property of volume 4711, which does not"},
      {"INSERT INTO property SELECT id, 'on-full', 'pause' FROM snapshot", "which does not exist"},
      {"INSERT INTO property SELECT id, 'colour', 'red' FROM volume LIMIT 1", "'colour'='red'"},
      {"INSERT INTO property SELECT id, 'snapshot-limit', '4K' FROM volume LIMIT 1", "says nothing"},
      {"INSERT INTO hold VALUES(4711, 'keep', 0)", "a hold on snapshot 4711, which does not exist"},
      {"INSERT INTO hold SELECT id, 'keep', 0 FROM volume LIMIT 1", "which does not exist"},
      {"INSERT INTO hold SELECT id, 'a/b', 0 FROM snapshot", "a hold with a bad tag, 'a/b'"}};
  for (const auto& [row, words] : rows) {
    CAPTURE(row);
    Damaged lab;
    lab.sql(row);
    lab.require_found(words);
    lab.check(true);
    REQUIRE(lab.check().empty());
  }
}
