#include "sync/view_exports.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>
#include <tuple>

#include "core/log.h"
#include "core/wait_listener.h"
#include "sync/file_requests.h"
#include "sync/wire.h"

namespace vsnap {
namespace {

constexpr std::chrono::milliseconds kLongestPause(1000);
constexpr std::int64_t kLongestRunning_ns = 5'000'000'000; // of an opening that has ended, to be waited for

} // namespace

// While it lives its opening stays open, and counts as one for which something is carried out.
class ViewExports::Running {
 public:
  Running(ViewExports& exports, OpeningPtr opening) : exports_(&exports), opening_(std::move(opening)) {}
  Running(Running&& other) noexcept
      : exports_(std::exchange(other.exports_, nullptr)), opening_(std::move(other.opening_)) {}
  Running& operator=(Running&&) = delete;
  ~Running() {
    if (exports_ == nullptr) return;
    MutexLock lock(exports_->mutex_);
    if (--opening_->running > 0) return;
    const auto [first, last] = exports_->ended_.equal_range(opening_->view);
    for (auto it = first; it != last; ++it) {
      if (it->second != opening_) continue;
      exports_->leave({{0, std::move(opening_)}}, 0); // closed by the thread
      exports_->ended_.erase(it);
      exports_->done_.notify_all();
      return;
    }
  }
  View* operator->() const { return &*opening_->handle; }
  View& operator*() const { return *opening_->handle; }
  [[nodiscard]] const std::atomic<bool>& has_ended() const { return opening_->has_ended; }

