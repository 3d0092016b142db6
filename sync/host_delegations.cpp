#include "sync/host_delegations.h"

#include <chrono>
#include <system_error>
#include <utility>

#include "core/log.h"

namespace vsnap {
namespace {

constexpr std::chrono::milliseconds kLongestPause(100);

} // namespace

Result<std::unique_ptr<HostDelegations>> HostDelegations::start(Pool& pool, Env& env, std::int64_t lease_ns) {
  std::unique_ptr<HostDelegations> delegations(new HostDelegations(pool, env, lease_ns));
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

Result<wire::TakenVolume> HostDelegations::take(std::uint64_t host, const View& volume,
                                                std::uint32_t handles) {
  wire::TakenVolume taken;
  VSNAP_TRY_ASSIGN(const auto delegation, pool_.delegate(volume.id(), host, handles));
  if (!delegation) return taken;
  taken.set_number(delegation->number);
  taken.set_size_bytes(volume.size_bytes()); // by now nobody but the host changes it
  return taken;
}

Result<> HostDelegations::give_back(std::uint64_t host, const wire::ReturnVolumesRequest& request) {
  if (request.all()) {
    {
      MutexLock lock(mutex_);
      lost_at_ns_.erase(host);
    }
    return pool_.end_delegations(host);
  }
  for (const std::uint64_t number : request.numbers()) VSNAP_TRY(pool_.end_delegation(host, number));
  return {};
}

void HostDelegations::session_over(std::uint64_t host, Membership::End why) {
  if (why == Membership::End::left) {
    if (const auto ended = pool_.end_delegations(host); !ended) log::error("{}", ended.error().message);
    return;
  }
  const std::int64_t rest_ns =
      why == Membership::End::lost ? 0 : lease_ns_ + lease_ns_ / 100 * Membership::kMarginPercent;
  MutexLock lock(mutex_);
  lost_at_ns_[host] = env_.monotonic_ns() + rest_ns;
  lost_there_.notify_all();
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

void HostDelegations::tell_pool() {
  for (;;) {
    std::uint64_t lost = 0;
    {
      MutexLock lock(mutex_);
      if (stop_) return;
      for (const auto& [host, at_ns] : lost_at_ns_) {
        if (at_ns <= env_.monotonic_ns()) lost = host;
      }
      if (lost != 0)
        lost_at_ns_.erase(lost);
      else if (lost_at_ns_.empty())
        lost_there_.wait(mutex_);
      else
        lost_there_.wait_for(mutex_, kLongestPause);
    }
    if (lost != 0) pool_.lose_delegations(lost);
  }
}

} // namespace vsnap
