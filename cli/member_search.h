// Finds the members of a pool among the block devices of this machine, by what is on them.
// Threads: any; reads the first blocks of each device.
#pragma once

#include <string>
#include <vector>

#include "core/env.h"

namespace vsnap::cli {

// All devices that are a member of the pool, or a copy of one: each device once, names under /dev/disk/by-id
// before others.
[[nodiscard]] std::vector<std::string> devices_of(Env& env, const Uuid& pool);
// Paths by the order of the members in the pool, each once.
[[nodiscard]] std::vector<std::string> find_members(Env& env, const Uuid& pool);
// That they are members of that pool, each another one: absolute, in their order. Kind usage where one is
// not.
[[nodiscard]] Result<std::vector<std::string>> check_members(Env& env, const Uuid& pool,
                                                             const std::vector<std::string>& paths);

} // namespace vsnap::cli
