// The extent index: which version a view sees, and what a change leaves of older rows.
#include "core/extent_index.h"

#include "core/schema.h"
#include "tests/support/seed.h"
#include "tests/support/catch.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kFirst = 1000; // block of the member that places in these tests start at

ExtentRow row(std::uint64_t start, std::uint64_t count, std::uint64_t born, std::uint64_t physical) {
  return {BlockIndex(start), born, BlockCount(count), BlockKind::data, Place(0, physical)};
}
ExtentRow hole(std::uint64_t start, std::uint64_t count, std::uint64_t born) {
  return {BlockIndex(start), born, BlockCount(count), BlockKind::hole, Place()};
}

// A catalog in memory with one branch, and an allocator that has handed out every place.
class Index {
 public:
  Index() : db(":memory:", SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE) {
    db.exec(schema::kCreate);
    index = std::make_unique<ExtentIndex>(db, std::vector<std::uint64_t>{1ULL << 17});
    branch.id = BranchId(1);
    allocator.add_member(1ULL << 17, kFirst);
    REQUIRE(allocator.take({Place(0, kFirst), BlockCount(100'000)}));
  }
  void insert(const ExtentRow& r, BranchId id = BranchId(1)) {
    index->insert(id, r);
    if (r.kind != BlockKind::hole) allocator.set_durable({r.place, r.count}, true);
  }
  MapChange change(std::uint64_t start, std::uint64_t count, BlockKind kind,
                   std::uint64_t physical = 0) const {
    MapChange c;
    c.branch = branch.id;
    c.start = BlockIndex(start);
    c.count = BlockCount(count);
    c.kind = kind;
    if (kind != BlockKind::hole) c.place = Place(0, physical);
    c.born = branch.version();
    c.floor = branch.floor.load();
    c.keep_hole = true;
    return c;
  }
  void apply(const MapChange& c) { index->apply(c, allocator, freed); }
  std::unique_ptr<Region> load(const Branch& seen, std::uint64_t number, std::uint64_t region = 0,
                               std::optional<std::int64_t> head_floor = std::nullopt) {
    auto map = std::make_unique<Region>(RegionIndex(region), Version(number));
    index->load_region(seen, Version(number), head_floor, *map);
    return map;
  }
  Entry seen(std::uint64_t block, std::uint64_t number) { return load(branch, number)->entry(block); }

  SQLite::Database db;
  std::unique_ptr<ExtentIndex> index;
  Branch branch;
  Allocator allocator;
  std::vector<PlaceRun> freed;
};

// (start, count, physical) of the rows of a region.
using Rows = std::vector<std::array<std::uint64_t, 3>>;
Rows rows_of(Index& i, std::uint64_t region = 0) {
  Rows all;
  for (const ExtentRow& r : i.index->rows(i.branch.id, RegionIndex(region))) {
    all.push_back({r.start.value(), r.count.value(), r.place.block()});
  }
  return all;
}

} // namespace

TEST_CASE("a region without rows maps nothing") {
  Index i;
  const auto region = i.load(i.branch, 1);
  for (std::uint64_t block = 0; block < kRegionBlocks; ++block) REQUIRE(region->entry(block).word() == 0);
}

TEST_CASE("a view sees the newest version that is not younger than itself") {
  Index i;
  i.insert(row(0, 4, 1, kFirst));
  i.insert(row(0, 4, 3, kFirst + 10));
  CHECK(i.seen(2, 1).place() == Place(0, kFirst + 2));
  CHECK(i.seen(2, 2).place() == Place(0, kFirst + 2));
  CHECK(i.seen(2, 3).place() == Place(0, kFirst + 12));
}

TEST_CASE("an older version is seen beside a newer one that covers it in part") {
  Index i;
  i.insert(row(0, 10, 1, kFirst));
  i.insert(row(3, 2, 2, kFirst + 10));
  CHECK(i.seen(2, 2).place() == Place(0, kFirst + 2));
  CHECK(i.seen(3, 2).place() == Place(0, kFirst + 10));
  CHECK(i.seen(5, 2).place() == Place(0, kFirst + 5));
}

TEST_CASE("an older version that starts behind a newer one does not hide it") {
  Index i;
  i.insert(row(0, 10, 2, kFirst));
  i.insert(row(3, 2, 1, kFirst + 10));
  CHECK(i.seen(3, 2).place() == Place(0, kFirst + 3));
}

TEST_CASE("a hole hides older versions and is none to the views before it") {
  Index i;
  i.insert(row(0, 4, 1, kFirst));
  i.insert(hole(0, 4, 2));
  CHECK(i.seen(0, 2).kind() == BlockKind::hole);
  CHECK(i.seen(0, 1).kind() == BlockKind::data);
}

TEST_CASE("a block without a row is the parent's as of the number of the branching") {
  Index i;
  Branch child;
  child.id = BranchId(2);
  child.parent = &i.branch;
  child.parent_number = Version(2);
  i.insert(row(0, 4, 2, kFirst));
  i.insert(row(0, 4, 3, kFirst + 10)); // after the branching
  i.insert(row(1, 1, 1, kFirst + 20), child.id);
  const auto region = i.load(child, 1);
  CHECK(region->entry(0).place() == Place(0, kFirst));
  CHECK(region->entry(1).place() == Place(0, kFirst + 20));
  CHECK(region->entry(4).kind() == BlockKind::none);
}

TEST_CASE("a hole of a branch hides the parent") {
  Index i;
  Branch child;
  child.id = BranchId(2);
  child.parent = &i.branch;
  child.parent_number = Version(1);
  i.insert(row(0, 4, 1, kFirst));
  i.insert(hole(1, 1, 1), child.id);
  CHECK(i.load(child, 1)->entry(1).kind() == BlockKind::hole);
}

TEST_CASE("a block is found through a chain of parents") {
  Index i;
  i.insert(row(7, 1, 1, kFirst));
  std::array<Branch, 5> chain;
  for (std::size_t link = 0; link < chain.size(); ++link) {
    chain[link].id = BranchId(link + 2);
    chain[link].parent = link == 0 ? &i.branch : &chain[link - 1];
    chain[link].parent_number = Version(1);
  }
  CHECK(i.load(chain.back(), 1)->entry(7).place() == Place(0, kFirst));
}

TEST_CASE("only rows of the head that are born after the floor are its own") {
  Index i;
  Branch child;
  child.id = BranchId(2);
  child.parent = &i.branch;
  child.parent_number = Version(9);
  i.insert(row(0, 1, 9, kFirst));
  i.insert(row(1, 1, 3, kFirst + 1), child.id);
  i.insert(row(2, 1, 4, kFirst + 2), child.id);
  const auto region = i.load(child, 4, 0, 3);
  CHECK_FALSE(region->entry(0).own());
  CHECK_FALSE(region->entry(1).own());
  CHECK(region->entry(2).own());
}

TEST_CASE("nothing is own to a view that is not a head") {
  Index i;
  i.insert(row(0, 1, 1, kFirst));
  CHECK_FALSE(i.seen(0, 1).own());
}

TEST_CASE("a region has the rows of its own blocks only") {
  Index i;
  i.insert(row(kRegionBlocks - 1, 1, 1, kFirst));
  i.insert(row(kRegionBlocks, 1, 1, kFirst + 5));
  const auto first = i.load(i.branch, 1, 0);
  const auto second = i.load(i.branch, 1, 1);
  CHECK(first->entry(kRegionBlocks - 1).place() == Place(0, kFirst));
  CHECK(first->entry(0).kind() == BlockKind::none);
  CHECK(second->entry(0).place() == Place(0, kFirst + 5));
}

TEST_CASE("the last region of a view of 8 EiB can be used") {
  Index i;
  const std::uint64_t last = (1ULL << 38) - 1;
  i.insert(row(last * kRegionBlocks + kRegionBlocks - 1, 1, 1, kFirst));
  CHECK(i.load(i.branch, 1, last)->entry(kRegionBlocks - 1).place() == Place(0, kFirst));
  CHECK(i.index->next_region(i.branch.id, RegionIndex(1)) == RegionIndex(last));
}

TEST_CASE("a row that cannot be true is damage and not a place to read") {
  for (const std::string values : {"1,8190,1,3,1,0,5000", "1,0,1,0,1,0,5000", "1,0,1,1,0,0,5000",
                                   "1,0,1,1,4,0,5000", "1,0,1,-1,1,0,5000"}) {
    INFO(values);
    Index i;
    i.db.exec("INSERT INTO extent(branch, start, born, count, kind, member, physical) VALUES(" + values +
              ")");
    CHECK_THROWS_AS(i.load(i.branch, 1), SQLite::Exception);
  }
}

TEST_CASE("a change takes the middle out of an own row") {
  Index i;
  i.insert(row(0, 10, 1, kFirst));
  i.apply(i.change(4, 2, BlockKind::data, kFirst + 50));
  CHECK(rows_of(i) == Rows{{0, 4, kFirst}, {4, 2, kFirst + 50}, {6, 4, kFirst + 6}});
}

TEST_CASE("what a change takes out is freed and durable no longer") {
  Index i;
  i.insert(row(0, 10, 1, kFirst));
  i.apply(i.change(4, 2, BlockKind::data, kFirst + 50));
  REQUIRE(i.freed.size() == 1);
  CHECK(i.freed[0] == PlaceRun{Place(0, kFirst + 4), BlockCount(2)});
  CHECK_FALSE(i.allocator.is_durable(Place(0, kFirst + 4)));
  CHECK(i.allocator.is_durable(Place(0, kFirst + 51)));
  CHECK(i.allocator.durable_blocks() == 10);
}

TEST_CASE("a change over several own rows frees the part of each") {
  Index i;
  i.insert(row(0, 4, 1, kFirst));
  i.insert(row(4, 4, 1, kFirst + 20));
  i.insert(row(8, 4, 1, kFirst + 40));
  i.apply(i.change(2, 8, BlockKind::data, kFirst + 60));
  CHECK(rows_of(i) == Rows{{0, 2, kFirst}, {2, 8, kFirst + 60}, {10, 2, kFirst + 42}});
  CHECK(i.freed.size() == 3);
}

TEST_CASE("a row at or below the floor is left as it is") {
  Index i;
  i.insert(row(0, 10, 1, kFirst));
  i.branch.number = 2;
  i.branch.floor = 1;
  i.apply(i.change(4, 2, BlockKind::data, kFirst + 50));
  CHECK(rows_of(i) == Rows{{0, 10, kFirst}, {4, 2, kFirst + 50}});
  CHECK(i.freed.empty());
}

TEST_CASE("a fresh change looks for no row to cut") {
  Index i;
  MapChange c = i.change(0, 4, BlockKind::data, kFirst);
  c.fresh = true;
  i.apply(c);
  CHECK(rows_of(i) == Rows{{0, 4, kFirst}});
  CHECK(i.allocator.durable_blocks() == 4);
}

TEST_CASE("changes that follow one another in blocks and places become one row") {
  Index i;
  for (std::uint64_t n = 0; n < 5; ++n) i.apply(i.change(n, 1, BlockKind::data, kFirst + n));
  CHECK(rows_of(i) == Rows{{0, 5, kFirst}});
}

TEST_CASE("a change that may not join has a row of its own, and looks for none") {
  Index i;
  i.insert(row(0, 1, 0, kFirst));
  MapChange c = i.change(1, 1, BlockKind::data, kFirst + 1);
  c.may_join = false;
  i.apply(c);
  CHECK(rows_of(i) == Rows{{0, 1, kFirst}, {1, 1, kFirst + 1}});
}

TEST_CASE("a row that was written lately and is gone or another one by now is not made longer") {
  Index i;
  MapChange c = i.change(4, 4, BlockKind::data, kFirst + 4);
  c.fresh = true;
  i.apply(c);
  i.index->remove(BranchId(1), row(4, 4, c.born.value(), kFirst + 4));
  SECTION("gone") {}
  SECTION("with other places") { i.index->insert(BranchId(1), row(4, 4, c.born.value(), kFirst + 40)); }
  SECTION("shorter") { i.index->insert(BranchId(1), row(4, 2, c.born.value(), kFirst + 4)); }
  const Rows before = rows_of(i);
  MapChange next = i.change(8, 1, BlockKind::data, kFirst + 8);
  next.fresh = true;
  i.apply(next);
  Rows after = before;
  after.push_back({8, 1, kFirst + 8});
  CHECK(rows_of(i) == after);
}

TEST_CASE("rows never cross a region") {
  Index i;
  i.apply(i.change(kRegionBlocks - 2, 2, BlockKind::data, kFirst));
  i.apply(i.change(kRegionBlocks, 2, BlockKind::data, kFirst + 2));
  CHECK(rows_of(i, 0) == Rows{{kRegionBlocks - 2, 2, kFirst}});
  CHECK(rows_of(i, 1) == Rows{{kRegionBlocks, 2, kFirst + 2}});
}

TEST_CASE("a row of an older number is not made longer") {
  Index i;
  i.insert(row(0, 1, 1, kFirst));
  i.branch.number = 2;
  i.branch.floor = 1;
  i.apply(i.change(1, 1, BlockKind::data, kFirst + 1));
  CHECK(rows_of(i).size() == 2);
}

TEST_CASE("a hole with nothing below it needs no row") {
  Index i;
  i.insert(row(0, 4, 1, kFirst));
  MapChange c = i.change(0, 4, BlockKind::hole);
  c.keep_hole = false;
  i.apply(c);
  CHECK(rows_of(i).empty());
  CHECK(i.allocator.durable_blocks() == 0);
}

TEST_CASE("a hole over an older version keeps a row") {
  Index i;
  i.insert(row(0, 4, 1, kFirst));
  i.branch.number = 2;
  i.branch.floor = 1;
  i.apply(i.change(1, 2, BlockKind::hole));
  CHECK(i.seen(1, 2).kind() == BlockKind::hole);
  CHECK(i.seen(1, 1).kind() == BlockKind::data);
  CHECK(i.freed.empty());
}

TEST_CASE("a reserved place that is written where it is stays durable and is not freed") {
  Index i;
  i.apply(i.change(0, 8, BlockKind::reserved, kFirst));
  i.apply(i.change(2, 3, BlockKind::data, kFirst + 2));
  CHECK(i.freed.empty());
  CHECK(i.allocator.durable_blocks() == 8);
  CHECK(i.seen(1, 1).kind() == BlockKind::reserved);
  CHECK(i.seen(2, 1).kind() == BlockKind::data);
}

TEST_CASE("a dead row under a newer one is cut too while its branch is swept") {
  Index i;
  i.insert(row(0, 100, 1, kFirst));
  i.insert(row(50, 10, 2, kFirst + 200));
  i.branch.number = 3;
  i.index->start_sweep(i.branch.id);
  i.apply(i.change(70, 10, BlockKind::data, kFirst + 300));
  CHECK(rows_of(i) ==
        Rows{{0, 70, kFirst}, {50, 10, kFirst + 200}, {70, 10, kFirst + 300}, {80, 20, kFirst + 80}});
}

TEST_CASE("a sweep is remembered with its place until it ends") {
  Index i;
  i.index->start_sweep(BranchId(7));
  i.index->set_sweep(BranchId(7), BlockIndex(4711));
  CHECK(ExtentIndex(i.db, {}).first_sweep() == std::pair(BranchId(7), BlockIndex(4711)));
  i.index->end_sweep(BranchId(7));
  CHECK_FALSE(i.index->first_sweep().has_value());
}

TEST_CASE("space groups come back as they were stored last") {
  Index i;
  SpaceGroup group{3, 9, std::vector<std::byte>(4096, std::byte{1})};
  i.index->store_space({group});
  group.bitmap[5] = std::byte{0x80};
  i.index->store_space({group});
  std::vector<SpaceGroup> loaded;
  i.index->load_space([&](const SpaceGroup& g) { loaded.push_back(g); });
  REQUIRE(loaded.size() == 1);
  CHECK(loaded[0].member == 3);
  CHECK(loaded[0].group == 9);
  CHECK(loaded[0].bitmap == group.bitmap);
}

namespace {

// Random changes and snapshots on both sides of a border of regions, beside a map for each number.
class RandomHistory {
 public:
  explicit RandomHistory(std::uint64_t seed) : random_(seed) {}

  void snapshot() {
    maps_[number()] = head_;
    i_.branch.floor = static_cast<std::int64_t>(number());
    ++i_.branch.number;
  }
  void change() {
    const std::uint64_t start = kRegionBlocks - kSpan + random_() % (2 * kSpan);
    const std::uint64_t end = start < kRegionBlocks ? kRegionBlocks : kRegionBlocks + kSpan;
    const std::uint64_t count = 1 + random_() % std::min<std::uint64_t>(end - start, 24);
    const std::uint64_t dice = random_() % 10;
    const BlockKind kind = dice < 6 ? BlockKind::data : dice < 8 ? BlockKind::reserved : BlockKind::hole;
    i_.apply(i_.change(start, count, kind, next_place_));
    for (std::uint64_t n = 0; n < count; ++n) {
      head_[start + n] = Entry(kind, kind == BlockKind::hole ? Place() : Place(0, next_place_ + n), false);
    }
    next_place_ += count + random_() % 2;
  }
  void check() {
    maps_[number()] = head_;
    for (const auto& [number, map] : maps_) {
      INFO("as of number " << number);
      for (const std::uint64_t region : {0U, 1U}) check_region(number, region, map);
    }
    check_space();
  }

 private:
  static constexpr std::uint64_t kSpan = 60;
  using Map = std::map<std::uint64_t, Entry>;
  std::uint64_t number() const { return i_.branch.number.load(); }

  void check_region(std::uint64_t number, std::uint64_t region, const Map& map) {
    const auto loaded = i_.load(i_.branch, number, region);
    for (std::uint64_t b = 0; b < kRegionBlocks; ++b) {
      const auto expected = map.find(region * kRegionBlocks + b);
      const std::uint64_t word = expected == map.end() ? 0 : expected->second.word();
      if (loaded->entry(b).word() != word) FAIL("block " << b << " of region " << region);
    }
  }
  // The durable blocks are those that rows name, and none is named twice.
  void check_space() {
    std::set<Place> named;
    for (const std::uint64_t region : {0U, 1U}) {
      for (const ExtentRow& r : i_.index->rows(i_.branch.id, RegionIndex(region))) {
        if (r.kind == BlockKind::hole) continue;
        for (std::uint64_t n = 0; n < r.count.value(); ++n) {
          REQUIRE(named.insert(r.place + BlockCount(n)).second);
          REQUIRE(i_.allocator.is_durable(r.place + BlockCount(n)));
        }
      }
    }
    REQUIRE(i_.allocator.durable_blocks() == named.size());
  }

  Index i_;
  std::mt19937_64 random_;
  Map head_;
  std::map<std::uint64_t, Map> maps_;
  std::uint64_t next_place_ = kFirst;
};

} // namespace

TEST_CASE("random changes show every view what it saw when it was made") {
  const std::uint64_t seed = test_seed();
  INFO("VSNAP_TEST_SEED=" << seed);
  RandomHistory history(seed);
  for (int round = 0; round < 20; ++round) {
    for (int n = 0; n < 80; ++n) history.change();
    history.check();
    history.snapshot();
  }
}
