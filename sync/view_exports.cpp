#include "sync/view_exports.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>

#include "core/log.h"
#include "sync/wire.h"

namespace vsnap {
namespace {

constexpr std::chrono::milliseconds kLongestPause(1000);

} // namespace

Result<std::unique_ptr<ViewExports>> ViewExports::start(Pool& pool, Env& env, std::int64_t lease_ns) {
  std::unique_ptr<ViewExports> exports(new ViewExports(pool, env, lease_ns));
  VSNAP_TRY(pool.keep_snapshots_for(lease_ns));
  try {
    exports->thread_ = std::thread([&e = *exports] { e.close_in_time(); });
  } catch (const std::system_error& e) {
    return system_failure(e.code().value(), "sharing: thread");
  }
  return exports;
}

// Nobody reads any more once no session has been there for a lease; else the next process waits that long.
ViewExports::~ViewExports() {
  bool idle = true;
  {
    MutexLock lock(mutex_);
    stop_ = true;
    for (const auto& [id, host] : hosts_) idle = idle && host.session == 0;
    idle = idle && leaving_.empty();
    wake_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  if (!idle) {
    pool_.keep_unlinked();
    return;
  }
  if (const auto told = pool_.keep_snapshots_for(0); !told)
    log::debug("{}: {}", pool_.name(), told.error().message);
}

// ---- sessions ----

void ViewExports::session_began(std::uint64_t host, std::uint64_t session) {
  MutexLock lock(mutex_);
  Host& known = hosts_[host];
  leave(std::exchange(known.open, {}), lease_ns_); // of a session before, whose end was not told
  known.session = session;
}

// Who left has closed everything. The lease of one that is lost has run out here, and so there, before. Of
// the others the old process may not know it yet.
void ViewExports::session_over(std::uint64_t host, std::uint64_t session, Membership::End why) {
  MutexLock lock(mutex_);
  const auto found = hosts_.find(host);
  if (found == hosts_.end() || found->second.session != session) return;
  const bool knows = why == Membership::End::left || why == Membership::End::lost;
  leave(std::move(found->second.open), knows ? 0 : lease_ns_);
  hosts_.erase(found);
}

void ViewExports::leave(Handles handles, std::int64_t for_ns) {
  if (handles.empty()) return;
  const std::int64_t margin_ns = for_ns / 100 * Membership::kMarginPercent;
  leaving_.push_back({env_.monotonic_ns() + for_ns + margin_ns, std::move(handles)});
  wake_.notify_all();
}

void ViewExports::close_in_time() {
  for (;;) {
    std::vector<Handles> due;
    {
      MutexLock lock(mutex_);
      if (stop_) return;
      const std::int64_t now_ns = env_.monotonic_ns();
      for (auto it = leaving_.begin(); it != leaving_.end();) {
        if (it->until_ns > now_ns) {
          ++it;
          continue;
        }
        due.push_back(std::move(it->handles));
        it = leaving_.erase(it);
      }
      if (due.empty()) wake_.wait_for(mutex_, leaving_.empty() ? kLongestPause : kLongestPause / 10);
    }
    due.clear(); // may wait for the configuration lock
  }
}

// ---- requests ----

wire::LinkReply ViewExports::serve(const HostInfo& host, const wire::LinkRequest& request) {
  wire::LinkReply reply;
  const auto put = [&reply](auto result, auto* (wire::LinkReply::*into)()) {
    if (result)
      *(reply.*into)() = std::move(*result);
    else
      *reply.mutable_error() = wire::error_reply(result.error()).error();
  };
  switch (request.body_case()) {
    case wire::LinkRequest::kOpenView:
      put(open(host.id, request.open_view()), &wire::LinkReply::mutable_opened);
      break;
    case wire::LinkRequest::kCloseView:
      close(host.id, request.close_view().number());
      reply.mutable_closed();
      break;
    case wire::LinkRequest::kMap:
      put(map(host.id, request.map()), &wire::LinkReply::mutable_map);
      break;
    case wire::LinkRequest::kRead:
      put(read(host.id, request.read()), &wire::LinkReply::mutable_read);
      break;
    case wire::LinkRequest::kSeek:
      put(seek(host.id, request.seek()), &wire::LinkReply::mutable_seek);
      break;
    default:
      *reply.mutable_error() =
          wire::error_reply(ErrorKind::usage, "unknown request (the hosts have vsnap of different versions)")
              .error();
  }
  return reply;
}

Result<wire::OpenedView> ViewExports::open(std::uint64_t host, const wire::OpenViewRequest& request) {
  const ObjectId view(request.view());
  VSNAP_TRY_ASSIGN(const ViewInfo info, pool_.info(view));
  if (info.kind != ViewKind::snapshot) {
    return failure(ErrorKind::busy, EROFS,
                   fmt::format("{}/{}: a volume is used on the host that coordinates its pool; here its "
                               "snapshots are (vsnap snapshot)",
                               pool_.name(), info.name.text()));
  }
  if (info.draining) {
    return failure(
        ErrorKind::busy, EBUSY,
        fmt::format("{}/{}: programs still write to it (vsnap wait)", pool_.name(), info.name.text()));
  }
  VSNAP_TRY_ASSIGN(ViewHandle handle, pool_.open_view(view));
  Opening opening{request.view(), std::make_shared<ViewHandle>(std::move(handle))};
  wire::OpenedView opened;
  *opened.mutable_view() = wire::to_wire(info);
  MutexLock lock(mutex_);
  // What is not taken is closed by the thread.
  const auto refused = [&](ErrorKind kind, int errno_value, std::string message) VSNAP_REQUIRES(mutex_) {
    leave({{request.number(), std::move(opening)}}, 0);
    return failure(kind, errno_value, std::move(message));
  };
  const auto found = hosts_.find(host);
  if (found == hosts_.end() || found->second.session == 0)
    return refused(ErrorKind::failed, ESTALE, "the session is over");
  Handles& open = found->second.open;
  if (open.size() >= kMaxOpen && !open.contains(request.number())) {
    return refused(ErrorKind::no_space, EMFILE,
                   fmt::format("{}: the host has {} views open, which is the most", pool_.name(), kMaxOpen));
  }
  if (const auto before = open.find(request.number()); before != open.end()) { // asked once more
    if (before->second.view != request.view())
      return refused(ErrorKind::usage, EINVAL, "another view was opened by that number");
    leave({{request.number(), std::move(opening)}}, 0);
  } else {
    open.emplace(request.number(), std::move(opening));
  }
  return opened;
}

void ViewExports::close(std::uint64_t host, std::uint64_t number) {
  MutexLock lock(mutex_);
  const auto found = hosts_.find(host);
  if (found == hosts_.end()) return;
  if (auto opening = found->second.open.extract(number)) leave({{number, std::move(opening.mapped())}}, 0);
}

Result<std::shared_ptr<ViewHandle>> ViewExports::opened(std::uint64_t host, std::uint64_t view) {
  MutexLock lock(mutex_);
  if (const auto found = hosts_.find(host); found != hosts_.end()) {
    for (const auto& [number, opening] : found->second.open) {
      if (opening.view == view) return opening.handle;
    }
  }
  return failure(ErrorKind::not_found, ESTALE, "the host does not have that view open");
}

Result<wire::MapReply> ViewExports::map(std::uint64_t host, const wire::MapRequest& request) {
  VSNAP_TRY_ASSIGN(const auto handle, opened(host, request.view()));
  const RegionIndex region(request.region());
  const std::uint64_t blocks = ((*handle)->size_bytes() + kBlockBytes - 1) / kBlockBytes;
  if (request.region() >= (blocks + kRegionBlocks - 1) / kRegionBlocks)
    return failure(ErrorKind::usage, EINVAL, "the view has no such region");
  VSNAP_TRY_ASSIGN(const auto exported, pool_.export_map(ObjectId(request.view()), region));
  wire::MapReply reply;
  reply.set_may_move(!exported);
  if (!exported) return reply;
  for (const MapRun& run : *exported) {
    reply.add_starts(static_cast<std::uint32_t>((run.start - first_block(region)).value()));
    reply.add_counts(static_cast<std::uint32_t>(run.count.value()));
    reply.add_places(run.place.packed());
  }
  return reply;
}

Result<wire::ReadReply> ViewExports::read(std::uint64_t host, const wire::ReadRequest& request) {
  VSNAP_TRY_ASSIGN(const auto handle, opened(host, request.view()));
  if (request.length() > kMaxRead) return failure(ErrorKind::usage, EINVAL, "that much is not read at once");
  wire::ReadReply reply;
  std::string& data = *reply.mutable_data();
  data.resize(request.length());
  VSNAP_TRY_ASSIGN(const std::size_t length,
                   (*handle)->read(request.offset(), std::as_writable_bytes(std::span(data))));
  data.resize(length);
  return reply;
}

Result<wire::SeekReply> ViewExports::seek(std::uint64_t host, const wire::SeekRequest& request) {
  VSNAP_TRY_ASSIGN(const auto handle, opened(host, request.view()));
  const auto found =
      request.hole() ? (*handle)->seek_hole(request.offset()) : (*handle)->seek_data(request.offset());
  VSNAP_TRY(found);
  wire::SeekReply reply;
  if (*found) reply.set_offset(**found);
  return reply;
}

} // namespace vsnap
