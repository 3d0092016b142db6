// Volumes that are delegated to other hosts (core/delegation.h), on the coordinator: tells hosts what is to
// be returned, and the pool what a host that is gone has lost. The host's side is direct_volumes.h.
//
// Invariants
// 1. A host that does not return what was recalled for as long as the pool says has its session ended.
// 2. What a host held when its session ended is lost when its lease is over here, unless the host has said
//    before, in a later session, that nothing of it is under way. Where it has left it has said so by that.
// 3. give_back() and recall() wait for nobody.
// 4. Where there is a fence, a host that is about to be lost with something is fenced first. If that worked,
//    what it had when the fence began has ended, and nothing is lost; else it is lost as without one. Until
//    either is told, nothing more is delegated to that host.
// Threads: any; session_over() one at a time. Two of its own: one tells hosts, one tells the pool, which may
// wait for configuration operations, which may wait for a host. And one for each host that is being fenced.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>

#include "core/delegation.h"
#include "core/mutex.h"
#include "core/pool.h"
#include "sync/coordinator.h"

namespace vsnap {

// Cuts a host off. True: certainly nothing that it has sent to the members, or will send, lands there from
// now on. Called by any thread, for several hosts at once; may take its time, but whoever stops what uses it
// has it end first.
using Fence = std::function<bool(const std::string& host)>;

class HostDelegations final : private DelegationKeeper {
 public:
  // `pool` must outlive it. `fence`: none by default.
  static Result<std::unique_ptr<HostDelegations>> start(Pool& pool, Env& env, std::int64_t lease_ns,
                                                        Fence fence = {});
  ~HostDelegations() override;
  // By whom hosts are told; nullptr: nobody, and none is given any more. It must outlive the next call.
  void set_coordinator(Coordinator* coordinator) VSNAP_EXCLUDES(coordinator_mutex_);

  // The host has so many handles of the volume open.
  Result<wire::TakenVolume> take(const HostInfo& host, const View& volume, std::uint32_t handles)
      VSNAP_EXCLUDES(mutex_);
  Result<> give_back(std::uint64_t host, const wire::ReturnVolumesRequest& request) VSNAP_EXCLUDES(mutex_);
  // Wait for nobody but the pool's journal. What comes is looked at before the pool gets it.
  Result<wire::GrantedSpace> grant(std::uint64_t host, const wire::GrantSpaceRequest& request);
  Result<> commit(std::uint64_t host, const wire::CommitBlocksRequest& request);
  void session_began(std::uint64_t host) VSNAP_EXCLUDES(mutex_);
  void session_over(std::uint64_t host, Membership::End why) VSNAP_EXCLUDES(mutex_);

 private:
  struct Recall {
    Delegation delegation;
    bool overdue = false;
  };
  struct Loss {
    std::int64_t at_ns = 0;
    bool told = false; // the pool knows by itself, of what a process before this one gave
  };
  HostDelegations(Pool& pool, Env& env, std::int64_t lease_ns, Fence fence)
      : pool_(pool), env_(env), lease_ns_(lease_ns), fence_(std::move(fence)) {}
  void recall(const Delegation& delegation, bool overdue) noexcept override VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] bool is_standing(const Delegation& delegation);
  void tell_hosts() VSNAP_EXCLUDES(mutex_, coordinator_mutex_);   // a thread
  void tell_pool() VSNAP_EXCLUDES(mutex_);                        // a thread
  [[nodiscard]] std::uint64_t next_lost() VSNAP_REQUIRES(mutex_); // 0: none yet
  void lose(std::uint64_t host, bool told) VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] bool is_fenced(std::uint64_t host) VSNAP_EXCLUDES(mutex_);
  void await_from_before() VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] std::int64_t lease_over_ns() const; // of a host that is not heard from now on

  Pool& pool_;
  Env& env_;
  const std::int64_t lease_ns_;
  const Fence fence_;
  Mutex coordinator_mutex_; // held while a host is told
  Coordinator* coordinator_ VSNAP_GUARDED_BY(coordinator_mutex_) = nullptr;
  Mutex mutex_; // a leaf
  CondVar recalls_there_;
  CondVar lost_there_;
  std::deque<Recall> recalls_ VSNAP_GUARDED_BY(mutex_);
  std::map<std::uint64_t, Loss> losses_ VSNAP_GUARDED_BY(mutex_); // to come, by host
  std::set<std::uint64_t> being_lost_ VSNAP_GUARDED_BY(mutex_);
  std::map<std::uint64_t, std::string> names_ VSNAP_GUARDED_BY(mutex_); // also of those revoked since
  bool stop_ VSNAP_GUARDED_BY(mutex_) = false;
  std::thread teller_;
  std::thread loser_;
};

} // namespace vsnap
