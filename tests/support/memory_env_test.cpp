// The clocks of the environment in memory.
#include "tests/support/memory_env.h"

#include "tests/support/catch.h"

using namespace vsnap;

TEST_CASE("the wall clock jumps by as much as it is told, but never before 1970") {
  MemoryEnv env;
  constexpr std::int64_t kHourNs = 3'600LL * 1'000'000'000;
  const std::int64_t before = env.wall_clock_ns();
  env.jump_wall_clock(-kHourNs);
  CHECK(env.wall_clock_ns() < before - kHourNs / 2);
  env.jump_wall_clock(2 * kHourNs);
  CHECK(env.wall_clock_ns() > before + kHourNs / 2);
  env.jump_wall_clock(-before * 2);
  CHECK(env.wall_clock_ns() >= 0);
}

TEST_CASE("a wild wall clock goes both ways, and the monotonic clock never goes back") {
  MemoryEnv env;
  env.wild_wall_clock(true);
  bool forwards = false, backwards = false;
  std::int64_t wall = env.wall_clock_ns(), monotonic = env.monotonic_ns();
  for (int i = 0; i < 100; ++i) {
    env.jump_wall_clock(i % 2 == 0 ? -1'000'000'000 : 1'000'000'000);
    const std::int64_t now = env.wall_clock_ns();
    forwards = forwards || now > wall;
    backwards = backwards || now < wall;
    wall = now;
    const std::int64_t later = env.monotonic_ns();
    REQUIRE(later > monotonic);
    REQUIRE(later - monotonic < 1'000'000'000);
    monotonic = later;
  }
  CHECK(forwards);
  CHECK(backwards);
}
