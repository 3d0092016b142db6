// A host's side of membership, as a machine: how far its lease goes, and what of the coordinator's messages
// counts.
#include "sync/host_session.h"

#include <algorithm>

#include "tests/support/catch.h"

namespace vsnap {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kLease = 10 * kSecond;
using Phase = HostSession::Phase;

template <class Action>
std::vector<Action> all(const HostSession::Actions& actions) {
  std::vector<Action> found;
  for (const auto& action : actions) {
    if (const auto* one = std::get_if<Action>(&action)) found.push_back(*one);
  }
  return found;
}

// A host, and a coordinator that says what a test wants.
struct Lab {
  HostSession host{{77, Uuid{1, 2, 3}}};
  std::int64_t now = 1000 * kSecond;
  std::uint64_t epoch = 3;
  std::uint64_t session = 0;
  std::uint64_t sequence = 0;
  HostSession::Actions last;

  HostSession::Actions step(const HostSession::Event& event) { return last = host.step(event, now); }
  HostSession::Actions tick(std::int64_t after = 0) {
    now += after;
    return step(HostSession::Tick{});
  }
  HostSession::Actions get(const LinkMessage& message) { return step(HostSession::Received{message}); }
  std::vector<LinkMessage> sent(LinkType type) const {
    std::vector<LinkMessage> found;
    for (const auto& one : all<HostSession::Send>(last)) {
      if (one.message.type == type) found.push_back(one.message);
    }
    return found;
  }
  LinkMessage say(LinkType type, const std::string& payload) {
    return {type, 0, epoch, session, ++sequence, payload};
  }
  LinkMessage welcome(const LinkMessage& hello) {
    wire::Hello said;
    REQUIRE(said.ParseFromString(hello.payload));
    wire::Welcome message;
    message.set_incarnation(said.incarnation());
    message.set_greeting(said.greeting());
    message.set_hello(hello.sequence);
    message.set_generation(40);
    message.set_lease_ns(kLease);
    const Uuid uuid{1, 2, 3};
    message.set_pool_uuid(uuid.data(), uuid.size());
    return say(LinkType::welcome, message.SerializeAsString());
  }
  LinkMessage renewed(const LinkMessage& renew) {
    wire::Renewed message;
    message.set_renew(renew.sequence);
    message.set_generation(40);
    return say(LinkType::renewed, message.SerializeAsString());
  }
  LinkMessage refused(wire::RefusalReason reason) const {
    wire::Refused message;
    message.set_reason(reason);
    return {LinkType::refused, 0, epoch, session, 0, message.SerializeAsString()};
  }
  LinkMessage notice(std::uint64_t number) {
    wire::Notice message;
    message.set_number(number);
    return say(LinkType::notice, message.SerializeAsString());
  }
  LinkMessage hello() {
    for (int i = 0; i < 100; ++i) {
      tick(i == 0 ? 0 : kSecond / 10);
      if (const auto hellos = sent(LinkType::hello); !hellos.empty()) return hellos.back();
    }
    FAIL("no hello");
    return {};
  }
  void begin() {
    const LinkMessage said = hello();
    ++session;
    sequence = 0;
    get(welcome(said));
    REQUIRE(all<HostSession::Began>(last).size() == 1);
  }
};

TEST_CASE("a host greets until it is welcomed, less and less often") {
  Lab lab;
  int hellos = 0;
  for (int i = 0; i < 100; ++i) {
    lab.tick(kSecond / 10);
    hellos += static_cast<int>(lab.sent(LinkType::hello).size());
  }
  CHECK(hellos >= 10);
  CHECK(hellos <= 16);
  lab.begin();
  CHECK(lab.host.phase() == Phase::normal);
  CHECK(lab.host.session() == 1);
  CHECK(lab.host.generation() == 40);
}

TEST_CASE("the lease counts from when the hello was sent, not from when it was answered") {
  Lab lab;
  const LinkMessage hello = lab.hello();
  const std::int64_t sent = lab.now;
  lab.now += 3 * kSecond;
  lab.session = 1;
  lab.get(lab.welcome(hello));
  CHECK(lab.host.lease_left_ns(lab.now) == kLease - 3 * kSecond);
  lab.now = sent + kLease - 1;
  CHECK(lab.host.lease_left_ns(lab.now) == 1);
}

TEST_CASE("an answer that came later than the lease lasts begins no session") {
  Lab lab;
  const LinkMessage hello = lab.hello();
  lab.now += kLease;
  lab.session = 1;
  lab.get(lab.welcome(hello));
  CHECK(all<HostSession::Began>(lab.last).empty());
  CHECK(lab.host.phase() == Phase::away);
}

TEST_CASE("the lease is renewed at a third of it, from when the renewal was sent") {
  Lab lab;
  lab.begin();
  const std::int64_t began = lab.now;
  CHECK(lab.host.deadline_ns() == began + kLease / 3);
  lab.now = began + kLease / 3;
  lab.tick();
  const auto renews = lab.sent(LinkType::renew);
  REQUIRE(renews.size() == 1);
  const std::int64_t sent = lab.now;
  lab.now += kSecond;
  lab.get(lab.renewed(renews[0]));
  CHECK(lab.host.lease_left_ns(lab.now) == kLease - kSecond);
  CHECK(lab.host.lease_left_ns(sent) == kLease - kSecond); // its clock does not go back
}

TEST_CASE("answers to renewals that come out of order take nothing back") {
  Lab lab;
  lab.begin();
  lab.tick(kLease / 3 + 1);
  const LinkMessage first = lab.sent(LinkType::renew).at(0);
  lab.tick(kLease / 3 + 1);
  const LinkMessage second = lab.sent(LinkType::renew).at(0);
  const LinkMessage to_first = lab.renewed(first);
  const LinkMessage to_second = lab.renewed(second);
  lab.get(to_second);
  CHECK(lab.host.lease_left_ns(lab.now) == kLease);
  lab.get(to_first);
  lab.get(to_second);
  CHECK(lab.host.lease_left_ns(lab.now) == kLease);
  CHECK(lab.host.refused().sequence == 2);
}

TEST_CASE("without renewal a host stops new I/O, drains, and has nothing any more") {
  Lab lab;
  lab.begin();
  const std::int64_t from = lab.now;
  const auto at = [&](std::int64_t percent, std::int64_t offset) {
    lab.now = from + kLease / 100 * percent + offset;
    lab.tick();
    return lab.host.phase();
  };
  CHECK(at(70, -1) == Phase::normal);
  CHECK(at(70, 0) == Phase::no_new_io);
  CHECK(at(85, -1) == Phase::no_new_io);
  CHECK(at(85, 0) == Phase::draining);
  CHECK(at(100, -1) == Phase::draining);
  CHECK(at(100, 0) == Phase::away);
  CHECK(all<HostSession::Lost>(lab.last).size() == 1);
  CHECK(lab.host.session() == 0);
  CHECK_FALSE(lab.sent(LinkType::hello).empty()); // and asks for another at once
}

TEST_CASE("each change of phase is a deadline") {
  Lab lab;
  lab.begin();
  const std::int64_t from = lab.now;
  std::vector<std::int64_t> percents;
  while (lab.host.session() != 0) {
    lab.now = *lab.host.deadline_ns();
    lab.tick();
    if (!all<HostSession::PhaseIs>(lab.last).empty()) percents.push_back((lab.now - from) * 100 / kLease);
  }
  CHECK(percents == std::vector<std::int64_t>{70, 85, 100});
}

TEST_CASE("a machine that was suspended for longer than its lease has lost it at once") {
  Lab lab;
  lab.begin();
  const LinkMessage late = lab.renewed({LinkType::renew, 0, 3, 1, 1, {}});
  lab.now += 3600 * kSecond;
  lab.get(late); // what waited to be read meanwhile
  CHECK(all<HostSession::Lost>(lab.last).size() == 1);
  CHECK(lab.host.phase() == Phase::away);
}

TEST_CASE("a clock that goes back prolongs no lease") {
  Lab lab;
  lab.begin();
  const std::int64_t from = lab.now;
  lab.now = from + 5 * kSecond;
  lab.tick();
  lab.now = from - 100 * kSecond;
  lab.tick();
  CHECK(lab.host.lease_left_ns(lab.now) == 5 * kSecond);
  lab.now = from + kLease;
  lab.tick();
  CHECK(lab.host.session() == 0);
}

TEST_CASE("stale, doubled and foreign messages are refused and counted") {
  Lab lab;
  lab.begin();
  const LinkMessage first = lab.notice(1);
  lab.get(first);
  CHECK(all<HostSession::Told>(lab.last).size() == 1);
  CHECK(all<HostSession::Told>(lab.get(first)).empty());
  CHECK(lab.host.refused().sequence == 1);
  LinkMessage old = lab.notice(2);
  old.epoch = 2;
  CHECK(all<HostSession::Told>(lab.get(old)).empty());
  CHECK(lab.host.refused().epoch == 1);
  LinkMessage other = lab.notice(2);
  other.session = 9;
  CHECK(all<HostSession::Told>(lab.get(other)).empty());
  CHECK(lab.host.refused().session == 1);
  lab.get(lab.say(LinkType::notice, "\xff\xff"));
  CHECK(lab.host.refused().malformed == 1);
}

TEST_CASE("a welcome of another pool, process or greeting is none") {
  Lab lab;
  const LinkMessage hello = lab.hello();
  const auto with = [&](const auto& change) {
    wire::Welcome message;
    LinkMessage said = lab.welcome(hello);
    REQUIRE(message.ParseFromString(said.payload));
    change(message);
    said.payload = message.SerializeAsString();
    lab.get(said);
    return lab.host.phase();
  };
  CHECK(with([](wire::Welcome& m) { m.set_pool_uuid("0123456789abcdef"); }) == Phase::away);
  CHECK(with([](wire::Welcome& m) { m.set_incarnation(78); }) == Phase::away);
  CHECK(with([](wire::Welcome& m) { m.set_greeting(9); }) == Phase::away);
  CHECK(with([](wire::Welcome& m) { m.set_hello(9); }) == Phase::away);
  CHECK(with([](wire::Welcome& m) { m.set_lease_ns(0); }) == Phase::away);
  CHECK(with([](wire::Welcome& m) { m.set_lease_ns(~0ULL); }) == Phase::away);
  CHECK(lab.host.refused().total() == 6);
  CHECK(with([](wire::Welcome&) {}) == Phase::normal);
}

TEST_CASE("what a late hello begins at the next coordinator is not taken for the session under way") {
  Lab lab;
  const LinkMessage early = lab.hello();
  lab.tick(2 * HostSession::kFirstHelloPause_ns);
  const auto again = lab.sent(LinkType::hello);
  REQUIRE(again.size() == 1);
  lab.session = 7;
  lab.get(lab.welcome(early));
  REQUIRE(lab.host.session() == 7);
  const LinkMessage renewal = [&] {
    lab.tick(kLease / 3);
    const auto renewals = lab.sent(LinkType::renew);
    REQUIRE(renewals.size() == 1);
    return renewals[0];
  }();
  ++lab.epoch;
  for (const std::uint64_t number : {std::uint64_t{2}, std::uint64_t{7}}) {
    lab.session = number;
    lab.sequence = 100; // higher than any before
    lab.get(lab.welcome(again[0]));
    CHECK(all<HostSession::Began>(lab.last).empty());
    lab.step(HostSession::Ask{});
    const auto asked = lab.sent(LinkType::request);
    REQUIRE(asked.size() == 1);
    CHECK(asked[0].epoch == renewal.epoch);
    CHECK(asked[0].session == 7);
  }
  CHECK(lab.host.refused().session == 2);
  // The session is over when the next coordinator says so, and what it covered goes on in one of that one's.
  lab.session = 7;
  lab.get(lab.refused(wire::REFUSED_NO_SESSION));
  CHECK(lab.host.phase() == Phase::normal);
  lab.session = 8;
  lab.sequence = 0;
  lab.get(lab.welcome(lab.hello()));
  const auto began = all<HostSession::Began>(lab.last);
  REQUIRE(began.size() == 1);
  CHECK(began[0].reclaim);
}

TEST_CASE("a new coordinator gives back what the lease still covers") {
  Lab lab;
  lab.begin();
  lab.epoch = 4;
  lab.tick(4 * kSecond);
  lab.get(lab.refused(wire::REFUSED_NO_SESSION));
  CHECK(all<HostSession::Lost>(lab.last).empty());
  CHECK(lab.host.phase() == Phase::normal);
  const auto hellos = lab.sent(LinkType::hello);
  REQUIRE(hellos.size() == 1);
  lab.session = 1;
  lab.get(lab.welcome(hellos[0]));
  const auto began = all<HostSession::Began>(lab.last);
  REQUIRE(began.size() == 1);
  CHECK(began[0].epoch == 4);
  CHECK(began[0].reclaim);
  LinkMessage late = lab.notice(1);
  late.epoch = 3; // of the coordinator before
  CHECK(all<HostSession::Told>(lab.get(late)).empty());
}

TEST_CASE("a coordinator of the same reign that knows no such session has given everything away") {
  Lab lab;
  lab.begin();
  lab.get(lab.refused(wire::REFUSED_NO_SESSION));
  CHECK(all<HostSession::Lost>(lab.last).size() == 1);
  lab.session = 5;
  lab.get(lab.welcome(lab.sent(LinkType::hello).at(0)));
  CHECK_FALSE(all<HostSession::Began>(lab.last).at(0).reclaim);
}

TEST_CASE("who is revoked or superseded has ended for good") {
  for (const auto reason : {wire::REFUSED_REVOKED, wire::REFUSED_SUPERSEDED}) {
    Lab lab;
    lab.begin();
    lab.get(lab.refused(reason));
    CHECK(all<HostSession::Lost>(lab.last).size() == 1);
    REQUIRE(all<HostSession::Ended>(lab.last).size() == 1);
    CHECK(all<HostSession::Ended>(lab.last)[0].reason == reason);
    CHECK(lab.host.phase() == Phase::ended);
    CHECK_FALSE(lab.host.deadline_ns());
    CHECK(lab.tick(100 * kSecond).empty());
  }
}

TEST_CASE("a host whose key another machine uses asks again until it gets a session") {
  Lab lab;
  lab.hello();
  wire::Refused refused;
  refused.set_reason(wire::REFUSED_ELSEWHERE);
  refused.set_incarnation(77);
  refused.set_greeting(1);
  lab.get({LinkType::refused, 0, lab.epoch, 0, 0, refused.SerializeAsString()});
  CHECK(lab.host.is_elsewhere());
  CHECK(lab.host.phase() == Phase::away);
  lab.tick(10 * kSecond);
  const auto hellos = lab.sent(LinkType::hello);
  REQUIRE(hellos.size() == 1);
  lab.session = 5;
  lab.get(lab.welcome(hellos[0]));
  CHECK_FALSE(lab.host.is_elsewhere());
  CHECK(lab.host.phase() == Phase::normal);
}

TEST_CASE("a refusal of something long ago ends nothing") {
  Lab lab;
  lab.begin();
  LinkMessage old = lab.refused(wire::REFUSED_REVOKED);
  old.session = 9;
  lab.get(old);
  CHECK(lab.host.phase() == Phase::normal);
  lab.get(lab.refused(wire::REFUSED_ENDING)); // it is going to be back
  CHECK(lab.host.phase() == Phase::normal);
}

TEST_CASE("who is connected anew greets, renews and asks at once") {
  Lab lab;
  lab.hello();
  CHECK(lab.tick(1).empty());
  lab.step(HostSession::Connected{});
  REQUIRE(lab.sent(LinkType::hello).size() == 1);
  lab.session = 1;
  lab.get(lab.welcome(lab.sent(LinkType::hello)[0]));
  wire::LinkRequest request;
  lab.step(HostSession::Ask{request});
  lab.step(HostSession::Connected{});
  CHECK(lab.sent(LinkType::renew).size() == 1);
  CHECK(lab.sent(LinkType::request).size() == 1);
}

// ---- requests ----

wire::LinkRequest status_request() {
  wire::LinkRequest request;
  request.mutable_control()->mutable_status();
  return request;
}

wire::LinkRequest asked(const LinkMessage& message) {
  wire::LinkRequest request;
  REQUIRE(request.ParseFromString(message.payload));
  return request;
}

TEST_CASE("a request is asked until it is answered, and answered once") {
  Lab lab;
  lab.begin();
  lab.step(HostSession::Ask{status_request()});
  REQUIRE(lab.sent(LinkType::request).size() == 1);
  CHECK(asked(lab.sent(LinkType::request)[0]).id() == 1);
  CHECK_FALSE(asked(lab.sent(LinkType::request)[0]).again());
  lab.tick(4 * kSecond);
  REQUIRE(lab.sent(LinkType::request).size() == 1);
  CHECK(asked(lab.sent(LinkType::request)[0]).again());
  wire::LinkReply reply;
  reply.set_id(1);
  const LinkMessage answer = lab.say(LinkType::reply, reply.SerializeAsString());
  CHECK(all<HostSession::Answer>(lab.get(answer)).size() == 1);
  CHECK(all<HostSession::Answer>(lab.get(lab.say(LinkType::reply, reply.SerializeAsString()))).empty());
  CHECK(lab.tick(3 * kSecond).size() <= 1);
  CHECK(lab.sent(LinkType::request).empty());
}

TEST_CASE("a request waits for a session, and goes on in the next one under its id") {
  Lab lab;
  lab.step(HostSession::Ask{status_request()});
  CHECK(lab.sent(LinkType::request).empty());
  lab.begin();
  REQUIRE(lab.sent(LinkType::request).size() == 1);
  lab.epoch = 4;
  lab.get(lab.refused(wire::REFUSED_NO_SESSION));
  ++lab.session;
  lab.sequence = 0;
  lab.get(lab.welcome(lab.sent(LinkType::hello).at(0)));
  REQUIRE(lab.sent(LinkType::request).size() == 1);
  CHECK(asked(lab.sent(LinkType::request)[0]).id() == 1);
  CHECK(asked(lab.sent(LinkType::request)[0]).again());
}

TEST_CASE("a request says which answers have come") {
  Lab lab;
  lab.begin();
  for (int i = 0; i < 3; ++i) lab.step(HostSession::Ask{status_request()});
  for (const std::uint64_t id : {1U, 3U}) {
    wire::LinkReply reply;
    reply.set_id(id);
    lab.get(lab.say(LinkType::reply, reply.SerializeAsString()));
  }
  lab.step(HostSession::Ask{status_request()});
  CHECK(asked(lab.sent(LinkType::request).at(0)).settled() == 2);
}

TEST_CASE("answers that came while an earlier request is open are told of until a renewal has said so") {
  Lab lab;
  lab.begin();
  for (int i = 0; i < 3; ++i) lab.step(HostSession::Ask{status_request()});
  for (const std::uint64_t id : {2U, 3U}) {
    wire::LinkReply reply;
    reply.set_id(id);
    lab.get(lab.say(LinkType::reply, reply.SerializeAsString()));
  }
  lab.step(HostSession::Ask{status_request()});
  CHECK(asked(lab.sent(LinkType::request).at(0)).settled() == 1);
  CHECK(asked(lab.sent(LinkType::request).at(0)).answered_size() == 2);
  lab.tick(4 * kSecond);
  const LinkMessage message = lab.sent(LinkType::renew).at(0);
  wire::Renew renew;
  REQUIRE(renew.ParseFromString(message.payload));
  CHECK(renew.settled() == 1);
  CHECK(renew.answered_size() == 2);
  lab.get(lab.renewed(message));
  lab.tick(4 * kSecond);
  REQUIRE(renew.ParseFromString(lab.sent(LinkType::renew).at(0).payload));
  CHECK(renew.answered_size() == 0);
}

TEST_CASE("when a link ends what became of its requests is not known") {
  Lab lab;
  lab.begin();
  lab.step(HostSession::Ask{status_request()});
  lab.step(HostSession::Close{});
  CHECK(lab.sent(LinkType::goodbye).size() == 1);
  const auto answers = all<HostSession::Answer>(lab.last);
  REQUIRE(answers.size() == 1);
  CHECK(answers[0].reply.error().kind() == wire::ERROR_NO_ANSWER);
  lab.step(HostSession::Ask{status_request()}); // nothing was asked for
  CHECK(all<HostSession::Answer>(lab.last).at(0).reply.error().kind() == wire::ERROR_FAILED);
}

TEST_CASE("only so many requests are open at once") {
  Lab lab;
  lab.begin();
  for (std::size_t i = 0; i < HostSession::kMaxOpen; ++i) lab.step(HostSession::Ask{status_request()});
  CHECK(all<HostSession::Answer>(lab.last).empty());
  lab.step(HostSession::Ask{status_request()});
  CHECK(all<HostSession::Answer>(lab.last).at(0).reply.error().kind() == wire::ERROR_BUSY);
}

// ---- notices ----

TEST_CASE("notices are handed on in order, once each, and only then acknowledged") {
  Lab lab;
  lab.begin();
  const auto taken = [&] {
    wire::Taken message;
    REQUIRE(message.ParseFromString(lab.sent(LinkType::taken).at(0).payload));
    return message.number();
  };
  lab.get(lab.notice(2)); // the first was lost
  CHECK(all<HostSession::Told>(lab.last).empty());
  CHECK(taken() == 0);
  lab.get(lab.notice(1));
  CHECK(all<HostSession::Told>(lab.last).size() == 1);
  lab.get(lab.notice(2));
  CHECK(taken() == 2);
  lab.get(lab.notice(1)); // again, because its acknowledgement was lost
  CHECK(all<HostSession::Told>(lab.last).empty());
  CHECK(taken() == 2);
}

TEST_CASE("a renewal says by which generation the host works") {
  Lab lab;
  lab.begin();
  lab.step(HostSession::WorksBy{38});
  lab.tick(4 * kSecond);
  wire::Renew renew;
  REQUIRE(renew.ParseFromString(lab.sent(LinkType::renew).at(0).payload));
  CHECK(renew.generation() == 38);
}

} // namespace
} // namespace vsnap
