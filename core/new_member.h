// Files and devices that are to become members: opened, and refused where somebody may still need what is on
// them.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "core/env.h"
#include "core/error.h"
#include "core/pool.h"

namespace vsnap {

// Makes the file where it is missing and a size is given. nullptr: it would be made (dry_run). Without
// `force` a file system, a partition table, a pool or other data on it is an error that names it.
[[nodiscard]] Result<std::unique_ptr<File>> open_new_member(Env& env, const MemberSpec& spec, bool force,
                                                            bool dry_run);
[[nodiscard]] Result<> check_member_size(const std::string& path, std::uint64_t size_bytes);
// What would be lost, as "is a member of pool lab", "has an ext4 file system", "holds data"; nullopt:
// nothing, as far as can be told. Of a block device, only what is known by a signature.
[[nodiscard]] Result<std::optional<std::string>> what_is_on(File& file, const std::string& path);
[[nodiscard]] bool member_exists(Env& env, const std::string& path);

} // namespace vsnap
