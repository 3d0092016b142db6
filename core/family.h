// A copy of who sees which versions of which branches, as of one moment.
// Threads: plain values.
#pragma once

#include <map>
#include <optional>

#include "core/branch.h"

namespace vsnap {

// One view's hold on a branch: a snapshot's or child's number, or the head.
struct Pin {
  BranchId branch;
  std::optional<std::uint64_t> number; // nullopt: the head
  auto operator<=>(const Pin&) const = default;
};

struct Relative : Viewers {
  std::optional<Pin> parent;
  bool adopted = false;
  bool parent_draining = false; // and then not pinned; see Branch
};

using Family = std::map<BranchId, Relative>;

} // namespace vsnap
