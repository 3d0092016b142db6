#include "sync/file_requests.h"

#include <optional>

#include "sync/wire.h"

namespace vsnap {
namespace {

// The kernel of another host counts its requests for itself: here each is one of a command.
class Asked {
 public:
  explicit Asked(std::uint64_t number) {
    if (number != 0) asked_.emplace(RequestId{RequestId::Source::command, number});
  }
  // `again`: a coordinator before this one may have carried it out.
  static Result<bool> was_done(Pool& pool, std::uint64_t number, bool again) {
    if (number == 0 || !again) return false;
    VSNAP_TRY_ASSIGN(const auto done, pool.carried_out({RequestId::Source::command, number}));
    return done.has_value();
  }

 private:
  std::optional<AskedBy> asked_;
};

Result<ViewInfo> create(Pool& pool, const wire::CreateFileRequest& request, bool again) {
  VSNAP_TRY_ASSIGN(const bool done, Asked::was_done(pool, request.asked_by(), again));
  if (done) return pool.find({request.name(), {}});
  const Asked asked(request.asked_by());
  return pool.create_volume(request.name(), 0);
}

Result<> rename(Pool& pool, const wire::RenameFileRequest& request, bool again) {
  VSNAP_TRY_ASSIGN(const bool done, Asked::was_done(pool, request.asked_by(), again));
  if (done) return {};
  const ViewName from = wire::from_wire(request.from());
  const Asked asked(request.asked_by());
  return pool.rename(from, request.new_name(), request.replace());
}

Result<> remove(Pool& pool, const wire::RemoveFileRequest& request, bool again) {
  VSNAP_TRY_ASSIGN(const bool done, Asked::was_done(pool, request.asked_by(), again));
  if (done) return {};
  const ViewName name = wire::from_wire(request.name());
  const Asked asked(request.asked_by());
  VSNAP_TRY(pool.remove(std::span(&name, 1), {.even_if_open = true}));
  return {};
}

Result<wire::CarriedOut> carried_out(Pool& pool, const wire::CarriedOutRequest& request) {
  VSNAP_TRY_ASSIGN(const auto object, pool.carried_out({RequestId::Source::command, request.asked_by()}));
  wire::CarriedOut reply;
  if (object) reply.set_object(object->value());
  return reply;
}

Result<ViewInfo> set_attributes(Pool& pool, const wire::SetAttributesRequest& request) {
  const ObjectId id(request.view());
  const auto given = [](bool has, auto value) { return has ? std::optional(value) : std::nullopt; };
  if (request.has_size_bytes()) {
    VSNAP_TRY_ASSIGN(const ViewInfo before, pool.info(id));
    VSNAP_TRY(pool.resize(id, request.size_bytes(), true));
    pool.tell_changed(id, std::min(before.size_bytes, request.size_bytes()), 0);
  }
  const auto mode = given(request.has_mode(), request.mode());
  const auto uid = given(request.has_uid(), request.uid());
  const auto gid = given(request.has_gid(), request.gid());
  const auto modified_ns = given(request.has_modified_ns(), std::int64_t{request.modified_ns()});
  if (mode || uid || gid || modified_ns) VSNAP_TRY(pool.set_attributes(id, mode, uid, gid, modified_ns));
  return pool.info(id);
}

void put(wire::LinkReply& reply, const Result<ViewInfo>& view) {
  if (view)
    *reply.mutable_view() = wire::to_wire(*view);
  else
    *reply.mutable_error() = wire::to_wire(view.error());
}

void put(wire::LinkReply& reply, const Result<>& done) {
  if (done)
    reply.mutable_done();
  else
    *reply.mutable_error() = wire::to_wire(done.error());
}

} // namespace

wire::LinkReply serve_file_request(Pool& pool, const wire::LinkRequest& request) {
  wire::LinkReply reply;
  switch (request.body_case()) {
    case wire::LinkRequest::kCreateFile:
      put(reply, create(pool, request.create_file(), request.again()));
      break;
    case wire::LinkRequest::kRenameFile:
      put(reply, rename(pool, request.rename_file(), request.again()));
      break;
    case wire::LinkRequest::kRemoveFile:
      put(reply, remove(pool, request.remove_file(), request.again()));
      break;
    case wire::LinkRequest::kCarriedOut:
      if (auto found = carried_out(pool, request.carried_out()))
        *reply.mutable_carried_out() = std::move(*found);
      else
        *reply.mutable_error() = wire::to_wire(found.error());
      break;
    case wire::LinkRequest::kSetAttributes:
      put(reply, set_attributes(pool, request.set_attributes()));
      break;
    default:
      *reply.mutable_error() =
          wire::error_reply(ErrorKind::usage, "unknown request (the hosts have vsnap of different versions)")
              .error();
  }
  return reply;
}

} // namespace vsnap
