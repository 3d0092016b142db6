#include "sync/control_handler.h"

#include <fmt/format.h>
#include <algorithm>

#include "core/pause.h"
#include "sync/host_list.h"

namespace vsnap {
namespace {

using wire::ControlReply;
using wire::ControlRequest;
using wire::from_wire;
using wire::to_wire;

constexpr std::size_t kDiffBatch = 4096; // ranges a message: at most 80 KiB

Result<ViewName> checked(const wire::ViewName& name) {
  VSNAP_TRY(check_name("volume", name.volume()));
  if (!name.snapshot().empty()) VSNAP_TRY(check_name("snapshot", name.snapshot()));
  return from_wire(name);
}

Failure no_such_view(Pool& pool, const ViewName& name) {
  std::vector<std::string> candidates;
  for (const ViewInfo& view : pool.list()) {
    if ((view.kind == ViewKind::snapshot) == name.is_snapshot()) candidates.push_back(view.name.text());
  }
  const auto near = nearest(name.text(), candidates);
  return failure(ErrorKind::not_found,
                 fmt::format("{0}/{1}: no such {2} ({3})", pool.name(), name.text(),
                             name.is_snapshot() ? "snapshot" : "volume",
                             near ? fmt::format("did you mean {}/{}?", pool.name(), *near)
                                  : fmt::format("vsnap ls {} lists them", pool.name())));
}

Result<ViewInfo> existing(Pool& pool, const wire::ViewName& wire_name) {
  VSNAP_TRY_ASSIGN(const ViewName name, checked(wire_name));
  auto found = pool.find(name);
  if (!found && found.error().kind == ErrorKind::not_found) return no_such_view(pool, name);
  return found;
}

Result<std::string> existing_volume(Pool& pool, const std::string& volume) {
  wire::ViewName name;
  name.set_volume(volume);
  VSNAP_TRY(existing(pool, name));
  return volume;
}

Result<std::vector<ViewName>> existing_all(Pool& pool,
                                           const google::protobuf::RepeatedPtrField<wire::ViewName>& names) {
  std::vector<ViewName> out;
  for (const wire::ViewName& wire_name : names) {
    VSNAP_TRY_ASSIGN(const ViewInfo view, existing(pool, wire_name));
    out.push_back(view.name);
  }
  if (out.empty()) return failure(ErrorKind::usage, "no volume or snapshot given");
  return out;
}

ControlReply done() {
  ControlReply reply;
  reply.mutable_done();
  return reply;
}

Result<ControlReply> status(Pool& pool, const wire::StatusRequest& request) {
  PoolStatus status = pool.status(); // first: members that come later are not marked
  if (request.mark_members()) {
    VSNAP_TRY_ASSIGN(status.mark, pool.mark_members());
  }
  ControlReply reply;
  *reply.mutable_status() = to_wire(status);
  return reply;
}

Result<ControlReply> list(Pool& pool) {
  ControlReply reply;
  reply.mutable_views();
  for (const ViewInfo& view : pool.list()) *reply.mutable_views()->add_views() = to_wire(view);
  return reply;
}

Result<ControlReply> rename(Pool& pool, const wire::RenameRequest& request) {
  VSNAP_TRY_ASSIGN(const ViewInfo view, existing(pool, request.from()));
  VSNAP_TRY(check_name(view.name.is_snapshot() ? "snapshot" : "volume", request.new_name()));
  VSNAP_TRY(pool.rename(view.name, request.new_name()));
  return done();
}

// What of a volume lies behind `end`, for the dry run of a shrink.
Result<std::uint64_t> mapped_behind(Pool& pool, const ViewInfo& volume, std::uint64_t end) {
  VSNAP_TRY_ASSIGN(ViewHandle handle, pool.open_view(volume.id));
  std::uint64_t mapped = 0;
  for (std::uint64_t at = end; at < volume.size_bytes;) {
    VSNAP_TRY_ASSIGN(const auto data, handle->seek_data(at));
    if (!data) break;
    VSNAP_TRY_ASSIGN(const auto hole, handle->seek_hole(*data));
    at = hole.value_or(volume.size_bytes);
    mapped += at - *data;
  }
  return mapped;
}

Result<ControlReply> resize(Pool& pool, const wire::ResizeRequest& request) {
  wire::ViewName name;
  name.set_volume(request.volume());
  VSNAP_TRY_ASSIGN(const ViewInfo volume, existing(pool, name));
  ControlReply reply;
  wire::ResizeResult& result = *reply.mutable_resize();
  result.set_old_size_bytes(volume.size_bytes);
  result.set_new_size_bytes(request.size_bytes());
  const bool shrinks = request.size_bytes() < volume.size_bytes;
  if (shrinks && !request.allow_shrink()) {
    return failure(
        ErrorKind::usage,
        fmt::format(
            "{}/{}: {} is smaller than it is now, {} (--shrink gives up what lies behind the new end)",
            pool.name(), volume.name.text(), format_size(request.size_bytes()),
            format_size(volume.size_bytes)));
  }
  if (request.dry_run()) {
    if (shrinks) {
      VSNAP_TRY_ASSIGN(const std::uint64_t cut, mapped_behind(pool, volume, request.size_bytes()));
      result.set_cut_bytes(cut);
    }
    return reply;
  }
  VSNAP_TRY(pool.resize(request.volume(), request.size_bytes(), request.allow_shrink()));
  return reply;
}

Result<ControlReply> snapshot(Pool& pool, const wire::SnapshotRequest& request) {
  std::vector<ViewName> names;
  for (const wire::ViewName& wire_name : request.names()) {
    VSNAP_TRY_ASSIGN(ViewName name, checked(wire_name));
    if (!name.is_snapshot()) {
      return failure(ErrorKind::usage,
                     fmt::format("{0}/{1}: a snapshot needs a name of its own (write {0}/{1}@NAME)",
                                 pool.name(), name.volume));
    }
    VSNAP_TRY(existing_volume(pool, name.volume));
    names.push_back(std::move(name));
  }
  if (names.empty()) return failure(ErrorKind::usage, "no snapshot given");
  VSNAP_TRY(pool.snapshot(names));
  return done();
}

Result<ControlReply> rollback(Pool& pool, const wire::RollbackRequest& request, const Progress& progress) {
  VSNAP_TRY_ASSIGN(const ViewInfo to, existing(pool, request.to()));
  if (to.kind != ViewKind::snapshot) {
    return failure(ErrorKind::usage,
                   fmt::format("{0}/{1}: not a snapshot (vsnap ls {0}/{1} lists its snapshots)", pool.name(),
                               to.name.text()));
  }
  VSNAP_TRY_ASSIGN(const RollbackResult result,
                   pool.rollback(to.name, request.discard(), request.dry_run(), progress));
  ControlReply reply;
  *reply.mutable_rollback() = to_wire(result);
  return reply;
}

Result<ControlReply> view_reply(Result<ViewInfo> view) {
  VSNAP_TRY(view);
  ControlReply reply;
  *reply.mutable_view() = to_wire(*view);
  return reply;
}

Result<ControlReply> clone(Pool& pool, const wire::CloneRequest& request) {
  VSNAP_TRY_ASSIGN(const ViewInfo from, existing(pool, request.from()));
  VSNAP_TRY(check_name("volume", request.new_volume()));
  if (from.kind != ViewKind::snapshot) {
    return failure(
        ErrorKind::usage,
        fmt::format("{0}/{1}: a clone starts from a snapshot (vsnap snapshot {0}/{1}@NAME makes one)",
                    pool.name(), from.name.text()));
  }
  return view_reply(pool.clone(from.name, request.new_volume()));
}

Result<ControlReply> remove(Pool& pool, const wire::RemoveRequest& request) {
  VSNAP_TRY_ASSIGN(const auto names, existing_all(pool, request.names()));
  Pool::RemoveOptions options;
  options.recursive = request.recursive();
  options.dry_run = request.dry_run();
  options.count_frees = request.count_frees();
  VSNAP_TRY_ASSIGN(const RemovalPlan plan, pool.remove(names, options));
  ControlReply reply;
  *reply.mutable_removal() = to_wire(plan);
  return reply;
}

Result<ControlReply> diff(Pool& pool, const wire::DiffRequest& request, ControlSink& sink) {
  VSNAP_TRY_ASSIGN(const ViewInfo from, existing(pool, request.from()));
  VSNAP_TRY_ASSIGN(const ViewInfo to, existing(pool, request.to()));
  std::vector<DiffRange> batch;
  bool wanted = true;
  VSNAP_TRY(pool.diff(from.name, to.name, [&](const DiffRange& range) {
    batch.push_back(range);
    if (batch.size() == kDiffBatch) {
      wanted = sink.diff(batch);
      batch.clear();
    }
    return wanted;
  }));
  if (wanted && !batch.empty()) wanted = sink.diff(batch);
  if (!wanted) return failure(ErrorKind::failed, ECANCELED, "diff: given up");
  return done();
}

Result<ControlReply> checked_pool(Pool& pool, const wire::CheckRequest& request, const Progress& progress) {
  VSNAP_TRY_ASSIGN(const CheckReport report, pool.check(request.repair(), progress));
  ControlReply reply;
  *reply.mutable_check() = to_wire(report);
  return reply;
}

// The daemon's working directory is not the command's.
Result<> check_absolute(const std::string& path) {
  if (!path.empty() && path.front() == '/') return {};
  return failure(ErrorKind::usage, fmt::format("{}: not an absolute path", vsnap::quoted(path)));
}

// Where it was asked for before, a member of that path is the one that was added then.
Result<ControlReply> add_member(Pool& pool, const wire::AddMemberRequest& request, bool again) {
  VSNAP_TRY(check_absolute(request.path()));
  if (again) {
    const auto members = pool.status().members;
    if (std::any_of(members.begin(), members.end(),
                    [&](const MemberInfo& member) { return member.path == request.path(); }))
      return done();
  }
  VSNAP_TRY(pool.add_member({request.path(), request.size_bytes()}, request.force()));
  return done();
}

Result<ControlReply> disk_usage(Pool& pool) {
  VSNAP_TRY_ASSIGN(const DiskUsage usage, pool.disk_usage());
  ControlReply reply;
  *reply.mutable_disk_usage() = to_wire(usage);
  return reply;
}

Result<ControlReply> done_if(Result<> result) {
  VSNAP_TRY(result);
  return done();
}

Result<ControlReply> create_volume(Pool& pool, const wire::CreateVolumeRequest& request) {
  VSNAP_TRY(check_name("volume", request.name()));
  return view_reply(pool.create_volume(request.name(), request.size_bytes()));
}

Result<ControlReply> preserve(Pool& pool, const wire::PreserveRequest& request) {
  VSNAP_TRY_ASSIGN(const ViewName name, checked(request.name()));
  VSNAP_TRY(existing_volume(pool, name.volume));
  return view_reply(pool.preserve(name));
}

Result<ControlReply> flatten(Pool& pool, const wire::FlattenRequest& request, const Progress& progress) {
  VSNAP_TRY_ASSIGN(const std::string volume, existing_volume(pool, request.volume()));
  return done_if(pool.flatten(volume, progress));
}

Result<ViewName> existing_snapshot(Pool& pool, const wire::ViewName& wire_name) {
  VSNAP_TRY_ASSIGN(const ViewInfo view, existing(pool, wire_name));
  if (view.kind == ViewKind::snapshot) return view.name;
  return failure(ErrorKind::usage,
                 fmt::format("{0}/{1}: not a snapshot (vsnap ls {0}/{1} lists its snapshots)", pool.name(),
                             view.name.text()));
}

Result<ControlReply> snapshot_full(Pool& pool, const wire::SnapshotFullRequest& request) {
  VSNAP_TRY_ASSIGN(const ViewName name, checked(request.name()));
  VSNAP_TRY(existing_volume(pool, name.volume));
  Pool::FullSnapshotOptions options;
  options.members.assign(request.members().begin(), request.members().end());
  options.bytes_per_second = request.bytes_per_second();
  VSNAP_TRY(pool.snapshot_full(name, options));
  return view_reply(pool.find(name));
}

Result<ControlReply> wait_copy(Pool& pool, const wire::CopyRequest& request, const Progress& progress) {
  VSNAP_TRY_ASSIGN(const ViewInfo view, existing(pool, request.name()));
  return done_if(pool.wait_for_copy(view.name, progress));
}

Result<ControlReply> set_copy(Pool& pool, const wire::SetCopyRequest& request) {
  VSNAP_TRY_ASSIGN(const ViewInfo view, existing(pool, request.name()));
  Pool::CopySettings settings;
  if (request.has_paused()) settings.paused = request.paused();
  if (request.has_bytes_per_second()) settings.bytes_per_second = request.bytes_per_second();
  VSNAP_TRY(pool.set_copy(view.name, settings));
  return view_reply(pool.find(view.name));
}

Result<ControlReply> split(Pool& pool, const wire::SplitRequest& request) {
  VSNAP_TRY_ASSIGN(const ViewName from, existing_snapshot(pool, request.from()));
  VSNAP_TRY(check_name("volume", request.new_volume()));
  return view_reply(pool.split(from, request.new_volume()));
}

Result<ControlReply> refresh(Pool& pool, const wire::RefreshRequest& request) {
  VSNAP_TRY_ASSIGN(const ViewName name, existing_snapshot(pool, request.name()));
  return view_reply(pool.refresh(name));
}

Result<ControlReply> raise_levels(Pool& pool, const wire::RaiseLevelsRequest& request) {
  std::vector<LevelRaise> raises;
  for (const wire::LevelRaise& raise : request.raises())
    raises.push_back({ObjectId(raise.id()), from_wire(raise.to())});
  return done_if(pool.raise_levels(raises));
}

Result<ControlReply> set_properties(Pool& pool, const wire::SetPropertiesRequest& request) {
  Properties properties;
  for (const wire::Setting& setting : request.settings()) {
    if (properties.contains(setting.name()))
      return failure(ErrorKind::usage, fmt::format("{}: set twice", vsnap::quoted(setting.name())));
    VSNAP_TRY_ASSIGN(properties[setting.name()], checked_property(setting.name(), setting.value()));
  }
  if (properties.empty()) return failure(ErrorKind::usage, "no property given (PROPERTY=VALUE)");
  VSNAP_TRY_ASSIGN(const std::string volume, existing_volume(pool, request.volume()));
  return done_if(pool.set_properties(volume, properties));
}

Result<ControlReply> get_properties(Pool& pool, const wire::GetPropertiesRequest& request) {
  for (const std::string& name : request.names()) VSNAP_TRY(check_property_name(name));
  std::vector<std::string> volumes;
  if (!request.volume().empty()) {
    VSNAP_TRY_ASSIGN(volumes.emplace_back(), existing_volume(pool, request.volume()));
  } else {
    for (const ViewInfo& view : pool.list()) {
      if (view.kind == ViewKind::volume) volumes.push_back(view.name.volume);
    }
  }
  const auto is_asked_for = [&](const std::string& name) {
    return request.names().empty() ||
           std::find(request.names().begin(), request.names().end(), name) != request.names().end();
  };
  ControlReply reply;
  reply.mutable_properties();
  for (const std::string& volume : volumes) {
    const auto properties = pool.properties(volume);
    if (!properties && request.volume().empty() && properties.error().kind == ErrorKind::not_found)
      continue; // removed meanwhile
    VSNAP_TRY(properties);
    for (const PropertyInfo& property : *properties) {
      if (is_asked_for(property.name)) *reply.mutable_properties()->add_properties() = to_wire(property);
    }
  }
  return reply;
}

Result<ControlReply> hold(Pool& pool, const wire::HoldRequest& request, bool release) {
  VSNAP_TRY(check_name("tag", request.tag()));
  VSNAP_TRY_ASSIGN(const auto names, existing_all(pool, request.names()));
  return done_if(release ? pool.release_hold(names, request.tag()) : pool.hold(names, request.tag()));
}

AdoptOptions::Changed changed_from(wire::ImageChanged changed) {
  if (changed == wire::CHANGED_KEEP) return AdoptOptions::Changed::keep;
  return changed == wire::CHANGED_DROP_SNAPSHOTS ? AdoptOptions::Changed::drop_snapshots
                                                 : AdoptOptions::Changed::refuse;
}

Result<ControlReply> adopt(Pool& pool, const wire::AdoptRequest& request) {
  VSNAP_TRY(check_name("volume", request.volume()));
  VSNAP_TRY(check_absolute(request.path()));
  return view_reply(
      pool.adopt({request.path(), request.volume(), request.force(), changed_from(request.changed())}));
}

Result<ControlReply> release(Pool& pool, const wire::ReleaseRequest& request, const Progress& progress) {
  VSNAP_TRY_ASSIGN(const std::string volume, existing_volume(pool, request.volume()));
  VSNAP_TRY_ASSIGN(const ReleaseResult result,
                   pool.release(volume, {request.keep_snapshots(), request.dry_run()}, progress));
  ControlReply reply;
  *reply.mutable_release() = to_wire(result);
  return reply;
}

Result<ControlReply> dump_catalog(Pool& pool, const wire::DumpCatalogRequest& request,
                                  const Progress& progress) {
  VSNAP_TRY(check_absolute(request.path()));
  return done_if(pool.dump_catalog(request.path(), progress));
}

// Of one transaction, and not to be carried out twice.
bool is_noted(const ControlRequest& request) {
  switch (request.operation_case()) {
    case ControlRequest::kCreateVolume:
    case ControlRequest::kRename:
    case ControlRequest::kSnapshot:
    case ControlRequest::kRollback:
    case ControlRequest::kClone:
    case ControlRequest::kPreserve:
    case ControlRequest::kRemove:
    case ControlRequest::kHold:
    case ControlRequest::kReleaseHold:
      return request.id() != 0;
    default:
      return false;
  }
}

// What a volume is that was made, and may have been renamed or removed since.
Result<ControlReply> made_before(Pool& pool, const std::string& volume) {
  auto found = pool.find({volume, {}});
  if (found) return view_reply(std::move(found));
  ViewInfo gone;
  gone.name.volume = volume;
  return view_reply(gone);
}

// The state before is the snapshot that was kept last, where any was.
ControlReply rolled_back_before(Pool& pool, const wire::RollbackRequest& request) {
  RollbackResult result{from_wire(request.to()), std::nullopt};
  for (const ViewInfo& view : pool.list()) { // the oldest first
    if (!request.discard() && view.name.volume == result.to.volume &&
        view.name.snapshot.starts_with("before-rollback-"))
      result.kept = view.name;
  }
  ControlReply reply;
  *reply.mutable_rollback() = to_wire(result);
  return reply;
}

// The answer to a request that was carried out before.
Result<ControlReply> answer_again(Pool& pool, const ControlRequest& request) {
  ControlReply reply;
  switch (request.operation_case()) {
    case ControlRequest::kCreateVolume:
      return made_before(pool, request.create_volume().name());
    case ControlRequest::kClone:
      return made_before(pool, request.clone().new_volume());
    case ControlRequest::kPreserve:
      return view_reply(existing(pool, request.preserve().name()));
    case ControlRequest::kRollback:
      return rolled_back_before(pool, request.rollback());
    case ControlRequest::kRemove:
      *reply.mutable_removal()->mutable_removed() = request.remove().names();
      return reply;
    default:
      return done();
  }
}

// What others have of these in their caches is gone before the answer is given, also where it is an error.
bool changes_content(const ControlRequest& request) {
  switch (request.operation_case()) {
    case ControlRequest::kResize:
    case ControlRequest::kRollback:
    case ControlRequest::kPreserve:
    case ControlRequest::kFlatten:
    case ControlRequest::kAdopt:
    case ControlRequest::kRelease:
      return true;
    default:
      return false;
  }
}

// What is told of the space of snapshots: of lists, which are asked for often, not more than is known.
std::optional<Pool::Figures> figures_told(const ControlRequest& request) {
  switch (request.operation_case()) {
    case ControlRequest::kList:
      if (request.list().without_figures()) return std::nullopt;
      return Pool::Figures::known;
    case ControlRequest::kStatus:
      return Pool::Figures::known;
    case ControlRequest::kInfo:
      if (request.info().without_figures()) return std::nullopt;
      return Pool::Figures::exact;
    case ControlRequest::kDiskUsage:
      return Pool::Figures::exact;
    default:
      return std::nullopt;
  }
}

// Full-sized snapshots, and what else replaces a snapshot.
Result<ControlReply> dispatch_copies(Pool& pool, const ControlRequest& request, const Progress& progress) {
  if (request.has_snapshot_full()) return snapshot_full(pool, request.snapshot_full());
  if (request.has_wait_copy()) return wait_copy(pool, request.wait_copy(), progress);
  if (request.has_set_copy()) return set_copy(pool, request.set_copy());
  if (request.has_split()) return split(pool, request.split());
  return refresh(pool, request.refresh());
}

// Where no other host has anything open: programs of this one.
Result<ControlReply> dispatch_locks(Pool& pool, const ControlRequest& request) {
  if (request.has_break_lock()) {
    return failure(ErrorKind::not_found,
                   fmt::format("{}: not shared, so no other host has anything open", pool.name()));
  }
  ControlReply reply;
  wire::LockList& locks = *reply.mutable_locks();
  for (const ViewInfo& view : pool.list()) {
    if (view.open_handles > 0) *locks.add_locks() = wire::lock_of(view, view.open_handles);
  }
  return reply;
}

// Of a pool that has no coordinator running, which answers these itself (coordinator.h).
Result<ControlReply> dispatch_hosts(Pool& pool, const ControlRequest& request) {
  if (request.has_list_locks() || request.has_break_lock()) return dispatch_locks(pool, request);
  if (request.has_invite_host()) {
    return failure(ErrorKind::failed, ENOTCONN,
                   fmt::format("{0}: not shared, so nobody could come in (vsnap mount {0} DIR --listen "
                               "tcp://ADDRESS:PORT shares it)",
                               pool.name()));
  }
  VSNAP_TRY_ASSIGN(const Hosts hosts, request.has_list_hosts()
                                          ? pool.hosts()
                                          : host_list::revoke(pool, request.revoke_host(), request.again()));
  ControlReply reply;
  *reply.mutable_hosts() = host_list::of(hosts, host_list::held_of(pool), Env::real().wall_clock_ns());
  return reply;
}

// Properties, holds, levels.
Result<ControlReply> dispatch_settings(Pool& pool, const ControlRequest& request) {
  if (request.has_raise_levels()) return raise_levels(pool, request.raise_levels());
  if (request.has_set_properties()) return set_properties(pool, request.set_properties());
  if (request.has_get_properties()) return get_properties(pool, request.get_properties());
  if (request.has_hold()) return hold(pool, request.hold(), false);
  return hold(pool, request.release_hold(), true);
}

Progress progress_to(ControlSink& sink) {
  return [&sink](std::uint64_t at, std::uint64_t total) { return sink.progress(at, total); };
}

// What is for a daemon is answered before (control_server.h).
Failure no_daemon() { return failure(ErrorKind::usage, "no daemon here: the pool is not mounted"); }

Failure unknown_operation() {
  return failure(ErrorKind::usage,
                 "unknown operation (the daemon and the command are of different versions)");
}

Result<ControlReply> dispatch(Pool& pool, const ControlRequest& request, ControlSink& sink) {
  const Progress progress = progress_to(sink);
  switch (request.operation_case()) {
    case ControlRequest::kStatus:
      return status(pool, request.status());
    case ControlRequest::kList:
      return list(pool);
    case ControlRequest::kInfo:
      return view_reply(existing(pool, request.info().name()));
    case ControlRequest::kDiskUsage:
      return disk_usage(pool);
    case ControlRequest::kAddMember:
      return add_member(pool, request.add_member(), request.again());
    case ControlRequest::kCreateVolume:
      return create_volume(pool, request.create_volume());
    case ControlRequest::kRename:
      return rename(pool, request.rename());
    case ControlRequest::kResize:
      return resize(pool, request.resize());
    case ControlRequest::kSnapshot:
      return snapshot(pool, request.snapshot());
    case ControlRequest::kRollback:
      return rollback(pool, request.rollback(), progress);
    case ControlRequest::kClone:
      return clone(pool, request.clone());
    case ControlRequest::kPreserve:
      return preserve(pool, request.preserve());
    case ControlRequest::kFlatten:
      return flatten(pool, request.flatten(), progress);
    case ControlRequest::kAdopt:
      return adopt(pool, request.adopt());
    case ControlRequest::kRelease:
      return release(pool, request.release(), progress);
    case ControlRequest::kRemove:
      return remove(pool, request.remove());
    case ControlRequest::kWaitRemovals:
      return done_if(pool.wait_for_removals(progress));
    case ControlRequest::kDiff:
      return diff(pool, request.diff(), sink);
    case ControlRequest::kCheck:
      return checked_pool(pool, request.check(), progress);
    case ControlRequest::kDumpCatalog:
      return dump_catalog(pool, request.dump_catalog(), progress);
    case ControlRequest::kSnapshotFull:
    case ControlRequest::kWaitCopy:
    case ControlRequest::kSetCopy:
    case ControlRequest::kSplit:
    case ControlRequest::kRefresh:
      return dispatch_copies(pool, request, progress);
    case ControlRequest::kRaiseLevels:
    case ControlRequest::kSetProperties:
    case ControlRequest::kGetProperties:
    case ControlRequest::kHold:
    case ControlRequest::kReleaseHold:
      return dispatch_settings(pool, request);
    case ControlRequest::kInviteHost:
    case ControlRequest::kListHosts:
    case ControlRequest::kRevokeHost:
    case ControlRequest::kListLocks:
    case ControlRequest::kBreakLock:
      return dispatch_hosts(pool, request);
    case ControlRequest::kPing:
    case ControlRequest::kShutdown:
    case ControlRequest::kUpgrade:
    case ControlRequest::kCancel:
      return no_daemon();
    default:
      return unknown_operation();
  }
}

// What draws a line, or takes back volumes that are delegated: how long that held writes is answered, too.
bool holds_writes(const ControlRequest& request) {
  switch (request.operation_case()) {
    case ControlRequest::kSnapshot:
    case ControlRequest::kSnapshotFull:
    case ControlRequest::kRefresh:
    case ControlRequest::kPreserve:
      return true;
    case ControlRequest::kRollback:
      return !request.rollback().dry_run();
    case ControlRequest::kResize:
      return !request.resize().dry_run();
    case ControlRequest::kRemove:
      return !request.remove().dry_run();
    default:
      return false;
  }
}

Result<ControlReply> dispatch_noting_pause(Pool& pool, const ControlRequest& request, ControlSink& sink) {
  if (!holds_writes(request)) return dispatch(pool, request, sink);
  const PauseNote note;
  VSNAP_TRY_ASSIGN(ControlReply reply, dispatch(pool, request, sink));
  *reply.mutable_pause() = to_wire(note.pause());
  return reply;
}

Result<ControlReply> execute_once(Pool& pool, const ControlRequest& request, ControlSink& sink) {
  if (!is_noted(request)) return dispatch_noting_pause(pool, request, sink);
  const RequestId id{RequestId::Source::command, request.id()};
  if (request.again()) {
    VSNAP_TRY_ASSIGN(const auto before, pool.carried_out(id));
    if (before) return answer_again(pool, request);
  }
  const AskedBy asked(id);
  return dispatch_noting_pause(pool, request, sink);
}

} // namespace

ControlReply execute(Pool& pool, const ControlRequest& request, ControlSink& sink) {
  if (request.version() != wire::kProtocolVersion) {
    return wire::error_reply(
        ErrorKind::failed,
        fmt::format("control protocol version {} is asked for, {} is spoken here (use the command "
                    "and the daemon of one release)",
                    request.version(), wire::kProtocolVersion));
  }
  if (const auto told = figures_told(request)) pool.count_snapshot_space(*told);
  auto reply = execute_once(pool, request, sink);
  if (changes_content(request)) pool.settle();
  return reply ? std::move(*reply) : wire::error_reply(reply.error());
}

} // namespace vsnap
