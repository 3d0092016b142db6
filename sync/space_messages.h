// What a host and the coordinator say of granted space (sync/sharing.proto), as core has it.
//
// Invariant: what has come is bounded, sorted, and of the pool's members, before anybody sees it; else the
// result is an error (EINVAL; EPROTO of an answer). Whether it is right the pool says.
// Threads: any; pure functions.
#pragma once

#include <span>
#include <vector>

#include "core/error.h"
#include "core/exported_map.h"
#include "sync/sharing.pb.h"

namespace vsnap::space_messages {

inline constexpr std::size_t kMaxRuns = 4096;              // in a message
inline constexpr std::uint64_t kMaxCommitted = 1ULL << 20; // blocks in a message
inline constexpr std::uint64_t kMaxGranted = 16'384;       // blocks at once: 64 MiB

[[nodiscard]] wire::GrantedSpace to_wire(std::span<const PlaceRun> granted); // of more the first kMaxRuns
[[nodiscard]] Result<std::vector<PlaceRun>> from_wire(const wire::GrantedSpace& granted);
[[nodiscard]] wire::CommitBlocksRequest to_wire(std::uint64_t delegation, std::span<const MapRun> runs);
[[nodiscard]] Result<std::vector<MapRun>> from_wire(const wire::CommitBlocksRequest& request);

} // namespace vsnap::space_messages
