// What vsnap snapshot says of the snapshots that it took.
// Threads: the main thread only.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"
#include "sync/wire.h"

namespace vsnap::cli {

// `reply`: that of the daemon to the request for them.
void print_snapshots(const CommonOptions& common, const std::string& pool, const std::vector<ViewName>& names,
                     const std::vector<SnapshotLevel>& levels, const wire::ControlReply& reply);

} // namespace vsnap::cli
