// Removals that take more than one step: of many branches, and of regions with many versions.
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kRows = kRegionBlocks / 2; // of one version: every second block of a region

void write_every_second_block(View& view, std::uint8_t stamp) {
  const auto data = block_of(stamp);
  for (std::uint64_t i = 0; i < kRows; ++i) REQUIRE(view.write(2 * i * kBlockBytes, data).has_value());
  REQUIRE(view.fsync().has_value());
}

// Three versions of a region, more rows than a step looks at: two snapshots and a head.
class ManyVersions : public SmallPool {
 public:
  ManyVersions() : SmallPool(128 * kMiB) {
    create("v", kRegionBlocks * kBlockBytes);
    ViewHandle v = view("v");
    write_every_second_block(*v, 1);
    REQUIRE(snapshot("v@one").has_value());
    write_every_second_block(*v, 2);
    REQUIRE(snapshot("v@two").has_value());
    write_every_second_block(*v, 3);
  }
};

// Volumes and a clone of each, all of them written.
class ManyBranches : public SmallPool {
 public:
  static constexpr int kVolumes = 50; // more regions than a step sweeps
  ManyBranches() {
    for (int i = 0; i < kVolumes; ++i) {
      const std::string name = "v" + std::to_string(i);
      create(name, kMiB);
      REQUIRE(view(name)->write(0, block_of(1)).has_value());
      REQUIRE(snapshot(name + "@s").has_value());
      REQUIRE(pool->clone({name, "s"}, "c" + std::to_string(i)).has_value());
      REQUIRE(view("c" + std::to_string(i))->write(0, block_of(2)).has_value());
      names.push_back({name, {}});
      names.push_back({"c" + std::to_string(i), {}});
    }
    REQUIRE(pool->sync().has_value());
  }
  std::vector<ViewName> names;
};

} // namespace

TEST_CASE("a snapshot goes from a region that has more rows than a step looks at") {
  ManyVersions lab;
  const std::uint64_t before = lab.pool->space().data_bytes;
  REQUIRE(lab.pool->status().extents == 3 * kRows);
  REQUIRE(lab.remove("v@two").has_value());
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  REQUIRE(before - lab.pool->space().data_bytes == kRows * kBlockBytes);
  REQUIRE(lab.pool->status().extents == 2 * kRows);
  REQUIRE(read_from(*lab.view("v@one"), 0) == block_of(1));
  REQUIRE(read_from(*lab.view("v"), 0) == block_of(3));
  REQUIRE(lab.findings().empty());
}

TEST_CASE("a volume goes with all versions of a region that has more rows than a step looks at") {
  ManyVersions lab;
  REQUIRE(lab.remove("v", {.recursive = true}).has_value());
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  REQUIRE(lab.pool->space().data_bytes == 0);
  REQUIRE(lab.pool->status().extents == 0);
  REQUIRE(lab.findings().empty());
}

TEST_CASE("many volumes and their clones go in one removal") {
  ManyBranches lab;
  REQUIRE(lab.pool->remove(lab.names, {.recursive = true}).has_value());
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  REQUIRE(lab.pool->space().data_bytes == 0);
  REQUIRE(lab.pool->status().extents == 0);
  REQUIRE(lab.findings().empty());
}

TEST_CASE("a removal that a power cut interrupts goes on when the pool is opened again") {
  ManyBranches lab;
  REQUIRE(lab.pool->remove(lab.names, {.recursive = true}).has_value());
  int rounds = 0;
  REQUIRE_FALSE(lab.pool->wait_for_removals([&](std::uint64_t, std::uint64_t) { return ++rounds < 1; }));
  lab.env.power_cut(7);
  lab.pool.reset();
  lab.open();
  REQUIRE(lab.pool->list().empty());
  REQUIRE(lab.findings().empty());
  REQUIRE(lab.pool->status().removal_pending);
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  REQUIRE(lab.pool->space().data_bytes == 0);
  REQUIRE(lab.findings().empty());
}

TEST_CASE("a plan says what a removal frees where that is asked for") {
  ManyBranches lab;
  REQUIRE(lab.remove("c1", {.dry_run = true})->frees_bytes == kBlockBytes);
  REQUIRE(lab.remove("c1", {.count_frees = true})->frees_bytes == kBlockBytes);
  REQUIRE(lab.remove("c2")->frees_bytes == 0);
}
