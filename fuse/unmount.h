// Ends a mount, as root by the system call, as an ordinary user by fusermount3.
// Threads: plain functions; the main thread.
#pragma once

#include <string>

namespace vsnap {

enum class Unmount { when_unused, at_once }; // at_once: files that are open get errors or, lazily, go later

// 0 or an errno; EBUSY: in use; EINVAL: not mounted.
[[nodiscard]] int unmount_directory(const std::string& directory, Unmount how);
// A mount whose daemon has died: every access to it fails with ENOTCONN.
[[nodiscard]] bool is_dead_mount(const std::string& directory);

} // namespace vsnap
