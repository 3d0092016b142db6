// The coordinator's side of membership, as a machine: what of hosts' messages counts, and how long leases
// last.
#include "sync/membership.h"

#include <algorithm>

#include "tests/support/catch.h"

namespace vsnap {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kLease = 10 * kSecond;

HostKey key(std::uint8_t number) {
  HostKey made{};
  made.fill(number);
  return made;
}

// A host as the machine sees it: what it sends is right unless a test changes it.
struct Guest {
  HostKey its_key;
  std::string route;
  std::uint64_t incarnation = 77;
  std::string boot_id = {};
  std::uint64_t greeting = 1;
  std::uint64_t epoch = 3;
  std::uint64_t session = 0;
  std::uint64_t sequence = 0;

  [[nodiscard]] LinkPeer peer() const { return {its_key, route, "10.0.0.2"}; }
  [[nodiscard]] LinkMessage hello() const {
    wire::Hello message;
    message.set_incarnation(incarnation);
    message.set_greeting(greeting);
    message.set_boot_id(boot_id);
    return {LinkType::hello, 0, 0, 0, 1, message.SerializeAsString()};
  }
  LinkMessage next(LinkType type, const std::string& payload) {
    return {type, 0, epoch, session, ++sequence, payload};
  }
  LinkMessage renew(std::uint64_t taken = 0, std::uint64_t generation = 0) {
    wire::Renew message;
    message.set_taken(taken);
    message.set_generation(generation);
    return next(LinkType::renew, message.SerializeAsString());
  }
  LinkMessage request(std::uint64_t id, std::uint64_t settled = 0) {
    wire::LinkRequest message;
    message.set_id(id);
    message.set_settled(settled);
    message.mutable_control()->mutable_status();
    return next(LinkType::request, message.SerializeAsString());
  }
};

template <class Action>
std::vector<Action> all(const Membership::Actions& actions) {
  std::vector<Action> found;
  for (const auto& action : actions) {
    if (const auto* one = std::get_if<Action>(&action)) found.push_back(*one);
  }
  return found;
}

template <class Message>
Message parsed(const LinkMessage& message) {
  Message out;
  REQUIRE(out.ParseFromString(message.payload));
  return out;
}

struct Pool2 { // two hosts and their coordinator
  Membership machine{{3, kLease, "lab", Uuid{1, 2, 3}}};
  Guest beta{key(1), "route-b"};
  Guest gamma{key(2), "route-c"};
  std::int64_t now = 1000 * kSecond;
  Membership::Actions last;

