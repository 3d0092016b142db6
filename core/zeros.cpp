#include "core/zeros.h"

#include <algorithm>
#include <cstring>

#include "core/assert.h"

namespace vsnap {

bool reads_as_zeros(std::span<const std::byte> content) {
  // All bytes are equal to the one before them, and the first is zero: memcmp is as fast as it gets.
  return content.empty() || (content.front() == std::byte{0} &&
                             std::memcmp(content.data(), content.data() + 1, content.size() - 1) == 0);
}

ZeroPart first_part(BlockIndex start, std::span<const std::byte> content) {
  VSNAP_ASSERT(!content.empty() && content.size() % kBlockBytes == 0);
  const std::uint64_t blocks = content.size() / kBlockBytes;
  ZeroPart part;
  for (std::uint64_t at = 0; at < blocks;) {
    const std::uint64_t here = start.value() + at;
    const std::uint64_t left = kNeighbourhoodBlocks - here % kNeighbourhoodBlocks;
    const std::uint64_t count = std::min(left, blocks - at);
    const bool zeros = reads_as_zeros(content.subspan(at * kBlockBytes, count * kBlockBytes));
    if (at == 0) part.zeros = zeros;
    if (zeros != part.zeros) break;
    at += count;
    part.count = BlockCount(at);
  }
  return part;
}

} // namespace vsnap
