// Content that reads as zeros takes no place: what was saved out of the image of an adopted volume, or copied
// from one, and held nothing else has a row of kind `reserved` at Place::zeros(). So it counts as mapped, as
// the same blocks did in the image, whatever anybody has found out about them since.
//
// Only whole neighbourhoods count, and what is less at the ends of a range: pieces of one would cost more in
// rows and leaves of maps than the blocks that they spare.
// Pure functions; any thread.
#pragma once

#include <cstddef>
#include <span>

#include "core/units.h"

namespace vsnap {

struct ZeroPart {
  BlockCount count;
  bool zeros = false;
};

[[nodiscard]] bool reads_as_zeros(std::span<const std::byte> content);
// What `content`, whole blocks from `start` on, begins with: nothing but zeros, or no neighbourhood of them.
[[nodiscard]] ZeroPart first_part(BlockIndex start, std::span<const std::byte> content);

} // namespace vsnap
