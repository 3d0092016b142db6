// The snapshots that a joined host has open: read from the members, by maps that the coordinator hands out.
#include <fmt/format.h>

#include <utility>

#include "sync/joined_pool.h"
#include "sync/remote_read.h"
#include "sync/wire.h"

namespace vsnap {

Result<> JoinedPool::ensure_open(ObjectId view) {
  VSNAP_TRY_ASSIGN(const std::uint64_t now, session());
  wire::LinkRequest request;
  {
    MutexLock lock(mutex_);
    const auto found = open_.find(view.value());
    if (found == open_.end()) return failure(ErrorKind::failed, EBADF, "the snapshot is being closed");
    if (found->second.session == now) return {};
    request.mutable_open_view()->set_view(view.value());
    request.mutable_open_view()->set_number(found->second.number);
  }
  const std::uint64_t number = request.open_view().number();
  const auto reply = ask(std::move(request), kLongestRequest);
  if (!reply && reply.error().kind == ErrorKind::not_found) {
    return failure(ErrorKind::failed, ESTALE,
                   fmt::format("{}: a snapshot was removed while this host had no session", name_));
  }
  VSNAP_TRY(reply);
  MutexLock lock(mutex_);
  const auto found = open_.find(view.value());
  if (found != open_.end() && found->second.number == number) found->second.session = now;
  return {};
}

Result<ViewHandle> JoinedPool::open_view(ObjectId id) {
  VSNAP_TRY_ASSIGN(const ViewInfo info, known_info(id));
  if (info.kind == ViewKind::volume) return open_volume(info);
  std::shared_ptr<FetchedView> view;
  {
    MutexLock lock(mutex_);
    Open& open = open_[id.value()];
    if (open.number == 0) open.number = ++opened_;
    if (!open.view)
      open.view = std::make_shared<FetchedView>(info, static_cast<MapSource&>(*this), members_, maps_);
    ++open.handles;
    view = open.view;
  }
  ViewHandle handle(this, view);
  VSNAP_TRY(ensure_open(id));
  return handle;
}

Result<PoolStatus> JoinedPool::fetch_members() {
  wire::ControlRequest request;
  request.mutable_status()->set_mark_members(true);
  VSNAP_TRY_ASSIGN(const wire::ControlReply reply, control(std::move(request)));
  return wire::from_wire(reply.status());
}

Result<std::optional<RegionMap>> JoinedPool::fetch_map(ObjectId view, RegionIndex region) {
  VSNAP_TRY(ensure_open(view));
  return ask_for_map(view, region);
}

Result<std::optional<RegionMap>> JoinedPool::ask_for_map(ObjectId view, RegionIndex region) {
  wire::LinkRequest request;
  request.mutable_map()->set_view(view.value());
  request.mutable_map()->set_region(region.value());
  VSNAP_TRY_ASSIGN(const wire::LinkReply reply, ask(std::move(request), kLongestRequest));
  const wire::MapReply& got = reply.map();
  if (got.may_move()) return std::nullopt;
  const auto broken = [this] {
    return failure(ErrorKind::failed, EPROTO, fmt::format("{}: a map that says nothing came", name_));
  };
  if (got.starts_size() != got.counts_size() || got.starts_size() != got.places_size() ||
      (got.own_size() != 0 && got.own_size() != got.starts_size()))
    return broken();
  RegionMap map;
  std::uint64_t end = 0;
  for (int i = 0; i < got.starts_size(); ++i) {
    if (got.starts(i) < end || got.counts(i) == 0 ||
        std::uint64_t{got.starts(i)} + got.counts(i) > kRegionBlocks)
      return broken();
    end = std::uint64_t{got.starts(i)} + got.counts(i);
    map.push_back({first_block(region) + BlockCount(got.starts(i)), BlockCount(got.counts(i)),
                   BlockKind::data, Place::unpack(got.places(i)), got.own_size() != 0 && got.own(i)});
  }
  return map;
}

Result<std::size_t> JoinedPool::read(ObjectId view, std::uint64_t offset, std::span<std::byte> out) {
  VSNAP_TRY(ensure_open(view));
  wire::ReadRequest whole;
  whole.set_view(view.value());
  whole.set_offset(offset);
  return read_in_parts(whole, out, [this](const wire::ReadRequest& part) {
    wire::LinkRequest request;
    *request.mutable_read() = part;
    return ask(std::move(request), kLongestRequest);
  });
}

Result<std::optional<std::uint64_t>> JoinedPool::seek(ObjectId view, std::uint64_t offset, bool hole) {
  VSNAP_TRY(ensure_open(view));
  wire::LinkRequest request;
  request.mutable_seek()->set_view(view.value());
  request.mutable_seek()->set_offset(offset);
  request.mutable_seek()->set_hole(hole);
  VSNAP_TRY_ASSIGN(const wire::LinkReply reply, ask(std::move(request), kLongestRequest));
  return reply.seek().has_offset() ? std::optional(reply.seek().offset()) : std::nullopt;
}

} // namespace vsnap
