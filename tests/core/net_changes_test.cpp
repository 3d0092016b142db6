// The net form of changes: what counts of each block is the last record, and no place is forgotten.
#include "core/net_changes.h"

#include <set>

#include "tests/support/seed.h"
#include "tests/support/catch.h"

using namespace vsnap;

namespace {

MapChange change(std::uint64_t start, std::uint64_t count, BlockKind kind, std::uint64_t physical = 0) {
  MapChange c;
  c.branch = BranchId(1);
  c.start = BlockIndex(start);
  c.count = BlockCount(count);
  c.kind = kind;
  if (kind != BlockKind::hole) c.place = Place(0, physical);
  c.born = Version(1);
  return c;
}

struct Block {
  BlockKind kind = BlockKind::none;
  Place place;
  bool fresh = true; // of all its records
};
using Blocks = std::map<std::uint64_t, Block>;

// Block by block, what records do.
class Replay {
 public:
  void add(const MapChange& c) {
    for (std::uint64_t i = 0; i < c.count.value(); ++i) {
      const std::uint64_t index = c.start.value() + i;
      Block next{c.kind, c.kind == BlockKind::hole ? Place() : c.place + BlockCount(i), c.fresh};
      if (const auto old = blocks.find(index); old != blocks.end()) {
        next.fresh = next.fresh && old->second.fresh;
        if (old->second.kind != BlockKind::hole &&
            (next.kind == BlockKind::hole || old->second.place != next.place)) {
          overtaken.insert(old->second.place);
        }
      }
      blocks[index] = next;
    }
  }
  Blocks blocks;
  std::multiset<Place> overtaken;
};

// The same from the net form; fails where pieces overlap or cross a region.
Blocks blocks_of(const NetChanges& net, BranchId branch) {
  Blocks blocks;
  const auto found = net.by_version.find({branch, Version(1)});
  if (found == net.by_version.end()) return blocks;
  for (const auto& [start, c] : found->second) {
    REQUIRE(start == c.start);
    REQUIRE(c.start.value() % kRegionBlocks + c.count.value() <= kRegionBlocks);
    for (std::uint64_t i = 0; i < c.count.value(); ++i) {
      const Place place = c.kind == BlockKind::hole ? Place() : c.place + BlockCount(i);
      REQUIRE(blocks.emplace(start.value() + i, Block{c.kind, place, c.fresh}).second);
    }
  }
  return blocks;
}

std::multiset<Place> overtaken_of(const NetChanges& net) {
  std::multiset<Place> places;
  for (const PlaceRun& run : net.overtaken) {
    for (std::uint64_t i = 0; i < run.count.value(); ++i) places.insert(run.start + BlockCount(i));
  }
  return places;
}

// Changes on both sides of a border of regions; each of one region, as the engine makes them.
class RandomChanges {
 public:
  explicit RandomChanges(std::uint64_t seed) : random_(seed) {}
  MapChange next(const Blocks& now) {
    const std::uint64_t border = kRegionBlocks;
    const std::uint64_t start = border - 40 + random_() % 80;
    const std::uint64_t room = start < border ? border - start : border + 40 - start;
    const std::uint64_t count = 1 + random_() % std::min<std::uint64_t>(room, 20);
    const std::uint64_t dice = random_() % 10;
    const auto here = now.find(start);
    if (dice < 3 && here != now.end() && here->second.kind == BlockKind::reserved)
      return in_place(now, start, count);
    MapChange c = change(start, count,
                         dice < 6   ? BlockKind::data
                         : dice < 8 ? BlockKind::reserved
                                    : BlockKind::hole,
                         next_place_);
    next_place_ += count + random_() % 2;
    c.fresh = random_() % 2 == 0;
    return c;
  }

