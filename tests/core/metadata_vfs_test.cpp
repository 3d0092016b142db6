// SQLite on segments of members.
#include "core/metadata_vfs.h"

#include <set>

#include "core/database.h"
#include "core/log.h"
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

// ---- what is gathered before it is written ----

namespace {

std::vector<std::byte> bytes_of(std::uint8_t value, std::size_t size) {
  return std::vector<std::byte>(size, std::byte{value});
}

// A WAL or a catalog with room for 2 MiB, of which nothing is written yet.
class Gathering : public Catalog {
 public:
  explicit Gathering(MetadataFile file) : stream(vfs_stream(file)) {}
  MetadataVfs::Stream& stream;

 private:
  MetadataVfs::Stream& vfs_stream(MetadataFile file) {
    REQUIRE(vfs->grow(file, BlockCount(512)).has_value());
    return vfs->stream(file);
  }
};

} // namespace

TEST_CASE("writes that follow each other reach the member as one, at the sync") {
  Gathering wal(MetadataFile::wal);
  const std::uint64_t before = wal.env.calls();
  for (std::uint64_t i = 0; i < 100; ++i)
    REQUIRE(wal.stream.write(i * 100, bytes_of(static_cast<std::uint8_t>(i), 100)).has_value());
  CHECK(wal.env.calls() == before);
  REQUIRE(wal.stream.sync().has_value());
  CHECK(wal.env.calls() == before + 2); // a write and a flush
}

TEST_CASE("what is gathered is read back") {
  Gathering wal(MetadataFile::wal);
  REQUIRE(wal.stream.write(0, bytes_of(1, 5000)).has_value());
  std::vector<std::byte> back(100);
  REQUIRE(*wal.stream.read(4900, back));
  CHECK(back == bytes_of(1, 100));
}

TEST_CASE("what is gathered and written over is as it was written last") {
  Gathering wal(MetadataFile::wal);
  REQUIRE(wal.stream.write(0, bytes_of(1, 5000)).has_value());
  REQUIRE(wal.stream.write(1000, bytes_of(2, 100)).has_value());
  std::vector<std::byte> back(300);
  REQUIRE(*wal.stream.read(900, back));
  CHECK(back[99] == std::byte{1});
  CHECK(back[100] == std::byte{2});
  CHECK(back[199] == std::byte{2});
  CHECK(back[200] == std::byte{1});
}

TEST_CASE("more than fits in memory is gathered in parts") {
  Gathering wal(MetadataFile::wal);
  const std::uint64_t before = wal.env.calls();
  for (std::uint64_t at = 0; at < MetadataVfs::Stream::kGatheredBytes + 8192; at += 4096)
    REQUIRE(wal.stream.write(at, bytes_of(static_cast<std::uint8_t>(at / 4096), 4096)).has_value());
  CHECK(wal.env.calls() == before + 1);
  REQUIRE(wal.stream.write(0, bytes_of(9, MetadataVfs::Stream::kGatheredBytes + 1)).has_value());
  std::vector<std::byte> back(2);
  REQUIRE(*wal.stream.read(MetadataVfs::Stream::kGatheredBytes, back));
  CHECK(back[0] == std::byte{9});
  CHECK(back[1] == std::byte{0}); // page 256
}

TEST_CASE("what was gathered for a WAL and not written never comes to be") {
  log::set_level(log::Level::off);
  Gathering wal(MetadataFile::wal);
  REQUIRE(wal.stream.write(0, bytes_of(1, 1000)).has_value());
  REQUIRE(wal.stream.sync().has_value());
  REQUIRE(wal.stream.write(1000, bytes_of(2, 1000)).has_value());
  wal.env.no_space(true);
  CHECK(refusal(wal.stream.sync()).kind == ErrorKind::no_space);
  wal.env.no_space(false);
  std::vector<std::byte> back(1000);
  SECTION("neither by a later sync") { CHECK(refusal(wal.stream.sync()).kind == ErrorKind::no_space); }
  SECTION("nor by a write behind it") {
    CHECK(refusal(wal.stream.write(2000, bytes_of(3, 10))).kind == ErrorKind::no_space);
  }
  SECTION("nor for a reader") { CHECK(refusal(wal.stream.read(1000, back)).kind == ErrorKind::no_space); }
  SECTION("and what was there before stays") {
    REQUIRE(*wal.stream.read(0, back));
    CHECK(back == bytes_of(1, 1000));
  }
  SECTION("but the place can be written anew") {
    REQUIRE(wal.stream.write(1000, bytes_of(4, 500)).has_value());
    REQUIRE(wal.stream.sync().has_value());
    REQUIRE(*wal.stream.read(1000, back));
    CHECK(back[499] == std::byte{4});
    CHECK(back[500] == std::byte{0});
  }
}

TEST_CASE("what was gathered for the catalog and not written is tried again") {
  Gathering file(MetadataFile::catalog);
  REQUIRE(file.stream.write(0, bytes_of(1, 4096)).has_value());
  file.env.no_space(true);
  CHECK(refusal(file.stream.sync()).kind == ErrorKind::no_space);
  CHECK(refusal(file.stream.write(8192, bytes_of(2, 4096))).kind == ErrorKind::no_space);
  file.env.no_space(false);
  REQUIRE(file.stream.write(8192, bytes_of(3, 4096)).has_value());
  REQUIRE(file.stream.sync().has_value());
  std::vector<std::byte> back(3 * 4096);
  REQUIRE(*file.stream.read(0, back));
  CHECK(back.front() == std::byte{1});
  CHECK(back.back() == std::byte{3});
}

TEST_CASE("a full file system below the members undoes the transaction, which can be repeated") {
  log::set_level(log::Level::off);
  SplitCatalog catalog;
  REQUIRE(catalog.fill(20).has_value());
  const std::string before = catalog.summary();
  const int rows = GENERATE(20, 1000); // fits in what is gathered, and does not
  catalog.env.no_space(true);
  for (int i = 0; i < 2; ++i) CHECK(refusal(catalog.fill(rows)).kind == ErrorKind::no_space);
  CHECK(catalog.summary() == before);
  catalog.env.no_space(false);
  SECTION("and is repeated") {
    REQUIRE(catalog.fill(rows).has_value());
    const std::string after = catalog.summary();
    catalog.env.power_cut(static_cast<std::uint64_t>(rows));
    catalog.reopen();
    CHECK(catalog.summary() == after);
  }
  SECTION("or the power is cut") {
    catalog.env.power_cut(static_cast<std::uint64_t>(rows));
    catalog.reopen();
    CHECK(catalog.summary() == before);
  }
  CHECK(catalog.database->integrity_problems()->empty());
}

TEST_CASE("whichever call fails, a transaction is there as a whole or not at all, and as it was answered") {
  log::set_level(log::Level::off);
  bool reached_end = false;
  for (std::uint64_t nth = 1; !reached_end; ++nth) {
    INFO("call " << nth);
    SplitCatalog catalog;
    REQUIRE(catalog.fill(30).has_value());
    std::string expected = catalog.summary();
    const std::uint64_t calls = catalog.env.calls();
    catalog.env.fail_once(nth);
    for (int i = 0; i < 4; ++i) {                // the WAL starts anew in between
      if (!catalog.fill(300).has_value()) break; // its pool takes no more changes
      expected = catalog.summary();
    }
    reached_end = catalog.env.calls() - calls < nth;
    catalog.env.fail_from(std::nullopt);
    catalog.env.power_cut(nth);
    catalog.reopen();
    CHECK(catalog.summary() == expected);
    CHECK(catalog.database->integrity_problems()->empty());
  }
}
