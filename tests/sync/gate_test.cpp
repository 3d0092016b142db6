// Nobody comes in through a guarded socket but those that the gate admits: not with another key, not without
// one, and not while there is no gate.
#include "sync/gate.h"

#include <atomic>
#include <zmq.hpp>

#include "sync/link_socket.h"
#include "tests/support/catch.h"
#include "tests/sync/shared_lab.h"

namespace vsnap {
namespace {

using namespace std::chrono_literals;
using test::becomes;

struct Server {
  KeyPair key = new_key_pair();
  zmq::context_t context;
  std::unique_ptr<Gate> gate;
  zmq::socket_t socket{context, ZMQ_ROUTER};

  void open_gate(Gate::Admits admits) {
    auto started = Gate::start(context, std::move(admits));
    REQUIRE(started.has_value());
    gate = std::move(*started);
  }
  void bind() {
    socket.set(zmq::sockopt::linger, 0);
    socket.set(zmq::sockopt::handshake_ivl, 500);
    socket.bind("tcp://127.0.0.1:*");
  }
  [[nodiscard]] std::string address() const { return socket.get(zmq::sockopt::last_endpoint); }

  // What came of a message that a client with that key sends: its key, if the server got it.
  std::optional<HostKey> heard_of(const KeyPair& client, std::chrono::milliseconds longest) {
    zmq::context_t other;
    auto opened = LinkSocket::open(other, Env::real(), {address(), key.public_key, client});
    REQUIRE(opened.has_value());
    const LinkMessage message{LinkType::hello, 0, 0, 0, 1, "x"};
    const auto end = std::chrono::steady_clock::now() + longest;
    while (std::chrono::steady_clock::now() < end) {
      static_cast<void>(opened->send(message));
      zmq::message_t route;
      zmq::message_t body;
      zmq::pollitem_t items[] = {{socket.handle(), 0, ZMQ_POLLIN, 0}};
      zmq::poll(items, 1, 10ms);
      if (!socket.recv(route, zmq::recv_flags::dontwait)) continue;
      REQUIRE(socket.recv(body, zmq::recv_flags::none));
      return Gate::key_of(body).value_or(HostKey{});
    }
    return std::nullopt;
  }
};

TEST_CASE("the gate admits by the key, and the key goes with each message") {
  Server server;
  const KeyPair known = new_key_pair();
  server.open_gate([&](const HostKey& key, const std::string& address) {
    return key == known.public_key && address == "127.0.0.1";
  });
  REQUIRE(Gate::guard(server.socket, server.key).has_value());
  server.bind();
  CHECK(server.heard_of(known, 20s) == known.public_key);
  CHECK_FALSE(server.heard_of(new_key_pair(), 700ms).has_value());
  CHECK(server.heard_of(known, 20s) == known.public_key);
}

TEST_CASE("with a dead gate nobody gets in") {
  Server server;
  const KeyPair known = new_key_pair();
  server.open_gate([&](const HostKey& key, const std::string&) { return key == known.public_key; });
  REQUIRE(Gate::guard(server.socket, server.key).has_value());
  server.bind();
  REQUIRE(server.heard_of(known, 20s).has_value());
  server.gate.reset();
  CHECK_FALSE(server.heard_of(known, 700ms).has_value());
  CHECK_FALSE(server.heard_of(new_key_pair(), 700ms).has_value());
}

// Why the domain has to be enforced, and that the test above would see it if it were not.
TEST_CASE("libzmq by itself lets any key in where there is no gate") {
  for (const bool with_domain : {false, true}) {
    Server server;
    server.socket.set(zmq::sockopt::curve_server, 1);
    server.socket.set(zmq::sockopt::curve_secretkey,
                      zmq::const_buffer(server.key.secret_key.data(), server.key.secret_key.size()));
    if (with_domain) server.socket.set(zmq::sockopt::zap_domain, "vsnap");
    server.bind();
    CHECK(server.heard_of(new_key_pair(), 20s).has_value());
  }
}

TEST_CASE("a gate that does not answer lets nobody in") {
  Server server;
  std::atomic<bool> stuck{true};
  std::atomic<int> asked{0};
  server.open_gate([&](const HostKey&, const std::string&) {
    ++asked;
    while (stuck) std::this_thread::sleep_for(1ms);
    return true;
  });
  REQUIRE(Gate::guard(server.socket, server.key).has_value());
  server.bind();
  CHECK_FALSE(server.heard_of(new_key_pair(), 700ms).has_value());
  CHECK(asked > 0);
  stuck = false;
}

TEST_CASE("who speaks without encryption gets nowhere") {
  Server server;
  server.open_gate([](const HostKey&, const std::string&) { return true; });
  REQUIRE(Gate::guard(server.socket, server.key).has_value());
  server.bind();
  zmq::context_t other;
  zmq::socket_t plain(other, ZMQ_DEALER);
  plain.set(zmq::sockopt::linger, 0);
  plain.connect(server.address());
  plain.send(zmq::str_buffer("x"), zmq::send_flags::dontwait);
  zmq::pollitem_t items[] = {{server.socket.handle(), 0, ZMQ_POLLIN, 0}};
  CHECK(zmq::poll(items, 1, 500ms) == 0);
}

} // namespace
} // namespace vsnap
