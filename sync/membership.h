// The coordinator's side of membership: which hosts have a session, until when, and what is on its way
// between them and it. A machine: events in, actions out; no socket, no clock, no thread. sync/host_session.h
// is the other side; man/vsnap-sharing.7 explains both to people.
//
//   host ── Hello ──► Welcome ── Renew ──► Renewed ── ... ── Goodbye, or the lease runs out, or it is revoked
//
// Invariants
// 1. A host is who has its key. A message is judged by the key under which it came, never by its route.
// 2. A host has one session at most, and a session is of one incarnation (process). A new incarnation ends
//    the session of the one before, which is refused from then on; but for one of another machine, or of one
//    that was started anew, which is refused itself as long as the lease lasts: what it says of the host's
//    I/O is not known to be so.
// 3. Of a session each message is taken at most once and in order: one whose epoch, session or sequence is
//    not right is refused and counted, and changes nothing else.
// 4. A lease is counted from when its renewal was received, and is kMarginPercent longer than what the
//    host is told; while the coordinator itself stood still nothing runs out. So the session is over here
//    only after it is at the host.
// 5. A request is carried out once for each (host, incarnation, id), whatever is repeated; where its
//    answer is not kept, because it is large and so only looks, it is carried out again.
// 6. Notices are numbered in a session and sent until they are taken; they end with it.
// 7. Bounded: kMaxRunning requests of a host at once, beside the returns of volumes and kMaxHandovers of what
//    is handed over before them; kMaxRecords remembered, kMaxUntaken notices, kMaxGone incarnations, one
//    refusal told in kRefusalPause to each peer.
// Threads: one at a time.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <variant>

#include "core/env.h"
#include "core/host.h"
#include "sync/link_message.h"
#include "sync/sharing.pb.h"

namespace vsnap {

// Who sent a message, and where answers go.
struct LinkPeer {
  HostKey key{};       // as CURVE has authenticated it
  std::string route;   // the routing id of its connection
  std::string address; // as the connection has it
};

struct RefusalCounts {
  std::uint64_t malformed = 0;
  std::uint64_t epoch = 0;    // of a reign that is over
  std::uint64_t session = 0;  // that there is not, or not any more
  std::uint64_t sequence = 0; // was there, or has been overtaken
  std::uint64_t other = 0;
  [[nodiscard]] std::uint64_t total() const { return malformed + epoch + session + sequence + other; }
  bool operator==(const RefusalCounts&) const = default;
};

struct HostStatus {
  enum class State { away, live, left, lost }; // away: not seen since the coordinator has started
  HostInfo host;
  State state = State::away;
  std::string address = {};       // that it was last seen at
  std::uint64_t session = 0;      // 0: none
  std::int64_t lease_left_ns = 0; // of a session
  std::uint64_t lag = 0;          // of a session: generations that it is behind
  RefusalCounts refused = {};
};
[[nodiscard]] std::string_view to_string(HostStatus::State state);

class Membership {
 public:
  static constexpr int kMarginPercent = 5;
  // Who does not call step() for that part of a lease is taken to have stood still.
  static constexpr int kStillFraction = 4;
  static constexpr std::size_t kMaxRunning = 16;
  static constexpr std::size_t kMaxHandovers = 16;
  static constexpr std::size_t kMaxRecords = 128;
  static constexpr std::size_t kMaxKeptReply = 64U << 10; // bytes
  static constexpr std::size_t kMaxUntaken = 1024;
  static constexpr std::size_t kMaxGone = 16;
  static constexpr std::size_t kMaxBootId = 64; // bytes
  static constexpr std::int64_t kRefusalPause_ns = 20'000'000;

  struct Settings {
    std::uint64_t epoch = 1;
    std::int64_t lease_ns = 10'000'000'000;
    std::string pool;
    Uuid pool_uuid{};
  };

  // Events
  struct HostAdded {
    HostInfo host;
  };
  struct HostRevoked {
    HostKey key{};
  };
  struct Received {
    LinkPeer peer;
    LinkMessage message;
  };
  struct Malformed { // something that is no message came under that key
    HostKey key{};
  };
  struct Answered { // an Execute has ended
    std::uint64_t host = 0;
    std::uint64_t incarnation = 0;
    wire::LinkReply reply;
  };
  struct Tell {
    std::uint64_t host = 0; // 0: every host that has a session
    wire::Notice notice;    // without its number
  };
  struct Evict { // its session is over; it may begin another one
    std::uint64_t host = 0;
  };
  struct GenerationIs {
    std::uint64_t number = 0;
  };
  struct Tick {};
  struct Ending {}; // the coordinator stops: nobody is to wait for it
  using Event = std::variant<HostAdded, HostRevoked, Received, Malformed, Answered, Tell, Evict, GenerationIs,
                             Tick, Ending>;