 private:
  // Data where space was reserved: the run of reserved blocks from `start` whose places follow one another.
  MapChange in_place(const Blocks& now, std::uint64_t start, std::uint64_t most) {
    const Place first = now.at(start).place;
    std::uint64_t count = 1;
    for (; count < most; ++count) {
      const auto block = now.find(start + count);
      if (block == now.end() || block->second.kind != BlockKind::reserved) break;
      if (block->second.place != first + BlockCount(count)) break;
    }
    return change(start, count, BlockKind::data, first.block());
  }
  std::mt19937_64 random_;
  std::uint64_t next_place_ = 1000;
};

struct Compared {
  NetChanges net;
  Replay replay;
  void require_same() const {
    const Blocks got = blocks_of(net, BranchId(1));
    REQUIRE(got.size() == replay.blocks.size());
    for (const auto& [index, expected] : replay.blocks) {
      INFO("block " << index);
      const auto found = got.find(index);
      REQUIRE(found != got.end());
      REQUIRE(found->second.kind == expected.kind);
      REQUIRE(found->second.place == expected.place);
      if (found->second.fresh) REQUIRE(expected.fresh);
    }
    REQUIRE(overtaken_of(net) == replay.overtaken);
  }
};

} // namespace

TEST_CASE("the net form is what the records do one after the other") {
  const std::uint64_t seed = test_seed();
  INFO("VSNAP_TEST_SEED=" << seed);
  RandomChanges changes(seed);
  for (int round = 0; round < 60; ++round) {
    Compared both;
    for (int i = 0; i < 60; ++i) {
      const MapChange c = changes.next(both.replay.blocks);
      both.net.add(c);
      both.replay.add(c);
      INFO("round " << round << ", record " << i);
      both.require_same();
    }
  }
}

TEST_CASE("of saves of one version the first counts") {
  const auto save = [](std::uint64_t start, std::uint64_t count, std::uint64_t physical) {
    MapChange c = change(start, count, BlockKind::data, physical);
    c.saves = true;
    return c;
  };
  NetChanges net;
  net.add(save(4, 2, 100));
  net.add(save(10, 2, 110));
  net.add(save(0, 16, 200));
  const auto& pieces = net.by_version[{BranchId(1), Version(1)}];
  REQUIRE(pieces.size() == 5);
  CHECK(pieces.at(BlockIndex(0)).place == Place(0, 200));
  CHECK(pieces.at(BlockIndex(0)).count == BlockCount(4));
  CHECK(pieces.at(BlockIndex(4)).place == Place(0, 100));
  CHECK(pieces.at(BlockIndex(6)).place == Place(0, 206));
  CHECK(pieces.at(BlockIndex(10)).place == Place(0, 110));
  CHECK(pieces.at(BlockIndex(12)).place == Place(0, 212));
  CHECK(pieces.at(BlockIndex(12)).count == BlockCount(4));
  const std::multiset<Place> twice{Place(0, 204), Place(0, 205), Place(0, 210), Place(0, 211)};
  CHECK(overtaken_of(net) == twice);
}

TEST_CASE("a change inside an older one leaves both of its ends") {
  NetChanges net;
  net.add(change(0, 10, BlockKind::data, 100));
  net.add(change(3, 4, BlockKind::data, 200));
  const auto& pieces = net.by_version[{BranchId(1), Version(1)}];
  REQUIRE(pieces.size() == 3);
  CHECK(pieces.at(BlockIndex(0)).count == BlockCount(3));
  CHECK(pieces.at(BlockIndex(7)).place == Place(0, 107));
}

TEST_CASE("the place of a change that was overtaken comes out once") {
  NetChanges net;
  net.add(change(0, 10, BlockKind::data, 100));
  net.add(change(3, 4, BlockKind::hole));
  net.add(change(3, 4, BlockKind::hole));
  REQUIRE(net.overtaken.size() == 1);
  CHECK(net.overtaken[0] == PlaceRun{Place(0, 103), BlockCount(4)});
}

