#include "cli/pool_daemon.h"

#include <fmt/format.h>
#include <filesystem>

#include "cli/registry.h"

namespace vsnap::cli {
namespace {

// A copy has the same UUID, but no member in common.
bool same_pool(const RegistryEntry& entry, const DaemonRecord& daemon) {
  if (entry.uuid != daemon.pool_uuid) return false;
  const std::string& first = entry.members.front();
  std::error_code code;
  return daemon.first_member.empty() || first == daemon.first_member ||
         std::filesystem::equivalent(first, daemon.first_member, code);
}

} // namespace

Result<std::optional<DaemonRecord>> daemon_of(const std::string& pool) {
  auto daemon = live_daemon(Env::real(), pool);
  if (!daemon) return daemon;
  const auto entry = registry_find(pool);
  if (!entry || same_pool(*entry, *daemon)) return daemon;
  return failure(
      ErrorKind::busy,
      fmt::format(
          "{0}: the pool known here by this name has the member {1}, but the one mounted at {2} by "
          "pid {3} has {4} (vsnap umount {2} first, or set VSNAP_STATE_DIR to where that one is known)",
          pool, entry->members.front(), daemon->mount_point, daemon->pid, daemon->first_member));
}

} // namespace vsnap::cli
