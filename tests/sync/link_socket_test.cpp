// The socket of a link, where nobody listens.
#include "sync/link_socket.h"

#include <cstring>

#include "tests/support/catch.h"

using namespace vsnap;

TEST_CASE("a link goes on connecting at short intervals, however long its coordinator is away") {
  zmq::context_t context;
  zmq::socket_t nobody(context, ZMQ_STREAM); // has a port that refuses connections once it is closed
  nobody.bind("tcp://127.0.0.1:*");
  const std::string address = nobody.get(zmq::sockopt::last_endpoint);
  nobody.unbind(address);

  auto link = LinkSocket::open(context, Env::real(), {address, new_key_pair().public_key, new_key_pair()});
  REQUIRE(link);
  // In place of the monitor of its own. The value of that event is the pause before the next attempt, in ms.
  REQUIRE(::zmq_socket_monitor(link->socket_item().socket, "inproc://retries", ZMQ_EVENT_CONNECT_RETRIED) ==
          0);
  zmq::socket_t retries(context, ZMQ_PAIR);
  retries.set(zmq::sockopt::rcvtimeo, 20'000);
  retries.connect("inproc://retries");
  for (int attempt = 0; attempt < 5; ++attempt) {
    zmq::message_t event, endpoint;
    REQUIRE(retries.recv(event));
    REQUIRE(retries.recv(endpoint));
    std::uint32_t pause_ms = 0;
    REQUIRE(event.size() == sizeof(std::uint16_t) + sizeof pause_ms);
    std::memcpy(&pause_ms, static_cast<const char*>(event.data()) + sizeof(std::uint16_t), sizeof pause_ms);
    REQUIRE(pause_ms < 200);
  }
}