  // Actions
  struct Send {
    std::string route;
    LinkMessage message;
  };
  struct Execute { // and then Answered
    HostInfo host;
    std::uint64_t incarnation = 0;
    wire::LinkRequest request;
  };
  struct SessionBegan {
    std::uint64_t host = 0;
    std::uint64_t session = 0;
  };
  enum class End { left, lost, anew, superseded, revoked, evicted };
  struct SessionOver { // what it held may be given away, where that needs no fence
    std::uint64_t host = 0;
    std::uint64_t session = 0;
    End why = End::left;
  };
  using Action = std::variant<Send, Execute, SessionBegan, SessionOver>;
  using Actions = std::vector<Action>;

  explicit Membership(Settings settings) : settings_(std::move(settings)) {}

  // now_ns: of a clock that does not go back and counts while the machine is suspended.
  [[nodiscard]] Actions step(const Event& event, std::int64_t now_ns);
  // When a Tick has something to do; nullopt: never.
  [[nodiscard]] std::optional<std::int64_t> deadline_ns() const;
  [[nodiscard]] std::vector<HostStatus> status(std::int64_t now_ns) const; // by name
  [[nodiscard]] const HostInfo* host_of(const HostKey& key) const;
  // Whether that is the process of the host that spoke last.
  [[nodiscard]] bool is_current(const HostKey& key, std::uint64_t incarnation) const;
  [[nodiscard]] std::uint64_t refused_strangers() const { return refused_strangers_; }
  [[nodiscard]] const Settings& settings() const { return settings_; }

 private:
  struct Untaken {
    wire::Notice notice;
    std::int64_t sent_ns = 0;
  };
  struct Session {
    std::uint64_t number = 0;
    std::uint64_t greeting = 0;
    std::string route;
    std::int64_t expires_ns = 0;
    std::uint64_t received = 0; // sequence numbers
    std::uint64_t sent = 0;
    std::uint64_t generation = 0;
    std::uint64_t notices = 0; // so far
    std::deque<Untaken> untaken;
  };
  struct Record {
    bool running = true;
    std::optional<wire::LinkReply> reply;
  };
  struct Host {
    HostInfo info;
    std::optional<Session> session;
    std::uint64_t incarnation = 0;           // the last one
    std::uint64_t greeting = 0;              // of it
    std::string boot_id;                     // of it
    std::deque<std::uint64_t> gone;          // incarnations that were superseded
    std::map<std::uint64_t, Record> records; // of the incarnation's requests, by id
    std::uint64_t settled = 0;
    HostStatus::State state = HostStatus::State::away;
    std::string address;
    RefusalCounts refused;
    std::optional<std::int64_t> refusal_told_ns;
  };

  void on(const HostAdded& event);
  void on(const HostRevoked& event);
  void on(const Received& event);
  void on(const Malformed& event);
  void on(const Answered& event);
  void on(const Tell& event);
  void on(const Evict& event);
  void on(const GenerationIs& event) { generation_ = event.number; }
  void on(const Tick& event);
  void on(const Ending& event);

  [[nodiscard]] static bool is_elsewhere(const Host& host, const wire::Hello& hello);
  void on_hello(Host& host, const LinkPeer& peer, const LinkMessage& message);
  void on_message(Host& host, const LinkPeer& peer, const LinkMessage& message);
  void on_renew(Host& host, const LinkMessage& message);
  void on_request(Host& host, const LinkMessage& message);
  template <class Message>
  static void forget_answered(Host& host, const Message& message);
  void on_taken(Host& host, const LinkMessage& message);
  void begin(Host& host, const LinkPeer& peer, const wire::Hello& hello);
  void end(Host& host, End why, HostStatus::State state);
  void welcome(Host& host, const wire::Hello& hello, std::uint64_t sequence);
  void take_route(Host& host, const LinkPeer& peer);
  void drop_taken(Session& session, std::uint64_t number);
  void tell(Host& host, const wire::Notice& notice);
  void evict(Host& host);
  void send(Session& session, LinkType type, std::string payload);
  void reply(Host& host, const wire::LinkReply& reply);
  void refuse(std::optional<std::int64_t>& told_ns, const std::string& route, const LinkMessage& message,
              wire::RefusalReason reason);
  void refuse(Host& host, std::uint64_t RefusalCounts::*kind, const LinkPeer& peer,
              const LinkMessage& message, wire::RefusalReason reason);
  void tell_end(const Session& session, wire::RefusalReason reason);
  [[nodiscard]] Host* find(const HostKey& key);
  [[nodiscard]] std::int64_t margin_lease_ns() const {
    return settings_.lease_ns + settings_.lease_ns / 100 * kMarginPercent;
  }

  const Settings settings_;
  std::map<std::uint64_t, Host> hosts_; // by id
  std::uint64_t last_session_ = 0;
  std::uint64_t generation_ = 0;
  std::optional<std::int64_t> now_ns_; // of the last step
  std::optional<std::int64_t> stranger_told_ns_;
  std::uint64_t refused_strangers_ = 0; // messages of those that are no host, or not any more
  Actions actions_;                     // of the step under way
};

} // namespace vsnap
