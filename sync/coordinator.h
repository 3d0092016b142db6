// The daemon of a shared pool towards the other hosts: lets those in that the pool knows, keeps their
// sessions (sync/membership.h), and carries out what they ask for.
//
// Invariants
// 1. Everything that comes over TCP has passed the gate (sync/gate.h), and is judged by the key under
//    which it came. Who is revoked, or used its invitation up, is refused from the next message on.
// 2. The epoch is one higher, durably, before the socket is bound. The pool's catalog is what decides who
//    belongs to it; what is known here follows it and never comes before it.
// 3. One thread, the actor, owns the socket, and never waits for the pool. What needs the pool is done by
//    other threads (sync/host_workers.h), commands and what hosts read apart from each other. Who waits for
//    a volume to be returned may hold all of those: the actor takes returns itself, and what a host has to
//    hand over before that, which is I/O, is done by threads that do nothing else.
// 4. Nothing that arrives can do more than be refused and counted.
//
// Threads: start(), stop() and the destructor from the owner's thread; the rest from any. Options::serve is
// called by workers, Options::listener by the actor.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "core/pool.h"
#include "sync/curve_key.h"
#include "sync/membership.h"

namespace vsnap {

// Told when sessions begin and end, in order: where grants are kept and given away.
class SessionListener {
 public:
  virtual ~SessionListener() = default;
  virtual void session_began(std::uint64_t host, std::uint64_t session) = 0;
  virtual void session_over(std::uint64_t host, std::uint64_t session, Membership::End why) = 0;
};

class Coordinator {
 public:
  static constexpr std::int64_t kDefaultLease_ns = 10'000'000'000;
  static constexpr std::int64_t kShortestLease_ns = 100'000'000;
  static constexpr std::int64_t kLongestLease_ns = 3'600'000'000'000;

  // What a host asks for besides control commands; `host` is who. `again`: it may have been carried out
  // before. That volumes are returned the actor itself says: it must not wait. Changes of their blocks are
  // handed over by workers of their own: it must wait for no host then.
  using Serve = std::function<wire::LinkReply(const HostInfo& host, const wire::LinkRequest& request)>;

  // Control commands that are not for the pool; nullopt: it is none of those.
  using AnswerFirst = std::function<std::optional<wire::ControlReply>(const wire::ControlRequest& request)>;

  // How many views each host has open, by HostInfo::id.
  using CountOpen = std::function<std::map<std::uint64_t, std::uint64_t>()>;

  struct Options {
    std::string address; // tcp://ADDR:PORT to listen at
    KeyPair key;         // of this host
    std::int64_t lease_ns = kDefaultLease_ns;
    // The address may still be in use by the daemon before: it is tried again until it can be had.
    bool keep_trying = false;
    Serve serve = {};
    AnswerFirst answer_first = {};
    SessionListener* listener = nullptr;
    CountOpen count_open = {};
  };
  // `pool` must outlive it.
  static Result<std::unique_ptr<Coordinator>> start(Pool& pool, Env& env, Options options);
  virtual ~Coordinator() = default; // stop()
  virtual void stop() = 0;          // hosts are told; their leases go on

  [[nodiscard]] virtual std::uint64_t epoch() const = 0;
  // The port that was had, where port 0 was asked for.
  [[nodiscard]] virtual std::string address() = 0;
  // Answers requests of the control socket that concern hosts; nullopt: it is not one.
  [[nodiscard]] virtual std::optional<wire::ControlReply> answer(const wire::ControlRequest& request) = 0;
  // To one host, or, with 0, to all that have a session; in order, until it is taken or the session ends.
  virtual void tell(std::uint64_t host, wire::Notice notice) = 0;
  // Ends the session of a host that does not do what it is told. It may begin another one at once.
  virtual void evict(std::uint64_t host) = 0;
};

} // namespace vsnap
