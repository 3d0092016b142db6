// The map of a snapshot as other hosts get it, who read the members themselves; or that of a volume, which
// the host that it is delegated to (delegation.h) reads and writes there.
//
// Invariants (pool_export.cpp), of snapshots
// 1. What was exported of a view stays right as long as the handle that it was exported under is open: the
//    blocks stay where they are, and are not freed.
// 2. Exported is only what cannot move: not what is seen through the image of an adopted volume, nor while a
//    copy of its own is made or a volume that it belongs to, or starts from, is being flattened; and nothing
//    of that begins while it is exported.
// 3. The data that an exported run names is durable before the run leaves the process.
// Threads: plain values.
#pragma once

#include <optional>
#include <vector>

#include "core/entry.h"
#include "core/units.h"

namespace vsnap {

struct MapRun { // blocks of one kind; of data, at consecutive places
  BlockIndex start;
  BlockCount count;
  BlockKind kind = BlockKind::data; // data; what is in no run reads as zeros
  Place place;
  bool own = false; // of a delegated volume: its host may overwrite them there
  [[nodiscard]] BlockIndex end() const { return start + count; }
  bool operator==(const MapRun&) const = default;
};
// Of one region, in order.
using RegionMap = std::vector<MapRun>;

} // namespace vsnap
