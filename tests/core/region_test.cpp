// The map of a region: entries, the right to change ranges of them, and its end.
#include "core/region.h"

#include <memory>
#include <thread>

#include "tests/support/seed.h"
#include "tests/support/catch.h"

using namespace vsnap;

namespace {

std::unique_ptr<Region> region_at(Version version) {
  return std::make_unique<Region>(RegionIndex(0), version);
}

void refresh(Region& region, Version current) { region.refresh_own(current); }

void set_run(Region& region, std::uint64_t from, std::uint64_t count, Entry first) {
  MutexLock lock(region.mutex());
  region.set_run(from, count, first);
}
void set_entry(Region& region, std::uint64_t block, Entry e) { set_run(region, block, 1, e); }

Entry data_at(std::uint64_t block, bool own = true) { return {BlockKind::data, Place(0, block), own}; }

// The map beside a plain array.
class Model {
 public:
  explicit Model(std::uint64_t seed) : random_(seed) {}

  void step() {
    const std::uint64_t dice = random_() % 100;
    if (dice < 3) {
      snapshot();
    } else if (dice < 5) {
      load_again();
    } else {
      set_run();
    }
  }
  void check() const {
    for (std::uint64_t block = 0; block < kRegionBlocks; ++block) {
      if (region_->entry(block) != entries_[block]) FAIL("block " << block);
    }
    CHECK(region_->bytes() <= Region::max_bytes());
    CHECK(total_ == region_->bytes());
  }

