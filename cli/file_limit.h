// How many files this process may have open. Libraries end the process where there are too few.
// Threads: the main thread, before others exist.
#pragma once

#include "core/error.h"

namespace vsnap::cli {

// For the daemon: as many as the system lets it have.
void raise_file_limit() noexcept;
// For every command: enough for it, raised where they are not; an error where that is refused.
[[nodiscard]] Result<> check_file_limit();

} // namespace vsnap::cli
