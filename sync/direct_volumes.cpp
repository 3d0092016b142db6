#include "sync/direct_volumes.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <optional>
#include <system_error>
#include <utility>

#include "core/log.h"
#include "sync/space_messages.h"
#include "sync/wire.h"

namespace vsnap {
namespace {

constexpr std::int64_t kAfterRecall_ns = 100'000'000; // the volume is wished for again, at the earliest
constexpr std::int64_t kAfterRefusal_ns = 20'000'000; // doubled with each, up to the next
constexpr std::int64_t kMostAfterRefusal_ns = 1'000'000'000;
constexpr std::ptrdiff_t kMostTaking = 2;                // at once
constexpr std::chrono::milliseconds kAskAgain(100);      // what could not be asked
constexpr std::chrono::milliseconds kLongestClose(2000); // waits for the coordinator to hear of it
constexpr std::int64_t kOld_ns = 1'000'000'000;          // what has been pending so long is handed over

} // namespace

Result<> DirectVolumes::start(Call call) {
  call_ = std::move(call);
  if (!memory_name_.empty()) {
    VSNAP_TRY_ASSIGN(auto left, PendingMemory::left(env_, memory_name_));
    MutexLock lock(mutex_);
    left_ = std::move(left);
  }
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error& e) {
    return system_failure(e.code().value(), "joined pool: thread");
  }
  return {};
}

bool DirectVolumes::await_left(std::chrono::nanoseconds longest) {
  const auto until = std::chrono::steady_clock::now() + longest;
  MutexLock lock(mutex_);
  while (!left_.empty() && std::chrono::steady_clock::now() < until) changed_.wait_for(mutex_, kAskAgain);
  return left_.empty();
}

bool DirectVolumes::has_lost(ObjectId volume) {
  MutexLock lock(mutex_);
  return lost_.contains(volume);
}

bool DirectVolumes::close() {
  if (!call_) { // not started: what a process before this one has left is left to the next
    if (memory_name_.empty()) return true;
    const auto left = PendingMemory::left(env_, memory_name_);
    return left && left->empty();
  }
  if (!thread_.joinable()) return is_handed_over_;
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
  MutexLock lock(mutex_);
  is_handed_over_ = left_.empty() && (!memory_ || memory_->is_empty());
  if (is_handed_over_ && memory_) memory_->remove();
  return is_handed_over_;
}

// ---- volumes ----

