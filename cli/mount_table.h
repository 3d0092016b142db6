// What is mounted where on this machine, as far as it is ours: read from /proc/self/mountinfo.
// Threads: plain functions; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/names.h"

namespace vsnap::cli {

struct PoolMount {
  std::string pool;
  std::string mount_point;
  bool operator==(const PoolMount&) const = default;
};

[[nodiscard]] std::string fs_name(const std::string& pool); // the source that mount(8) shows
[[nodiscard]] std::vector<PoolMount> parse_mount_table(std::string_view mountinfo);
[[nodiscard]] std::vector<PoolMount> pool_mounts(); // of this machine, newest last

// The view (or, for the mount point itself, the pool) that `path` stands for under one of `mounts`. Only text
// is looked at: `path` is absolute and normal. nullopt: under none of them.
[[nodiscard]] std::optional<Result<Spec>> spec_of_path(const std::string& path,
                                                       const std::vector<PoolMount>& mounts);

enum class Naming { existing, fresh }; // fresh: of what is to be made

// What a user writes for a pool, volume or snapshot: a spec, or a path under a mount. What could be both is a
// spec if there is a pool of its name, or if it starts with neither / nor . and no path under a mount is
// meant.
[[nodiscard]] Result<Spec> resolve_target(const std::string& text, Naming naming = Naming::existing);
// The same, but it must name a volume or snapshot / a volume.
[[nodiscard]] Result<Spec> resolve_view(const std::string& text, Naming naming = Naming::existing);
[[nodiscard]] Result<Spec> resolve_volume(const std::string& text, Naming naming = Naming::existing);

} // namespace vsnap::cli
