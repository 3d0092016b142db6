// A host's link to the coordinator of a pool: connects under the host's key, keeps a session and its lease
// (sync/host_session.h), carries requests there and notices back.
//
// Invariants
// 1. One thread, the actor, owns the socket and the machine; the rest reach it through queues.
// 2. Each call is answered once: by the coordinator, or with an error of this end. Kind no_answer: what
//    became of it is not known.
// 3. A link that is revoked or superseded has ended for good, and does not connect any more.
// 4. Bounded: HostSession::kMaxOpen requests at once.
//
// Threads: any may call; the listener and what is called back come from the actor, and must not wait. stop()
// and the destructor by the owner.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "core/env.h"
#include "sync/curve_key.h"
#include "sync/host_session.h"

namespace vsnap {

// Told in order. Grants, maps and caches live here.
class LinkListener {
 public:
  virtual ~LinkListener() = default;
  virtual void phase_is(HostSession::Phase /*phase*/) {} // no_new_io and draining are to be obeyed
  virtual void session_began(const HostSession::Began& /*session*/) {}
  // On Env::monotonic_ns(); it was renewed, or has begun. `young`: until new I/O is not to begin any more.
  virtual void lease_lasts(std::int64_t /*young_until_ns*/, std::int64_t /*until_ns*/) {}
  virtual void session_lost() {}                        // all that was granted is gone
  virtual void ended(wire::RefusalReason /*reason*/) {} // for good
  virtual void told(const wire::Notice& /*notice*/) {}
};

struct LinkStatus {
  HostSession::Phase phase = HostSession::Phase::away;
  std::uint64_t epoch = 0;
  std::uint64_t session = 0; // 0: none
  std::uint64_t generation = 0;
  std::int64_t lease_left_ns = 0;
  std::int64_t lease_until_ns = 0; // on the monotonic clock; as of when this was noted
  bool is_refused = false;         // the coordinator does not let this host's key in
  bool is_elsewhere = false;       // it has a session of another machine under that key
  RefusalCounts refused;           // of what came
};

class Link {
 public:
  struct Options {
    std::string pool; // for messages
    Uuid pool_uuid{};
    std::string address;
    HostKey server_key{};
    KeyPair own;
  };
  // The listener must outlive the link; nullptr: nobody listens.
  static Result<std::unique_ptr<Link>> start(Env& env, Options options, LinkListener* listener);
  virtual ~Link() = default;  // stop()
  virtual void stop() = 0;    // gives the session up
  virtual void abandon() = 0; // the same, but the coordinator does not hear of it

  using Answered = std::function<void(wire::LinkReply reply)>;
  virtual void call(wire::LinkRequest request, Answered answered) = 0;
  // Waits for the answer. After `longest` kind no_answer, ETIMEDOUT: it may still be carried out.
  Result<wire::LinkReply> call(wire::LinkRequest request, std::chrono::milliseconds longest);
  // The same of a control command, as a command on the coordinator's host would ask for it.
  Result<wire::ControlReply> control(wire::ControlRequest request, std::chrono::milliseconds longest);

  virtual void works_by(
      std::uint64_t generation) = 0; // the state of the catalog that this host has taken over
  [[nodiscard]] virtual LinkStatus status() = 0;
};

} // namespace vsnap
