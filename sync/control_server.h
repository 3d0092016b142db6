// The daemon's control socket: takes requests of vsnap commands on this machine and has them executed beside
// the I/O.
//
// Invariants
// 1. One thread, the actor, owns the ZeroMQ socket; jobs run in worker threads and reach it through their
//    job's queue.
// 2. Every request that can be parsed gets exactly one reply, if its client is still there; until then the
//    client hears something at least once a second, also while its job waits for a worker.
// 3. A job that changes the pool runs to its end, whether or not its client still listens. One that only
//    looks is given up once nobody listens.
// 4. Where a successor is to come, who asked for what was not carried out, or not to its end, is told so:
//    kind busy, EAGAIN.
// 5. Bounded: kMaxJobs jobs, kMaxWorkers threads, kMaxQueuedBatches messages a job, wire::kMaxRequestBytes
//    a request. Nothing that arrives can do more than be refused.
//
// Threads: start(), stop() and the destructor from the owner's thread. Options::on_shutdown and
// Options::on_upgrade are called by the actor.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/pool.h"
#include "sync/daemon_record.h"
#include "sync/protocol.pb.h"

namespace vsnap {

class ControlServer {
 public:
  struct Options {
    DaemonRecord identity;             // socket_path: where to listen; the rest is told to who pings
    std::function<void()> on_shutdown; // somebody asks the daemon to stop; must not block
    // Somebody asks for that program in its place; must not block. An error is the answer.
    std::function<Result<>(const std::string& program)> on_upgrade = {};
    // Asked before the pool, by a worker: nullopt: the pool is to answer. Empty: there is nobody else.
    std::function<std::optional<wire::ControlReply>(const wire::ControlRequest& request)> before_pool = {};
  };
  static constexpr std::size_t kMaxJobs = 256;
  static constexpr std::size_t kMaxWorkers = 16;
  static constexpr std::size_t kMaxQueuedBatches = 16;

  // `pool` must outlive the server. Somebody else's stale socket at the path is replaced.
  static Result<std::unique_ptr<ControlServer>> start(Pool& pool, Options options);
  virtual ~ControlServer() = default;      // stop()
  enum class Stop { for_good, hand_over }; // to a successor
  // Takes no more requests, asks running jobs to give up, waits for them, and sends what they answered.
  virtual void stop(Stop how) = 0;
  void stop() { stop(Stop::for_good); }
};

} // namespace vsnap
