// Which blocks are handed out, and where.
#include "core/allocator.h"

#include <set>

#include "core/format.h"
#include "tests/support/catch.h"
#include "tests/support/seed.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kHeader = format::kHeaderBlocks;

std::set<Place> places_of(PlaceRun run) {
  std::set<Place> places;
  for (std::uint64_t i = 0; i < run.count.value(); ++i) places.insert(run.start + BlockCount(i));
  return places;
}

SpaceGroup group_with(std::uint32_t member, std::uint64_t group, std::uint64_t bit) {
  SpaceGroup row{member, group, std::vector<std::byte>(format::kGroupBlocks / 8)};
  row.bitmap[bit / 8] = static_cast<std::byte>(1U << (bit % 8));
  return row;
}

Place allocate_one(Allocator& allocator, std::uint64_t phase, std::optional<Place> near = std::nullopt) {
  const auto run = allocator.allocate(BlockCount(1), near, phase);
  REQUIRE(run.has_value());
  REQUIRE(run->count == BlockCount(1));
  return run->start;
}

// An allocator beside a set of the places that it has handed out.
class Shadowed {
 public:
  explicit Shadowed(std::uint64_t seed) : random_(seed) {
    for (const std::uint64_t blocks : sizes_) allocator_.add_member(blocks, kHeader);
  }
  void step() {
    const std::uint64_t dice = random_() % 100;
    if (dice < 55)
      note(allocator_.allocate(BlockCount(1 + random_() % 40), near(), random_() % 16));
    else if (dice < 60)
      note_segment();
    else if (dice < 64)
      note_long();
    else
      give_back();
  }
  void fill() {
    while (const auto run = allocator_.allocate(BlockCount(64), std::nullopt, random_() % 16)) note(run);
  }
  void check() const {
    std::uint64_t all = 0;
    for (const std::uint64_t blocks : sizes_) all += blocks - kHeader;
    REQUIRE(allocator_.free_blocks() == all - taken_.size());
  }

 private:
  std::optional<Place> near() {
    if (runs_.empty() || random_() % 2 == 0) return std::nullopt;
    const PlaceRun& run = runs_[random_() % runs_.size()];
    return run.start + run.count; // may be past the member's end
  }
  void note(const std::optional<PlaceRun>& run) {
    if (!run) {
      REQUIRE(allocator_.free_blocks() == 0);
      return;
    }
    REQUIRE(run->count.value() > 0);
    for (const Place place : places_of(*run)) {
      if (place.block() < kHeader || place.block() >= sizes_.at(place.member())) FAIL("outside the member");
      if (!taken_.insert(place).second) FAIL("block " << place.block() << " was handed out twice");
    }
    runs_.push_back(*run);
  }
  void note_segment() {
    if (const auto run = allocator_.allocate_segment(BlockCount(16), BlockCount(16 + random_() % 400))) {
      REQUIRE(run->count.value() >= 16);
      note(run);
    }
  }
  void note_long() {
    const BlockCount wanted(1 + random_() % 400);
    if (const auto run = allocator_.allocate_long(wanted)) {
      REQUIRE(run->count <= wanted);
      REQUIRE(run->start.block() % kNeighbourhoodBlocks == 0);
      REQUIRE(run->count.value() >= std::min(wanted.value(), kNeighbourhoodBlocks));
      note(run);
    }
  }
  void give_back() {
    if (runs_.empty()) return;
    std::swap(runs_[random_() % runs_.size()], runs_.back());
    for (const Place place : places_of(runs_.back())) taken_.erase(place);
    allocator_.release(runs_.back());
    runs_.pop_back();
  }

  const std::vector<std::uint64_t> sizes_ = {kHeader + 701, kHeader + 33'000, kHeader + 1};
  std::mt19937_64 random_;
  Allocator allocator_;
  std::set<Place> taken_;
  std::vector<PlaceRun> runs_;
};

} // namespace

TEST_CASE("no block is handed out twice") {
  const std::uint64_t seed = test_seed();
  INFO("VSNAP_TEST_SEED=" << seed);
  Shadowed shadowed(seed);
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 5000; ++i) shadowed.step();
    shadowed.check();
    shadowed.fill();
    shadowed.check();
  }
}

TEST_CASE("a block lies at its own position in its neighbourhood") {
  Allocator allocator;
  allocator.add_member(kHeader + 256, kHeader);
  for (const std::uint64_t phase : {0U, 5U, 15U}) {
    CHECK(allocate_one(allocator, phase).block() % kNeighbourhoodBlocks == phase);
  }
}

TEST_CASE("a block is put next to its neighbour where that place is free") {
  Allocator allocator;
  allocator.add_member(kHeader + 256, kHeader);
  const Place first = allocate_one(allocator, 5);
  CHECK(allocate_one(allocator, 6, first + BlockCount(1)) == first + BlockCount(1));
}

TEST_CASE("a block whose wanted place is taken gets another") {
  Allocator allocator;
  allocator.add_member(kHeader + 256, kHeader);
  const Place first = allocate_one(allocator, 0);
  CHECK(allocate_one(allocator, 0, first) != first);
}

