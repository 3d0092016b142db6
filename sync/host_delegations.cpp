#include "sync/host_delegations.h"

#include <algorithm>
#include <chrono>
#include <system_error>
#include <utility>
#include <vector>

#include "core/log.h"
#include "sync/space_messages.h"

namespace vsnap {
namespace {

constexpr std::chrono::milliseconds kLongestPause(100);

} // namespace

Result<std::unique_ptr<HostDelegations>> HostDelegations::start(Pool& pool, Env& env, std::int64_t lease_ns,
                                                                Fence fence) {
  std::unique_ptr<HostDelegations> delegations(new HostDelegations(pool, env, lease_ns, std::move(fence)));
  delegations->await_from_before();
  try {
    delegations->teller_ = std::thread([&d = *delegations] { d.tell_hosts(); });
    delegations->loser_ = std::thread([&d = *delegations] { d.tell_pool(); });
  } catch (const std::system_error& e) {
    return system_failure(e.code().value(), "sharing: thread");
  }
  pool.set_delegation_keeper(delegations.get());
  return delegations;
}

HostDelegations::~HostDelegations() {
  pool_.set_delegation_keeper(nullptr);
  {
    MutexLock lock(mutex_);
    stop_ = true;
    recalls_there_.notify_all();
    lost_there_.notify_all();
  }
  if (teller_.joinable()) teller_.join();
  if (loser_.joinable()) loser_.join();
}

void HostDelegations::set_coordinator(Coordinator* coordinator) {
  MutexLock lock(coordinator_mutex_);
  coordinator_ = coordinator;
}

// ---- what hosts ask for ----

Result<wire::TakenVolume> HostDelegations::take(const HostInfo& host, const View& volume,
                                                std::uint32_t handles) {
  wire::TakenVolume taken;
  {
    MutexLock lock(mutex_);
    if (being_lost_.contains(host.id)) return taken;
    names_[host.id] = host.name;
  }
  VSNAP_TRY_ASSIGN(const auto delegation, pool_.delegate(volume.id(), host.id, handles));
  if (!delegation) return taken;
  taken.set_number(delegation->number);
  taken.set_size_bytes(volume.size_bytes()); // by now nobody but the host changes it
  return taken;
}

Result<> HostDelegations::give_back(std::uint64_t host, const wire::ReturnVolumesRequest& request) {
  if (request.all()) {
    {
      MutexLock lock(mutex_);
      losses_.erase(host);
    }
    return pool_.end_delegations(host);
  }
  for (const std::uint64_t number : request.numbers()) VSNAP_TRY(pool_.end_delegation(host, number));
  return {};
}

Result<wire::GrantedSpace> HostDelegations::grant(std::uint64_t host,
                                                  const wire::GrantSpaceRequest& request) {
  if (request.blocks() == 0) return failure(ErrorKind::usage, EINVAL, "no space is asked for");
  const BlockCount wanted(std::min(request.blocks(), space_messages::kMaxGranted));
  VSNAP_TRY_ASSIGN(const auto granted, pool_.grant_space(host, request.number(), wanted));
  return space_messages::to_wire(granted); // what it does not tell is freed with the delegation
}

Result<> HostDelegations::commit(std::uint64_t host, const wire::CommitBlocksRequest& request) {
  VSNAP_TRY_ASSIGN(const auto runs, space_messages::from_wire(request));
  return pool_.commit_blocks(host, request.number(), runs);
}

// It returns by itself what it was given by a process before this one.
void HostDelegations::session_began(std::uint64_t host) {
  {
    MutexLock lock(mutex_);
    const auto found = losses_.find(host);
    if (found != losses_.end() && found->second.told) losses_.erase(found);
  }
  pool_.await_returns(host);
}

void HostDelegations::session_over(std::uint64_t host, Membership::End why) {
  if (why == Membership::End::left) {
    if (const auto ended = pool_.end_delegations(host); !ended) log::error("{}", ended.error().message);
    return;
  }
  MutexLock lock(mutex_);
  losses_[host] = {why == Membership::End::lost ? env_.monotonic_ns() : lease_over_ns()};
  lost_there_.notify_all();
}

std::int64_t HostDelegations::lease_over_ns() const {
  return env_.monotonic_ns() + lease_ns_ + lease_ns_ / 100 * Membership::kMarginPercent;
}

// ---- telling ----

void HostDelegations::recall(const Delegation& delegation, bool overdue) noexcept {
  try {
    MutexLock lock(mutex_);
    recalls_.push_back({delegation, overdue});
    recalls_there_.notify_all();
  } catch (const std::exception& e) { // it is said again
    log::error("{}: recalling a volume: {}", pool_.name(), e.what());
  }
}

bool HostDelegations::is_standing(const Delegation& delegation) {
  const auto all = pool_.delegations();
  return std::any_of(all.begin(), all.end(), [&](const DelegationInfo& info) {
    return info.delegation == delegation && info.state == DelegationState::recalled;
  });
}

void HostDelegations::tell_hosts() {
  for (;;) {
    Recall next;
    {
      MutexLock lock(mutex_);
      while (!stop_ && recalls_.empty()) recalls_there_.wait(mutex_);
      if (stop_) return;
      next = recalls_.front();
      recalls_.pop_front();
    }
    MutexLock lock(coordinator_mutex_);
    if (coordinator_ == nullptr) continue;
    if (next.overdue && !is_standing(next.delegation)) continue; // was returned meanwhile
    if (next.overdue) {
      log::warning("{}: a host does not return a volume that it was asked for: its session ends",
                   pool_.name());
      coordinator_->evict(next.delegation.host);
      continue;
    }
    wire::Notice notice;
    notice.mutable_recall()->set_number(next.delegation.number);
    coordinator_->tell(next.delegation.host, std::move(notice));
  }
}

// ---- what is lost ----

std::uint64_t HostDelegations::next_lost() {
  const std::int64_t now_ns = env_.monotonic_ns();
  for (const auto& [host, loss] : losses_) {
    if (loss.at_ns <= now_ns && !being_lost_.contains(host)) return host;
  }
  return 0;
}

void HostDelegations::tell_pool() {
  std::map<std::uint64_t, std::thread> fencing; // by host: others are not to wait for its end
  for (;;) {
    std::uint64_t lost = 0;
    bool told = false;
    {
      MutexLock lock(mutex_);
      if (stop_) break;
      lost = next_lost();
      if (lost != 0) {
        told = losses_[lost].told;
        losses_.erase(lost);
        being_lost_.insert(lost);
      } else if (losses_.empty()) {
        lost_there_.wait(mutex_);
      } else {
        lost_there_.wait_for(mutex_, kLongestPause);
      }
    }
    if (lost == 0) continue;
    if (!fence_) {
      lose(lost, told);
      continue;
    }
    std::thread& thread = fencing[lost];
    if (thread.joinable()) thread.join(); // of the time before: it has said all that it had to
    try {
      thread = std::thread([this, lost, told] { lose(lost, told); });
    } catch (const std::system_error&) {
      lose(lost, told);
    }
  }
  for (auto& [host, thread] : fencing) {
    if (thread.joinable()) thread.join();
  }
}

void HostDelegations::lose(std::uint64_t host, bool told) {
  if (!is_fenced(host) && !told) pool_.lose_delegations(host);
  MutexLock lock(mutex_);
  being_lost_.erase(host);
}

// Also ends what the host was lost with before: it cannot write to that either.
bool HostDelegations::is_fenced(std::uint64_t host) {
  if (!fence_) return false;
  std::vector<std::uint64_t> had;
  for (const DelegationInfo& info : pool_.delegations()) {
    if (info.delegation.host == host) had.push_back(info.delegation.number);
  }
  if (had.empty()) return false;
  std::string name;
  {
    MutexLock lock(mutex_);
    name = names_[host];
  }
  if (name.empty()) {
    log::warning(
        "{}: a host that was revoked is lost with a volume, and cannot be fenced: its name is not "
        "known any more",
        pool_.name());
    return false;
  }
  log::info("{}: host {} is lost with a volume: it is being fenced", pool_.name(), name);
  if (!fence_(name)) {
    log::warning("{}: host {} is not fenced: what it may still write to is kept", pool_.name(), name);
    return false;
  }
  log::warning("{}: host {} was lost, and is fenced: what was delegated to it has ended", pool_.name(), name);
  for (const std::uint64_t number : had) {
    if (const auto ended = pool_.end_delegation(host, number); !ended)
      log::error("{}", ended.error().message);
  }
  return true;
}

// What a process before this one gave is lost by the pool itself, when its promise has run out; by then or
// soon after the host is fenced, and what was kept for it goes again. What was lost before is left to
// somebody who knows more.
void HostDelegations::await_from_before() {
  if (!fence_) return;
  const auto known = pool_.hosts();
  const std::vector<DelegationInfo> given = pool_.delegations();
  MutexLock lock(mutex_);
  if (known) {
    for (const HostInfo& host : known->hosts) names_[host.id] = host.name;
  }
  for (const DelegationInfo& info : given) {
    if (info.state != DelegationState::lost) losses_[info.delegation.host] = {lease_over_ns(), true};
  }
}

} // namespace vsnap
