#include "sync/direct_volumes.h"

#include <algorithm>
#include <chrono>
#include <system_error>
#include <utility>

#include "core/log.h"

namespace vsnap {
namespace {

constexpr std::int64_t kAfterRecall_ns = 100'000'000; // the volume is wished for again, at the earliest
constexpr std::int64_t kAfterRefusal_ns = 20'000'000; // doubled with each, up to the next
constexpr std::int64_t kMostAfterRefusal_ns = 1'000'000'000;
constexpr std::ptrdiff_t kMostTaking = 2;                // at once
constexpr std::chrono::milliseconds kAskAgain(100);      // what could not be asked
constexpr std::chrono::milliseconds kLongestClose(2000); // waits for the coordinator to hear of it

} // namespace

Result<> DirectVolumes::start(Call call) {
  call_ = std::move(call);
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error& e) {
    return system_failure(e.code().value(), "joined pool: thread");
  }
  return {};
}

void DirectVolumes::close() {
  if (!thread_.joinable()) return;
  {
    MutexLock lock(mutex_);
    closing_ = true;
    for (auto& [id, volume] : volumes_) stop_using(volume);
    changed_.notify_all();
    const auto is_done = [this]() VSNAP_REQUIRES(mutex_) {
      return find(Phase::to_return) == volumes_.end() && find(Phase::returning) == volumes_.end();
    };
    const auto until = std::chrono::steady_clock::now() + kLongestClose;
    while (!is_done() && std::chrono::steady_clock::now() < until)
      changed_.wait_for(mutex_, kLongestClose / 20);
    stop_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

// ---- volumes ----

std::shared_ptr<DirectVolume> DirectVolumes::opened(ObjectId volume) {
  MutexLock lock(mutex_);
  Volume& known = volumes_[volume];
  if (!known.direct) known.direct = std::make_shared<DirectVolume>(env_, volume, members_, source_, lease_);
  ++known.openings;
  return known.direct;
}

void DirectVolumes::closed(ObjectId volume) {
  MutexLock lock(mutex_);
  const auto found = volumes_.find(volume);
  if (found == volumes_.end() || --found->second.openings > 0) return;
  stop_using(found->second);
  forget_if_unused(found);
}

void DirectVolumes::forget_if_unused(Volumes::iterator volume) {
  if (volume->second.openings == 0 && volume->second.phase == Phase::none) volumes_.erase(volume);
}

DirectVolumes::Volumes::iterator DirectVolumes::find(Phase phase) {
  return std::find_if(volumes_.begin(), volumes_.end(),
                      [phase](const auto& each) { return each.second.phase == phase; });
}

std::ptrdiff_t DirectVolumes::taking() {
  return std::count_if(volumes_.begin(), volumes_.end(),
                       [](const auto& each) { return each.second.phase == Phase::taking; });
}

bool DirectVolumes::is_quiet() {
  return find(Phase::taking) == volumes_.end() && find(Phase::given) == volumes_.end() &&
         find(Phase::to_return) == volumes_.end();
}

void DirectVolumes::stop_using(Volume& volume) {
  if (volume.phase != Phase::given) return;
  volume.direct->stop();
  volume.phase = Phase::to_return;
  changed_.notify_all();
}

void DirectVolumes::wish(ObjectId volume) {
  wire::LinkRequest request;
  std::uint64_t session = 0;
  {
    MutexLock lock(mutex_);
    const auto found = volumes_.find(volume);
    if (found == volumes_.end() || found->second.phase != Phase::none || found->second.openings == 0 ||
        clearing_ || closing_ || env_.monotonic_ns() < found->second.wish_at_ns || taking() >= kMostTaking)
      return;
    found->second.phase = Phase::taking;
    session = session_;
  }
  request.mutable_take_volume()->set_view(volume.value());
  call_(std::move(request),
        [this, volume, session](const wire::LinkReply& reply) { taken(volume, session, reply); });
}

void DirectVolumes::taken(ObjectId id, std::uint64_t session, const wire::LinkReply& reply) {
  const std::uint64_t delegation = reply.has_taken_volume() ? reply.taken_volume().number() : 0;
  MutexLock lock(mutex_);
  const auto found = volumes_.find(id);
  if (found == volumes_.end()) return; // none is erased while it is being taken
  Volume& volume = found->second;
  changed_.notify_all();
  volume.phase = Phase::none;
  const bool is_recalled = recalled_early_.contains(delegation);
  if (find(Phase::taking) == volumes_.end()) recalled_early_.clear();
  if (delegation == 0) {
    volume.wish_at_ns = env_.monotonic_ns() + volume.pause_ns;
    volume.pause_ns = std::min(volume.pause_ns * 2, kMostAfterRefusal_ns);
    return forget_if_unused(found);
  }
  volume.pause_ns = kAfterRefusal_ns;
  volume.delegation = delegation;
  if (session != session_ || closing_ || volume.openings == 0 || is_recalled) {
    volume.phase = Phase::to_return;
    return;
  }
  volume.phase = Phase::given;
  volume.direct->give(delegation, reply.taken_volume().size_bytes());
}

// ---- what the link tells ----

void DirectVolumes::lease_lasts(std::int64_t young_until_ns, std::int64_t until_ns) {
  lease_.young_until_ns.store(std::min(young_until_ns, lease_.young_until_ns.load())); // it may be shorter
  lease_.until_ns.store(until_ns);
  lease_.young_until_ns.store(young_until_ns);
}

void DirectVolumes::session_began() {
  MutexLock lock(mutex_);
  ++session_;
  has_session_ = true;
  clearing_ = true;
  for (auto& [id, volume] : volumes_) stop_using(volume);
  changed_.notify_all();
}

void DirectVolumes::lease_lost() {
  lease_.young_until_ns.store(0);
  lease_.until_ns.store(0);
  MutexLock lock(mutex_);
  ++session_;
  clearing_ = true;
  for (auto& [id, volume] : volumes_) stop_using(volume);
  changed_.notify_all();
}

// Of one that is not known: it has been returned, or is going to be; or the answer that gives it comes later
// than this, which another thread of the coordinator has sent.
void DirectVolumes::recalled(std::uint64_t delegation) {
  MutexLock lock(mutex_);
  for (auto& [id, volume] : volumes_) {
    if (volume.phase == Phase::given && volume.delegation == delegation) return stop_using(volume);
  }
  if (find(Phase::taking) != volumes_.end()) recalled_early_.insert(delegation);
}

// ---- returning ----

void DirectVolumes::run() {
  for (;;) {
    std::optional<ObjectId> next;
    std::uint64_t session = 0;
    {
      MutexLock lock(mutex_);
      for (;;) {
        if (std::exchange(has_failed_, false) && !stop_) changed_.wait_for(mutex_, kAskAgain);
        if (const auto found = find(Phase::to_return); found != volumes_.end()) {
          next = found->first;
          break;
        }
        if (stop_) return;
        session = session_;
        if (has_session_ && clearing_ && !asked_all_ && refused_in_ != session_ && !closing_ && is_quiet()) {
          asked_all_ = true;
          break;
        }
        changed_.wait(mutex_);
      }
    }
    if (next)
      give_back(*next);
    else
      return_all(session);
  }
}

// What a flush that fails here was for, the next fsync of it says (DirectVolume::flush_failures()).
void DirectVolumes::give_back(ObjectId id) {
  std::shared_ptr<DirectVolume> direct;
  wire::LinkRequest request;
  {
    MutexLock lock(mutex_);
    const Volume& volume = volumes_.at(id);
    direct = volume.direct;
    request.mutable_return_volumes()->add_numbers(volume.delegation);
  }
  direct->drain();
  if (const auto flushed = direct->flush(); !flushed) log::error("{}", flushed.error().message);
  const bool was_written = direct->was_written();
  {
    MutexLock lock(mutex_);
    volumes_.at(id).phase = Phase::returning;
  }
  if (was_written) note_modified(id);
  call_(std::move(request), [this, id](const wire::LinkReply& reply) { returned(id, reply.has_error()); });
}

// What the coordinator does not take it is asked for again, as somebody may wait for it.
void DirectVolumes::returned(ObjectId id, bool has_failed) {
  MutexLock lock(mutex_);
  const auto found = volumes_.find(id);
  if (has_failed && !closing_) {
    found->second.phase = Phase::to_return;
    has_failed_ = true;
    changed_.notify_all();
    return;
  }
  found->second.phase = Phase::none;
  found->second.delegation = 0;
  found->second.wish_at_ns = env_.monotonic_ns() + kAfterRecall_ns;
  forget_if_unused(found);
  changed_.notify_all();
}

// The coordinator has not seen the writes.
void DirectVolumes::note_modified(ObjectId volume) {
  wire::LinkRequest request;
  request.mutable_set_attributes()->set_view(volume.value());
  request.mutable_set_attributes()->set_modified_ns(env_.wall_clock_ns());
  call_(std::move(request), {});
}

// With what a process before this one may have written, and nobody has flushed.
void DirectVolumes::return_all(std::uint64_t session) {
  if (const auto flushed = members_.flush(); !flushed) log::error("{}", flushed.error().message);
  wire::LinkRequest request;
  request.mutable_return_volumes()->set_all(true);
  call_(std::move(request), [this, session](const wire::LinkReply& reply) {
    MutexLock lock(mutex_);
    asked_all_ = false;
    if (reply.error().kind() == wire::ERROR_BUSY)
      has_failed_ = true;
    else if (reply.has_error())
      refused_in_ = session;
    else if (session == session_)
      clearing_ = false;
    changed_.notify_all();
  });
}

} // namespace vsnap
