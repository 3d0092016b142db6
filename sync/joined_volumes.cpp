// The volumes that a joined host has open: opened, asked for, lapsed, and gone on with by the next process.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/log.h"
#include "sync/joined_pool.h"
#include "sync/wire.h"

namespace vsnap {

Failure JoinedPool::lapsed(const RemoteVolume& volume) const {
  return failure(ErrorKind::failed, EIO,
                 fmt::format("{}/{}: its lease has run out (open it again)", name_, volume.name()));
}

Result<ViewHandle> JoinedPool::open_volume(const ViewInfo& info, std::optional<std::uint64_t> losses) {
  std::shared_ptr<RemoteVolume> volume;
  {
    MutexLock lock(mutex_);
    std::shared_ptr<UnsyncedChanges> unsynced;
    for (const auto& [view, open] : volumes_) {
      if (open.volume->id() == info.id) unsynced = open.volume->unsynced();
    }
    if (!unsynced) unsynced = std::make_shared<UnsyncedChanges>();
    if (losses) { // by the process before
      unsynced->begin();
      unsynced->end();
    }
    volume = std::make_shared<RemoteVolume>(info, ++opened_, static_cast<RemoteIo&>(*this), unsynced,
                                            direct_.opened(info.id));
    volumes_[volume.get()] = {volume, 0, losses.value_or(0), losses.has_value()};
  }
  ViewHandle handle(this, volume);
  VSNAP_TRY(ensure_volume_open(*volume));
  return handle;
}

Result<std::uint64_t> JoinedPool::ensure_volume_open(RemoteVolume& volume) {
  const auto now = session_unless([&volume] { return volume.has_lapsed(); });
  if (volume.has_lapsed()) return lapsed(volume);
  VSNAP_TRY(now);
  {
    MutexLock lock(mutex_);
    const auto found = volumes_.find(&volume);
    if (found == volumes_.end()) return failure(ErrorKind::failed, EBADF, "the volume is being closed");
    if (found->second.session == *now) return *now;
  }
  VSNAP_TRY(open_there(volume, *now));
  return *now;
}

Result<> JoinedPool::open_there(RemoteVolume& volume, std::uint64_t session) {
  wire::LinkRequest request;
  wire::OpenViewRequest& open = *request.mutable_open_view();
  bool is_first = false;
  {
    MutexLock lock(mutex_);
    const auto found = volumes_.find(&volume);
    if (found == volumes_.end()) return failure(ErrorKind::failed, EBADF, "the volume is being closed");
    is_first = found->second.session == 0;
    if (found->second.goes_on || (!is_first && volume.unsynced()->any()))
      open.set_losses(found->second.losses);
  }
  open.set_view(volume.id().value());
  open.set_number(volume.number());
  const auto reply = ask_until(std::move(request), false, [&volume] { return volume.has_lapsed(); });
  const bool is_answered = reply || reply.error().kind != ErrorKind::no_answer;
  if (!reply && is_answered && !is_first && !volume.has_lapsed()) {
    log::error("{}/{}: cannot be gone on with: {}", name_, volume.name(), reply.error().message);
    MutexLock lock(mutex_);
    for (auto& [view, other] : volumes_) {
      if (other.volume->id() == volume.id() && other.session != 0 && other.session != session)
        other.volume->lapse();
    }
    volume.lapse();
  }
  if (!is_first && volume.has_lapsed()) return lapsed(volume);
  VSNAP_TRY(reply);
  volume.set_size(reply->opened().view().size_bytes());
  MutexLock lock(mutex_);
  const auto found = volumes_.find(&volume);
  if (found == volumes_.end()) return {};
  found->second.session = session;
  found->second.losses = reply->opened().losses();
  found->second.goes_on = false;
  note_losses();
  return {};
}

// Those that are being opened for the first time are not open anywhere.
void JoinedPool::lapse_volumes() {
  ++lapses_;
  if (tenure_ != nullptr) {
    tenure_->until_ns.store(0);
    tenure_->number.fetch_add(1);
  }
  for (auto& [view, open] : volumes_) {
    if (open.session == 0 || !open.volume->lapse()) continue;
    log::error(
        "{}/{}: the lease has run out, and another host may have taken it over: programs that had it "
        "open get EIO until they open it again",
        name_, open.volume->name());
  }
}

// The least: what it is higher than may have been lost of one of them.
void JoinedPool::note_losses() {
  if (tenure_ == nullptr) return;
  std::optional<std::uint64_t> least;
  for (const auto& [view, open] : volumes_) {
    if (open.session != 0 && !open.volume->has_lapsed())
      least = std::min(least.value_or(open.losses), open.losses);
  }
  if (least) tenure_->losses.store(*least);
}

Result<wire::LinkReply> JoinedPool::carry_out(RemoteVolume& volume, const Make& make) {
  for (;;) {
    VSNAP_TRY_ASSIGN(const std::uint64_t session, ensure_volume_open(volume));
    wire::LinkRequest request;
    make(request);
    auto reply = ask_until(std::move(request), false, [&volume] { return volume.has_lapsed(); });
    if (volume.has_lapsed()) return lapsed(volume);
    // A coordinator that has taken over has it not open yet; or another thread has seen to that since.
    if (reply || reply.error().errno_value != ESTALE) {
      direct_.wish(volume.id());
      return reply;
    }
    MutexLock lock(mutex_);
    const auto found = volumes_.find(&volume);
    if (found == volumes_.end()) return reply;
    // By another thread, or in another session, it is being opened anew.
    if (found->second.session != session || session != session_number(link_->status())) continue;
    if (volume.lapse())
      log::error("{}/{}: was taken from this host (vsnap lock break)", name_, volume.name());
    return lapsed(volume);
  }
}

// Whoever was the host's process before has, or had, a session that ended where the one of this began. What
// it had open is still this host's where that was before its lease was over.
void JoinedPool::keep_tenure(Tenure* tenure) {
  const LinkStatus status = link_->status();
  MutexLock lock(mutex_);
  tenure_ = tenure;
  if (tenure == nullptr) return;
  tenure_before_ = kNoTenure;
  if (tenure->until_ns.load() > env_.monotonic_ns())
    tenure_before_ = tenure->number.load();
  else
    tenure->number.fetch_add(1);
  losses_before_ = tenure->losses.load();
  tenure->until_ns.store(status.session != 0 ? status.lease_until_ns : 0);
}

Result<ViewHandle> JoinedPool::go_on_with(ObjectId id, std::uint64_t tenure) {
  VSNAP_TRY_ASSIGN(const ViewInfo info, known_info(id));
  if (info.kind == ViewKind::snapshot) return open_view(id);
  if (direct_.has_lost(id)) {
    return failure(ErrorKind::failed, EIO,
                   fmt::format("{}/{}: what was written to it before the daemon was killed is lost", name_,
                               info.name.text()));
  }
  std::uint64_t losses = 0;
  {
    MutexLock lock(mutex_);
    losses = losses_before_;
    if (tenure_ == nullptr || tenure != tenure_before_ || tenure != tenure_->number.load()) {
      return failure(ErrorKind::failed, EIO,
                     fmt::format("{}/{}: its lease ran out while no daemon renewed it, and another host may "
                                 "have taken it over",
                                 name_, info.name.text()));
    }
  }
  return open_volume(info, losses);
}

Result<std::optional<RegionMap>> JoinedPool::fetch_volume_map(ObjectId volume, RegionIndex region) {
  VSNAP_TRY_ASSIGN(const std::uint64_t now, session());
  VSNAP_TRY(members_.look_in(now, *this));
  return ask_for_map(volume, region);
}

std::pair<std::shared_ptr<RemoteVolume>, std::uint64_t> JoinedPool::open_volume_of(ObjectId id) {
  MutexLock lock(mutex_);
  for (const auto& [view, open] : volumes_) {
    if (open.volume->id() == id && open.session != 0 && !open.volume->has_lapsed())
      return {open.volume, lapses_};
  }
  return {nullptr, lapses_};
}

Result<wire::LinkReply> JoinedPool::set_size(RemoteVolume& volume, std::uint64_t size_bytes) {
  const DirectVolume::Change change(volume.direct(), 0, DirectVolume::Change::kAll);
  VSNAP_TRY(change.ready());
  return carry_out(volume, [&](wire::LinkRequest& request) {
    wire::SetAttributesRequest& set = *request.mutable_set_attributes();
    set.set_view(volume.id().value());
    set.set_size_bytes(size_bytes);
    set.set_number(volume.number());
  });
}

// As every change of data: of an opening, so that it is not carried out after the lease. One that there is,
// as what was removed is not opened any more; unless that is closed meanwhile.
Result<> JoinedPool::resize(ObjectId id, std::uint64_t size_bytes, bool) {
  if (is_read_only()) return read_only();
  VSNAP_TRY_ASSIGN(const ViewInfo known, known_info(id));
  if (known.kind != ViewKind::volume) return read_only();
  const auto [open, lapses] = open_volume_of(id);
  Result<wire::LinkReply> reply = failure(ErrorKind::failed, ESTALE, {});
  if (open) reply = set_size(*open, size_bytes);
  if (!reply && (reply.error().errno_value == ESTALE || reply.error().errno_value == EBADF)) {
    VSNAP_TRY_ASSIGN(const ViewHandle handle, open_volume(known));
    auto& own = static_cast<RemoteVolume&>(*handle);
    if (open_volume_of(id).second != lapses) return lapsed(own); // and so has what was asked
    reply = set_size(own, size_bytes);
  }
  VSNAP_TRY(reply);
  MutexLock lock(mutex_);
  for (auto& [view, volume] : volumes_) {
    if (volume.volume->id() == id) volume.volume->set_size(reply->view().size_bytes());
  }
  return {};
}

} // namespace vsnap
