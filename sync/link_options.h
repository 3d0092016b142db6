// What the sockets at both ends of a link have in common, beside their keys (gate.h, link_socket.h).
#pragma once

#include <cstdint>
#include <zmq.hpp>

namespace vsnap::link_options {

inline constexpr int kQueuedMessages = 256; // a host
inline constexpr int kHandshake_ms = 5000;  // longest
inline constexpr int kHeartbeat_ms = 2000;  // of ZeroMQ: finds a connection that is dead; renews no lease
inline constexpr int kHeartbeatLimit_ms = 6000;
inline constexpr int kLinger_ms = 500; // for what is said last

// `max_message`: bytes that the other end may send at once. Throws zmq::error_t.
inline void set(zmq::socket_t& socket, std::int64_t max_message) {
  socket.set(zmq::sockopt::maxmsgsize, max_message);
  socket.set(zmq::sockopt::handshake_ivl, kHandshake_ms);
  socket.set(zmq::sockopt::heartbeat_ivl, kHeartbeat_ms);
  socket.set(zmq::sockopt::heartbeat_timeout, kHeartbeatLimit_ms);
  socket.set(zmq::sockopt::sndhwm, kQueuedMessages);
  socket.set(zmq::sockopt::rcvhwm, kQueuedMessages);
  socket.set(zmq::sockopt::linger, kLinger_ms);
}

} // namespace vsnap::link_options
