// Which parts of a content need no place.
#include "core/zeros.h"

#include <vector>

#include "tests/support/catch.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kN = kNeighbourhoodBlocks;

std::vector<std::byte> blocks(std::uint64_t count) { return std::vector<std::byte>(count * kBlockBytes); }

} // namespace

TEST_CASE("one byte that is not zero is found wherever it is") {
  std::vector<std::byte> content = blocks(1);
  REQUIRE(reads_as_zeros(content));
  for (const std::size_t at : {std::size_t{0}, std::size_t{1}, std::size_t{2048}, content.size() - 1}) {
    content[at] = std::byte{1};
    CHECK_FALSE(reads_as_zeros(content));
    content[at] = std::byte{0};
  }
  CHECK_FALSE(reads_as_zeros(std::vector<std::byte>(4096, std::byte{7})));
}

TEST_CASE("a part ends at the border of a neighbourhood") {
  std::vector<std::byte> content = blocks(3 * kN);
  content[(kN + 3) * kBlockBytes + 5] = std::byte{1};
  const auto zeros = first_part(BlockIndex(0), content);
  CHECK(zeros.zeros);
  CHECK(zeros.count == BlockCount(kN));
  const auto data = first_part(BlockIndex(kN), std::span(content).subspan(kN * kBlockBytes));
  CHECK_FALSE(data.zeros);
  CHECK(data.count == BlockCount(kN));
  const auto shifted = first_part(BlockIndex(2), content);
  CHECK(shifted.zeros);
  CHECK(shifted.count == BlockCount(kN - 2));
}

TEST_CASE("what is less than a neighbourhood is a part as well") {
  std::vector<std::byte> content = blocks(3);
  CHECK(first_part(BlockIndex(5), content).zeros);
  CHECK(first_part(BlockIndex(5), content).count == BlockCount(3));
  content[kBlockBytes] = std::byte{1};
  CHECK_FALSE(first_part(BlockIndex(5), content).zeros);
  CHECK(first_part(BlockIndex(5), content).count == BlockCount(3));
}
