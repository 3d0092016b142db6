// A host's side of membership: its session with the coordinator, the lease, requests, and notices. A machine:
// events in, actions out; no socket, no clock, no thread. sync/membership.h is the other side.
//
//   away ── Welcome ──► normal ──► no_new_io ──► draining ──► away         by the time since the last renewal
//                          ▲  70 %         85 %        100 %  (lost)       that was answered was *sent*
//                          └────── Renewed ────┘
//   any ── revoked, superseded, closed ──► ended
//
// Invariants
// 1. The lease is counted from when the Hello or Renew that was answered was sent: it is over here before
//    it is there. Time that goes back counts as no time; time that jumps ahead is taken for what it says.
// 2. What is granted in a session ends with it. `reclaim` of Began says that the lease of the one before
//    had not run out: a new coordinator gives back what the host still has.
// 3. Of a session each message is taken at most once and in order; nothing of an epoch lower than one that
//    was seen.
// 4. A request is asked until it is answered, also over sessions, and answered once. After `ended` all
//    that are open are answered: kind no_answer.
// 5. Notices are handed on once each, in order, and only then acknowledged; a session's first is number 1.
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/env.h"
#include "sync/link_message.h"
#include "sync/membership.h"

namespace vsnap {

class HostSession {
 public:
  // Per cent of the lease.
  static constexpr int kNoNewIo = 70;
  static constexpr int kDrain = 85;
  static constexpr std::size_t kMaxOpen = 64;       // requests
  static constexpr std::size_t kMaxUnanswered = 16; // renewals
  static constexpr std::size_t kMostTold = 1000;    // requests that were answered, in a renewal
  static constexpr std::size_t kTold = 32;          // the same in a request
  static constexpr std::int64_t kFirstHelloPause_ns = 100'000'000; // doubled up to the longest
  static constexpr std::int64_t kLongestHelloPause_ns = 1'000'000'000;

  enum class Phase { away, normal, no_new_io, draining, ended };

  struct Settings {
    std::uint64_t incarnation = 1; // never 0; a number that no other process of this host has
    Uuid pool_uuid{};              // that is expected
    std::string boot_id = {};      // of this machine since it was started
  };

  // Events
  struct Received {
    LinkMessage message;
  };
  struct Malformed {};
  struct Connected {}; // to the coordinator, perhaps anew: what was sent before may be lost
  struct Ask {         // gets its id; Answer is for that
    wire::LinkRequest request;
  };
  struct WorksBy { // the host has taken over that state of the catalog
    std::uint64_t generation = 0;
  };
  struct Tick {};
  struct Close {         // the host gives its session up
    bool silent = false; // the coordinator does not hear of it: what the host has goes on to its next process
  };
  using Event = std::variant<Received, Malformed, Connected, Ask, WorksBy, Tick, Close>;

  // Actions
  struct Send {
    LinkMessage message;
  };
  struct PhaseIs {
    Phase phase = Phase::away;
  };
  struct Began {
    std::uint64_t epoch = 0;
    std::uint64_t session = 0;
    std::uint64_t generation = 0;
    bool reclaim = false;
  };
  struct Lost {}; // all grants of the session are gone; Phase::away follows
  struct Ended {  // for good
    wire::RefusalReason reason = wire::REFUSED_OTHER;
  };
  struct Answer {
    wire::LinkReply reply;
  };
  struct Told {
    wire::Notice notice;
  };
  using Action = std::variant<Send, PhaseIs, Began, Lost, Ended, Answer, Told>;
  using Actions = std::vector<Action>;

  explicit HostSession(Settings settings) : settings_(std::move(settings)) {}

  [[nodiscard]] Actions step(const Event& event, std::int64_t now_ns);
  // When a Tick has something to do; nullopt: never.
  [[nodiscard]] std::optional<std::int64_t> deadline_ns() const;

