// The hosts of a pool as what the control socket tells of them.
// Threads: any.
#pragma once

#include <span>

#include "core/pool.h"
#include "sync/membership.h"
#include "sync/wire.h"

namespace vsnap::host_list {

void add(wire::HostList& list, const HostStatus& host);
// Those that have expired are left out.
void add(wire::HostList& list, std::span<const Invitation> invitations, std::int64_t wall_clock_ns);
// Takes a host out of the catalog. `again`: it was asked for before, and may be out already.
Result<Hosts> revoke(Pool& pool, const wire::RevokeHostRequest& request, bool again);
// As the catalog alone knows them.
[[nodiscard]] wire::HostList of(const Hosts& hosts, std::int64_t wall_clock_ns);

} // namespace vsnap::host_list
