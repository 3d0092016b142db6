// Who keeps a file of the mount in use: named in the error of an operation that was refused for it.
// Threads: plain functions; any thread.
#pragma once

#include <string>

#include "core/error.h"
#include "core/names.h"

namespace vsnap::cli {

// "lab/vm1: in use by /dev/loop3 (mounted at /mnt/data), qemu (pid 4711) (...)".
[[nodiscard]] Error in_use_error(const std::string& pool, const ViewName& view,
                                 const std::string& mount_point);
// The same in the place of an error of the pool that says so without names; any other one as it is.
[[nodiscard]] Error with_holders(Error error, const std::string& pool, const std::string& mount_point);

} // namespace vsnap::cli