  [[nodiscard]] std::uint64_t next_request() const { return next_request_; } // the id that an Ask gets
  [[nodiscard]] Phase phase() const { return phase_; }
  [[nodiscard]] std::uint64_t session() const { return session_ ? session_->number : 0; }
  [[nodiscard]] std::uint64_t epoch() const { return epoch_; }
  [[nodiscard]] std::uint64_t generation() const { return told_generation_; } // as the coordinator last said
  // Of a session, or of one whose coordinator has gone; 0: none, or it has run out.
  [[nodiscard]] std::int64_t lease_left_ns(std::int64_t now_ns) const;
  [[nodiscard]] std::int64_t lease_until_ns() const { // 0: there is none
    return lease_ ? lease_->from_ns + lease_->length_ns : 0;
  }
  [[nodiscard]] std::int64_t young_until_ns() const { // the end of Phase::normal; 0: there is no lease
    return lease_ ? lease_->from_ns + lease_->length_ns / 100 * kNoNewIo : 0;
  }
  // Another machine has a session under the key of this one; it is asked again and again.
  [[nodiscard]] bool is_elsewhere() const { return is_elsewhere_; }
  [[nodiscard]] const RefusalCounts& refused() const { return refused_; }

 private:
  struct Renewal {
    std::int64_t sent_ns = 0;
    std::vector<std::uint64_t> answered; // requests that it told of
  };
  struct Session {
    std::uint64_t number = 0;
    std::uint64_t received = 0; // sequence numbers
    std::uint64_t sent = 0;
    std::int64_t renew_at_ns = 0;
    std::map<std::uint64_t, Renewal> renewals; // not answered, by sequence number
    std::uint64_t taken = 0;
  };
  struct Lease { // outlives its session while a new coordinator is looked for
    std::int64_t from_ns = 0;
    std::int64_t length_ns = 0;
  };
  struct Open {
    wire::LinkRequest request;
    std::int64_t ask_at_ns = 0;
  };

  void on(const Received& event);
  void on(const Malformed&) { ++refused_.malformed; }
  void on(const Connected& event);
  void on(const Ask& event);
  void on(const WorksBy& event) { works_by_ = event.generation; }
  void on(const Tick&) {}
  void on(const Close& event);

  void on_welcome(const LinkMessage& message);
  void on_refused(const LinkMessage& message);
  void session_gone(std::uint64_t epoch);
  void on_session_message(const LinkMessage& message);
  void on_renewed(const LinkMessage& message);
  void on_reply(const LinkMessage& message);
  void on_notice(const LinkMessage& message);
  void do_what_is_due();
  void say_hello();
  void renew();
  void ask(Open& open);
  void look_at_lease();
  void leave_session();
  void end(wire::RefusalReason reason);
  void set_phase(Phase phase);
  void extend_lease(std::int64_t sent_ns);
  void send(LinkType type, std::string payload);
  [[nodiscard]] std::int64_t retry_ns() const;
  [[nodiscard]] std::uint64_t settled() const { return open_.empty() ? next_request_ : open_.begin()->first; }

  const Settings settings_;
  std::optional<Session> session_;
  std::optional<Lease> lease_;
  std::int64_t lease_length_ns_ = 3'000'000'000; // as last told
  std::uint64_t epoch_ = 0;                      // the highest that was seen
  std::uint64_t greeting_ = 1;
  std::uint64_t hellos_ = 0;                            // of this greeting
  std::map<std::uint64_t, std::int64_t> hello_sent_ns_; // of this greeting, the last ones
  std::int64_t hello_at_ns_ = 0;
  std::int64_t hello_pause_ns_ = kFirstHelloPause_ns;
  std::uint64_t told_generation_ = 0;
  std::optional<std::uint64_t> works_by_;
  std::uint64_t next_request_ = 1;
  std::map<std::uint64_t, Open> open_; // by id
  // Requests whose answers have come while an earlier one is open, and that the coordinator may not know of.
  std::set<std::uint64_t> answered_;
  Phase phase_ = Phase::away;
  bool is_elsewhere_ = false;
  RefusalCounts refused_;
  std::int64_t now_ns_ = 0;
  bool stepped_ = false;
  Actions actions_; // of the step under way
};

[[nodiscard]] std::string_view to_string(HostSession::Phase phase);

} // namespace vsnap
