// Who keeps a mount or a device in use: for the message, so a best effort; what cannot be read is left out.
// Threads: plain functions; any thread.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace vsnap::cli {

// "qemu-system-x86 (pid 4711)", "/dev/loop3 (mounted at /mnt/data)": processes with a file or directory under
// `directory` open, and loop devices over such files, each with those who hold it.
[[nodiscard]] std::vector<std::string> holders_of_mount(const std::string& directory);
// The same of one file.
[[nodiscard]] std::vector<std::string> holders_of_file(const std::string& file);
// "mounted at /mnt/data", "qemu-system-x86 (pid 4711)", "/dev/dm-3": mounts of the block device or its
// partitions, processes other than this one that have it open, and devices made of it.
[[nodiscard]] std::vector<std::string> holders_of_device(const std::string& device);
// "qemu-system-x86 (pid 4711)": processes other than this one that have one of these files open for writing.
[[nodiscard]] std::vector<std::string> writers_of(const std::vector<std::string>& files);
// Whether the process has the file open.
[[nodiscard]] bool has_open(pid_t process, const std::string& file);
// Whether it has what a virtual machine has open: /dev/kvm, block devices, or files to read and to write.
[[nodiscard]] bool has_disks(pid_t process);

} // namespace vsnap::cli
