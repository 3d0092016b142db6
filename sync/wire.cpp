#include "sync/wire.h"

#include <algorithm>

namespace vsnap::wire {
namespace {

std::string uuid_bytes(const Uuid& uuid) { return std::string(uuid.begin(), uuid.end()); }

Uuid uuid_from(const std::string& bytes) {
  Uuid uuid{};
  std::copy_n(bytes.begin(), std::min(bytes.size(), uuid.size()), uuid.begin());
  return uuid;
}

ErrorKind to_wire(vsnap::ErrorKind kind) {
  switch (kind) {
    case vsnap::ErrorKind::failed:
      return ERROR_FAILED;
    case vsnap::ErrorKind::usage:
      return ERROR_USAGE;
    case vsnap::ErrorKind::not_found:
      return ERROR_NOT_FOUND;
    case vsnap::ErrorKind::busy:
      return ERROR_BUSY;
    case vsnap::ErrorKind::no_space:
      return ERROR_NO_SPACE;
    case vsnap::ErrorKind::damaged:
      return ERROR_DAMAGED;
    case vsnap::ErrorKind::no_answer:
      return ERROR_NO_ANSWER;
  }
  return ERROR_FAILED;
}

vsnap::ErrorKind from_wire(ErrorKind kind) {
  switch (kind) {
    case ERROR_USAGE:
      return vsnap::ErrorKind::usage;
    case ERROR_NOT_FOUND:
      return vsnap::ErrorKind::not_found;
    case ERROR_BUSY:
      return vsnap::ErrorKind::busy;
    case ERROR_NO_SPACE:
      return vsnap::ErrorKind::no_space;
    case ERROR_DAMAGED:
      return vsnap::ErrorKind::damaged;
    case ERROR_NO_ANSWER:
      return vsnap::ErrorKind::no_answer;
    default:
      return vsnap::ErrorKind::failed; // also what a newer daemon may say
  }
}

ViewForm to_wire(vsnap::ViewForm form) {
  switch (form) {
    case vsnap::ViewForm::thin:
      return FORM_THIN;
    case vsnap::ViewForm::adopted:
      return FORM_ADOPTED;
    case vsnap::ViewForm::full:
      return FORM_FULL;
  }
  return FORM_THIN;
}

vsnap::ViewForm from_wire(ViewForm form) {
  if (form == FORM_ADOPTED) return vsnap::ViewForm::adopted;
  return form == FORM_FULL ? vsnap::ViewForm::full : vsnap::ViewForm::thin;
}

OnFull to_wire(vsnap::OnFull on_full) {
  switch (on_full) {
    case vsnap::OnFull::error:
      return ON_FULL_ERROR;
    case vsnap::OnFull::pause:
      return ON_FULL_PAUSE;
    case vsnap::OnFull::drop_oldest:
      return ON_FULL_DROP_OLDEST;
  }
  return ON_FULL_ERROR;
}

vsnap::OnFull from_wire(OnFull on_full) {
  if (on_full == ON_FULL_PAUSE) return vsnap::OnFull::pause;
  return on_full == ON_FULL_DROP_OLDEST ? vsnap::OnFull::drop_oldest : vsnap::OnFull::error;
}

} // namespace

SnapshotLevel to_wire(vsnap::SnapshotLevel level) {
  switch (level) {
    case vsnap::SnapshotLevel::crash:
      return LEVEL_CRASH;
    case vsnap::SnapshotLevel::fs:
      return LEVEL_FS;
    case vsnap::SnapshotLevel::app:
      return LEVEL_APP;
  }
  return LEVEL_CRASH;
}

vsnap::SnapshotLevel from_wire(SnapshotLevel level) {
  if (level == LEVEL_FS) return vsnap::SnapshotLevel::fs;
  return level == LEVEL_APP ? vsnap::SnapshotLevel::app : vsnap::SnapshotLevel::crash;
}

ViewName to_wire(const vsnap::ViewName& name) {
  ViewName out;
  out.set_volume(name.volume);
  out.set_snapshot(name.snapshot);
  return out;
}

LockEntry lock_of(const vsnap::ViewInfo& view, std::uint64_t handles) {
  LockEntry entry;
  *entry.mutable_view() = to_wire(view.name);
  entry.set_handles(handles);
  entry.set_may_write(view.kind == ViewKind::volume || view.draining);
  return entry;
}

vsnap::ViewName from_wire(const ViewName& name) { return {name.volume(), name.snapshot()}; }

ViewInfo to_wire(const vsnap::ViewInfo& info) {
  ViewInfo out;
  out.set_id(info.id.value());
  out.set_is_snapshot(info.kind == ViewKind::snapshot);
  *out.mutable_name() = to_wire(info.name);
  out.set_size_bytes(info.size_bytes);
  out.set_used_bytes(info.used_bytes);
  out.set_created_ns(info.created_ns);
  out.set_modified_ns(info.modified_ns);
  out.set_mode(info.mode);
  out.set_uid(info.uid);
  out.set_gid(info.gid);
  out.set_open_handles(info.open_handles);
  if (info.origin) out.set_origin(*info.origin);
  out.set_form(to_wire(info.form));
  out.set_state(info.state);
  out.set_base(info.base);
  out.set_level(to_wire(info.level));
  out.set_draining(info.draining);
  if (info.snapshot_space) {
    SnapshotSpace& space = *out.mutable_snapshot_space();
    space.set_limit_bytes(info.snapshot_space->limit_bytes);
    if (const auto& used = info.snapshot_space->used_bytes) space.set_used_bytes(*used);
    space.set_on_full(to_wire(info.snapshot_space->on_full));
  }
  for (const vsnap::HoldInfo& hold : info.holds) {
    Hold& h = *out.add_holds();
    h.set_tag(hold.tag);
    h.set_created_ns(hold.created_ns);
  }
  return out;
}

vsnap::ViewInfo from_wire(const ViewInfo& info) {
  vsnap::ViewInfo out;
  out.id = ObjectId(info.id());
  out.kind = info.is_snapshot() ? ViewKind::snapshot : ViewKind::volume;
  out.name = from_wire(info.name());
  out.size_bytes = info.size_bytes();
  out.used_bytes = info.used_bytes();
  out.created_ns = info.created_ns();
  out.modified_ns = info.modified_ns();
  out.mode = info.mode();
  out.uid = info.uid();
  out.gid = info.gid();
  out.open_handles = info.open_handles();
  if (info.has_origin()) out.origin = info.origin();
  out.form = from_wire(info.form());
  out.state = info.state();
  out.base = info.base();
  out.level = from_wire(info.level());
  out.draining = info.draining();
  if (info.has_snapshot_space()) {
    const SnapshotSpace& space = info.snapshot_space();
    out.snapshot_space = {space.limit_bytes(), std::nullopt, from_wire(space.on_full())};
    if (space.has_used_bytes()) out.snapshot_space->used_bytes = space.used_bytes();
  }
  for (const Hold& hold : info.holds()) out.holds.push_back({hold.tag(), hold.created_ns()});
  return out;
}

SpaceInfo to_wire(const vsnap::SpaceInfo& space) {
  SpaceInfo out;
  out.set_size_bytes(space.size_bytes);
  out.set_data_bytes(space.data_bytes);
  out.set_freeing_bytes(space.freeing_bytes);
  out.set_metadata_bytes(space.metadata_bytes);
  out.set_metadata_used_bytes(space.metadata_used_bytes);
  out.set_free_bytes(space.free_bytes);
  out.set_available_bytes(space.available_bytes);
  return out;
}

vsnap::SpaceInfo from_wire(const SpaceInfo& space) {
  return {space.size_bytes(),          space.data_bytes(), space.freeing_bytes(),  space.metadata_bytes(),
          space.metadata_used_bytes(), space.free_bytes(), space.available_bytes()};
}

PoolStatus to_wire(const vsnap::PoolStatus& status) {
  PoolStatus out;
  out.set_name(status.name);
  out.set_uuid(uuid_bytes(status.uuid));
  out.set_generation(status.generation);
  out.set_health(status.health);
  *out.mutable_space() = to_wire(status.space);
  for (const vsnap::MemberInfo& member : status.members) {
    MemberInfo& m = *out.add_members();
    m.set_index(member.index);
    m.set_path(member.path);
    m.set_uuid(uuid_bytes(member.uuid));
    m.set_size_bytes(member.size_bytes);
    m.set_free_bytes(member.free_bytes);
    m.set_is_block_device(member.is_block_device);
  }
  out.set_volumes(status.volumes);
  out.set_snapshots(status.snapshots);
  out.set_extents(status.extents);
  out.set_removal_pending(status.removal_pending);
  out.set_mark_reign(status.mark.reign);
  out.set_mark_number(status.mark.number);
  return out;
}

vsnap::PoolStatus from_wire(const PoolStatus& status) {
  vsnap::PoolStatus out;
  out.name = status.name();
  out.uuid = uuid_from(status.uuid());
  out.generation = status.generation();
  out.health = status.health();
  out.space = from_wire(status.space());
  for (const MemberInfo& m : status.members()) {
    out.members.push_back(
        {m.index(), m.path(), uuid_from(m.uuid()), m.size_bytes(), m.free_bytes(), m.is_block_device()});
  }
  out.volumes = status.volumes();
  out.snapshots = status.snapshots();
  out.extents = status.extents();
  out.removal_pending = status.removal_pending();
  out.mark = {status.mark_reign(), status.mark_number()};
  return out;
}

DiskUsage to_wire(const vsnap::DiskUsage& usage) {
  DiskUsage out;
  *out.mutable_space() = to_wire(usage.space);
  for (const vsnap::UsageRow& row : usage.rows) {
    UsageRow& r = *out.add_rows();
    *r.mutable_view() = to_wire(row.view);
    r.set_frees_bytes(row.frees_bytes);
  }
  return out;
}

vsnap::DiskUsage from_wire(const DiskUsage& usage) {
  vsnap::DiskUsage out{from_wire(usage.space()), {}};
  for (const UsageRow& row : usage.rows()) out.rows.push_back({from_wire(row.view()), row.frees_bytes()});
  return out;
}

PropertyInfo to_wire(const vsnap::PropertyInfo& property) {
  PropertyInfo out;
  out.set_volume(property.volume);
  out.set_name(property.name);
  out.set_value(property.value);
  out.set_is_set(property.is_set);
  return out;
}

vsnap::PropertyInfo from_wire(const PropertyInfo& property) {
  return {property.volume(), property.name(), property.value(), property.is_set()};
}

RemovalPlan to_wire(const vsnap::RemovalPlan& plan) {
  RemovalPlan out;
  for (const vsnap::ViewName& name : plan.removed) *out.add_removed() = to_wire(name);
  out.set_frees_bytes(plan.frees_bytes);
  for (const std::string& path : plan.given_back) out.add_given_back(path);
  return out;
}

vsnap::RemovalPlan from_wire(const RemovalPlan& plan) {
  vsnap::RemovalPlan out;
  for (const ViewName& name : plan.removed()) out.removed.push_back(from_wire(name));
  out.frees_bytes = plan.frees_bytes();
  for (const std::string& path : plan.given_back()) out.given_back.push_back(path);
  return out;
}

RollbackResult to_wire(const vsnap::RollbackResult& result) {
  RollbackResult out;
  *out.mutable_to() = to_wire(result.to);
  if (result.kept) *out.mutable_kept() = to_wire(*result.kept);
  return out;
}

vsnap::RollbackResult from_wire(const RollbackResult& result) {
  vsnap::RollbackResult out{from_wire(result.to()), std::nullopt};
  if (result.has_kept()) out.kept = from_wire(result.kept());
  return out;
}

ReleaseResult to_wire(const vsnap::ReleaseResult& result) {
  ReleaseResult out;
  out.set_path(result.path);
  for (const vsnap::ViewName& name : result.kept) *out.add_kept() = to_wire(name);
  out.set_copied_bytes(result.copied_bytes);
  return out;
}

vsnap::ReleaseResult from_wire(const ReleaseResult& result) {
  vsnap::ReleaseResult out{result.path(), {}, result.copied_bytes()};
  for (const ViewName& name : result.kept()) out.kept.push_back(from_wire(name));
  return out;
}

CheckReport to_wire(const vsnap::CheckReport& report) {
  CheckReport out;
  out.set_extents_checked(report.extents_checked);
  for (const vsnap::Finding& finding : report.findings) {
    Finding& f = *out.add_findings();
    f.set_what(finding.what);
    f.set_repairable(finding.repairable);
    f.set_repaired(finding.repaired);
  }
  return out;
}

vsnap::CheckReport from_wire(const CheckReport& report) {
  vsnap::CheckReport out;
  out.extents_checked = report.extents_checked();
  for (const Finding& f : report.findings()) out.findings.push_back({f.what(), f.repairable(), f.repaired()});
  return out;
}

DiffRange to_wire(const vsnap::DiffRange& range) {
  DiffRange out;
  out.set_offset(range.offset);
  out.set_length(range.length);
  out.set_is_hole(range.state == DiffState::hole);
  return out;
}

vsnap::DiffRange from_wire(const DiffRange& range) {
  return {range.offset(), range.length(), range.is_hole() ? DiffState::hole : DiffState::data};
}

Pause to_wire(const vsnap::Pause& pause) {
  Pause out;
  out.set_held_ns(static_cast<std::uint64_t>(pause.held_ns));
  out.set_hosts(pause.hosts);
  return out;
}

vsnap::Pause from_wire(const Pause& pause) {
  return {static_cast<std::int64_t>(pause.held_ns()), pause.hosts()};
}

Error to_wire(const vsnap::Error& error) {
  Error out;
  out.set_kind(to_wire(error.kind));
  out.set_errno_value(error.errno_value);
  out.set_message(error.message);
  return out;
}

vsnap::Error from_wire(const Error& error) {
  return {from_wire(error.kind()), error.errno_value(), error.message()};
}

ControlReply error_reply(const vsnap::Error& error) {
  ControlReply reply;
  *reply.mutable_error() = to_wire(error);
  return reply;
}

ControlReply error_reply(vsnap::ErrorKind kind, std::string message) {
  return error_reply(vsnap::Error{kind, usual_errno(kind), std::move(message)});
}

} // namespace vsnap::wire
