// Who keeps a mount or a device in use: for the message, so a best effort; what cannot be read is left out.
// Threads: plain functions; any thread.
#pragma once

#include <string>
#include <vector>

namespace vsnap::cli {

// "qemu-system-x86 (pid 4711)", "/dev/loop3": processes with a file or directory under `directory` open, and
// loop devices over such files.
[[nodiscard]] std::vector<std::string> holders_of_mount(const std::string& directory);
// Processes other than this one that have the block device open.
[[nodiscard]] std::vector<std::string> holders_of_device(const std::string& device);

} // namespace vsnap::cli
