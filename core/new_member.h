// Files and devices that are to become members: opened, and refused where somebody may still need what is on
// them.
#pragma once

#include <memory>

#include "core/env.h"
#include "core/error.h"
#include "core/pool.h"

namespace vsnap {

// Makes the file where it is missing and a size is given. nullptr: it would be made (dry_run). Without
// `force` a file system, a partition table or a pool on it is an error that names it.
[[nodiscard]] Result<std::unique_ptr<File>> open_new_member(Env& env, const MemberSpec& spec, bool force,
                                                            bool dry_run);
[[nodiscard]] Result<> check_member_size(const std::string& path, std::uint64_t size_bytes);
[[nodiscard]] bool member_exists(Env& env, const std::string& path);

} // namespace vsnap
