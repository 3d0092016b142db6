// What is assigned is there, whatever was there before.
#include "tests/support/sparse_bytes.h"

#include <cstring>
#include <random>
#include <vector>

#include "tests/support/seed.h"
#include "tests/support/catch.h"

using namespace vsnap;

TEST_CASE("bytes that were assigned are those that were given, over whatever pages and holes") {
  const std::uint64_t seed = test_seed();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  SparseBytes to(64 * 4096);
  for (int round = 0; round < 500; ++round) {
    const std::size_t size = random() % 4 == 0 ? 1 + random() % (64 * 4096) : to.size();
    SparseBytes from(size);
    std::vector<std::byte> plain(size);
    for (std::uint64_t writes = random() % 20; writes > 0; --writes) {
      const std::size_t at = random() % size;
      from[at] = plain[at] = static_cast<std::byte>(random());
    }
    to = from;
    REQUIRE(to.size() == size);
    REQUIRE(std::memcmp(to.data(), plain.data(), size) == 0);
    REQUIRE(to == from);
    for (std::uint64_t writes = random() % 20; writes > 0; --writes) to[random() % size] = std::byte{1};
  }
}