std::shared_ptr<DirectVolume> DirectVolumes::opened(ObjectId volume) {
  MutexLock lock(mutex_);
  Volume& known = volumes_[volume];
  if (!known.direct)
    known.direct = std::make_shared<DirectVolume>(env_, volume, members_, source_,
                                                  static_cast<DirectVolume::Handover&>(*this), lease_);
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
  volume.direct->give(delegation, reply.taken_volume().size_bytes(), memory_.get());
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

DirectVolumes::Job DirectVolumes::next_job() {
  using Kind = Job::Kind;
  if (const auto found = find(Phase::to_return); found != volumes_.end())
    return {Kind::give_back, found->first, session_};
  if (stop_) return {Kind::end, {}, 0};
  if (has_session_ && clearing_ && !asked_all_ && refused_in_ != session_ && !closing_ && is_quiet()) {
    asked_all_ = true;
    return {Kind::return_all, {}, session_};
  }
  const bool is_time = memory_ && env_.monotonic_ns() >= hand_over_at_ns_;
  for (const auto& [id, volume] : volumes_) {
    if (volume.phase == Phase::given && (is_time || volume.hands_over)) return {Kind::hand_over, id, 0};
  }
  return {};
}

void DirectVolumes::run() {
  for (;;) {
    Job job;
    {
      MutexLock lock(mutex_);
      for (;;) {
        if (std::exchange(has_failed_, false)) {
          if (stop_) return;
          changed_.wait_for(mutex_, kAskAgain);
        }
        job = next_job();
        if (job.kind != Job::Kind::none) break;
        if (memory_ && find(Phase::given) != volumes_.end())
          changed_.wait_for(mutex_, std::chrono::nanoseconds(kOld_ns / 4));
        else
          changed_.wait(mutex_);
      }
    }
    switch (job.kind) {
      case Job::Kind::give_back:
        give_back(job.volume);
        break;
      case Job::Kind::hand_over:
        hand_over();
        break;
      case Job::Kind::return_all:
        return_all(job.session);
        break;
      default:
        return;
    }
  }
}

// ---- granted space ----

void DirectVolumes::hand_over() {
  std::vector<std::pair<std::shared_ptr<DirectVolume>, bool>> volumes;
  {
    MutexLock lock(mutex_);
    const bool is_time = env_.monotonic_ns() >= hand_over_at_ns_;
    if (is_time) hand_over_at_ns_ = env_.monotonic_ns() + kOld_ns;
    for (auto& [id, volume] : volumes_) {
      const bool soon = std::exchange(volume.hands_over, false);
      if (volume.phase == Phase::given && (is_time || soon)) volumes.emplace_back(volume.direct, soon);
    }
  }
  for (const auto& [volume, soon] : volumes) volume->hand_over_old(soon);
}

void DirectVolumes::hand_over_soon(ObjectId volume) {
  MutexLock lock(mutex_);
  const auto found = volumes_.find(volume);
  if (found == volumes_.end() || found->second.phase != Phase::given) return;
  found->second.hands_over = true;
  changed_.notify_all();
}

void DirectVolumes::ask_for_space(ObjectId id, std::uint64_t delegation, BlockCount blocks) {
  wire::LinkRequest request;
  request.mutable_grant_space()->set_number(delegation);
  request.mutable_grant_space()->set_blocks(blocks.value());
  call_(std::move(request), [this, id, delegation](const wire::LinkReply& reply) {
    std::vector<PlaceRun> runs;
    if (auto granted = space_messages::from_wire(reply.granted_space()))
      runs = std::move(*granted);
    else
      log::error("{}", granted.error().message);
    std::shared_ptr<DirectVolume> direct;
    {
      MutexLock lock(mutex_);
      if (const auto found = volumes_.find(id); found != volumes_.end()) direct = found->second.direct;
    }
    if (direct) direct->granted(delegation, runs);
  });
}

Result<> DirectVolumes::commit_blocks(std::uint64_t delegation, std::span<const MapRun> runs,
                                      const std::function<bool()>& given_up) {
  const auto is_enough = [&] {
    if (given_up()) return true;
    MutexLock lock(mutex_);
    return stop_;
  };
  wire::LinkRequest request;
  *request.mutable_commit_blocks() = space_messages::to_wire(delegation, runs);
  for (;;) {
    // Shared with the link, which may answer after this has given up.
    auto promise = std::make_shared<std::promise<wire::LinkReply>>();
    std::future<wire::LinkReply> answer = promise->get_future();
    call_(request, [promise](wire::LinkReply reply) { promise->set_value(std::move(reply)); });
    while (answer.wait_for(kAskAgain) != std::future_status::ready) {
      if (is_enough()) return failure(ErrorKind::no_answer, EIO, "no answer from the coordinator");
    }
    const wire::LinkReply reply = answer.get();
    if (!reply.has_error()) return {};
    Error error = wire::from_wire(reply.error());
    const bool again = error.kind == ErrorKind::busy && error.errno_value == EAGAIN; // too much at once
    if (!again || is_enough()) return Failure(std::move(error));
    MutexLock lock(mutex_);
    changed_.wait_for(mutex_, kAskAgain);
  }
}

// What a process before this one has left, and was killed. The delegations stand until all is given up.
bool DirectVolumes::hand_over_left() {
  std::vector<PendingChange> left;
  {
    MutexLock lock(mutex_);
    left = left_;
  }
  for (auto next = left.begin(); next != left.end();) {
    const std::uint64_t delegation = next->delegation;
    std::vector<MapRun> runs;
    auto end = next;
    for (; end != left.end() && end->volume == next->volume && end->delegation == delegation; ++end) {
      if (!runs.empty() && runs.back().end() == end->block &&
          runs.back().place + runs.back().count == end->place) {
        runs.back().count = runs.back().count + BlockCount(1);
        continue;
      }
      if (runs.size() == space_messages::kMaxRuns) break;
      runs.push_back({end->block, BlockCount(1), BlockKind::data, end->place, true});
    }
    const auto done = commit_blocks(delegation, runs, [] { return false; });
    const bool is_refused =
        !done && (done.error().errno_value == ESTALE || done.error().errno_value == EINVAL);
    if (!done && !is_refused) return false; // it may be taken later
    if (!done) {
      log::error("{} blocks that a daemon that was killed had written are lost: {}", end - next,
                 done.error().message);
      MutexLock lock(mutex_);
      lost_.insert(next->volume);
    }
    next = end;
  }
  MutexLock lock(mutex_);
  left_.clear();
  changed_.notify_all();
  return true;
}

// In place of that: where there is no memory for it, no space is asked for.
void DirectVolumes::make_memory() {
  {
    MutexLock lock(mutex_);
    if (memory_ || memory_name_.empty()) return;
  }
  auto made = PendingMemory::make(env_, memory_name_);
  if (!made) {
    log::warning("{}: first writes to blocks go through the coordinator", made.error().message);
    return;
  }
  MutexLock lock(mutex_);
  memory_ = std::move(*made);
}

// ---- returning ----

// What a flush that fails here was for, the next fsync of it says (DirectVolume::flush_failures()). What the
// coordinator has not said it takes is not returned.
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
  const bool is_finished = direct->finish();
  const bool was_written = is_finished && direct->was_written();
  {
    MutexLock lock(mutex_);
    has_failed_ = has_failed_ || !is_finished;
    if (!is_finished) return;
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
  if (const auto flushed = members_.flush(); !flushed) {
    log::error("{}", flushed.error().message);
    MutexLock lock(mutex_);
    for (const PendingChange& change : left_) lost_.insert(change.volume);
    left_.clear(); // nobody knows what is there
    changed_.notify_all();
  }
  if (!hand_over_left()) {
    MutexLock lock(mutex_);
    asked_all_ = false;
    has_failed_ = true;
    return;
  }
  make_memory();
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
