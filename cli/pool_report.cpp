#include "cli/pool_report.h"

#include <fmt/format.h>

#include "cli/output.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

Table member_table(const PoolStatus& status) {
  Table table({{"index", true}, {"path"}, {"type"}, {"size", true}, {"free", true}, {"uuid"}});
  for (const MemberInfo& member : status.members) {
    table.add({Cell::number(member.index), Cell::text(member.path),
               Cell::text(member.is_block_device ? "device" : "file"), Cell::size(member.size_bytes),
               Cell::size(member.free_bytes), Cell::text(to_string(member.uuid))});
  }
  return table;
}

Json status_json(const PoolStatus& status, const std::optional<DaemonRecord>& daemon) {
  Json out = Json::object();
  out["name"] = status.name;
  out["uuid"] = to_string(status.uuid);
  out["health"] = status.health;
  out["mount_point"] = daemon ? Json(daemon->mount_point) : Json(nullptr);
  out["pid"] = daemon ? Json(daemon->pid) : Json(nullptr);
  out["generation"] = status.generation;
  out["volumes"] = status.volumes;
  out["snapshots"] = status.snapshots;
  out["extents"] = status.extents;
  out["removal_pending"] = status.removal_pending;
  out["space"] = space_json(status.space);
  out["members"] = member_table(status).json();
  return out;
}

} // namespace

Result<int> report_pool(const CommonOptions& common, const std::string& pool) {
  VSNAP_TRY_ASSIGN(PoolAccess access, PoolAccess::open(pool));
  wire::ControlRequest request;
  request.mutable_status();
  VSNAP_TRY_ASSIGN(const auto reply, access.call(std::move(request)));
  VSNAP_TRY(access.close());
  PoolStatus status = wire::from_wire(reply.status());
  if (status.space.available_bytes == 0 && status.health.starts_with("warning: 9")) // rounded down
    status.health = "warning: 100 % full (vsnap pool add, or vsnap rm)";
  if (common.json) {
    print_json({{"pool", status_json(status, access.daemon())}});
    return 0;
  }
  const SpaceInfo& space = status.space;
  std::vector<std::pair<std::string, std::string>> pairs{
      {"name", status.name},
      {"uuid", to_string(status.uuid)},
      {"health", status.health},
      {"state", access.daemon() ? fmt::format("mounted at {} (pid {})", access.daemon()->mount_point,
                                              access.daemon()->pid)
                                : "not mounted"},
      {"size", format_size(space.size_bytes)},
      {"used", fmt::format("{} (data {}, metadata {})", format_size(space.data_bytes + space.metadata_bytes),
                           format_size(space.data_bytes), format_size(space.metadata_bytes))},
      {"available", format_size(space.available_bytes)},
      {"volumes", std::to_string(status.volumes)},
      {"snapshots", std::to_string(status.snapshots)},
      {"extents", std::to_string(status.extents)},
      {"generation", std::to_string(status.generation)}};
  if (status.removal_pending)
    pairs.emplace_back("freeing", format_size(space.freeing_bytes) + " in the background");
  print_pairs(pairs);
  VSNAP_TRY_ASSIGN(const std::string members, member_table(status).text({}));
  fmt::print("\n{}", members);
  return 0;
}

} // namespace vsnap::cli
