// vsnap pool destroy: wipes what makes the members a pool.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/output.h"
#include "cli/pool_access.h"
#include "cli/registry.h"

namespace vsnap::cli {
namespace {

// "with 3 volumes and 5 snapshots", as far as the pool can still be read: a damaged one can be destroyed too.
Result<std::string> contents(const std::string& name) {
  wire::ControlRequest request;
  request.mutable_status();
  const auto reply = ask_pool(name, std::move(request));
  if (reply) {
    const wire::PoolStatus& status = reply->status();
    return fmt::format("with {} volume{} and {} snapshot{}, {} of data", status.volumes(),
                       status.volumes() == 1 ? "" : "s", status.snapshots(),
                       status.snapshots() == 1 ? "" : "s", format_size(status.space().data_bytes()));
  }
  if (reply.error().kind == ErrorKind::damaged) return std::string("which cannot be read");
  return Failure(reply.error());
}

// So that a file that holds nothing any more can be taken again, and takes no space. A best effort: where it
// cannot be done, the next pool create asks for --force.
void empty_files(const std::vector<std::string>& members) {
  for (const std::string& member : members) {
    const auto file = Env::real().open_file(member, {});
    if (!file || (*file)->is_block_device()) continue;
    const auto locked = (*file)->try_lock();
    if (!locked || !*locked) continue;
    (*file)->discard(0, (*file)->size_bytes());
    static_cast<void>((*file)->flush());
  }
}

Result<int> run(const CommonOptions& common, const std::string& name) {
  VSNAP_TRY_ASSIGN(const RegistryEntry entry, registry_find(name));
  if (const auto daemon = live_daemon(Env::real(), name)) {
    return failure(ErrorKind::busy, fmt::format("{0}: mounted at {1} by pid {2} (vsnap umount {0} first)",
                                                name, daemon->mount_point, daemon->pid));
  }
  VSNAP_TRY_ASSIGN(const std::string what, contents(name));
  std::string plan = fmt::format("would destroy pool {} {}\n", name, what);
  for (const std::string& member : entry.members) plan += fmt::format("would wipe {}\n", member);
  if (common.dry_run && !common.json) fmt::print("{}", plan);
  if (!common.dry_run) {
    if (!common.yes && !can_ask()) {
      return failure(
          ErrorKind::usage,
          fmt::format("{0}: nothing was destroyed (vsnap pool destroy -y {0} does not ask)", name));
    }
    VSNAP_TRY(confirm(common, "pool destroy", plan));
    VSNAP_TRY(Pool::destroy(Env::real(), entry.members, entry.uuid));
    empty_files(entry.members);
    VSNAP_TRY(registry_remove(name));
  }
  if (common.json) print_json({{"dry_run", common.dry_run}, {"name", name}, {"members", entry.members}});
  return 0;
}

} // namespace

void register_pool_destroy(Program& program) {
  Command command = program.add("destroy", "NAME",
                                "Destroy a pool with everything in it. Image files stay, without content.",
                                Takes::dry_run | Takes::yes, "pool");
  auto name = std::make_shared<std::string>();
  command.argument("NAME", *name);
  program.on(command, [name](const CommonOptions& common) { return run(common, *name); });
}

} // namespace vsnap::cli