  Pool2() {
    step(Membership::HostAdded{{1, "beta", key(1), 0}});
    step(Membership::HostAdded{{2, "gamma", key(2), 0}});
    step(Membership::GenerationIs{40});
  }
  Membership::Actions step(const Membership::Event& event) { return last = machine.step(event, now); }
  Membership::Actions get(const Guest& from, const LinkMessage& message) {
    return step(Membership::Received{from.peer(), message});
  }
  void begin(Guest& guest) {
    get(guest, guest.hello());
    const auto sent = all<Membership::Send>(last);
    REQUIRE_FALSE(sent.empty());
    REQUIRE(sent.back().message.type == LinkType::welcome);
    guest.session = sent.back().message.session;
    guest.sequence = 0;
  }
  // In steps, as a coordinator that runs does.
  void pass(std::int64_t ns) {
    for (; ns > 0; ns -= kSecond) {
      now += std::min(ns, kSecond);
      for (const auto& action : machine.step(Membership::Tick{}, now)) over.push_back(action);
    }
  }
  HostStatus status(const std::string& name) const {
    for (const HostStatus& host : machine.status(now)) {
      if (host.host.name == name) return host;
    }
    FAIL("no such host");
    return {};
  }
  wire::RefusalReason refusal() const {
    const auto sent = all<Membership::Send>(last);
    REQUIRE(sent.size() == 1);
    REQUIRE(sent[0].message.type == LinkType::refused);
    return parsed<wire::Refused>(sent[0].message).reason();
  }
  Membership::Actions over; // of the ticks of pass()
};

TEST_CASE("a hello is answered with epoch, session, generation and lease") {
  Pool2 pool;
  const auto actions = pool.get(pool.beta, pool.beta.hello());
  const auto sent = all<Membership::Send>(actions);
  REQUIRE(sent.size() == 1);
  CHECK(sent[0].route == "route-b");
  CHECK(sent[0].message.type == LinkType::welcome);
  CHECK(sent[0].message.epoch == 3);
  CHECK(sent[0].message.session != 0);
  const auto welcome = parsed<wire::Welcome>(sent[0].message);
  CHECK(welcome.incarnation() == 77);
  CHECK(welcome.hello() == 1);
  CHECK(welcome.generation() == 40);
  CHECK(welcome.lease_ns() == kLease);
  REQUIRE(all<Membership::SessionBegan>(actions).size() == 1);
  CHECK(all<Membership::SessionBegan>(actions)[0].host == 1);
  CHECK(pool.status("beta").state == HostStatus::State::live);
  CHECK(pool.status("beta").address == "10.0.0.2");
  CHECK(pool.status("gamma").state == HostStatus::State::away);
}

TEST_CASE("a hello that is repeated gets the same session") {
  Pool2 pool;
  pool.begin(pool.beta);
  const std::uint64_t first = pool.beta.session;
  pool.pass(2 * kSecond);
  pool.begin(pool.beta);
  CHECK(pool.beta.session == first);
  CHECK(all<Membership::SessionBegan>(pool.last).empty());
}

TEST_CASE("the lease lasts five per cent longer here than the host is told") {
  Pool2 pool;
  pool.begin(pool.beta);
  const std::int64_t ends = kLease + kLease / 20;
  CHECK(pool.status("beta").lease_left_ns == ends);
  CHECK(pool.machine.deadline_ns() == pool.now + ends);
  pool.pass(ends - 1);
  CHECK(all<Membership::SessionOver>(pool.over).empty());
  pool.pass(1);
  const auto over = all<Membership::SessionOver>(pool.over);
  REQUIRE(over.size() == 1);
  CHECK(over[0].why == Membership::End::lost);
  CHECK(over[0].session == pool.beta.session);
  CHECK(pool.status("beta").state == HostStatus::State::lost);
  CHECK_FALSE(pool.machine.deadline_ns());
}

TEST_CASE("a renewal counts from when it was received, and other messages renew nothing") {
  Pool2 pool;
  pool.begin(pool.beta);
  pool.pass(9 * kSecond);
  const auto actions = pool.get(pool.beta, pool.beta.renew(0, 38));
  const auto sent = all<Membership::Send>(actions);
  REQUIRE(sent.size() == 1);
  CHECK(parsed<wire::Renewed>(sent[0].message).renew() == 1);
  CHECK(pool.status("beta").lease_left_ns == kLease + kLease / 20);
  CHECK(pool.status("beta").lag == 2);
  pool.pass(5 * kSecond);
  pool.get(pool.beta, pool.beta.request(1));
  CHECK(pool.status("beta").lease_left_ns == kLease + kLease / 20 - 5 * kSecond);
}

TEST_CASE("a message after the lease has run out is refused even before anybody looked") {
  Pool2 pool;
  pool.begin(pool.beta);
  for (int i = 0; i < 6; ++i) { // nothing but another host's messages
    pool.now += 2 * kSecond;
    pool.get(pool.gamma, pool.gamma.hello());
  }
  pool.get(pool.beta, pool.beta.renew());
  CHECK(all<Membership::SessionOver>(pool.last).size() == 1);
  CHECK(pool.status("beta").session == 0);
  CHECK(pool.status("beta").refused.session == 1);
}

TEST_CASE("doubled and reordered messages are refused and counted, and change nothing") {
  Pool2 pool;
  pool.begin(pool.beta);
  const LinkMessage first = pool.beta.renew(0, 1);
  const LinkMessage second = pool.beta.renew(0, 2);
  pool.get(pool.beta, second);
  CHECK(all<Membership::Send>(pool.get(pool.beta, second)).empty());
  CHECK(all<Membership::Send>(pool.get(pool.beta, first)).empty());
  CHECK(pool.status("beta").refused.sequence == 2);
  CHECK(pool.status("beta").lag == 38); // what the first said would make it 39
}

TEST_CASE("a message of another epoch or session is refused, and its sender is told") {
  Pool2 pool;
  pool.begin(pool.beta);
  LinkMessage old_reign = pool.beta.renew();
  old_reign.epoch = 2;
  pool.get(pool.beta, old_reign);
  CHECK(pool.refusal() == wire::REFUSED_NO_SESSION);
  pool.pass(kSecond);
  LinkMessage old_session = pool.beta.renew();
  old_session.session += 1;
  pool.get(pool.beta, old_session);
  CHECK(pool.refusal() == wire::REFUSED_NO_SESSION);
  CHECK(pool.status("beta").refused.epoch == 1);
  CHECK(pool.status("beta").refused.session == 1);
  CHECK_FALSE(all<Membership::Send>(pool.get(pool.beta, pool.beta.renew())).empty());
}

TEST_CASE("one host cannot speak in the session of another") {
  Pool2 pool;
  pool.begin(pool.beta);
  pool.begin(pool.gamma);
  Guest thief = pool.gamma;
  thief.session = pool.beta.session;
  pool.get(thief, thief.renew(0, 40));
  CHECK(pool.refusal() == wire::REFUSED_NO_SESSION);
  CHECK(pool.status("gamma").refused.session == 1);
  CHECK(pool.status("beta").refused.total() == 0);
}

TEST_CASE("what is for one host never goes where another was heard last") {
  Pool2 pool;
  pool.begin(pool.beta);
  Guest thief = pool.gamma;
  thief.route = pool.beta.route;
  pool.begin(thief);
  pool.step(Membership::Tell{1, {}});
  CHECK(all<Membership::Send>(pool.last).empty());
  pool.beta.route = "another"; // it connects again
  pool.get(pool.beta, pool.beta.renew());
  for (const auto& sent : all<Membership::Send>(pool.last)) CHECK(sent.route == "another");
}

TEST_CASE("a new incarnation ends the session of the one before, which does not come back") {
  Pool2 pool;
  pool.begin(pool.beta);
  Guest again = pool.beta;
  again.incarnation = 78;
  again.route = "route-b2";
  pool.get(again, again.hello());
  const auto over = all<Membership::SessionOver>(pool.last);
  REQUIRE(over.size() == 1);
  CHECK(over[0].why == Membership::End::superseded);
  const auto sent = all<Membership::Send>(pool.last);
  REQUIRE(sent.size() == 2);
  CHECK(sent[0].route == "route-b");
  CHECK(parsed<wire::Refused>(sent[0].message).reason() == wire::REFUSED_SUPERSEDED);
  CHECK(sent[1].message.session != pool.beta.session);

  pool.get(pool.beta, pool.beta.renew()); // of the old session
  CHECK(pool.refusal() == wire::REFUSED_NO_SESSION);
  pool.pass(kSecond);
  pool.beta.greeting = 9;
  pool.get(pool.beta, pool.beta.hello());
  CHECK(pool.refusal() == wire::REFUSED_SUPERSEDED);
  CHECK(pool.status("beta").session == sent[1].message.session);
}

TEST_CASE("while a host's lease lasts another machine gets no session under its key") {
  Pool2 pool;
  pool.beta.boot_id = "one";
  pool.begin(pool.beta);
  Guest copy = pool.beta;
  copy.incarnation = 78;
  copy.route = "route-b2";
  copy.boot_id = "another";
  const auto is_refused = [&] {
    pool.get(copy, copy.hello());
    CHECK(all<Membership::SessionOver>(pool.last).empty());
    return pool.refusal() == wire::REFUSED_ELSEWHERE;
  };
  CHECK(is_refused());
  pool.pass(kLease / 2);
  pool.get(pool.beta, pool.beta.renew()); // it is alive, and goes on
  REQUIRE(all<Membership::Send>(pool.last).size() == 1);
  CHECK(all<Membership::Send>(pool.last)[0].message.type == LinkType::renewed);
  pool.pass(kLease);
  CHECK(is_refused());
  CHECK(pool.over.empty());
  pool.pass(kSecond);
  REQUIRE(all<Membership::SessionOver>(pool.over).size() == 1);
  CHECK(all<Membership::SessionOver>(pool.over)[0].why == Membership::End::lost);
  pool.begin(copy);
  CHECK(pool.status("beta").session == copy.session);
}

TEST_CASE("a machine's boot id that is too long is no message of ours") {
  Pool2 pool;
  pool.beta.boot_id.assign(Membership::kMaxBootId + 1, 'x');
  CHECK(all<Membership::Send>(pool.get(pool.beta, pool.beta.hello())).empty());
  CHECK(pool.status("beta").refused.malformed == 1);
  pool.beta.boot_id.pop_back();
  pool.begin(pool.beta);
}

TEST_CASE("another machine gets a session under a host's key once that one has left") {
  Pool2 pool;
  pool.beta.boot_id = "one";
  pool.begin(pool.beta);
  pool.get(pool.beta, pool.beta.next(LinkType::goodbye, {}));
  Guest anew = pool.beta; // the same one, started anew
  anew.incarnation = 78;
  anew.boot_id = "another";
  pool.begin(anew);
  Guest next = anew; // the next process there
  next.incarnation = 79;
  pool.begin(next);
  CHECK(pool.status("beta").session == next.session);
}

TEST_CASE("a host that lost its lease asks anew in the same incarnation, and an older hello is nothing") {
  Pool2 pool;
  pool.begin(pool.beta);
  const std::uint64_t first = pool.beta.session;
  const LinkMessage old_hello = pool.beta.hello();
  pool.beta.greeting = 2;
  pool.begin(pool.beta);
  CHECK(pool.beta.session != first);
  CHECK(all<Membership::SessionOver>(pool.last).front().why == Membership::End::anew);
  CHECK(pool.get(pool.beta, old_hello).empty());
  CHECK(pool.status("beta").session == pool.beta.session);
}

TEST_CASE("a revoked host loses its session at once, is told, and is refused from then on") {
  Pool2 pool;
  pool.begin(pool.beta);
  pool.step(Membership::HostRevoked{key(1)});
  CHECK(pool.refusal() == wire::REFUSED_REVOKED);
  CHECK(all<Membership::SessionOver>(pool.last).front().why == Membership::End::revoked);
  CHECK(pool.machine.host_of(key(1)) == nullptr);
  pool.pass(kSecond);
  pool.get(pool.beta, pool.beta.renew());
  CHECK(pool.refusal() == wire::REFUSED_REVOKED);
  pool.pass(kSecond);
  pool.beta.greeting = 2;
  pool.get(pool.beta, pool.beta.hello());
  CHECK(pool.refusal() == wire::REFUSED_REVOKED);
  CHECK(pool.machine.refused_strangers() == 2);
}

TEST_CASE("a goodbye ends the session in order") {
  Pool2 pool;
  pool.begin(pool.beta);
  pool.get(pool.beta, pool.beta.next(LinkType::goodbye, {}));
  CHECK(all<Membership::SessionOver>(pool.last).front().why == Membership::End::left);
  CHECK(pool.status("beta").state == HostStatus::State::left);
}

TEST_CASE("a flood of refused messages is counted and answered now and then") {
  Pool2 pool;
  pool.begin(pool.beta);
  pool.beta.session += 5;
  std::size_t answers = 0;
  for (int i = 0; i < 1000; ++i) {
    pool.now += 1'000'000; // a millisecond
    answers += all<Membership::Send>(pool.get(pool.beta, pool.beta.renew())).size();
  }
  CHECK(pool.status("beta").refused.session == 1000);
  CHECK(answers <= 51);
  pool.step(Membership::Malformed{key(1)});
  CHECK(pool.status("beta").refused.malformed == 1);
}

// ---- the clock ----

TEST_CASE("a coordinator that stood still takes no lease away for that time") {
  Pool2 pool;
  pool.begin(pool.beta);
  pool.pass(2 * kSecond);
  pool.now += 3600 * kSecond; // suspended, or stopped
  CHECK(all<Membership::SessionOver>(pool.step(Membership::Tick{})).empty());
  CHECK_FALSE(all<Membership::Send>(pool.get(pool.beta, pool.beta.renew())).empty());
  CHECK(pool.status("beta").session == pool.beta.session);
}

TEST_CASE("a clock that goes back ends no lease early and prolongs none") {
  Pool2 pool;
  pool.begin(pool.beta);
  pool.pass(2 * kSecond);
  const std::int64_t before = pool.now;
  pool.now -= 100 * kSecond;
  pool.step(Membership::Tick{});
  CHECK(pool.machine.deadline_ns() == before - 2 * kSecond + kLease + kLease / 20);
  pool.now = before;
  pool.pass(kLease + kLease / 20 - 2 * kSecond);
  CHECK(all<Membership::SessionOver>(pool.over).size() == 1);
}

// ---- requests ----

TEST_CASE("a request is carried out once, and its answer is told again to who repeats it") {
  Pool2 pool;
  pool.begin(pool.beta);
  const auto asked = all<Membership::Execute>(pool.get(pool.beta, pool.beta.request(1)));
  REQUIRE(asked.size() == 1);
  CHECK(asked[0].host.name == "beta");
  CHECK_FALSE(asked[0].request.again());
  CHECK(pool.get(pool.beta, pool.beta.request(1)).empty()); // it is running
  wire::LinkReply reply;
  reply.set_id(1);
  reply.mutable_control()->mutable_done();
  REQUIRE(all<Membership::Send>(pool.step(Membership::Answered{1, 77, reply})).size() == 1);
  const auto repeated = pool.get(pool.beta, pool.beta.request(1));
  CHECK(all<Membership::Execute>(repeated).empty());
  REQUIRE(all<Membership::Send>(repeated).size() == 1);
  CHECK(parsed<wire::LinkReply>(all<Membership::Send>(repeated)[0].message).control().has_done());
}

TEST_CASE("a request is known again in the next session of the same process, not in another process") {
  Pool2 pool;
  pool.begin(pool.beta);
  pool.get(pool.beta, pool.beta.request(1));
  pool.beta.greeting = 2;
  pool.begin(pool.beta);
  wire::LinkReply reply;
  reply.set_id(1);
  pool.step(Membership::Answered{1, 77, reply});
  CHECK(all<Membership::Execute>(pool.get(pool.beta, pool.beta.request(1))).empty());
  CHECK(all<Membership::Send>(pool.last).size() == 1);
  pool.beta.incarnation = 78;
  pool.begin(pool.beta);
  CHECK(all<Membership::Execute>(pool.get(pool.beta, pool.beta.request(1))).size() == 1);
  CHECK(pool.step(Membership::Answered{1, 77, reply}).empty()); // of the process before
}

TEST_CASE("answers that the host has are forgotten, and requests that it settled are refused") {
  Pool2 pool;
  pool.begin(pool.beta);
  for (std::uint64_t id = 1; id <= 3 * Membership::kMaxRecords; ++id) {
    REQUIRE(all<Membership::Execute>(pool.get(pool.beta, pool.beta.request(id, id))).size() == 1);
    wire::LinkReply reply;
    reply.set_id(id);
    pool.step(Membership::Answered{1, 77, reply});
  }
  CHECK(pool.get(pool.beta, pool.beta.request(5)).empty());
  CHECK(pool.status("beta").refused.other == 1);
}

TEST_CASE("a request that takes long keeps no others from being asked") {
  Pool2 pool;
  pool.begin(pool.beta);
  REQUIRE(all<Membership::Execute>(pool.get(pool.beta, pool.beta.request(1))).size() == 1); // not answered
  for (std::uint64_t id = 2; id <= 3 * Membership::kMaxRecords; ++id) {
    wire::LinkRequest message;
    message.set_id(id);
    message.set_settled(1);
    if (id > 2) message.add_answered(id - 1);
    const auto asked = pool.get(pool.beta, pool.beta.next(LinkType::request, message.SerializeAsString()));
    REQUIRE(all<Membership::Execute>(asked).size() == 1);
    wire::LinkReply reply;
    reply.set_id(id);
    pool.step(Membership::Answered{1, 77, reply});
  }
  CHECK(pool.get(pool.beta, pool.beta.request(1)).empty()); // it is still running
}

TEST_CASE("a host that claims answers it cannot have gets nothing carried out twice, nor more at once") {
  Pool2 pool;
  pool.begin(pool.beta);
  std::size_t running = 0;
  for (std::uint64_t id = 1; id <= 10 * Membership::kMaxRunning; ++id) {
    wire::LinkRequest message;
    message.set_id(id);
    message.set_settled(id % 2 == 0 ? id : 0);
    for (std::uint64_t claimed = 1; claimed <= id; ++claimed) message.add_answered(claimed);
    for (int twice = 0; twice < 2; ++twice) {
      pool.get(pool.beta, pool.beta.next(LinkType::request, message.SerializeAsString()));
      running += all<Membership::Execute>(pool.last).size();
    }
  }
  CHECK(running == Membership::kMaxRunning);
  wire::LinkReply reply;
  reply.set_id(1);
  CHECK(all<Membership::Send>(pool.step(Membership::Answered{1, 77, reply})).empty());
}

TEST_CASE("a host has only so many requests running, and the rest is busy") {
  Pool2 pool;
  pool.begin(pool.beta);
  std::size_t running = 0;
  for (std::uint64_t id = 1; id <= Membership::kMaxRunning + 3; ++id)
    running += all<Membership::Execute>(pool.get(pool.beta, pool.beta.request(id))).size();
  CHECK(running == Membership::kMaxRunning);
  const auto sent = all<Membership::Send>(pool.last);
  REQUIRE(sent.size() == 1);
  CHECK(parsed<wire::LinkReply>(sent[0].message).error().kind() == wire::ERROR_BUSY);
  for (std::uint64_t id = 100; id < 100 + 10 * Membership::kMaxRecords; ++id)
    CHECK(all<Membership::Execute>(pool.get(pool.beta, pool.beta.request(id))).empty());
}

TEST_CASE("an answer that is too large to keep is made again") {
  Pool2 pool;
  pool.begin(pool.beta);
  pool.get(pool.beta, pool.beta.request(1));
  wire::LinkReply large;
  large.set_id(1);
  large.mutable_error()->set_message(std::string(Membership::kMaxKeptReply, 'x'));
  pool.step(Membership::Answered{1, 77, large});
  const auto again = all<Membership::Execute>(pool.get(pool.beta, pool.beta.request(1)));
  REQUIRE(again.size() == 1);
  CHECK(again[0].request.again());
}

// ---- notices ----

TEST_CASE("notices are numbered, and sent until they are taken") {
  Pool2 pool;
  pool.begin(pool.beta);
  pool.begin(pool.gamma);
  for (int i = 0; i < 3; ++i) pool.step(Membership::Tell{1, {}});
  CHECK(parsed<wire::Notice>(all<Membership::Send>(pool.last)[0].message).number() == 3);
  wire::Taken taken;
  taken.set_number(1);
  pool.get(pool.beta, pool.beta.next(LinkType::taken, taken.SerializeAsString()));
  pool.pass(4 * kSecond);
  pool.get(pool.beta, pool.beta.renew(2));
  std::vector<std::uint64_t> numbers;
  for (const auto& sent : all<Membership::Send>(pool.last)) {
    if (sent.message.type == LinkType::notice) numbers.push_back(parsed<wire::Notice>(sent.message).number());
  }
  CHECK(numbers == std::vector<std::uint64_t>{3});
  pool.step(Membership::Tell{0, {}});
  CHECK(all<Membership::Send>(pool.last).size() == 2); // both hosts
}

TEST_CASE("a host that takes no notices loses its session before they fill the memory") {
  Pool2 pool;
  pool.begin(pool.beta);
  for (std::size_t i = 0; i < Membership::kMaxUntaken; ++i) pool.step(Membership::Tell{1, {}});
  CHECK(pool.status("beta").session != 0);
  pool.step(Membership::Tell{1, {}});
  CHECK(all<Membership::SessionOver>(pool.last).front().why == Membership::End::evicted);
  CHECK(pool.status("beta").session == 0);
}

TEST_CASE("a host cannot have taken what it was not told") {
  Pool2 pool;
  pool.begin(pool.beta);
  wire::Taken taken;
  taken.set_number(5);
  pool.get(pool.beta, pool.beta.next(LinkType::taken, taken.SerializeAsString()));
  CHECK(pool.status("beta").refused.malformed == 1);
}

} // namespace
} // namespace vsnap
