// What is on a file or device that somebody wants to make a member of: asked of libblkid, so that no file
// system, partition table or other pool is overwritten unasked.
#pragma once

#include <optional>
#include <string>

#include "core/error.h"

namespace vsnap {

// "an ext4 file system", "a gpt partition table", ...; nullopt: nothing known.
[[nodiscard]] Result<std::optional<std::string>> probe_contents(const std::string& path);
// Whether anything but zeros is in the first 64 MiB of data of a regular file; holes are not read. For what
// libblkid does not know: an archive, a database, an image of another format.
[[nodiscard]] Result<bool> holds_data(const std::string& path);
// Removes the signatures that probe_contents() finds, so that nobody takes the member for what it was.
Result<> wipe_signatures(const std::string& path);

} // namespace vsnap
