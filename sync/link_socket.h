// A host's connection to a coordinator: a ZeroMQ socket that speaks CURVE under one of the host's keys, and
// what libzmq says of its handshake.
//
// Threads: owned by one thread.
#pragma once

#include <optional>
#include <string>
#include <zmq.hpp>

#include "core/env.h"
#include "core/host.h"
#include "sync/curve_key.h"
#include "sync/link_message.h"

namespace vsnap {

class LinkSocket {
 public:
  struct Options {
    std::string address;
    HostKey server_key{};
    KeyPair own;
  };
  // Connects, now or as soon as it can. Kind failed: libzmq refuses the address.
  static Result<LinkSocket> open(zmq::context_t& context, Env& env, const Options& options);

  // False: it cannot be taken now (not connected, or too much is waiting), and is not sent.
  bool send(const LinkMessage& message);
  enum class Heard { nothing, message, malformed };
  Heard receive(LinkMessage& message); // does not wait
  // What became of the handshake since the last call.
  enum class Shake { nothing, succeeded, refused, disconnected };
  Shake handshake(); // does not wait

  // For zmq::poll: both are to be looked at when either is readable.
  [[nodiscard]] zmq::pollitem_t socket_item() { return {socket_.handle(), 0, ZMQ_POLLIN, 0}; }
  [[nodiscard]] zmq::pollitem_t monitor_item() { return {monitor_.handle(), 0, ZMQ_POLLIN, 0}; }

 private:
  LinkSocket(zmq::context_t& context) : socket_(context, ZMQ_DEALER), monitor_(context, ZMQ_PAIR) {}

  zmq::socket_t socket_;
  zmq::socket_t monitor_;
};

} // namespace vsnap
