// The table of regions, from its first to its last index.
#include "core/region_table.h"

#include <vector>

#include "tests/support/catch.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kLast = (1ULL << 38) - 1; // of a view of 8 EiB
// Both sides of the borders of the tree's nodes.
const std::vector<std::uint64_t> kIndices = {
    0,        1,           255,        256,         65535,     65536, (1U << 24) - 1,
    1U << 24, 0xFFFFFFFFU, 1ULL << 32, kLast - 256, kLast - 1, kLast};

void insert(RegionTable& table, std::uint64_t index) {
  table.insert(std::make_unique<Region>(RegionIndex(index), Version(1)).release());
}

RegionTable& filled(RegionTable& table) {
  for (auto at = kIndices.rbegin(); at != kIndices.rend(); ++at) insert(table, *at);
  return table;
}

std::vector<std::uint64_t> visited(const RegionTable& table, std::uint64_t first) {
  std::vector<std::uint64_t> seen;
  table.visit(RegionIndex(first), [&](Region& region) {
    seen.push_back(region.index().value());
    return true;
  });
  return seen;
}

} // namespace

TEST_CASE("an empty table finds nothing at any index") {
  const RegionTable table;
  for (const std::uint64_t index : kIndices) CHECK(table.find(RegionIndex(index)) == nullptr);
}

TEST_CASE("every region that was inserted is found at its index") {
  RegionTable table;
  filled(table);
  for (const std::uint64_t index : kIndices) {
    INFO(index);
    const Region* const region = table.find(RegionIndex(index));
    REQUIRE(region != nullptr);
    CHECK(region->index() == RegionIndex(index));
  }
}

TEST_CASE("the neighbours of a region are not found") {
  RegionTable table;
  insert(table, 1000);
  CHECK(table.find(RegionIndex(999)) == nullptr);
  CHECK(table.find(RegionIndex(1001)) == nullptr);
  CHECK(table.find(RegionIndex(1000 + 65536)) == nullptr);
}

TEST_CASE("regions are visited in order of their index") {
  RegionTable table;
  CHECK(visited(filled(table), 0) == kIndices);
}

TEST_CASE("a visit starts at the first region at or after its index") {
  RegionTable table;
  filled(table);
  for (std::size_t i = 0; i < kIndices.size(); ++i) {
    INFO(kIndices[i]);
    CHECK(visited(table, kIndices[i]) ==
          std::vector(kIndices.begin() + static_cast<std::ptrdiff_t>(i), kIndices.end()));
    if (i == 0) continue;
    const auto after = visited(table, kIndices[i - 1] + 1);
    CHECK(after == std::vector(kIndices.begin() + static_cast<std::ptrdiff_t>(i), kIndices.end()));
  }
}

TEST_CASE("a visit past the last region sees none") {
  RegionTable table;
  CHECK(visited(filled(table), kLast + 1).empty());
}

TEST_CASE("a visit ends when the visitor says so") {
  RegionTable table;
  filled(table);
  int seen = 0;
  table.visit(RegionIndex(0), [&](Region&) { return ++seen < 3; });
  CHECK(seen == 3);
}

TEST_CASE("a removed region is handed over and found no more") {
  RegionTable table;
  filled(table);
  for (const std::uint64_t index : kIndices) {
    INFO(index);
    const auto region = table.remove(RegionIndex(index));
    REQUIRE(region != nullptr);
    CHECK(region->index() == RegionIndex(index));
    CHECK(table.find(RegionIndex(index)) == nullptr);
  }
  CHECK(visited(table, 0).empty());
}

TEST_CASE("removing what is not there gives nothing") {
  RegionTable table;
  CHECK(table.remove(RegionIndex(kLast)) == nullptr);
  insert(table, 5);
  CHECK(table.remove(RegionIndex(6)) == nullptr);
}

TEST_CASE("a region can take the place of one that was removed") {
  RegionTable table;
  insert(table, kLast);
  REQUIRE(table.remove(RegionIndex(kLast)) != nullptr);
  insert(table, kLast);
  CHECK(table.find(RegionIndex(kLast)) != nullptr);
}