 private:
  ViewExports* exports_;
  OpeningPtr opening_;
};

Result<std::unique_ptr<ViewExports>> ViewExports::start(Pool& pool, Env& env, std::int64_t lease_ns,
                                                        Fence fence) {
  std::unique_ptr<ViewExports> exports(new ViewExports(pool, env, lease_ns));
  VSNAP_TRY(pool.keep_snapshots_for(lease_ns));
  VSNAP_TRY_ASSIGN(exports->delegations_, HostDelegations::start(pool, env, lease_ns, std::move(fence)));
  try {
    exports->thread_ = std::thread([&e = *exports] { e.close_in_time(); });
  } catch (const std::system_error& e) {
    return system_failure(e.code().value(), "sharing: thread");
  }
  return exports;
}

// Nobody reads any more once no session has been there for a lease, nor writes what has been returned; else
// the next process waits that long.
ViewExports::~ViewExports() {
  bool idle = true;
  {
    MutexLock lock(mutex_);
    stop_ = true;
    for (const auto& [id, host] : hosts_) idle = idle && host.session == 0;
    idle = idle && leaving_.empty();
    wake_.notify_all();
  }
  for (const DelegationInfo& info : pool_.delegations()) idle = idle && info.state == DelegationState::lost;
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
  delegations_->session_began(host);
  MutexLock lock(mutex_);
  Host& known = hosts_[host];
  leave(std::exchange(known.open, {}), lease_ns_); // of a session before, whose end was not told
  known.closed.clear();
  known.session = session;
}

// Who left has closed everything. The lease of one that is lost has run out here, and so there, before. Of
// the others the old process may not know it yet.
void ViewExports::session_over(std::uint64_t host, std::uint64_t session, Membership::End why) {
  {
    MutexLock lock(mutex_);
    const auto found = hosts_.find(host);
    if (found == hosts_.end() || found->second.session != session) return;
    const bool knows = why == Membership::End::left || why == Membership::End::lost;
    leave(std::move(found->second.open), knows ? 0 : lease_ns_);
    hosts_.erase(found);
  }
  delegations_->session_over(host, why); // what is given from here on is taken back by take()
}

void ViewExports::leave(Handles handles, std::int64_t for_ns) {
  if (handles.empty()) return;
  for (const auto& [number, opening] : handles) {
    opening->has_ended = true;
    if (opening->running == 0) continue;
    ended_.emplace(opening->view, opening);
    waits_end_ = true;
  }
  const std::int64_t margin_ns = for_ns / 100 * Membership::kMarginPercent;
  leaving_.push_back({env_.monotonic_ns() + for_ns + margin_ns, std::move(handles)});
  wake_.notify_all();
}

void ViewExports::close_in_time() {
  for (;;) {
    std::vector<Handles> due;
    bool waits_end = false;
    {
      MutexLock lock(mutex_);
      if (stop_) return;
      waits_end = std::exchange(waits_end_, false);
      const std::int64_t now_ns = env_.monotonic_ns();
      for (auto it = leaving_.begin(); it != leaving_.end();) {
        if (it->until_ns > now_ns) {
          ++it;
          continue;
        }
        due.push_back(std::move(it->handles));
        it = leaving_.erase(it);
      }
      if (due.empty() && !waits_end)
        wake_.wait_for(mutex_, leaving_.empty() ? kLongestPause : kLongestPause / 10);
    }
    if (waits_end) pool_.look_for_room();
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
    case wire::LinkRequest::kTakeVolume:
      put(take(host, request.take_volume()), &wire::LinkReply::mutable_taken_volume);
      break;
    case wire::LinkRequest::kReturnVolumes:
      if (const auto taken = delegations_->give_back(host.id, request.return_volumes()); !taken)
        *reply.mutable_error() = wire::to_wire(taken.error());
      else
        reply.mutable_done();
      break;
    case wire::LinkRequest::kGrantSpace:
      put(delegations_->grant(host.id, request.grant_space()), &wire::LinkReply::mutable_granted_space);
      break;
    case wire::LinkRequest::kCommitBlocks:
      if (const auto done = delegations_->commit(host.id, request.commit_blocks()); !done)
        *reply.mutable_error() = wire::to_wire(done.error());
      else
        reply.mutable_done();
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
    case wire::LinkRequest::kWrite:
      put(write(host.id, request.write()), &wire::LinkReply::mutable_changed);
      break;
    case wire::LinkRequest::kDiscard:
      put(discard(host.id, request.discard()), &wire::LinkReply::mutable_changed);
      break;
    case wire::LinkRequest::kReserve:
      put(reserve(host.id, request.reserve()), &wire::LinkReply::mutable_changed);
      break;
    case wire::LinkRequest::kFsync:
      put(fsync(host.id, request.fsync()), &wire::LinkReply::mutable_changed);
      break;
    default:
      return serve_file(host.id, request);
  }
  return reply;
}

// A size is a change of data, as others are.
wire::LinkReply ViewExports::serve_file(std::uint64_t host, const wire::LinkRequest& request) {
  if (!request.set_attributes().has_size_bytes()) return serve_file_request(pool_, request);
  const wire::SetAttributesRequest& set = request.set_attributes();
  const auto opening = run_change(host, set.number());
  if (opening && (*opening)->id().value() == set.view()) return serve_file_request(pool_, request);
  wire::LinkReply reply;
  if (opening)
    *reply.mutable_error() =
        wire::error_reply(ErrorKind::usage, "another view is open by that number").error();
  else
    *reply.mutable_error() = wire::to_wire(opening.error());
  return reply;
}

Result<> ViewExports::wait_for_ended(std::uint64_t view) {
  const std::int64_t until_ns = env_.monotonic_ns() + kLongestRunning_ns;
  MutexLock lock(mutex_);
  while (ended_.contains(view)) {
    if (stop_ || env_.monotonic_ns() >= until_ns) {
      return failure(ErrorKind::busy, EBUSY,
                     fmt::format("{}: a write of a host that has closed it, or was lost, is still under way",
                                 pool_.name()));
    }
    done_.wait_for(mutex_, kLongestPause / 10);
  }
  return {};
}

Result<wire::OpenedView> ViewExports::open(std::uint64_t host, const wire::OpenViewRequest& request) {
  const ObjectId view(request.view());
  VSNAP_TRY_ASSIGN(const ViewInfo info, pool_.info(view));
  if (info.draining) {
    return failure(
        ErrorKind::busy, EBUSY,
        fmt::format("{}/{}: programs still write to it (vsnap wait)", pool_.name(), info.name.text()));
  }
  if (request.has_losses() && request.losses() != pool_.losses()) {
    return failure(ErrorKind::failed, EIO,
                   fmt::format("{}/{}: what was written since the last fsync may be lost", pool_.name(),
                               info.name.text()));
  }
  VSNAP_TRY(wait_for_ended(request.view()));
  VSNAP_TRY_ASSIGN(ViewHandle handle, pool_.open_view_for(view, host));
  wire::OpenedView opened;
  *opened.mutable_view() = wire::to_wire(info);
  opened.mutable_view()->set_size_bytes(handle->size_bytes());
  opened.set_losses(pool_.losses());
  auto opening = std::make_shared<Opening>();
  opening->host = host;
  opening->since_ns = env_.wall_clock_ns();
  opening->view = request.view();
  opening->handle = std::move(handle);
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
  if (found->second.closed.contains(request.number()))
    return refused(ErrorKind::failed, ESTALE, "that was closed before it was opened");
  if (open.size() >= kMaxOpen && !open.contains(request.number())) {
    return refused(ErrorKind::no_space, EMFILE,
                   fmt::format("{}: the host has {} views open, which is the most", pool_.name(), kMaxOpen));
  }
  if (const auto before = open.find(request.number()); before != open.end()) { // asked once more
    if (before->second->view != request.view())
      return refused(ErrorKind::usage, EINVAL, "another view was opened by that number");
    leave({{request.number(), std::move(opening)}}, 0);
  } else {
    open.emplace(request.number(), std::move(opening));
  }
  return opened;
}

// Answered once nothing is carried out for it any more, or after a while: see wait_for_ended().
void ViewExports::close(std::uint64_t host, std::uint64_t number) {
  std::uint64_t view = 0;
  {
    MutexLock lock(mutex_);
    const auto found = hosts_.find(host);
    if (found == hosts_.end()) return;
    Host& known = found->second;
    auto opening = known.open.extract(number);
    if (!opening) { // it may come late
      known.closed.insert(number);
      if (known.closed.size() > kMaxClosed) known.closed.erase(known.closed.begin());
      return;
    }
    view = opening.mapped()->view;
    leave({{number, std::move(opening.mapped())}}, 0);
  }
  static_cast<void>(wait_for_ended(view));
}

Result<ViewExports::Running> ViewExports::run(std::uint64_t host, std::uint64_t number, std::uint64_t view) {
  MutexLock lock(mutex_);
  if (const auto found = hosts_.find(host); found != hosts_.end()) {
    for (auto it = number != 0 ? found->second.open.find(number) : found->second.open.begin();
         it != found->second.open.end(); ++it) {
      if (number == 0 && it->second->view != view) continue;
      ++it->second->running;
      return Running(*this, it->second);
    }
  }
  return failure(ErrorKind::not_found, ESTALE, "the host does not have that view open");
}

// All that the host has open of it stays so until this has ended: so nobody else's can be among as many.
Result<wire::TakenVolume> ViewExports::take(const HostInfo& host, const wire::TakeVolumeRequest& request) {
  VSNAP_TRY_ASSIGN(const Running view, run(host.id, 0, request.view()));
  std::vector<Running> all;
  {
    MutexLock lock(mutex_);
    const auto found = hosts_.find(host.id);
    if (found == hosts_.end()) return wire::TakenVolume();
    for (const auto& [number, opening] : found->second.open) {
      if (opening->view != request.view()) continue;
      ++opening->running;
      all.emplace_back(*this, opening);
    }
  }
  VSNAP_TRY_ASSIGN(wire::TakenVolume taken,
                   delegations_->take(host, *view, static_cast<std::uint32_t>(all.size())));
  if (taken.number() == 0 || !view.has_ended()) return taken;
  VSNAP_TRY(pool_.end_delegation(host.id, taken.number())); // the host does not hear of it in that session
  return wire::TakenVolume();
}

Result<wire::MapReply> ViewExports::map(std::uint64_t host, const wire::MapRequest& request) {
  VSNAP_TRY_ASSIGN(const Running view, run(host, 0, request.view()));
  const RegionIndex region(request.region());
  const std::uint64_t blocks = (view->size_bytes() + kBlockBytes - 1) / kBlockBytes;
  if (request.region() >= (blocks + kRegionBlocks - 1) / kRegionBlocks)
    return failure(ErrorKind::usage, EINVAL, "the view has no such region");
  wire::MapReply reply;
  VSNAP_TRY_ASSIGN(const auto exported, pool_.export_map(ObjectId(request.view()), region));
  reply.set_may_move(!exported);
  if (!exported) return reply;
  for (const MapRun& run : *exported) {
    reply.add_starts(static_cast<std::uint32_t>((run.start - first_block(region)).value()));
    reply.add_counts(static_cast<std::uint32_t>(run.count.value()));
    reply.add_places(run.place.packed());
    if (view->writable()) reply.add_own(run.own);
  }
  return reply;
}

Result<wire::ReadReply> ViewExports::read(std::uint64_t host, const wire::ReadRequest& request) {
  VSNAP_TRY_ASSIGN(const Running view, run(host, request.number(), request.view()));
  if (request.length() > kMaxRead) return failure(ErrorKind::usage, EINVAL, "that much is not read at once");
  wire::ReadReply reply;
  std::string& data = *reply.mutable_data();
  data.resize(request.length());
  VSNAP_TRY_ASSIGN(const std::size_t length,
                   view->read(request.offset(), std::as_writable_bytes(std::span(data))));
  data.resize(length);
  return reply;
}

Result<wire::SeekReply> ViewExports::seek(std::uint64_t host, const wire::SeekRequest& request) {
  VSNAP_TRY_ASSIGN(const Running view, run(host, request.number(), request.view()));
  const auto found = request.hole() ? view->seek_hole(request.offset()) : view->seek_data(request.offset());
  VSNAP_TRY(found);
  wire::SeekReply reply;
  if (*found) reply.set_offset(**found);
  return reply;
}

// ---- changes ----

Result<ViewExports::Running> ViewExports::run_change(std::uint64_t host, std::uint64_t number) {
  if (number == 0) return failure(ErrorKind::usage, EINVAL, "a change without the number of an open volume");
  return run(host, number, 0);
}

Result<wire::ChangedView> ViewExports::changed(View& view, std::uint64_t offset, std::uint64_t length) {
  pool_.tell_changed(view.id(), offset, length);
  wire::ChangedView reply;
  reply.set_size_bytes(view.size_bytes());
  return reply;
}

Result<wire::ChangedView> ViewExports::write(std::uint64_t host, const wire::WriteRequest& request) {
  VSNAP_TRY_ASSIGN(const Running view, run_change(host, request.number()));
  const WaitsUntil waits(view.has_ended());
  const std::string& data = request.data();
  if (data.size() > kMaxRead) return failure(ErrorKind::usage, EINVAL, "that much is not written at once");
  const auto written = view->write(request.offset(), std::as_bytes(std::span(data)));
  // Also of one that failed: it may have gone some way.
  auto reply = changed(*view, request.offset(), std::max<std::size_t>(data.size(), 1));
  VSNAP_TRY(written);
  return reply;
}

Result<wire::ChangedView> ViewExports::discard(std::uint64_t host, const wire::DiscardRequest& request) {
  VSNAP_TRY_ASSIGN(const Running view, run_change(host, request.number()));
  const WaitsUntil waits(view.has_ended());
  const auto discarded = view->discard(request.offset(), request.length());
  auto reply = changed(*view, request.offset(), request.length());
  VSNAP_TRY(discarded);
  return reply;
}

Result<wire::ChangedView> ViewExports::reserve(std::uint64_t host, const wire::ReserveRequest& request) {
  VSNAP_TRY_ASSIGN(const Running view, run_change(host, request.number()));
  const WaitsUntil waits(view.has_ended());
  VSNAP_TRY(view->reserve(request.offset(), request.length(), request.extend()));
  return changed(*view, request.offset(), request.length());
}

Result<wire::ChangedView> ViewExports::fsync(std::uint64_t host, const wire::FsyncRequest& request) {
  VSNAP_TRY_ASSIGN(const Running view, run_change(host, request.number()));
  VSNAP_TRY(view->fsync());
  wire::ChangedView reply;
  reply.set_size_bytes(view->size_bytes());
  return reply;
}

// ---- who has what open ----

std::optional<wire::ControlReply> ViewExports::answer(const wire::ControlRequest& request) {
  if (request.version() != wire::kProtocolVersion) return std::nullopt;
  if (!request.has_list_locks() && !request.has_break_lock()) return std::nullopt;
  auto found = request.has_list_locks() ? locks() : break_lock(request.break_lock());
  if (!found) return wire::error_reply(found.error());
  wire::ControlReply reply;
  *reply.mutable_locks() = std::move(*found);
  return reply;
}

std::map<std::uint64_t, std::uint64_t> ViewExports::open_by_hosts() {
  std::map<std::uint64_t, std::uint64_t> counts;
  MutexLock lock(mutex_);
  for (const auto& [id, host] : hosts_) {
    if (!host.open.empty()) counts[id] = host.open.size();
  }
  return counts;
}

namespace {

// Of one that was revoked only the snapshot knows it: VOL@lost-HOST-N.
std::string host_name(const DelegationInfo& info, const Hosts& known) {
  for (const HostInfo& host : known.hosts) {
    if (host.id == info.delegation.host) return host.name;
  }
  constexpr std::string_view kLost = "lost-";
  const std::string snapshot = info.left ? info.left->snapshot : std::string();
  const auto end = snapshot.rfind('-');
  if (!snapshot.starts_with(kLost) || end <= kLost.size()) return "(revoked)";
  return snapshot.substr(kLost.size(), end - kLost.size());
}

wire::LockEntry entry_of(const DelegationInfo& info, const Hosts& known) {
  wire::LockEntry entry;
  *entry.mutable_view() = wire::to_wire(info.volume);
  entry.set_host(host_name(info, known));
  entry.set_since_ns(info.since_ns);
  entry.set_may_write(true);
  entry.set_is_ending(true); // nothing is open any more
  entry.set_mode(info.state == DelegationState::held       ? wire::LOCK_DELEGATED
                 : info.state == DelegationState::recalled ? wire::LOCK_RECALLED
                                                           : wire::LOCK_LOST);
  if (info.left) *entry.mutable_left() = wire::to_wire(*info.left);
  return entry;
}

} // namespace

// A line of its own for what is lost, as the host may have opened the volume again.
void ViewExports::add_delegations(wire::LockList& list, const Hosts& known) {
  for (const DelegationInfo& info : pool_.delegations()) {
    wire::LockEntry own = entry_of(info, known);
    const auto is_open = [&own](const wire::LockEntry& entry) {
      return entry.host() == own.host() && wire::from_wire(entry.view()) == wire::from_wire(own.view()) &&
             !entry.is_ending();
    };
    const auto open = std::find_if(list.mutable_locks()->begin(), list.mutable_locks()->end(), is_open);
    if (open != list.mutable_locks()->end() && info.state != DelegationState::lost)
      open->set_mode(own.mode());
    else
      *list.add_locks() = std::move(own);
  }
}

Result<wire::LockList> ViewExports::locks() {
  VSNAP_TRY_ASSIGN(const Hosts known, pool_.hosts());
  std::map<std::uint64_t, std::string> names;
  for (const HostInfo& host : known.hosts) names[host.id] = host.name;
  std::map<std::tuple<std::uint64_t, std::uint64_t, bool>, wire::LockEntry> entries; // view, host, is_ending
  std::map<std::uint64_t, std::uint64_t> of_hosts;                                   // handles, by view
  {
    MutexLock lock(mutex_);
    const auto add = [&](const Opening& opening, bool is_ending) {
      wire::LockEntry& entry = entries[{opening.view, opening.host, is_ending}];
      const auto name = names.find(opening.host);
      entry.set_host(name == names.end() ? "(revoked)" : name->second);
      entry.set_handles(entry.handles() + 1);
      entry.set_is_ending(is_ending);
      entry.set_may_write(opening.handle->writable());
      if (entry.since_ns() == 0 || opening.since_ns < entry.since_ns()) entry.set_since_ns(opening.since_ns);
      ++of_hosts[opening.view];
    };
    for (const auto& [id, host] : hosts_) {
      for (const auto& [number, opening] : host.open) add(*opening, false);
    }
    for (const Leaving& leaving : leaving_) {
      for (const auto& [number, opening] : leaving.handles) add(*opening, true);
    }
  }
  wire::LockList list;
  for (const ViewInfo& view : pool_.list()) {
    const std::uint64_t here =
        view.open_handles - std::min<std::uint64_t>(view.open_handles, of_hosts[view.id.value()]);
    if (here > 0) *list.add_locks() = wire::lock_of(view, here);
    const auto end = entries.lower_bound({view.id.value() + 1, 0, false});
    for (auto it = entries.lower_bound({view.id.value(), 0, false}); it != end; ++it) {
      *it->second.mutable_view() = wire::to_wire(view.name);
      *list.add_locks() = std::move(it->second);
    }
  }
  add_delegations(list, known);
  return list;
}

// What the host has under way has ended when this returns, or it is busy. Its next request is refused, and
// the volume lapses there.
Result<wire::LockList> ViewExports::break_lock(const wire::BreakLockRequest& request) {
  if (request.fenced()) return end_fenced(request);
  const ViewName name = wire::from_wire(request.volume());
  VSNAP_TRY_ASSIGN(const ViewInfo view, pool_.find(name));
  if (view.kind == ViewKind::snapshot) {
    return failure(ErrorKind::usage,
                   fmt::format("{}/{}: a host may read a snapshot from the members until its lease is over "
                               "(vsnap host revoke, and wait that long)",
                               pool_.name(), name.text()));
  }
  VSNAP_TRY_ASSIGN(const wire::LockList all, locks());
  wire::LockList broken;
  for (const wire::LockEntry& entry : all.locks()) {
    if (wire::from_wire(entry.view()) == name && entry.host() == request.host() && !entry.host().empty() &&
        !entry.is_ending())
      *broken.add_locks() = entry;
  }
  if (broken.locks_size() == 0) {
    return failure(ErrorKind::not_found,
                   fmt::format("{}/{}: host {} does not have it open (vsnap lock ls {})", pool_.name(),
                               name.text(), request.host(), pool_.name()));
  }
  if (request.dry_run()) return broken;
  VSNAP_TRY_ASSIGN(const Hosts known, pool_.hosts());
  {
    MutexLock lock(mutex_);
    for (const HostInfo& host : known.hosts) {
      const auto found = hosts_.find(host.id);
      if (host.name != request.host() || found == hosts_.end()) continue;
      Handles taken;
      for (auto it = found->second.open.begin(); it != found->second.open.end();) {
        const auto next = std::next(it);
        if (it->second->view == view.id.value()) taken.insert(found->second.open.extract(it));
        it = next;
      }
      for (const auto& [number, opening] : taken) found->second.closed.insert(number); // is not opened again
      leave(std::move(taken), 0);
    }
  }
  log::warning("{}/{}: taken from host {}", pool_.name(), name.text(), request.host());
  VSNAP_TRY(wait_for_ended(view.id.value()));
  VSNAP_TRY(pool_.open_view(view.id)); // takes it back, where it is delegated
  return broken;
}

// Somebody says that the host can write to the members no more; of one that is heard it is not believed.
Result<wire::LockList> ViewExports::end_fenced(const wire::BreakLockRequest& request) {
  const ViewName name = wire::from_wire(request.volume());
  VSNAP_TRY_ASSIGN(const Hosts known, pool_.hosts());
  std::vector<DelegationInfo> left = pool_.delegations();
  std::erase_if(left, [&](const DelegationInfo& info) {
    return info.volume != name || host_name(info, known) != request.host();
  });
  if (left.empty()) {
    return failure(ErrorKind::not_found,
                   fmt::format("{0}/{1}: host {2} has nothing of it to return (vsnap lock ls {0})",
                               pool_.name(), name.text(), request.host()));
  }
  wire::LockList ended;
  for (const DelegationInfo& info : left) {
    *ended.add_locks() = entry_of(info, known);
    MutexLock lock(mutex_);
    const auto found = hosts_.find(info.delegation.host);
    if (found == hosts_.end() || found->second.session == 0) continue;
    return failure(ErrorKind::busy,
                   fmt::format("{}/{}: host {} has a session, so it is not off (vsnap lock break without "
                               "--fenced takes the volume from it; vsnap host list {} says when its lease "
                               "is over)",
                               pool_.name(), name.text(), request.host(), pool_.name()));
  }
  if (request.dry_run()) return ended;
  for (const DelegationInfo& info : left)
    VSNAP_TRY(pool_.end_delegation(info.delegation.host, info.delegation.number));
  log::warning("{}/{}: host {} is fenced, as somebody says: what it had to return of it has ended",
               pool_.name(), name.text(), request.host());
  return ended;
}

} // namespace vsnap
