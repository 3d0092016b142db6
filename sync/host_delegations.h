// Volumes that are delegated to other hosts (core/delegation.h), on the coordinator: tells hosts what is to
// be returned, and the pool what a host that is gone has lost. The host's side is direct_volumes.h.
//
// Invariants
// 1. A host that does not return what was recalled for as long as the pool says has its session ended.
// 2. What a host held when its session ended is lost when its lease is over here, unless the host has said
//    before, in a later session, that nothing of it is under way. Where it has left it has said so by that.
// 3. give_back() and recall() wait for nobody.
// Threads: any; session_over() one at a time. Two of its own: one tells hosts, one tells the pool, which may
// wait for configuration operations, which may wait for a host.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <thread>

#include "core/delegation.h"
#include "core/mutex.h"
#include "core/pool.h"
#include "sync/coordinator.h"

namespace vsnap {

class HostDelegations final : private DelegationKeeper {
 public:
  // `pool` must outlive it.
  static Result<std::unique_ptr<HostDelegations>> start(Pool& pool, Env& env, std::int64_t lease_ns);
  ~HostDelegations() override;
  // By whom hosts are told; nullptr: nobody, and none is given any more. It must outlive the next call.
  void set_coordinator(Coordinator* coordinator) VSNAP_EXCLUDES(coordinator_mutex_);

  // The host has so many handles of the volume open.
  Result<wire::TakenVolume> take(std::uint64_t host, const View& volume, std::uint32_t handles);
  Result<> give_back(std::uint64_t host, const wire::ReturnVolumesRequest& request) VSNAP_EXCLUDES(mutex_);
  void session_began(std::uint64_t host) { pool_.await_returns(host); }
  void session_over(std::uint64_t host, Membership::End why) VSNAP_EXCLUDES(mutex_);

 private:
  struct Recall {
    Delegation delegation;
    bool overdue = false;
  };
  HostDelegations(Pool& pool, Env& env, std::int64_t lease_ns)
      : pool_(pool), env_(env), lease_ns_(lease_ns) {}
  void recall(const Delegation& delegation, bool overdue) noexcept override VSNAP_EXCLUDES(mutex_);
  void tell_hosts() VSNAP_EXCLUDES(mutex_, coordinator_mutex_); // a thread
  void tell_pool() VSNAP_EXCLUDES(mutex_);                      // a thread

  Pool& pool_;
  Env& env_;
  const std::int64_t lease_ns_;
  Mutex coordinator_mutex_; // held while a host is told
  Coordinator* coordinator_ VSNAP_GUARDED_BY(coordinator_mutex_) = nullptr;
  Mutex mutex_; // a leaf
  CondVar recalls_there_;
  CondVar lost_there_;
  std::deque<Recall> recalls_ VSNAP_GUARDED_BY(mutex_);
  std::map<std::uint64_t, std::int64_t> lost_at_ns_ VSNAP_GUARDED_BY(mutex_); // by host
  bool stop_ VSNAP_GUARDED_BY(mutex_) = false;
  std::thread teller_;
  std::thread loser_;
};

} // namespace vsnap
