// Which maps of other hosts' snapshots are kept.
#include "core/map_cache.h"

#include "tests/support/catch.h"

using namespace vsnap;

namespace {

constexpr std::size_t kRuns = 100;
constexpr std::size_t kOfOne = kRuns + MapCache::kRunsOfARegion;

MapCache::Map map_of(std::size_t runs = kRuns) { return std::make_shared<const RegionMap>(runs); }

} // namespace

TEST_CASE("a map is found for its view and region, in its session, as it was kept first") {
  MapCache cache;
  const std::uint64_t one = cache.add_view();
  const std::uint64_t two = cache.add_view();
  const MapCache::Map map = map_of();
  cache.keep(1, one, RegionIndex(3), map);
  CHECK(cache.find(1, one, RegionIndex(3)) == map);
  CHECK(cache.find(1, one, RegionIndex(2)) == nullptr);
  CHECK(cache.find(1, two, RegionIndex(3)) == nullptr);
  cache.keep(1, one, RegionIndex(3), map_of());
  CHECK(cache.find(1, one, RegionIndex(3)) == map);
}

TEST_CASE("a session that begins ends all maps, and who is late from the one before changes nothing") {
  MapCache cache;
  const std::uint64_t view = cache.add_view();
  cache.keep(1, view, RegionIndex(0), map_of());
  CHECK(cache.find(2, view, RegionIndex(0)) == nullptr);
  cache.keep(1, view, RegionIndex(0), map_of());
  CHECK(cache.find(2, view, RegionIndex(0)) == nullptr);
  const MapCache::Map map = map_of();
  cache.keep(2, view, RegionIndex(0), map);
  CHECK(cache.find(1, view, RegionIndex(0)) == nullptr);
  CHECK(cache.find(2, view, RegionIndex(0)) == map);
}

TEST_CASE("the bound is one for all views, and what was used longest ago goes") {
  MapCache cache(4 * kOfOne);
  const std::uint64_t one = cache.add_view();
  const std::uint64_t two = cache.add_view();
  const auto has = [&](std::uint64_t view, std::uint64_t region) {
    return cache.find(1, view, RegionIndex(region)) != nullptr;
  };
  for (const std::uint64_t region : {0, 1}) {
    cache.keep(1, one, RegionIndex(region), map_of());
    cache.keep(1, two, RegionIndex(region), map_of());
  }
  CHECK((has(two, 1) && has(one, 1) && has(two, 0) && has(one, 0))); // in that order
  cache.keep(1, two, RegionIndex(2), map_of());
  CHECK(has(two, 2));
  CHECK_FALSE(has(two, 1));
  cache.keep(1, two, RegionIndex(3), map_of(2 * kRuns)); // the room of two
  CHECK_FALSE(has(one, 1));
  CHECK_FALSE(has(two, 0));
  CHECK((has(one, 0) && has(two, 2) && has(two, 3)));
}

TEST_CASE("a map that is larger than the bound is kept alone") {
  MapCache cache(kOfOne);
  const std::uint64_t view = cache.add_view();
  cache.keep(1, view, RegionIndex(0), map_of());
  cache.keep(1, view, RegionIndex(1), map_of(10 * kRuns));
  CHECK(cache.find(1, view, RegionIndex(0)) == nullptr);
  CHECK(cache.find(1, view, RegionIndex(1)) != nullptr);
}

TEST_CASE("the maps of a view end with it, and leave room for others") {
  MapCache cache(4 * kOfOne);
  const std::uint64_t one = cache.add_view();
  const std::uint64_t two = cache.add_view();
  cache.keep(1, two, RegionIndex(0), map_of());
  for (const std::uint64_t region : {0, 1}) cache.keep(1, one, RegionIndex(region), map_of());
  cache.drop_view(one);
  for (const std::uint64_t region : {0, 1}) CHECK(cache.find(1, one, RegionIndex(region)) == nullptr);
  for (const std::uint64_t region : {1, 2, 3}) cache.keep(1, two, RegionIndex(region), map_of());
  for (const std::uint64_t region : {0, 1, 2, 3}) CHECK(cache.find(1, two, RegionIndex(region)) != nullptr);
  CHECK(cache.add_view() > two);
}
