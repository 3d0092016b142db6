// Hosts that have a key of their own, and do with the connection what they like: what they send is refused
// and counted, the memory that they take is bounded, and others do not notice.
#include <fstream>
#include <thread>
#include <zmq.hpp>

#include "sync/link_socket.h"
#include "tests/support/catch.h"
#include "tests/sync/shared_lab.h"

namespace vsnap {
namespace {

using namespace std::chrono_literals;
using test::becomes;
using test::is_live;

constexpr std::size_t kLargeReply = 256 << 10; // more than is kept for who asks again

// 0 where a sanitizer keeps what was freed.
std::int64_t resident_bytes() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return 0;
#endif
  std::int64_t all = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> all >> resident;
  return resident * 4096;
}

// Whatever a host reads is large.
struct HostileLab : test::SharedLab {
  zmq::context_t context;
  KeyPair own = joined("beta");
  std::unique_ptr<Link> gamma;
  std::atomic<int> served{0};

  HostileLab() {
    coordinator.reset();
    const auto serve = [this](const HostInfo&, const wire::LinkRequest&) {
      wire::LinkReply reply;
      ++served;
      reply.mutable_read()->set_data(std::string(kLargeReply, 'x'));
      return reply;
    };
    auto started =
        Coordinator::start(*pool, Env::real(), {address, server_key, lease_ns, true, serve, nullptr});
    REQUIRE(started.has_value());
    coordinator = std::move(*started);
    gamma = link(joined("gamma"));
    REQUIRE(is_live(*gamma));
  }
  LinkSocket link_socket() {
    auto opened = LinkSocket::open(context, Env::real(), {address, server_key.public_key, own});
    REQUIRE(opened.has_value());
    return std::move(*opened);
  }
  void others_go_on() {
    for (int i = 0; i < 20; ++i) {
      wire::LinkRequest read;
      read.mutable_read();
      const auto reply = gamma->call(std::move(read), 20s);
      REQUIRE(reply.has_value());
      REQUIRE(reply->read().data().size() == kLargeReply);
    }
    CHECK(gamma->status().phase == HostSession::Phase::normal);
  }
};

// Its session, from its own Hello, without a Link that would do the rest in order.
LinkMessage greeted(LinkSocket& socket) {
  wire::Hello hello;
  hello.set_incarnation(7);
  hello.set_greeting(1);
  LinkMessage message{.type = LinkType::hello, .sequence = 1, .payload = hello.SerializeAsString()};
  REQUIRE(becomes([&] { return socket.send(message); }));
  LinkMessage welcome;
  REQUIRE(becomes([&] {
    return socket.receive(welcome) == LinkSocket::Heard::message && welcome.type == LinkType::welcome;
  }));
  return welcome;
}

TEST_CASE_METHOD(HostileLab, "a host that floods the coordinator with what is no message hinders no other") {
  const std::int64_t before = resident_bytes();
  std::atomic<bool> stop{false};
  std::thread flood([&] {
    zmq::socket_t socket = raw_socket(context, own);
    while (!stop) {
      if (!socket.send(zmq::str_buffer("no message of ours, and many"), zmq::send_flags::dontwait))
        std::this_thread::sleep_for(100us); // as fast as it is taken
    }
  });
  CHECK(becomes([&] { return host("beta").refused_malformed() > 5000; }));
  others_go_on();
  stop = true;
  flood.join();
  CHECK(resident_bytes() - before < 256 << 20);
  const auto link = this->link(own);
  CHECK(is_live(*link)); // and it may come in as any other
}

TEST_CASE_METHOD(HostileLab, "messages of other epochs and sessions are refused however many there are") {
  LinkSocket socket = link_socket();
  LinkMessage message = greeted(socket);
  message.type = LinkType::request;
  message.payload = wire::LinkRequest().SerializeAsString();
  const auto send = [&](std::uint64_t epoch, std::uint64_t session, std::uint64_t sequence) {
    LinkMessage wrong = message;
    wrong.epoch = epoch;
    wrong.session = session;
    wrong.sequence = sequence;
    REQUIRE(becomes([&] { return socket.send(wrong); }));
  };
  constexpr std::uint64_t kMany = 1000;
  send(message.epoch, message.session, 2);
  for (std::uint64_t i = 0; i < kMany; ++i) {
    send(message.epoch + 1, message.session, 3 + i);
    send(message.epoch, message.session + 5, 3 + i);
    send(message.epoch, message.session, 2); // has been there
  }
  CHECK(becomes([&] { return host("beta").refused_epoch() == kMany; }));
  CHECK(becomes([&] { return host("beta").refused_session() == kMany; }));
  CHECK(becomes([&] { return host("beta").refused_sequence() == kMany; }));
  LinkMessage heard;
  std::uint64_t told = 0;
  while (socket.receive(heard) != LinkSocket::Heard::nothing) told += heard.type == LinkType::refused;
  CHECK(told < kMany); // now and then
  others_go_on();
}

TEST_CASE_METHOD(HostileLab, "a host that reads no answer takes no more memory than waits for one") {
  LinkSocket socket = link_socket();
  LinkMessage message = greeted(socket);
  message.type = LinkType::request;
  message.sequence = 1;
  const std::int64_t before = resident_bytes();
  constexpr int kAnswers = 3000;
  CHECK(becomes([&] {
    for (int i = 0; i < 50; ++i) {
      wire::LinkRequest read;
      read.set_id(message.sequence++);
      read.set_settled(read.id() - std::min<std::uint64_t>(read.id(), 100)); // so it says
      read.mutable_read();
      message.payload = read.SerializeAsString();
      static_cast<void>(socket.send(message));
    }
    return served > kAnswers;
  }));
  others_go_on();
  // What waits here and at its own end of the connection.
  CHECK(resident_bytes() - before < kAnswers * static_cast<std::int64_t>(kLargeReply) / 2);
}

} // namespace
} // namespace vsnap
