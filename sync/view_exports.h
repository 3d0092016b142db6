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
// Threads: serve() from any; the listener's calls one at a time. What is to be closed is closed by a thread
// of its own, as that may wait for configuration operations.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <thread>

#include "core/mutex.h"
#include "core/pool.h"
#include "sync/coordinator.h"

namespace vsnap {

class ViewExports final : public SessionListener {
 public:
  static constexpr std::size_t kMaxOpen = 65536;
  static constexpr std::uint32_t kMaxRead = 1U << 20; // bytes at once

  // `pool` must outlive it.
  static Result<std::unique_ptr<ViewExports>> start(Pool& pool, Env& env, std::int64_t lease_ns);
  ~ViewExports() override; // closes all

  // An answer to any request but a control command.
  [[nodiscard]] wire::LinkReply serve(const HostInfo& host, const wire::LinkRequest& request)
      VSNAP_EXCLUDES(mutex_);

  void session_began(std::uint64_t host, std::uint64_t session) override VSNAP_EXCLUDES(mutex_);
  void session_over(std::uint64_t host, std::uint64_t session, Membership::End why) override
      VSNAP_EXCLUDES(mutex_);

 private:
  struct Opening {
    std::uint64_t view = 0;
    std::shared_ptr<ViewHandle> handle;
  };
  using Handles = std::map<std::uint64_t, Opening>; // by the host's number
  struct Host {
    std::uint64_t session = 0; // 0: none
    Handles open;
  };
  struct Leaving {
    std::int64_t until_ns = 0;
    Handles handles;
  };

  ViewExports(Pool& pool, Env& env, std::int64_t lease_ns) : pool_(pool), env_(env), lease_ns_(lease_ns) {}
  Result<wire::OpenedView> open(std::uint64_t host, const wire::OpenViewRequest& request)
      VSNAP_EXCLUDES(mutex_);
  void close(std::uint64_t host, std::uint64_t number) VSNAP_EXCLUDES(mutex_);
  Result<wire::MapReply> map(std::uint64_t host, const wire::MapRequest& request);
  Result<wire::ReadReply> read(std::uint64_t host, const wire::ReadRequest& request);
  Result<wire::SeekReply> seek(std::uint64_t host, const wire::SeekRequest& request);
  // Kind not_found, ESTALE: the host has it not open.
  Result<std::shared_ptr<ViewHandle>> opened(std::uint64_t host, std::uint64_t view) VSNAP_EXCLUDES(mutex_);
  void leave(Handles handles, std::int64_t for_ns) VSNAP_REQUIRES(mutex_);
  void close_in_time() VSNAP_EXCLUDES(mutex_); // the thread

  Pool& pool_;
  Env& env_;
  const std::int64_t lease_ns_;
  Mutex mutex_;
  CondVar wake_;
  std::map<std::uint64_t, Host> hosts_ VSNAP_GUARDED_BY(mutex_);
  std::deque<Leaving> leaving_ VSNAP_GUARDED_BY(mutex_);
  bool stop_ VSNAP_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

} // namespace vsnap
