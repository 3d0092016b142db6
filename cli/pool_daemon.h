// The daemon of a pool, as opposed to that of another pool of the same name, or of a copy.
// Threads: plain functions over files; any thread.
#pragma once

#include <optional>
#include <string>

#include "core/error.h"
#include "sync/daemon_record.h"

namespace vsnap::cli {

// The daemon that has the pool of this name mounted; nullopt: none. Busy, naming both, where the pool that is
// known here by this name is not the one that it has mounted.
[[nodiscard]] Result<std::optional<DaemonRecord>> daemon_of(const std::string& pool);

} // namespace vsnap::cli
