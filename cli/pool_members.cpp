// vsnap pool add, attach, detach: which members a pool has, and which pools are known here.
#include <fmt/format.h>
#include <unistd.h>
#include <algorithm>
#include <filesystem>

#include "cli/command.h"
#include "cli/member_argument.h"
#include "cli/output.h"
#include "cli/own_mount.h"
#include "cli/pool_access.h"
#include "cli/registry.h"
#include "cli/shared_pool.h"

namespace vsnap::cli {
namespace {

struct AddOptions {
  std::string name;
  std::string member;
  std::string size;
  bool force = false;
};

// What the pool itself says, as its entry.
Result<RegistryEntry> entry_of(PoolAccess& access) {
  wire::ControlRequest request;
  request.mutable_status();
  VSNAP_TRY_ASSIGN(const auto reply, access.call(std::move(request)));
  const PoolStatus status = wire::from_wire(reply.status());
  RegistryEntry entry{status.name, to_string(status.uuid), {}};
  for (const MemberInfo& member : status.members) {
    VSNAP_TRY_ASSIGN(std::string path, absolute_path(member.path));
    entry.members.push_back(std::move(path));
  }
  return entry;
}

Result<int> run_add(const CommonOptions& common, const AddOptions& options) {
  VSNAP_TRY_ASSIGN(const MemberSpec member, member_argument(options.member, options.size));
  VSNAP_TRY_ASSIGN(PoolAccess access, PoolAccess::open(options.name));
  if (access.daemon() && lies_in_mount(member.path, access.daemon()->mount_point)) {
    return failure(ErrorKind::usage,
                   fmt::format("{}: lies in the pool's own mount, {}, and the pool could never be opened "
                               "again (give a file or device outside of it)",
                               member.path, access.daemon()->mount_point));
  }
  VSNAP_TRY_ASSIGN(RegistryEntry before, entry_of(access));
  before.adding = member.path;
  VSNAP_TRY(registry_save(before, false));
  wire::ControlRequest request;
  request.mutable_add_member()->set_path(member.path);
  request.mutable_add_member()->set_size_bytes(member.size_bytes);
  request.mutable_add_member()->set_force(options.force);
  if (const auto reply = access.call(std::move(request)); !reply) {
    // Where it is not known whether the member was added, the entry keeps saying so.
    const auto now = registry_find(before.pool);
    if (now && reply.error().kind != ErrorKind::no_answer) VSNAP_TRY(registry_save(*now, false));
    return Failure(reply.error());
  }
  VSNAP_TRY_ASSIGN(const RegistryEntry entry, entry_of(access));
  VSNAP_TRY(registry_save(entry, false));
  VSNAP_TRY(access.close());
  if (common.json) print_json({{"name", entry.pool}, {"members", entry.members}});
  if (common.verbose && !common.json) fmt::print("added {} to {}\n", member.path, entry.pool);
  return 0;
}

Result<MemberIdentity> identify_member(const std::string& path) {
  auto found = Pool::identify(Env::real(), path);
  if (found || found.error().kind != ErrorKind::not_found || ::access(path.c_str(), F_OK) != 0) return found;
  return failure(ErrorKind::not_found, fmt::format("{}: not a member of any pool", path));
}

// That the members given are all those of one pool, each once; the entry lists them by index.
Result<RegistryEntry> identify_all(const std::vector<std::string>& members) {
  std::map<std::uint32_t, std::string> by_index;
  std::optional<MemberIdentity> pool;
  for (const std::string& text : members) {
    VSNAP_TRY_ASSIGN(const std::string path, absolute_path(text));
    VSNAP_TRY_ASSIGN(const MemberIdentity found, identify_member(path));
    if (!pool) pool = found;
    if (found.pool_uuid != pool->pool_uuid) {
      return failure(
          ErrorKind::usage,
          fmt::format("{}: expected a member of pool {} ({}), found one of {} ({})", path, pool->pool_name,
                      to_string(pool->pool_uuid), found.pool_name, to_string(found.pool_uuid)));
    }
    pool->member_count = std::max(pool->member_count, found.member_count);
    if (!by_index.emplace(found.index, path).second) {
      return failure(ErrorKind::usage,
                     fmt::format("{}: is member {} of {}, as is {} (a copy? give only one of them)", path,
                                 found.index, found.pool_name, by_index[found.index]));
    }
  }
  RegistryEntry entry{pool->pool_name, to_string(pool->pool_uuid), {}};
  for (std::uint32_t i = 0; i < pool->member_count; ++i) {
    if (!by_index.contains(i)) {
      return failure(ErrorKind::failed, ENOENT,
                     fmt::format("{}: expected {} members, found {}: member {} is missing (name all of them)",
                                 entry.pool, pool->member_count, by_index.size(), i));
    }
  }
  for (auto& [index, path] : by_index) entry.members.push_back(path);
  return entry;
}

// Members that are known, are still of this pool, and are not among those given: copies, most likely.
std::vector<std::string> other_members(const RegistryEntry& known, const RegistryEntry& given) {
  const auto same_as = [](const std::string& one) {
    return [&one](const std::string& other) {
      std::error_code code;
      return one == other || std::filesystem::equivalent(one, other, code);
    };
  };
  std::vector<std::string> out;
  for (const std::string& path : known.members) {
    if (std::any_of(given.members.begin(), given.members.end(), same_as(path))) continue;
    const auto found = Pool::identify(Env::real(), path);
    if (found && to_string(found->pool_uuid) == known.uuid) out.push_back(path);
  }
  return out;
}

Result<> check_attachable(const RegistryEntry& entry) {
  const auto known = registry_find(entry.pool);
  if (!known) return {};
  if (known->uuid != entry.uuid) {
    return failure(
        ErrorKind::busy, EEXIST,
        fmt::format("{0}: another pool of this name is known here (vsnap pool detach {0} forgets it)",
                    entry.pool));
  }
  if (const auto daemon = live_daemon(Env::real(), entry.pool)) {
    return failure(ErrorKind::busy,
                   fmt::format("{0}: known already, and mounted at {1} by pid {2} (vsnap umount {0} first)",
                               entry.pool, daemon->mount_point, daemon->pid));
  }
  const auto others = other_members(*known, entry);
  if (others.empty()) return {};
  return failure(
      ErrorKind::busy, EEXIST,
      fmt::format("{0}: known with other members: {1} (to use these instead: vsnap pool detach {0} "
                  "first)",
                  entry.pool, fmt::join(others, ", ")));
}

Result<int> run_attach(const CommonOptions& common, const std::vector<std::string>& members) {
  VSNAP_TRY_ASSIGN(const RegistryEntry entry, identify_all(members));
  VSNAP_TRY(check_attachable(entry));
  VSNAP_TRY(registry_save(entry, false));
  if (common.json) {
    print_json({{"name", entry.pool}, {"uuid", entry.uuid}, {"members", entry.members}});
  } else if (!common.quiet) {
    fmt::print("{}\n", entry.pool);
  }
  return 0;
}

// Of a pool that another host coordinates; its member entry, if there is one too, stays.
Result<int> detach_shared(const CommonOptions& common, const std::string& name) {
  VSNAP_TRY(shared_pool_remove(name));
  if (common.json) print_json({{"name", name}});
  return 0;
}

Result<int> run_detach(const CommonOptions& common, const std::string& name) {
  if (const auto shared = shared_pool_find(name);
      shared ? shared->has_value() : shared.error().kind == ErrorKind::damaged)
    return detach_shared(common, name);
  VSNAP_TRY(registry_find(name));
  if (const auto daemon = live_daemon(Env::real(), name)) {
    return failure(ErrorKind::busy, fmt::format("{0}: mounted at {1} by pid {2} (vsnap umount {0} first)",
                                                name, daemon->mount_point, daemon->pid));
  }
  VSNAP_TRY(registry_remove(name));
  if (common.json) print_json({{"name", name}});
  return 0;
}

} // namespace

void register_pool_members(Program& program) {
  Command add = program.add("add", "NAME MEMBER [--size SIZE] [--force]",
                            "Add a member to a pool, also while it is mounted.", Takes::nothing, "pool");
  auto add_options = std::make_shared<AddOptions>();
  add.argument("NAME", add_options->name);
  add.argument("MEMBER", add_options->member);
  add.option("--size", add_options->size, "of a file that does not exist yet", "SIZE");
  add.flag("--force", add_options->force, "also over a file system, another pool or other data");
  program.on(add, [add_options](const CommonOptions& common) { return run_add(common, *add_options); });

  Command attach =
      program.add("attach", "MEMBER...", "Make an existing pool known here.", Takes::nothing, "pool");
  auto members = std::make_shared<std::vector<std::string>>();
  attach.argument("MEMBER", *members);
  program.on(attach, [members](const CommonOptions& common) { return run_attach(common, *members); });

  Command detach = program.add("detach", "NAME", "Forget a pool here; its members stay as they are.",
                               Takes::nothing, "pool");
  auto name = std::make_shared<std::string>();
  detach.argument("NAME", *name);
  program.on(detach, [name](const CommonOptions& common) { return run_detach(common, *name); });
}

} // namespace vsnap::cli
