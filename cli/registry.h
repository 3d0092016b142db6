// Where the members of a pool are found by its name: one small file a pool in the state directory. Nothing
// else is kept there; everything about a pool is on its members, and `vsnap pool attach` makes the file anew.
//
// Invariants
// 1. A file holds all of an entry or does not exist (written aside, synced, renamed).
// 2. Member paths are absolute.
// 3. A member is named here before it belongs to its pool: no pool has a member that is not found.
// Threads: plain functions over files; concurrent processes see whole entries.
#pragma once

#include <string>
#include <vector>

#include "core/error.h"

namespace vsnap::cli {

struct RegistryEntry {
  std::string pool;
  std::string uuid;
  std::vector<std::string> members;
  std::string adding = {}; // path that may be a member already; only for registry_save()
};

// VSNAP_STATE_DIR, /var/lib/vsnap (root), $XDG_STATE_HOME/vsnap, ~/.local/state/vsnap.
[[nodiscard]] Result<std::string> state_dir();
// not_found names the nearest pool that is known. A path that was being added is among the members where the
// pool has taken it.
[[nodiscard]] Result<RegistryEntry> registry_find(const std::string& pool);
[[nodiscard]] Result<std::vector<std::string>> registry_list(); // names, sorted
// must_be_new: busy with EEXIST where the name is taken.
Result<> registry_save(const RegistryEntry& entry, bool must_be_new);
Result<> registry_remove(const std::string& pool);

// That each of them is there and says that it is a member of a pool; kind damaged, naming the pool, if not.
[[nodiscard]] Result<> check_members_present(const RegistryEntry& entry);

// Without symbolic links in its directory; also of a file that does not exist yet.
[[nodiscard]] Result<std::string> absolute_path(const std::string& path);

} // namespace vsnap::cli
