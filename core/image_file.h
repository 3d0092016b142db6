// What the system says about a file or device that is, or is to be, the image of an adopted volume: a name
// that lasts, who else is using it, and what it looks like from outside.
//
// Threads: plain functions; any thread. They read /proc and /sys and change nothing.
#pragma once

#include <string>

#include "core/env.h"
#include "core/error.h"

namespace vsnap::image_file {

// The name that is kept: of a file its absolute path without links, of a device one that means the same
// device after a restart (by-id, by-partuuid, device mapper). Refused, with whoever it is: mounted, behind a
// loop device, open for writing in another process, or in a mount of vsnap.
[[nodiscard]] Result<std::string> find(const std::string& path, bool any_name);

[[nodiscard]] Result<FileStamp> stamp(int fd, const std::string& path);
// Reads the first and the last MiB.
[[nodiscard]] Result<FileStamp> device_stamp(int fd, const std::string& path);

} // namespace vsnap::image_file
