// The map of a region: entries, the right to change ranges of them, and its end.
#include "core/region.h"

#include <memory>
#include <thread>

#include "tests/core/seed.h"
#include "tests/support/catch.h"

using namespace vsnap;

namespace {

std::unique_ptr<Region> region_at(Version version) {
  return std::make_unique<Region>(RegionIndex(0), version);
}

void refresh(Region& region, Version current) { region.refresh_own(current); }

// Each thread takes random ranges and claims their blocks; `clashes` counts blocks that somebody else had.
struct Contest {
  static constexpr std::uint64_t kBlocks = 64;
  std::unique_ptr<Region> region = region_at(Version(1));
  std::array<std::atomic<bool>, kBlocks> claimed{};
  std::atomic<int> clashes{0};

  void run(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    for (int i = 0; i < 3000; ++i) {
      const std::uint64_t from = random() % kBlocks;
      const std::uint64_t to = from + 1 + random() % (kBlocks - from);
      const RangeLock lock(*region, from, to);
      for (std::uint64_t b = from; b < to; ++b) clashes += claimed[b].exchange(true) ? 1 : 0;
      if (i % 16 == 0) std::this_thread::yield();
      for (std::uint64_t b = from; b < to; ++b) claimed[b] = false;
    }
  }
};

} // namespace

TEST_CASE("an entry keeps its kind, place and ownership at the limits") {
  const Place last(255, (1ULL << Place::kBlockBits) - 1);
  for (const BlockKind kind : {BlockKind::none, BlockKind::data, BlockKind::reserved, BlockKind::hole}) {
    const Entry entry(kind, last, true);
    CHECK(entry.kind() == kind);
    CHECK(entry.place() == last);
    CHECK(entry.own());
    CHECK_FALSE(entry.frozen().own());
    CHECK(entry.frozen().place() == last);
  }
}

TEST_CASE("a new region maps nothing") {
  const auto region = region_at(Version(1));
  for (std::uint64_t block = 0; block < kRegionBlocks; ++block) {
    if (region->entry(block).word() != 0) FAIL("block " << block);
  }
  SUCCEED();
}

TEST_CASE("no block of a region is in two held ranges") {
  const std::uint64_t seed = test_seed();
  INFO("VSNAP_TEST_SEED=" << seed);
  Contest contest;
  std::vector<std::thread> threads;
  for (std::uint64_t i = 0; i < 4; ++i) threads.emplace_back([&contest, seed, i] { contest.run(seed + i); });
  for (std::thread& thread : threads) thread.join();
  CHECK(contest.clashes == 0);
}

TEST_CASE("ranges that only touch are held at the same time") {
  const auto region = region_at(Version(1));
  const RangeLock left(*region, 0, 8);
  const RangeLock right(*region, 8, 16);
  CHECK(left.held());
  CHECK(right.held());
}

TEST_CASE("own blocks stay own while the branch's number does") {
  const auto region = region_at(Version(4));
  region->set_entry(7, Entry(BlockKind::data, Place(0, 300), true));
  refresh(*region, Version(4));
  CHECK(region->entry(7).own());
}

TEST_CASE("no block is own any more once the branch's number has moved on") {
  const auto region = region_at(Version(4));
  region->set_entry(0, Entry(BlockKind::data, Place(0, 300), true));
  region->set_entry(kRegionBlocks - 1, Entry(BlockKind::reserved, Place(1, 301), true));
  refresh(*region, Version(5));
  CHECK_FALSE(region->entry(0).own());
  CHECK(region->entry(0).place() == Place(0, 300));
  CHECK_FALSE(region->entry(kRegionBlocks - 1).own());
}

TEST_CASE("blocks that became own after a refresh outlive the next one at the same number") {
  const auto region = region_at(Version(4));
  refresh(*region, Version(5));
  region->set_entry(7, Entry(BlockKind::data, Place(0, 300), true));
  refresh(*region, Version(5));
  CHECK(region->entry(7).own());
}

TEST_CASE("a region with a held range is not retired") {
  const auto region = region_at(Version(1));
  const RangeLock lock(*region, 0, 1);
  CHECK_FALSE(region->retire(~0ULL));
}

TEST_CASE("a region with a record that is not committed is not retired") {
  const auto region = region_at(Version(1));
  region->note_record(8);
  CHECK_FALSE(region->retire(7));
  CHECK(region->retire(8));
}

TEST_CASE("a retired region gives out no range") {
  const auto region = region_at(Version(1));
  REQUIRE(region->retire(0));
  const RangeLock lock(*region, 0, 1);
  CHECK_FALSE(lock.held());
}

TEST_CASE("a region that could not be retired goes on giving out ranges") {
  const auto region = region_at(Version(1));
  {
    const RangeLock lock(*region, 0, 1);
    REQUIRE_FALSE(region->retire(0));
  }
  const RangeLock again(*region, 0, 1);
  CHECK(again.held());
}
