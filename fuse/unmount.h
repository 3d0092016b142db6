// Ends a mount, as root by the system call, as an ordinary user by fusermount3.
// Threads: plain functions; the main thread.
#pragma once

#include <string>
#include <string_view>

namespace vsnap {

enum class Unmount { when_unused, at_once }; // at_once: files that are open get errors or, lazily, go later

// 0 or an errno; EBUSY: in use; EINVAL: not mounted.
[[nodiscard]] int unmount_directory(const std::string& directory, Unmount how);
// Of a path as /proc/self/mountinfo has it: blanks stand there as \040.
[[nodiscard]] std::string unescaped_mount_field(std::string_view text);
// What /proc/self/mountinfo says of the mount that is on top there, such as "0:45"; empty: none is.
[[nodiscard]] std::string device_mounted_at(const std::string& directory);
// A mount whose daemon has died: every access to it fails with ENOTCONN.
[[nodiscard]] bool is_dead_mount(const std::string& directory);

} // namespace vsnap
