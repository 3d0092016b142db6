// What is noted of blocks that were written to granted places, and what of that outlives its process.
#include "sync/pending_blocks.h"

#include "core/log.h"
#include "tests/support/catch.h"
#include "tests/support/memory_env.h"

using namespace vsnap;

namespace {

constexpr ObjectId kVolume(3);
constexpr std::uint64_t kDelegation = 5;
const std::string kName = "vsnap-granted-test";

PlaceRun run(std::uint64_t block, std::uint64_t count) { return {Place(0, block), BlockCount(count)}; }

struct PendingLab {
  MemoryEnv env;
  std::unique_ptr<PendingMemory> memory;
  PendingBlocks blocks{kVolume};

  PendingLab() {
    vsnap::log::set_level(vsnap::log::Level::off);
    auto made = PendingMemory::make(env, kName);
    REQUIRE(made.has_value());
    memory = std::move(*made);
    blocks.begin(kDelegation, memory.get());
  }
  void write(std::uint64_t block, std::uint64_t count) {
    for (const PlaceRun& taken : blocks.take(count)) {
      blocks.add(BlockIndex(block), taken);
      block += taken.count.value();
    }
  }
  std::vector<PendingChange> left() {
    auto found = PendingMemory::left(env, kName);
    REQUIRE(found.has_value());
    return *found;
  }
};

} // namespace

TEST_CASE("granted places are taken in order, in few runs, and go back") {
  PendingLab lab;
  CHECK(lab.blocks.take(1).empty());
  const std::vector<PlaceRun> granted = {run(100, 4), run(200, 4)};
  lab.blocks.grant(granted);
  const auto taken = lab.blocks.take(6);
  CHECK(taken == std::vector<PlaceRun>{run(100, 4), run(200, 2)});
  CHECK(lab.blocks.left() == 2);
  CHECK(lab.blocks.take(3).empty());
  lab.blocks.put_back(taken[1]);
  lab.blocks.put_back(taken[0]);
  CHECK(lab.blocks.left() == 8);
  CHECK(lab.blocks.take(1) == std::vector<PlaceRun>{run(100, 1)});
  lab.blocks.stop_granting();
  CHECK(lab.blocks.take(1).empty());
}

TEST_CASE("what is handed over is what was pending up to a number, in runs") {
  PendingLab lab;
  const std::vector<PlaceRun> granted = {run(100, 20)};
  lab.blocks.grant(granted);
  lab.write(10, 3);
  lab.write(13, 2);
  lab.write(50, 1);
  const std::uint64_t upto = lab.blocks.last();
  lab.write(51, 1);
  CHECK(lab.blocks.first() == 1);
  const auto batch = lab.blocks.batch(upto, 100);
  REQUIRE(batch.size() == 2);
  CHECK(batch[0] == MapRun{BlockIndex(10), BlockCount(5), BlockKind::data, Place(0, 100), true});
  CHECK(batch[1] == MapRun{BlockIndex(50), BlockCount(1), BlockKind::data, Place(0, 105), true});
  CHECK(lab.blocks.batch(upto, 1) == std::vector<MapRun>{batch[0]});
  CHECK(lab.blocks.overlaps(BlockIndex(14), BlockCount(1)));
  CHECK_FALSE(lab.blocks.overlaps(BlockIndex(15), BlockCount(35)));
  CHECK(lab.blocks.has(RegionIndex(0)));
  CHECK_FALSE(lab.blocks.has(RegionIndex(1)));
  lab.blocks.handed_over(batch);
  CHECK(lab.blocks.size() == 1);
  CHECK(lab.blocks.first() == lab.blocks.last());
  CHECK_FALSE(lab.blocks.overlaps(BlockIndex(10), BlockCount(40)));
}

TEST_CASE("what is pending outlives its process, and what was handed over does not") {
  PendingLab lab;
  const std::vector<PlaceRun> granted = {run(100, 20)};
  lab.blocks.grant(granted);
  lab.write(20, 1);
  lab.write(10, 2);
  lab.blocks.handed_over(lab.blocks.batch(1, 100));
  const std::vector<PendingChange> expected = {{kVolume, kDelegation, BlockIndex(10), Place(0, 101)},
                                               {kVolume, kDelegation, BlockIndex(11), Place(0, 102)}};
  lab.memory.reset(); // killed
  CHECK(lab.left() == expected);
  lab.env.new_boot();
  CHECK(lab.left().empty());
}

TEST_CASE("no more is pending than can be noted") {
  PendingLab lab;
  const std::vector<PlaceRun> granted = {run(100, PendingMemory::kSlots + 10)};
  lab.blocks.grant(granted);
  lab.write(0, PendingMemory::kSlots - 1);
  CHECK(lab.blocks.take(2).empty());
  const auto last = lab.blocks.take(1);
  REQUIRE(last.size() == 1);
  CHECK(lab.blocks.take(1).empty()); // it is kept for the other one
  lab.blocks.put_back(last[0]);
  lab.write(PendingMemory::kSlots, 1);
  CHECK(lab.blocks.size() == PendingMemory::kSlots);
  lab.blocks.lose();
  CHECK(lab.memory->is_empty());
  CHECK(lab.blocks.take(2).size() == 1);
}

TEST_CASE("a slot that was never finished, and memory of another kind, say nothing") {
  PendingLab lab;
  lab.memory.reset();
  lab.env.remove_shared_memory(kName);
  CHECK(lab.left().empty());
  REQUIRE(lab.env.make_shared_memory(kName, 4096).has_value());
  CHECK(lab.left().empty());
}
