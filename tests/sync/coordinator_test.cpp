// Hosts and their coordinator over real sockets on loopback.
#include "sync/coordinator.h"

#include <future>
#include <zmq.hpp>

#include "core/wait_listener.h"
#include "sync/host_workers.h"
#include "sync/link_socket.h"
#include "tests/core/refusal.h"
#include "tests/support/catch.h"
#include "tests/sync/shared_lab.h"
#include "tests/sync/slow_pool.h"

namespace vsnap {
namespace {

using namespace std::chrono_literals;
using test::becomes;
using test::is_live;
using test::SharedLab;

class Notes final : public LinkListener {
 public:
  void phase_is(HostSession::Phase phase) override {
    MutexLock lock(mutex_);
    phases_.push_back(phase);
  }
  void session_began(const HostSession::Began& session) override {
    MutexLock lock(mutex_);
    sessions_.push_back(session);
  }
  void session_lost() override { ++lost; }
  void ended(wire::RefusalReason reason) override { end = reason; }
  void told(const wire::Notice& notice) override {
    if (notice.has_generation()) generation = notice.generation();
  }
  std::vector<HostSession::Began> sessions() {
    MutexLock lock(mutex_);
    return sessions_;
  }
  std::atomic<int> lost{0};
  std::atomic<int> end{-1};
  std::atomic<std::uint64_t> generation{0};

