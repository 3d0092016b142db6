// One change of a head's map, as the I/O engine makes it and a commit brings it to the extent index.
#pragma once

#include <cstdint>

#include "core/region.h"
#include "core/units.h"

namespace vsnap {

inline constexpr std::int64_t kNoFloor = -1;

struct MapChange {
  BranchId branch;
  BlockIndex start;
  BlockCount count;
  BlockKind kind = BlockKind::data; // data, reserved or hole
  Place place;                      // of the first block; holes have none
  Version born;                     // the branch's number
  std::int64_t floor =
      kNoFloor; // newest number below `born` that some other view sees; rows born later are the head's own
  bool fresh = false;     // the head had no row of its own for any of these blocks
  bool may_join = true;   // false: no row of the head's can end where this starts and be continued by it
  bool keep_hole = false; // of a hole: older versions or a parent would show through without a row
  std::int64_t mapped_change = 0; // blocks mapped after minus before
  // Of an adopted volume (copy_out.h): `place` has what these blocks held before `born`; from `born` on they
  // are where they always are, in the image. Kind data; or reserved, at Place::zeros(), where that was zeros.
  bool saves = false;
  std::uint32_t checksum = 0; // then, of data: CRC-32C of what was saved, all of it
};

} // namespace vsnap
