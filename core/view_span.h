// A piece of a request that lies in one region of a view: bytes [from, to) of the region, and the blocks they
// touch. Threads: a value.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/units.h"

namespace vsnap {

inline constexpr std::uint64_t kRegionBytes = kRegionBlocks * kBlockBytes;

struct ViewSpan {
  RegionIndex region;
  std::uint64_t from = 0; // bytes within the region
  std::uint64_t to = 0;
  [[nodiscard]] std::uint64_t bytes() const { return to - from; }
  [[nodiscard]] std::uint64_t first_block() const { return from / kBlockBytes; }
  [[nodiscard]] std::uint64_t end_block() const { return (to + kBlockBytes - 1) / kBlockBytes; }
  // The part of a block that the span covers.
  [[nodiscard]] std::uint64_t begin_in(std::uint64_t block) const {
    return std::max(from, block * kBlockBytes);
  }
  [[nodiscard]] std::uint64_t end_in(std::uint64_t block) const {
    return std::min(to, (block + 1) * kBlockBytes);
  }
  [[nodiscard]] bool whole(std::uint64_t block) const {
    return end_in(block) - begin_in(block) == kBlockBytes;
  }
  // The part of blocks [first, end).
  [[nodiscard]] ViewSpan part(std::uint64_t first, std::uint64_t end) const {
    return {region, begin_in(first), end_in(end - 1)};
  }
};

} // namespace vsnap