 private:
  Mutex mutex_;
  std::vector<HostSession::Phase> phases_;
  std::vector<HostSession::Began> sessions_;
};

wire::ControlRequest creation_of(const std::string& name) {
  wire::ControlRequest request;
  request.mutable_create_volume()->set_name(name);
  request.mutable_create_volume()->set_size_bytes(1 << 20);
  return request;
}

TEST_CASE_METHOD(SharedLab, "a host comes in by its invitation, gets a session, and renews its lease") {
  const KeyPair own = joined("beta");
  CHECK(host("beta").state() == wire::HOST_AWAY);
  const auto link = this->link(own);
  REQUIRE(is_live(*link));
  CHECK(link->status().epoch == coordinator->epoch());
  CHECK(host("beta").state() == wire::HOST_LIVE);
  CHECK(host("beta").session() == link->status().session);
  CHECK(host("beta").address() == "127.0.0.1");
  const std::uint64_t session = link->status().session;
  std::uint64_t left_ns = host("beta").lease_left_ns();
  for (int renewals = 0; renewals < 3; ++renewals) {
    REQUIRE(becomes([&] { return std::exchange(left_ns, host("beta").lease_left_ns()) < left_ns; }));
  }
  CHECK(host("beta").session() == session);
  CHECK(host("beta").refused_session() + host("beta").refused_sequence() == 0);
  link->stop();
  CHECK(becomes([&] { return host("beta").state() == wire::HOST_LEFT; }));
}

TEST_CASE_METHOD(SharedLab, "an invitation lets one host in, and the same one again") {
  const InvitationToken token = invite();
  const KeyPair own = new_key_pair();
  CHECK(join_pool(Env::real(), token, own, "beta", 20s).value() == "beta");
  CHECK(join_pool(Env::real(), token, own, "beta", 20s).value() == "beta"); // as if the answer had been lost
  const auto other = join_pool(Env::real(), token, new_key_pair(), "gamma", 20s);
  CHECK(refusal(other).errno_value == EACCES);
  CHECK(hosts().hosts_size() == 1);
}

TEST_CASE_METHOD(SharedLab, "an invitation with a name gives that one, and a name is there once") {
  CHECK(join_pool(Env::real(), invite("beta"), new_key_pair(), "else", 20s).value() == "beta");
  const InvitationToken token = invite();
  CHECK(refusal(join_pool(Env::real(), token, new_key_pair(), "beta", 20s)).errno_value == EEXIST);
  CHECK(refusal(join_pool(Env::real(), token, new_key_pair(), "../x", 20s)).kind == ErrorKind::usage);
  CHECK(join_pool(Env::real(), token, new_key_pair(), "gamma", 20s).has_value()); // it was not used up
}

TEST_CASE_METHOD(SharedLab, "an invitation that has expired lets nobody in") {
  const InvitationToken token = invite({}, 1'000'000);
  std::this_thread::sleep_for(20ms);
  env.jump_wall_clock(3'600'000'000'000);
  CHECK(refusal(join_pool(Env::real(), token, new_key_pair(), "beta", 20s)).errno_value == EACCES);
  CHECK(hosts().hosts_size() == 0);
}

TEST_CASE_METHOD(SharedLab, "who is not known to the pool is not let in") {
  const auto stranger = link(new_key_pair());
  CHECK(becomes([&] { return stranger->status().is_refused; }));
  CHECK(stranger->status().session == 0);
  CHECK(hosts().refused_at_gate() > 0);
}

TEST_CASE_METHOD(SharedLab, "a host does not talk to another server than the one that invited it") {
  InvitationToken token = invite();
  token.server_key = new_key_pair().public_key;
  CHECK(refusal(join_pool(Env::real(), token, new_key_pair(), "beta", 500ms)).kind == ErrorKind::no_answer);
  CHECK(hosts().hosts(0).state() == wire::HOST_INVITED);
}

TEST_CASE_METHOD(SharedLab, "a revoked host loses its session at once, and does not come back") {
  const KeyPair own = joined("beta");
  Notes notes;
  const auto link = this->link(own, &notes);
  REQUIRE(is_live(*link));
  CHECK(revoke("beta").hosts().hosts_size() == 1);
  CHECK(hosts().hosts_size() == 0);
  CHECK(becomes([&] { return notes.end == wire::REFUSED_REVOKED; }));
  CHECK(notes.lost == 1);
  const auto again = this->link(own);
  CHECK(becomes([&] { return again->status().is_refused; }));
  CHECK(pool->hosts()->hosts.empty());
}

TEST_CASE_METHOD(SharedLab, "who is connected when it is revoked is refused with the next message") {
  const KeyPair own = joined("beta");
  zmq::context_t context;
  auto socket = LinkSocket::open(context, Env::real(), {address, server_key.public_key, own});
  REQUIRE(socket.has_value());
  REQUIRE(becomes([&] { return socket->handshake() == LinkSocket::Shake::succeeded; }));
  revoke("beta");
  const LinkMessage message{LinkType::renew, 0, coordinator->epoch(), 1, 1, {}};
  REQUIRE(becomes([&] { return socket->send(message); }));
  LinkMessage got;
  REQUIRE(becomes([&] { return socket->receive(got) == LinkSocket::Heard::message; }));
  CHECK(got.type == LinkType::refused);
  CHECK(hosts().refused_strangers() == 1);
}

TEST_CASE_METHOD(SharedLab, "a host that is silent loses its session, also where nothing else happens") {
  const KeyPair own = joined("beta");
  zmq::context_t context;
  auto socket = LinkSocket::open(context, Env::real(), {address, server_key.public_key, own});
  REQUIRE(socket.has_value());
  wire::Hello hello;
  hello.set_incarnation(1);
  const LinkMessage message{LinkType::hello, 0, 0, 0, 1, hello.SerializeAsString()};
  REQUIRE(becomes([&] { return socket->send(message); }));
  CHECK(becomes([&] { return host("beta").state() == wire::HOST_LIVE; }));
  CHECK(becomes([&] { return host("beta").state() == wire::HOST_LOST; }));
}

TEST_CASE_METHOD(SharedLab, "a second process of a host takes the place of the first") {
  const KeyPair own = joined("beta");
  Notes notes;
  const auto first = link(own, &notes);
  REQUIRE(is_live(*first));
  const auto second = link(own);
  REQUIRE(is_live(*second));
  CHECK(becomes([&] { return notes.end == wire::REFUSED_SUPERSEDED; }));
  CHECK(host("beta").session() == second->status().session);
}

TEST_CASE_METHOD(SharedLab, "configuration commands of a host are carried out by the coordinator") {
  const auto link = this->link(joined("beta"));
  const auto made = link->control(creation_of("vm1"), 20s);
  REQUIRE(made.has_value());
  CHECK(made->view().name().volume() == "vm1");
  CHECK(pool->find({"vm1", {}}).has_value());
  wire::ControlRequest hosts_of;
  hosts_of.mutable_list_hosts();
  CHECK(link->control(hosts_of, 20s)->hosts().hosts_size() == 1);
  const auto again = link->control(creation_of("vm1"), 20s); // an error of the pool is its answer
  REQUIRE(again.has_value());
  CHECK(again->has_error());
}

TEST_CASE_METHOD(SharedLab, "what only the coordinator's own host may ask for is refused to others") {
  const auto link = this->link(joined("beta"));
  const auto refused = [&](const auto& fill) {
    wire::ControlRequest request;
    fill(request);
    const auto reply = link->control(request, 20s);
    return reply.has_value() && reply->error().kind() == wire::ERROR_USAGE;
  };
  CHECK(refused([](auto& r) { r.mutable_shutdown(); }));
  CHECK(refused([](auto& r) { r.mutable_upgrade()->set_program("/bin/true"); }));
  CHECK(refused([](auto& r) { r.mutable_add_member()->set_path("/etc/passwd"); }));
  CHECK(refused([](auto& r) { r.mutable_adopt()->set_path("/etc/passwd"); }));
  CHECK(refused([](auto& r) { r.mutable_dump_catalog()->set_path("/tmp/x"); }));
  CHECK(refused([](auto& r) { r.mutable_invite_host()->set_valid_ns(1); }));
  CHECK(refused([](auto& r) { r.mutable_revoke_host()->set_name("beta"); }));
  CHECK(refused([](auto&) {}));
}

TEST_CASE_METHOD(SharedLab, "a host hears of each new state of the catalog") {
  Notes notes;
  const auto link = this->link(joined("beta"), &notes);
  REQUIRE(is_live(*link));
  REQUIRE(pool->create_volume("vm1", 1 << 20).has_value());
  CHECK(becomes([&] { return notes.generation == pool->generation(); }));
  link->works_by(pool->generation() - 1);
  CHECK(becomes([&] { return host("beta").lag() == 1; }));
}

TEST_CASE_METHOD(SharedLab, "a coordinator that comes back has a higher epoch, and hosts go on with it") {
  Notes notes;
  const auto link = this->link(joined("beta"), &notes);
  REQUIRE(is_live(*link));
  const std::uint64_t before = coordinator->epoch();
  restart();
  CHECK(coordinator->epoch() > before);
  REQUIRE(becomes([&] { return notes.sessions().size() == 2; }));
  CHECK(notes.sessions()[1].epoch == coordinator->epoch());
  CHECK(link->control(creation_of("vm1"), 20s)->has_view());
}

TEST_CASE_METHOD(SharedLab, "a request that its coordinator did not live to answer is carried out once") {
  const auto link = this->link(joined("beta"));
  REQUIRE(is_live(*link));
  coordinator.reset();
  auto reply = std::async(std::launch::async, [&] { return link->control(creation_of("vm1"), 20s); });
  std::this_thread::sleep_for(50ms);
  start();
  const auto made = reply.get();
  REQUIRE(made.has_value());
  CHECK(made->has_view());
}

TEST_CASE_METHOD(SharedLab, "without a coordinator a host loses its lease and what it has with it") {
  Notes notes;
  const auto link = this->link(joined("beta"), &notes);
  REQUIRE(is_live(*link));
  coordinator.reset();
  CHECK(becomes([&] { return notes.lost == 1; }));
  CHECK(link->status().phase == HostSession::Phase::away);
  CHECK(refusal(link->control(creation_of("vm1"), 50ms)).kind == ErrorKind::no_answer);
}

TEST_CASE_METHOD(SharedLab, "what is no message of ours is counted and does no harm") {
  const KeyPair own = joined("beta");
  zmq::context_t context;
  zmq::socket_t socket = raw_socket(context, own);
  socket.send(zmq::str_buffer("hello"), zmq::send_flags::none);
  socket.send(zmq::message_t(), zmq::send_flags::none);
  for (int i = 0; i < 200; ++i) socket.send(zmq::str_buffer("x"), zmq::send_flags::sndmore);
  socket.send(zmq::str_buffer("x"), zmq::send_flags::none);
  CHECK(becomes([&] { return host("beta").refused_malformed() == 3; }));
  socket.send(zmq::message_t(link_message::kMaxToCoordinator + 1), zmq::send_flags::none); // is cut off
  const auto link = this->link(own);
  CHECK(is_live(*link));
}

TEST_CASE_METHOD(SharedLab, "many hosts have sessions and ask at the same time") {
  std::vector<std::unique_ptr<Link>> links;
  for (int i = 0; i < 12; ++i) links.push_back(link(joined("host" + std::to_string(i))));
  std::vector<std::future<bool>> answers;
  for (std::size_t i = 0; i < links.size(); ++i) {
    answers.push_back(std::async(std::launch::async, [&, i] {
      const auto reply = links[i]->control(creation_of("vm" + std::to_string(i)), 20s);
      return reply.has_value() && reply->has_view();
    }));
  }
  for (auto& answer : answers) CHECK(answer.get());
  CHECK(hosts().hosts_size() == 12);
}

// Commands and reads that last until the test lets them end.
struct BusyLab : SharedLab {
  enum Read : std::uint64_t { at_once, waits_in_core, lasts };
  test::SlowPool slow{*pool};
  std::atomic<int> waiting{0};

