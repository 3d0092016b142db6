// The directory of the mount of a joined host: what is done with names in it is asked of the coordinator.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/log.h"
#include "sync/joined_pool.h"
#include "sync/wire.h"

namespace vsnap {

Result<wire::LinkReply> JoinedPool::change_names(wire::LinkRequest request) {
  if (is_read_only()) return read_only();
  auto reply = ask(std::move(request), kLongestForward);
  if (const auto read = refresh_list(); !read) log::debug("{}: {}", name_, read.error().message);
  return reply;
}

// The kernels of two hosts may count alike.
std::uint64_t JoinedPool::number_for_all(std::uint64_t request) const {
  return std::max<std::uint64_t>((request ^ host_number_) >> 1U, 1);
}

std::uint64_t JoinedPool::asked_by() const {
  const auto request = AskedBy::current();
  return request ? number_for_all(request->number) : 0;
}

Result<std::optional<ObjectId>> JoinedPool::carried_out(RequestId request) {
  wire::LinkRequest asked;
  asked.mutable_carried_out()->set_asked_by(number_for_all(request.number));
  VSNAP_TRY_ASSIGN(const wire::LinkReply reply, ask(std::move(asked), kLongestRequest));
  const wire::CarriedOut& found = reply.carried_out();
  return found.has_object() ? std::optional(ObjectId(found.object())) : std::nullopt;
}

Result<ViewInfo> JoinedPool::create_volume(const std::string& name, std::uint64_t size_bytes) {
  wire::LinkRequest request;
  request.mutable_create_file()->set_name(name);
  request.mutable_create_file()->set_asked_by(asked_by());
  VSNAP_TRY_ASSIGN(const wire::LinkReply reply, change_names(std::move(request)));
  ViewInfo made = wire::from_wire(reply.view());
  made.changes_elsewhere = true;
  if (size_bytes != 0) VSNAP_TRY(resize(made.id, size_bytes, true));
  return made;
}

Result<> JoinedPool::rename(const ViewName& from, const std::string& new_name, bool replace) {
  wire::LinkRequest request;
  wire::RenameFileRequest& rename = *request.mutable_rename_file();
  *rename.mutable_from() = wire::to_wire(from);
  rename.set_new_name(new_name);
  rename.set_replace(replace);
  rename.set_asked_by(asked_by());
  VSNAP_TRY(change_names(std::move(request)));
  return {};
}

Result<RemovalPlan> JoinedPool::remove(std::span<const ViewName> names, RemoveOptions options) {
  if (names.size() != 1 || !options.even_if_open || options.dry_run) return read_only(); // as unlink(2) only
  wire::LinkRequest request;
  *request.mutable_remove_file()->mutable_name() = wire::to_wire(names.front());
  request.mutable_remove_file()->set_asked_by(asked_by());
  VSNAP_TRY(change_names(std::move(request)));
  RemovalPlan plan;
  plan.removed.push_back(names.front());
  return plan;
}

Result<ViewInfo> JoinedPool::set_of_volume(wire::SetAttributesRequest request) {
  if (is_read_only()) return read_only();
  wire::LinkRequest asked;
  *asked.mutable_set_attributes() = std::move(request);
  VSNAP_TRY_ASSIGN(const wire::LinkReply reply, ask(std::move(asked), kLongestForward));
  return wire::from_wire(reply.view());
}

Result<> JoinedPool::set_attributes(ObjectId id, std::optional<std::uint32_t> mode,
                                    std::optional<std::uint32_t> uid, std::optional<std::uint32_t> gid,
                                    std::optional<std::int64_t> modified_ns) {
  wire::SetAttributesRequest request;
  request.set_view(id.value());
  if (mode) request.set_mode(*mode);
  if (uid) request.set_uid(*uid);
  if (gid) request.set_gid(*gid);
  if (modified_ns) request.set_modified_ns(*modified_ns);
  VSNAP_TRY(set_of_volume(std::move(request)));
  return {};
}

// ---- what this host does not do by itself ----

Failure JoinedPool::read_only() const {
  return failure(ErrorKind::failed, EROFS,
                 fmt::format("{}: not asked for through a file of the mount", name_));
}

Result<DiskUsage> JoinedPool::disk_usage() { return read_only(); }
Result<> JoinedPool::add_member(const MemberSpec&, bool) { return read_only(); }
Result<> JoinedPool::snapshot(std::span<const ViewName>) { return read_only(); }
Result<RollbackResult> JoinedPool::rollback(const ViewName&, bool, bool, const Progress&) {
  return read_only();
}
Result<ViewInfo> JoinedPool::clone(const ViewName&, const std::string&) { return read_only(); }
Result<> JoinedPool::share_into(ObjectId, ObjectId) { return read_only(); }
Result<ViewInfo> JoinedPool::preserve(const ViewName&) { return read_only(); }
Result<> JoinedPool::flatten(const std::string&, const Progress&) { return read_only(); }
Result<> JoinedPool::snapshot_full(const ViewName&, const FullSnapshotOptions&) { return read_only(); }
Result<> JoinedPool::wait_for_copy(const ViewName&, const Progress&) { return read_only(); }
Result<> JoinedPool::set_copy(const ViewName&, const CopySettings&) { return read_only(); }
Result<ViewInfo> JoinedPool::split(const ViewName&, const std::string&) { return read_only(); }
Result<ViewInfo> JoinedPool::refresh(const ViewName&) { return read_only(); }
Result<> JoinedPool::wait_for_removals(const Progress&) { return read_only(); }
Result<> JoinedPool::diff(const ViewName&, const ViewName&, const std::function<bool(const DiffRange&)>&) {
  return read_only();
}
Result<CheckReport> JoinedPool::check(bool, const Progress&) { return read_only(); }
Result<> JoinedPool::dump_catalog(const std::string&, const Progress&) { return read_only(); }

} // namespace vsnap
