// What uses the files of volumes through loop devices: file systems that are mounted from them, from their
// partitions and from what is made of these, in this and other mount name spaces, and whatever else.
//
// Invariants
// 1. A directory that is opened is on the very mount that was found: what hides that mount, or lies in its
//    place in another name space, is never taken for it.
// 2. What cannot be looked at counts as use.
// Threads: plain functions; any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cli/descriptor.h"

namespace vsnap::cli {

struct MountEntry { // of /proc/PID/mountinfo
  int id = 0;
  std::string number; // of the file system's device: "7:0"
  std::string point;
  std::string type;
  std::string source;
  bool operator==(const MountEntry&) const = default;
};
[[nodiscard]] std::vector<MountEntry> parse_mount_entries(std::string_view mountinfo);

struct MountedFileSystem { // once, however often it is mounted
  std::string number;
  std::string point; // one of them
  std::string type;
  Descriptor directory;
};

struct VolumeUse {
  std::vector<std::string> loops;        // "/dev/loop3"
  std::vector<std::size_t> file_systems; // of VolumeUses::file_systems
  std::vector<std::string> claimed;      // "/dev/dm-3": by what is not known, on this host; it writes, or may
  std::vector<std::string> others;       // "qemu-system-x86 (pid 4711)": that write, or may
};

struct VolumeUses {
  std::vector<MountedFileSystem> file_systems;
  std::vector<VolumeUse> volumes; // in the order asked for
};

[[nodiscard]] VolumeUses uses_of(const std::vector<std::string>& files);

} // namespace vsnap::cli