  BusyLab() {
    create("v", kMiB);
    coordinator.reset();
    const auto serve = [this](const HostInfo&, const wire::LinkRequest& request) {
      if (request.read().view() == waits_in_core) {
        const Waits waits;
        ++waiting;
        static_cast<void>(becomes([this] { return slow.release.load(); }));
      } else if (request.read().view() == lasts) {
        ++waiting;
        static_cast<void>(becomes([this] { return slow.release.load(); }));
      }
      wire::LinkReply reply;
      reply.mutable_read();
      return reply;
    };
    auto started =
        Coordinator::start(slow, Env::real(), {address, server_key, lease_ns, true, serve, nullptr});
    REQUIRE(started.has_value());
    coordinator = std::move(*started);
  }
  ~BusyLab() {
    slow.release = true;
    coordinator.reset();
  }
  void ask(Link& link, wire::ControlRequest command) {
    wire::LinkRequest request;
    command.set_version(wire::kProtocolVersion);
    *request.mutable_control() = std::move(command);
    link.call(std::move(request), [](const wire::LinkReply&) {});
  }
  void ask_for_many(Link& link, const wire::ControlRequest& command) {
    for (std::size_t i = 0; i < Membership::kMaxRunning - 2; ++i) ask(link, command);
  }
  static wire::LinkRequest read(Read how) {
    wire::LinkRequest request;
    request.mutable_read()->set_view(how);
    return request;
  }
};

TEST_CASE_METHOD(BusyLab, "reads of hosts go on while commands last, and so do short commands of others") {
  const auto beta = link(joined("beta"));
  const auto gamma = link(joined("gamma"));
  wire::ControlRequest flatten;
  flatten.mutable_flatten()->set_volume("v");
  ask_for_many(*beta, flatten);
  REQUIRE(becomes([&] { return slow.under_way > 1; }));
  for (int i = 0; i < 20; ++i) {
    for (Link* const link : {beta.get(), gamma.get()}) {
      const auto reply = link->call(read(at_once), 20s);
      REQUIRE(reply.has_value());
      REQUIRE(reply->has_read());
    }
  }
  const auto made = gamma->control(creation_of("vm1"), 20s);
  REQUIRE(made.has_value());
  CHECK(made->has_view());
  CHECK(slow.under_way < static_cast<int>(HostWorkers::kMaxLasting));
  CHECK_FALSE(slow.release);
}

TEST_CASE_METHOD(BusyLab, "a command that only waits takes the place of none that does something") {
  const auto beta = link(joined("beta"));
  wire::ControlRequest wait;
  wait.mutable_wait_copy()->mutable_name()->set_volume("v");
  ask_for_many(*beta, wait);
  REQUIRE(becomes([&] { return slow.under_way == static_cast<int>(Membership::kMaxRunning - 2); }));
  const auto made = beta->control(creation_of("vm1"), 20s);
  REQUIRE(made.has_value());
  CHECK(made->has_view());
}

TEST_CASE_METHOD(BusyLab, "a read that waits in core takes the place of no other") {
  const auto beta = link(joined("beta"));
  const int many = static_cast<int>(Membership::kMaxRunning - 2);
  for (int i = 0; i < many; ++i) beta->call(read(waits_in_core), [](const wire::LinkReply&) {});
  REQUIRE(becomes([&] { return waiting == many; }));
  const auto reply = beta->call(read(at_once), 20s);
  REQUIRE(reply.has_value());
  CHECK(reply->has_read());
}

// All may wait for the volume to be returned, and that for this.
TEST_CASE_METHOD(BusyLab, "what a host hands over is taken while it has all under way that it may") {
  const auto beta = link(joined("beta"));
  const auto gamma = link(joined("gamma"));
  const int busy = static_cast<int>(HostWorkers::kMaxBusy);
  const auto fill = [&](Link& link, int all) { // the last place is for a host that has nothing under way
    for (std::size_t i = 0; i < Membership::kMaxRunning; ++i)
      link.call(read(lasts), [](const wire::LinkReply&) {});
    return becomes([&] { return waiting == all; });
  };
  REQUIRE(fill(*beta, busy - 1));
  REQUIRE(fill(*gamma, busy));
  wire::LinkRequest request;
  request.mutable_commit_blocks()->set_number(1);
  const auto reply = beta->call(request, 5s);
  REQUIRE(reply.has_value());
  CHECK(reply->has_read());
  CHECK_FALSE(slow.release);
}

} // namespace
} // namespace vsnap