TEST_CASE("a wanted place outside every member is no obstacle") {
  Allocator allocator;
  allocator.add_member(kHeader + 256, kHeader);
  CHECK(allocator.allocate(BlockCount(1), Place(0, kHeader + 256), 0).has_value());
  CHECK(allocator.allocate(BlockCount(1), Place(7, 0), 0).has_value());
}

TEST_CASE("two neighbourhoods do not share a chunk while there are free ones") {
  Allocator allocator;
  allocator.add_member(kHeader + 64, kHeader);
  std::set<std::uint64_t> chunks;
  for (int i = 0; i < 4; ++i) chunks.insert(allocate_one(allocator, 3).block() / kNeighbourhoodBlocks);
  CHECK(chunks.size() == 4);
}

TEST_CASE("a chunk that is in part taken is used when no free one is left") {
  Allocator allocator;
  allocator.add_member(kHeader + 32, kHeader);
  for (int i = 0; i < 32; ++i) REQUIRE(allocator.allocate(BlockCount(1), std::nullopt, 3).has_value());
  CHECK(allocator.free_blocks() == 0);
}

TEST_CASE("a pool without a free chunk is filled as quickly as any other, to its last block") {
  Allocator allocator;
  constexpr std::uint64_t kBlocks = 4'000'000 + 5; // the last chunk is not whole
  allocator.add_member(kBlocks, kHeader);
  std::uint64_t taken = kHeader;
  while (const auto run = allocator.allocate(BlockCount(1), std::nullopt, 0)) {
    ++taken; // one of each chunk, then whatever there is: it would take hours to look for each from the start
    REQUIRE(run->count == BlockCount(1));
  }
  REQUIRE(taken == kBlocks);
  REQUIRE(allocator.free_blocks() == 0);
  allocator.release({Place(0, 70'000), BlockCount(1)});
  allocator.release({Place(0, 3'000'000), BlockCount(16)});
  REQUIRE(allocator.allocate(BlockCount(1), std::nullopt, 0)->start == Place(0, 3'000'000)); // a chunk first
  REQUIRE(allocator.allocate(BlockCount(1), std::nullopt, 0)->start == Place(0, 70'000));
}

TEST_CASE("a run ends at the next taken block") {
  Allocator allocator;
  allocator.add_member(kHeader + 64, kHeader);
  REQUIRE(allocator.take({Place(0, kHeader + 20), BlockCount(1)}));
  const auto run = allocator.allocate(BlockCount(64), std::nullopt, 0);
  REQUIRE(run.has_value());
  CHECK(*run == PlaceRun{Place(0, kHeader), BlockCount(20)});
}

TEST_CASE("space is taken from every member before there is none") {
  Allocator allocator;
  allocator.add_member(kHeader + 16, kHeader);
  allocator.add_member(kHeader + 16, kHeader);
  std::set<std::uint32_t> members;
  while (const auto run = allocator.allocate(BlockCount(16), std::nullopt, 0))
    members.insert(run->start.member());
  CHECK(members == std::set<std::uint32_t>{0, 1});
  CHECK(allocator.free_blocks() == 0);
}

TEST_CASE("the last block of a member is handed out") {
  Allocator allocator;
  allocator.add_member(kHeader + 17, kHeader);
  std::set<Place> all;
  while (const auto run = allocator.allocate(BlockCount(4), std::nullopt, 0)) all.merge(places_of(*run));
  CHECK(all.size() == 17);
  CHECK(all.rbegin()->block() == kHeader + 16);
}

TEST_CASE("a neighbourhood is not laid over the end of its member") {
  Allocator allocator;
  const std::uint64_t end = kHeader + kNeighbourhoodBlocks + 8;
  allocator.add_member(end, kHeader);
  for (int i = 0; i < 24; ++i) CHECK(allocate_one(allocator, 15).block() < end);
  CHECK(allocator.free_blocks() == 0);
}

TEST_CASE("a released block is handed out again") {
  Allocator allocator;
  allocator.add_member(kHeader + 1, kHeader);
  const Place only = allocate_one(allocator, 0);
  REQUIRE_FALSE(allocator.allocate(BlockCount(1), std::nullopt, 0).has_value());
  allocator.release({only, BlockCount(1)});
  CHECK(allocate_one(allocator, 0) == only);
}

TEST_CASE("an allocator without members has no space") {
  Allocator allocator;
  CHECK_FALSE(allocator.allocate(BlockCount(1), std::nullopt, 0).has_value());
  CHECK_FALSE(allocator.allocate_segment(BlockCount(1), BlockCount(1)).has_value());
}

TEST_CASE("a segment is the longest free run when none is as long as wanted") {
  Allocator allocator;
  allocator.add_member(kHeader + 100, kHeader);
  REQUIRE(allocator.take({Place(0, kHeader + 30), BlockCount(1)}));
  const auto run = allocator.allocate_segment(BlockCount(16), BlockCount(200));
  REQUIRE(run.has_value());
  CHECK(*run == PlaceRun{Place(0, kHeader + 31), BlockCount(69)});
}

TEST_CASE("a segment is not shorter than its minimum") {
  Allocator allocator;
  allocator.add_member(kHeader + 31, kHeader);
  REQUIRE(allocator.take({Place(0, kHeader + 15), BlockCount(1)}));
  CHECK_FALSE(allocator.allocate_segment(BlockCount(16), BlockCount(64)).has_value());
}

TEST_CASE("metadata cannot take what is taken or lies outside its member") {
  Allocator allocator;
  allocator.add_member(kHeader + 64, kHeader);
  REQUIRE(allocator.take({Place(0, kHeader + 8), BlockCount(8)}));
  CHECK_FALSE(allocator.take({Place(0, kHeader), BlockCount(9)}));
  CHECK_FALSE(allocator.take({Place(0, kHeader - 1), BlockCount(1)}));
  CHECK_FALSE(allocator.take({Place(0, kHeader + 60), BlockCount(5)}));
  CHECK_FALSE(allocator.take({Place(0, kHeader + 60), BlockCount(~0ULL)}));
  CHECK_FALSE(allocator.take({Place(1, kHeader), BlockCount(1)}));
}

TEST_CASE("durable groups come back as they were stored") {
  const std::uint64_t seed = test_seed();
  INFO("VSNAP_TEST_SEED=" << seed);
  std::mt19937_64 random(seed);
  const std::uint64_t blocks = 2 * format::kGroupBlocks + 77; // the last group is not whole
  Allocator before;
  before.add_member(kHeader + 50, kHeader);
  before.add_member(blocks, kHeader);
  std::set<Place> durable;
  while (const auto run = before.allocate(BlockCount(1 + random() % 700), std::nullopt, random() % 16)) {
    if (random() % 2 == 0) continue;
    before.set_durable(*run, true);
    durable.merge(places_of(*run));
  }
  Allocator after;
  after.add_member(kHeader + 50, kHeader);
  after.add_member(blocks, kHeader);
  for (const SpaceGroup& group : before.take_changed_groups()) REQUIRE(after.load_group(group));
  CHECK(after.durable_blocks() == durable.size());
  CHECK(after.free_blocks() == kHeader + 50 + blocks - 2 * kHeader - durable.size());
  for (std::uint64_t block = 0; block < blocks; ++block) {
    if (after.is_durable(Place(1, block)) != durable.contains(Place(1, block))) FAIL("block " << block);
  }
}

TEST_CASE("only groups that changed are stored") {
  Allocator allocator;
  allocator.add_member(3 * format::kGroupBlocks, kHeader);
  const PlaceRun run{Place(0, format::kGroupBlocks + 5), BlockCount(2)};
  REQUIRE(allocator.take(run));
  allocator.set_durable(run, true);
  const auto changed = allocator.take_changed_groups();
  REQUIRE(changed.size() == 1);
  CHECK(changed[0].group == 1);
  CHECK(allocator.take_changed_groups().empty());
}

TEST_CASE("a block that is durable no longer stays taken until it is released") {
  Allocator allocator;
  allocator.add_member(kHeader + 1, kHeader);
  const PlaceRun run{allocate_one(allocator, 0), BlockCount(1)};
  allocator.set_durable(run, true);
  allocator.set_durable(run, false);
  CHECK(allocator.durable_blocks() == 0);
  CHECK_FALSE(allocator.allocate(BlockCount(1), std::nullopt, 0).has_value());
  allocator.release(run);
  CHECK(allocator.free_blocks() == 1);
}

TEST_CASE("a group that cannot be true is refused") {
  const auto accepts = [](const SpaceGroup& group) {
    Allocator allocator;
    allocator.add_member(2 * format::kGroupBlocks - 100, kHeader);
    return allocator.load_group(group);
  };
  REQUIRE(accepts(group_with(0, 0, kHeader)));
  REQUIRE(accepts(group_with(0, 1, 0)));
  CHECK_FALSE(accepts(group_with(0, 0, kHeader - 1)));                // in the header
  CHECK_FALSE(accepts(group_with(0, 1, format::kGroupBlocks - 100))); // past the member's end
  CHECK_FALSE(accepts(group_with(0, 2, 0)));
  CHECK_FALSE(accepts(group_with(1, 0, kHeader))); // no such member
  CHECK_FALSE(accepts({0, 0, std::vector<std::byte>(100)}));
  CHECK_FALSE(accepts({0, 0, {}}));
}

TEST_CASE("a group number that overflows is refused") {
  Allocator allocator;
  allocator.add_member(2 * format::kGroupBlocks, kHeader);
  CHECK_FALSE(allocator.load_group(group_with(0, (1ULL << 49) + 1, 5))); // times 2^15 it is group 1
}

TEST_CASE("a block of two groups is refused") {
  Allocator allocator;
  allocator.add_member(format::kGroupBlocks, kHeader);
  REQUIRE(allocator.load_group(group_with(0, 0, 1000)));
  CHECK_FALSE(allocator.load_group(group_with(0, 0, 1000)));
}
