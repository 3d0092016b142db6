// The hosts of a pool as what the control socket tells of them.
// Threads: any.
#pragma once

#include <map>
#include <span>

#include "core/pool.h"
#include "sync/membership.h"
#include "sync/wire.h"

namespace vsnap::host_list {

struct Held {
  std::uint64_t open = 0; // views, as often as the host has opened them
  std::uint64_t delegated = 0;
  std::uint64_t lost = 0;
};
using HeldByHosts = std::map<std::uint64_t, Held>; // by HostInfo::id
// What the pool knows: all but what they have open.
[[nodiscard]] HeldByHosts held_of(Pool& pool);

void add(wire::HostList& list, const HostStatus& host, const HeldByHosts& held);
// Those that have expired are left out.
void add(wire::HostList& list, std::span<const Invitation> invitations, std::int64_t wall_clock_ns);
// Takes a host out of the catalog. `again`: it was asked for before, and may be out already.
Result<Hosts> revoke(Pool& pool, const wire::RevokeHostRequest& request, bool again);
// As the catalog alone knows them.
[[nodiscard]] wire::HostList of(const Hosts& hosts, const HeldByHosts& held, std::int64_t wall_clock_ns);

} // namespace vsnap::host_list
