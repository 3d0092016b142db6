// Whether a file or device lies, on whatever way, on a mounted pool: in a file of its mount, on a loop device
// over one, on a partition or mapping of that, or in a file system there. Such a thing must not become a
// member of the pool: it could not be opened any more without the mount that needs it. Threads: plain
// functions; any thread.
#pragma once

#include <string>

namespace vsnap::cli {

// `path`: absolute; need not exist yet. Of what cannot be looked at, false.
[[nodiscard]] bool lies_in_mount(const std::string& path, const std::string& mount_point);

} // namespace vsnap::cli
