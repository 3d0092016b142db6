// What the other hosts have open of a pool: on the coordinator, beside sync/coordinator.h, which says who
// they are and how long their sessions last.
//
// Invariants
// 1. A view that a host has opened stays open here, and so keeps its blocks, until the host closes it; where
//    the session ends otherwise, until the host has certainly noticed, a lease later.
// 2. Should this process die, every snapshot stays what it is for another lease, whoever opens the pool next
//    (Pool::keep_snapshots_for).
// 3. A host sees what it has open, and nothing else, by its own requests; a session has kMaxOpen views open
//    at most.
// 4. A volume is read and changed here alone, by one View, for programs of all hosts: so they agree on each
//    block. What is answered is seen by everybody, the kernel's cache of this host included
//    (Pool::tell_changed).
// 5. What is asked of an opening is carried out while that is open, and not after its close was answered, nor
//    in another session. A view of which an opening has ended is opened again only when nothing is carried
//    out for that one any more, and what waits for room then is given up: what a lost host, or a program
//    before, had under way never lands later.
// 6. A volume that is delegated to a host (core/delegation.h) is not asked for here where that reads or
//    overwrites it itself: nobody else has it open then.
// Threads: serve() from any; the listener's calls one at a time. What is to be closed is closed by a thread
// of its own, as that may wait for configuration operations.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <thread>

#include "core/mutex.h"
#include "core/pool.h"
#include "sync/coordinator.h"
#include "sync/host_delegations.h"

namespace vsnap {

class ViewExports final : public SessionListener {
 public:
  static constexpr std::size_t kMaxOpen = 65536;
  static constexpr std::size_t kMaxClosed = 1024; // before their open has come; more than may be under way
  static constexpr std::uint32_t kMaxRead = 1U << 20; // bytes at once; to write as well

  // `pool` must outlive it. `fence`: none by default; it is asked where a host is lost with a volume.
  static Result<std::unique_ptr<ViewExports>> start(Pool& pool, Env& env, std::int64_t lease_ns,
                                                    Fence fence = {});
  ~ViewExports() override; // closes all

  // An answer to any request but a control command.
  [[nodiscard]] wire::LinkReply serve(const HostInfo& host, const wire::LinkRequest& request)
      VSNAP_EXCLUDES(mutex_);

  // Control commands that ask who has what open, or take a volume from a host; nullopt: it is none.
  [[nodiscard]] std::optional<wire::ControlReply> answer(const wire::ControlRequest& request)
      VSNAP_EXCLUDES(mutex_);

  // By HostInfo::id; without what is held a while longer for a host that has lost it.
  [[nodiscard]] std::map<std::uint64_t, std::uint64_t> open_by_hosts() VSNAP_EXCLUDES(mutex_);

  // By whom hosts are told that a volume is to be returned (host_delegations.h).
  void set_coordinator(Coordinator* coordinator) { delegations_->set_coordinator(coordinator); }

  void session_began(std::uint64_t host, std::uint64_t session) override VSNAP_EXCLUDES(mutex_);
  void session_over(std::uint64_t host, std::uint64_t session, Membership::End why) override
      VSNAP_EXCLUDES(mutex_);

 private:
  struct Opening {
    std::uint64_t host = 0;
    std::uint64_t view = 0;
    ViewHandle handle;
    std::int64_t since_ns = 0; // since 1970
    std::uint64_t running = 0; // requests; under the lock
    std::atomic<bool> has_ended{false};
  };
  using OpeningPtr = std::shared_ptr<Opening>;
  using Handles = std::map<std::uint64_t, OpeningPtr>; // by the host's number
  class Running;
  struct Host {
    std::uint64_t session = 0; // 0: none
    Handles open;
    std::set<std::uint64_t> closed; // that were not open, of the session: whose opens may come later
  };
  struct Leaving {
    std::int64_t until_ns = 0;
    Handles handles;
  };

  ViewExports(Pool& pool, Env& env, std::int64_t lease_ns) : pool_(pool), env_(env), lease_ns_(lease_ns) {}
  Result<wire::OpenedView> open(std::uint64_t host, const wire::OpenViewRequest& request)
      VSNAP_EXCLUDES(mutex_);
  void close(std::uint64_t host, std::uint64_t number) VSNAP_EXCLUDES(mutex_);
  // Busy if one has ended and something is still carried out for it, after a while.
  Result<> wait_for_ended(std::uint64_t view) VSNAP_EXCLUDES(mutex_);
  wire::LinkReply serve_file(std::uint64_t host, const wire::LinkRequest& request) VSNAP_EXCLUDES(mutex_);
  Result<wire::TakenVolume> take(const HostInfo& host, const wire::TakeVolumeRequest& request)
      VSNAP_EXCLUDES(mutex_);
  Result<wire::MapReply> map(std::uint64_t host, const wire::MapRequest& request);
  Result<wire::ReadReply> read(std::uint64_t host, const wire::ReadRequest& request);
  Result<wire::SeekReply> seek(std::uint64_t host, const wire::SeekRequest& request);
  Result<wire::ChangedView> write(std::uint64_t host, const wire::WriteRequest& request);
  Result<wire::ChangedView> discard(std::uint64_t host, const wire::DiscardRequest& request);
  Result<wire::ChangedView> reserve(std::uint64_t host, const wire::ReserveRequest& request);
  Result<wire::ChangedView> fsync(std::uint64_t host, const wire::FsyncRequest& request);
  // For one request. Kind not_found, ESTALE: the host has it not open. Number 0: any of that view.
  Result<Running> run(std::uint64_t host, std::uint64_t number, std::uint64_t view) VSNAP_EXCLUDES(mutex_);
  Result<Running> run_change(std::uint64_t host, std::uint64_t number);
  Result<wire::ChangedView> changed(View& view, std::uint64_t offset, std::uint64_t length);
  Result<wire::LockList> locks() VSNAP_EXCLUDES(mutex_);
  void add_delegations(wire::LockList& list, const Hosts& known);
  Result<wire::LockList> break_lock(const wire::BreakLockRequest& request) VSNAP_EXCLUDES(mutex_);
  Result<wire::LockList> end_fenced(const wire::BreakLockRequest& request) VSNAP_EXCLUDES(mutex_);
  void leave(Handles handles, std::int64_t for_ns) VSNAP_REQUIRES(mutex_);
  void close_in_time() VSNAP_EXCLUDES(mutex_); // the thread

  Pool& pool_;
  Env& env_;
  const std::int64_t lease_ns_;
  std::unique_ptr<HostDelegations> delegations_;
  Mutex mutex_;
  CondVar wake_;
  CondVar done_; // with a request of an opening that has ended
  std::multimap<std::uint64_t, OpeningPtr> ended_ VSNAP_GUARDED_BY(mutex_); // with requests running, by view
  std::map<std::uint64_t, Host> hosts_ VSNAP_GUARDED_BY(mutex_);
  std::deque<Leaving> leaving_ VSNAP_GUARDED_BY(mutex_);
  bool waits_end_ VSNAP_GUARDED_BY(mutex_) = false; // some may have to be given up
  bool stop_ VSNAP_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

} // namespace vsnap