 private:
  void set_run() {
    const bool whole_chunks = random_() % 4 == 0;
    const std::uint64_t unit = whole_chunks ? kLeafBlocks : 1;
    const std::uint64_t from = random_() % kSpan / unit * unit;
    const std::uint64_t count = (1 + random_() % 40) * unit;
    const Entry first = random_entry();
    ::set_run(*region_, from, count, first);
    for (std::uint64_t i = 0; i < count; ++i) entries_[from + i] = first.further(i);
  }
  Entry random_entry() {
    const auto kind = static_cast<BlockKind>(random_() % 4);
    const bool own = kind != BlockKind::none && random_() % 2 == 0;
    if (kind == BlockKind::none || kind == BlockKind::hole) return {kind, Place(), own};
    // Near each other for the most part; else on any member, up to its last block.
    if (random_() % 8 != 0) return {kind, Place(1, 5000 + random_() % 100'000), own};
    const std::uint64_t last = (1ULL << Place::kBlockBits) - 1000;
    return {kind, Place(static_cast<std::uint32_t>(random_() % 256), random_() % last), own};
  }
  void snapshot() {
    refresh(*region_, Version(++version_));
    for (Entry& e : entries_) e = e.frozen();
  }
  void load_again() {
    region_ = region_at(Version(version_));
    region_->load(entries_);
    total_ = 0;
    region_->count_in(total_);
  }

  static constexpr std::uint64_t kSpan = kRegionBlocks - 40 * kLeafBlocks;
  std::mt19937_64 random_;
  std::uint64_t version_ = 1;
  std::atomic<std::uint64_t> total_{0};
  std::array<Entry, kRegionBlocks> entries_{};
  std::unique_ptr<Region> region_ = counted(total_);
  static std::unique_ptr<Region> counted(std::atomic<std::uint64_t>& total) {
    auto region = region_at(Version(1));
    region->count_in(total);
    return region;
  }
};

// One writer gives blocks places that grow with each change; readers look whether the places are ones that
// the block may have, and never older than what they saw before.
struct Onlookers {
  static constexpr std::uint64_t kBlocks = 4 * kLeafBlocks;
  std::unique_ptr<Region> region = region_at(Version(1));
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0};

  // Far enough from each other that narrow leaves do not reach for long.
  static Entry written(std::uint64_t change, std::uint64_t block) { return data_at(change << 16 | block); }
  void write(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    for (std::uint64_t change = 1; change <= 20'000; ++change) {
      const std::uint64_t from = random() % kBlocks;
      const std::uint64_t count = 1 + random() % (kBlocks - from);
      set_run(*region, from, count, written(change, from));
      if (change % 64 == 0) refresh(*region, Version(change));
      if (change % 256 == 0) std::this_thread::yield();
    }
    done = true;
  }
  void read() {
    std::array<std::uint64_t, kBlocks> newest{};
    while (!done) {
      for (std::uint64_t block = 0; block < kBlocks; ++block) {
        const Entry e = region->entry(block);
        const std::uint64_t change = e.place().block() >> 16;
        const bool known = e.frozen() == (change == 0 ? Entry() : written(change, block).frozen());
        wrong += !known || change < newest[block] ? 1 : 0;
        newest[block] = change;
      }
    }
  }
};

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

TEST_CASE("entries are those of a plain array after random runs, snapshots and loads") {
  const std::uint64_t seed = test_seed();
  INFO("VSNAP_TEST_SEED=" << seed);
  Model model(seed);
  for (int i = 0; i < 2000; ++i) {
    model.step();
    if (i % 20 == 0) model.check();
  }
  model.check();
}

TEST_CASE("readers see an entry as it was before a change or after it") {
  const std::uint64_t seed = test_seed();
  INFO("VSNAP_TEST_SEED=" << seed);
  Onlookers onlookers;
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) readers.emplace_back([&onlookers] { onlookers.read(); });
  onlookers.write(seed);
  for (std::thread& reader : readers) reader.join();
  CHECK(onlookers.wrong == 0);
}

TEST_CASE("runs of whole chunks take no memory of their own") {
  const auto region = region_at(Version(1));
  for (std::uint64_t chunk = 0; chunk < kRegionBlocks; chunk += kLeafBlocks)
    set_run(*region, chunk, kLeafBlocks, data_at(1'000'000 - 2 * chunk));
  CHECK(region->bytes() == sizeof(Region));
  refresh(*region, Version(2));
  CHECK(region->bytes() == sizeof(Region));
  CHECK(region->entry(kRegionBlocks - 1) == data_at(1'000'000 - 2 * (kRegionBlocks - 16) + 15, false));
}

TEST_CASE("what a run says already takes no memory") {
  const auto region = region_at(Version(1));
  set_run(*region, 0, kRegionBlocks, data_at(5000));
  set_run(*region, 7, 100, data_at(5007));
  CHECK(region->bytes() == sizeof(Region));
}

TEST_CASE("blocks far from each other on one member take less than six bytes each") {
  const auto region = region_at(Version(1));
  for (std::uint64_t block = 0; block < kRegionBlocks; ++block)
    set_entry(*region, block, data_at(1000 + (block * 7919) % kRegionBlocks * 1000));
  CHECK(region->bytes() < 6 * kRegionBlocks);
}

TEST_CASE("a region never takes more than it may, however often its places change") {
  const auto region = region_at(Version(1));
  for (std::uint32_t member = 0; member < 20; ++member) {
    for (std::uint64_t block = member % 2; block < kRegionBlocks; block += 2)
      set_entry(*region, block, Entry(BlockKind::data, Place(member, block), true));
    set_run(*region, 0, kRegionBlocks, Entry(BlockKind::data, Place(member, 77), true));
  }
  CHECK(region->bytes() == Region::max_bytes());
}

TEST_CASE("a region that is loaded has runs where there are runs by then") {
  std::array<Entry, kRegionBlocks> entries{};
  for (std::uint64_t block = 0; block < kRegionBlocks; ++block) entries[block] = data_at(1000 + block);
  const auto runs = region_at(Version(1));
  runs->load(entries);
  CHECK(runs->bytes() == sizeof(Region));
  entries[100] = Entry(BlockKind::hole, Place(), false);
  const auto broken = region_at(Version(1));
  broken->load(entries);
  CHECK(broken->bytes() == sizeof(Region) + sizeof(NarrowLeaf));
  CHECK(broken->entry(100) == entries[100]);
  CHECK(broken->entry(101) == entries[101]);
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
  set_entry(*region, 7, Entry(BlockKind::data, Place(0, 300), true));
  refresh(*region, Version(4));
  CHECK(region->entry(7).own());
}

TEST_CASE("no block is own any more once the branch's number has moved on") {
  const auto region = region_at(Version(4));
  set_entry(*region, 0, Entry(BlockKind::data, Place(0, 300), true));
  set_entry(*region, kRegionBlocks - 1, Entry(BlockKind::reserved, Place(1, 301), true));
  refresh(*region, Version(5));
  CHECK_FALSE(region->entry(0).own());
  CHECK(region->entry(0).place() == Place(0, 300));
  CHECK_FALSE(region->entry(kRegionBlocks - 1).own());
}

TEST_CASE("blocks that became own after a refresh outlive the next one at the same number") {
  const auto region = region_at(Version(4));
  refresh(*region, Version(5));
  set_entry(*region, 7, Entry(BlockKind::data, Place(0, 300), true));
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
