// SQLite on segments of members.
#include "core/metadata_vfs.h"

#include <set>

#include "core/database.h"
#include "tests/core/memory_members.h"
#include "tests/core/refusal.h"

using namespace vsnap;

namespace {

// Two members, the VFS on them and the database on that; reopen() starts again from the bytes.
class Catalog {
 public:
  Catalog() {
    create_members(env, "lab", {"/a", "/b"}, 16ULL << 20);
    open();
  }
  ~Catalog() { close(); }
  Catalog(const Catalog&) = delete;
  Catalog& operator=(const Catalog&) = delete;

  void open() {
    members = open_members(env, {"/a", "/b"});
    allocator = std::make_unique<Allocator>();
    const Superblock layout = members->layout();
    for (const RosterEntry& member : layout.roster)
      allocator->add_member(member.blocks, format::kHeaderBlocks);
    for (const MetadataSegment& segment : layout.segments) REQUIRE(allocator->take(segment.run));
    vfs = std::make_unique<MetadataVfs>(*members, *allocator);
    REQUIRE(vfs->load().has_value());
  }
  void open_database() {
    auto opened = Database::open(MetadataVfs::kDatabaseFile, vfs->vfs_name(), 100);
    INFO((opened ? "" : opened.error().message));
    REQUIRE(opened.has_value());
    database = std::move(*opened);
  }
  void close() {
    database.reset();
    vfs.reset();
    allocator.reset();
    members.reset();
  }
  void reopen() {
    close();
    open();
    open_database();
  }
  Result<> exec(const std::string& sql) {
    return database->write([&](SQLite::Database& db) -> Result<> {
      db.exec(sql);
      return {};
    });
  }
  Result<> fill(int rows) {
    return exec(
        "INSERT INTO t(data) WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < " +
        std::to_string(rows) + ") SELECT randomblob(2000) FROM n");
  }
  // Number of rows and a sum over their contents.
  std::string summary() {
    const auto read = database->read([](SQLite::Database& db) -> Result<std::string> {
      SQLite::Statement rows(db, "SELECT count(*), group_concat(hex(substr(data, 1990)), '') FROM t");
      rows.executeStep();
      return rows.getColumn(0).getString() + " " + rows.getColumn(1).getString();
    });
    REQUIRE(read.has_value());
    return *read;
  }

  MemoryEnv env;
  std::unique_ptr<MemberSet> members;
  std::unique_ptr<Allocator> allocator;
  std::unique_ptr<MetadataVfs> vfs;
  std::unique_ptr<Database> database;
};

// With a database in it whose file has two segments, of 64 KiB each, on two members.
class SplitCatalog : public Catalog {
 public:
  SplitCatalog() {
    for (int i = 0; i < 2; ++i) REQUIRE(vfs->grow(MetadataFile::catalog, BlockCount(16)).has_value());
    open_database();
    REQUIRE(exec("CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB)").has_value());
  }
};

} // namespace

TEST_CASE("segments that follow each other lie on different members") {
  SplitCatalog catalog;
  std::set<std::uint32_t> used;
  for (const MetadataSegment& segment : catalog.members->layout().segments) {
    if (segment.file == MetadataFile::catalog) used.insert(segment.run.start.member());
  }
  CHECK(used == std::set<std::uint32_t>{0, 1});
}

TEST_CASE("a database across two segments survives closing and opening") {
  SplitCatalog catalog;
  REQUIRE(catalog.fill(50).has_value()); // 100 KB
  const std::string before = catalog.summary();
  catalog.reopen();
  CHECK(catalog.summary() == before);
  CHECK(catalog.database->integrity_problems()->empty());
}

TEST_CASE("a transaction that was committed survives a power cut") {
  SplitCatalog catalog;
  REQUIRE(catalog.fill(50).has_value());
  const std::string before = catalog.summary();
  catalog.env.power_cut(11);
  catalog.reopen();
  CHECK(catalog.summary() == before);
}

TEST_CASE("a transaction that was rolled back leaves nothing") {
  SplitCatalog catalog;
  const auto done = catalog.database->write([](SQLite::Database& db) -> Result<> {
    db.exec("INSERT INTO t(data) VALUES(1)");
    return failure(ErrorKind::failed, "given up");
  });
  REQUIRE_FALSE(done.has_value());
  catalog.reopen();
  CHECK(catalog.summary().substr(0, 2) == "0 ");
}

TEST_CASE("a database grows by segments as it needs them") {
  SplitCatalog catalog;
  const std::uint64_t before = catalog.vfs->capacity_bytes(MetadataFile::catalog);
  REQUIRE(catalog.fill(1000).has_value()); // 2 MB
  REQUIRE(catalog.database->checkpoint().has_value());
  CHECK(catalog.vfs->capacity_bytes(MetadataFile::catalog) > before);
  const std::string content = catalog.summary();
  catalog.reopen();
  CHECK(catalog.summary() == content);
}