TEST_CASE("a reserved place that is written where it is has not been overtaken") {
  NetChanges net;
  net.add(change(0, 10, BlockKind::reserved, 100));
  net.add(change(2, 3, BlockKind::data, 102));
  CHECK(net.overtaken.empty());
}

TEST_CASE("changes that follow one another in blocks and places become one") {
  NetChanges net;
  for (std::uint64_t i = 0; i < 5; ++i) net.add(change(i, 1, BlockKind::data, 100 + i));
  CHECK(net.size() == 1);
  CHECK(net.by_version[{BranchId(1), Version(1)}].at(BlockIndex(0)).count == BlockCount(5));
}

TEST_CASE("a change joins those on both of its sides") {
  NetChanges net;
  for (const std::uint64_t block : {5U, 7U, 6U, 4U}) net.add(change(block, 1, BlockKind::data, 100 + block));
  REQUIRE(net.size() == 1);
  const MapChange& joined = net.by_version.at({BranchId(1), Version(1)}).begin()->second;
  CHECK(joined.start == BlockIndex(4));
  CHECK(joined.count == BlockCount(4));
  CHECK(joined.place == Place(0, 104));
}

TEST_CASE("changes on two sides of a region's border stay two") {
  NetChanges net;
  net.add(change(kRegionBlocks - 1, 1, BlockKind::data, 100));
  net.add(change(kRegionBlocks, 1, BlockKind::data, 101));
  CHECK(net.size() == 2);
}

TEST_CASE("changes of different kinds or ages stay two") {
  NetChanges net;
  net.add(change(0, 1, BlockKind::data, 100));
  net.add(change(1, 1, BlockKind::reserved, 101));
  MapChange later = change(2, 1, BlockKind::reserved, 102);
  later.born = Version(2);
  net.add(later);
  CHECK(net.size() == 3);
}

TEST_CASE("a fresh change over one that is not fresh is fresh no longer") {
  NetChanges net;
  net.add(change(0, 4, BlockKind::data, 100));
  MapChange fresh = change(0, 4, BlockKind::data, 200);
  fresh.fresh = true;
  net.add(fresh);
  CHECK_FALSE(net.by_version[{BranchId(1), Version(1)}].at(BlockIndex(0)).fresh);
}

TEST_CASE("a fresh change over a fresh one stays fresh") {
  NetChanges net;
  for (const std::uint64_t place : {100U, 200U}) {
    MapChange fresh = change(0, 4, BlockKind::data, place);
    fresh.fresh = true;
    net.add(fresh);
  }
  CHECK(net.by_version[{BranchId(1), Version(1)}].at(BlockIndex(0)).fresh);
}

TEST_CASE("branches do not overtake each other") {
  NetChanges net;
  net.add(change(0, 4, BlockKind::data, 100));
  MapChange other = change(0, 4, BlockKind::data, 200);
  other.branch = BranchId(2);
  net.add(other);
  CHECK(net.overtaken.empty());
  CHECK(net.by_version.size() == 2);
}

TEST_CASE("mapped blocks add up for each branch") {
  NetChanges net;
  MapChange c = change(0, 4, BlockKind::data, 100);
  c.mapped_change = 4;
  net.add(c);
  c = change(1, 2, BlockKind::hole);
  c.mapped_change = -2;
  net.add(c);
  CHECK(net.mapped_change[BranchId(1)] == 2);
}

TEST_CASE("a change does not overtake one of an older version: a snapshot sees that") {
  NetChanges net;
  net.add(change(0, 4, BlockKind::data, 100));
  MapChange newer = change(1, 2, BlockKind::data, 200);
  newer.born = Version(2);
  newer.floor = 1;
  net.add(newer);
  CHECK(net.overtaken.empty());
  REQUIRE(net.by_version.size() == 2);
  CHECK(net.by_version.begin()->first.second == Version(1));
  CHECK(net.by_version.begin()->second.at(BlockIndex(0)).count == BlockCount(4));
}