TEST_CASE("the capacity of both files is that of their segments") {
  SplitCatalog catalog;
  REQUIRE(catalog.fill(500).has_value());
  std::uint64_t blocks = 0;
  for (const MetadataSegment& segment : catalog.members->layout().segments)
    blocks += segment.run.count.value();
  CHECK(catalog.vfs->capacity_bytes(MetadataFile::catalog) + catalog.vfs->capacity_bytes(MetadataFile::wal) ==
        blocks * kBlockBytes);
}

TEST_CASE("a checkpoint brings everything into the database file") {
  SplitCatalog catalog;
  REQUIRE(catalog.fill(50).has_value());
  REQUIRE(catalog.database->checkpoint().has_value());
  CHECK(catalog.vfs->stream(MetadataFile::wal).size_bytes() == 0);
}

TEST_CASE("a catalog without space for more answers no space and keeps what it has") {
  SplitCatalog catalog;
  REQUIRE(catalog.fill(20).has_value());
  const std::string before = catalog.summary();
  while (catalog.allocator->allocate(BlockCount(1000), std::nullopt, 0)) continue;
  const Error error = refusal(catalog.fill(2000));
  CHECK(error.kind == ErrorKind::no_space);
  CHECK(catalog.summary() == before);
  catalog.reopen(); // where what was taken without being stored is free again
  CHECK(catalog.summary() == before);
}

TEST_CASE("a catalog that had no space goes on once there is some") {
  SplitCatalog catalog;
  std::vector<PlaceRun> taken;
  while (const auto run = catalog.allocator->allocate(BlockCount(1000), std::nullopt, 0))
    taken.push_back(*run);
  REQUIRE_FALSE(catalog.fill(2000).has_value());
  for (const PlaceRun& run : taken) catalog.allocator->release(run);
  CHECK(catalog.fill(2000).has_value());
}

TEST_CASE("a segment of less than 64 KiB is not made") {
  Catalog catalog;
  while (catalog.allocator->allocate_segment(BlockCount(16), BlockCount(1000))) continue;
  CHECK(refusal(catalog.vfs->grow(MetadataFile::wal, BlockCount(256))).kind == ErrorKind::no_space);
}

TEST_CASE("a table of segments that is full answers no space") {
  Catalog catalog;
  const auto stored = catalog.members->update_layout([](Superblock& layout) {
    layout.segments.assign(format::kMaxSegments, {MetadataFile::wal, {Place(0, 300), BlockCount(16)}});
  });
  REQUIRE(stored.has_value());
  CHECK(refusal(catalog.vfs->grow(MetadataFile::wal, BlockCount(16))).kind == ErrorKind::no_space);
}

TEST_CASE("new segments without a database in them count as an empty file") {
  Catalog catalog;
  REQUIRE(catalog.vfs->grow(MetadataFile::catalog, BlockCount(16)).has_value());
  catalog.close();
  catalog.open();
  CHECK(catalog.vfs->stream(MetadataFile::catalog).size_bytes() == 0);
  CHECK(catalog.vfs->capacity_bytes(MetadataFile::catalog) == 16 * kBlockBytes);
}

TEST_CASE("bytes across a border of segments come back in one piece") {
  Catalog catalog;
  for (int i = 0; i < 2; ++i) REQUIRE(catalog.vfs->grow(MetadataFile::wal, BlockCount(16)).has_value());
  std::vector<std::byte> data(5000);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i % 251);
  MetadataVfs::Stream& stream = catalog.vfs->stream(MetadataFile::wal);
  REQUIRE(stream.write(16 * kBlockBytes - 2345, data).has_value());
  std::vector<std::byte> back(5000);
  const auto read = stream.read(16 * kBlockBytes - 2345, back);
  REQUIRE(read.has_value());
  CHECK(back == data);
}

TEST_CASE("a read past the end gives zeros and says that it was short") {
  Catalog catalog;
  MetadataVfs::Stream& stream = catalog.vfs->stream(MetadataFile::wal);
  REQUIRE(stream.write(0, std::vector<std::byte>(100, std::byte{7})).has_value());
  std::vector<std::byte> back(200, std::byte{9});
  const auto read = stream.read(0, back);
  REQUIRE(read.has_value());
  CHECK_FALSE(*read);
  CHECK(back[99] == std::byte{7});
  CHECK(back[100] == std::byte{0});
}

TEST_CASE("a member that cannot be written is an error to the transaction and not a loss") {
  SplitCatalog catalog;
  REQUIRE(catalog.fill(20).has_value());
  const std::string before = catalog.summary();
  catalog.env.fail_from(1);
  REQUIRE_FALSE(catalog.fill(20).has_value());
  catalog.env.fail_from(std::nullopt);
  catalog.reopen();
  CHECK(catalog.summary() == before);
}
