// A small pool in memory with a coordinator over real sockets on loopback, and hosts that come in.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>
#include <zmq.hpp>

#include "core/mutex.h"
#include "sync/coordinator.h"
#include "sync/invitation_token.h"
#include "sync/join.h"
#include "sync/link.h"
#include "sync/wire.h"
#include "tests/core/small_pool.h"

namespace vsnap::test {

inline bool becomes(const std::function<bool()>& condition) {
  using Clock = std::chrono::steady_clock;
  for (const auto end = Clock::now() + std::chrono::seconds(20); Clock::now() < end;) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

struct SharedLab : SmallPool {
  KeyPair server_key = new_key_pair();
  std::int64_t lease_ns = 3'000'000'000;
  std::unique_ptr<Coordinator> coordinator;
  std::string address = "tcp://127.0.0.1:0";

  SharedLab() {
    env.jump_wall_clock(Env::real().wall_clock_ns() -
                        env.wall_clock_ns()); // the coordinator has the real one
    start();
  }
  void start() {
    auto started = Coordinator::start(*pool, Env::real(), {address, server_key, lease_ns, true});
    INFO((started ? "" : started.error().message));
    REQUIRE(started.has_value());
    coordinator = std::move(*started);
    REQUIRE(becomes([&] { return !coordinator->address().ends_with(":0"); }));
    address = coordinator->address(); // the same after a restart
  }
  void restart() {
    coordinator.reset();
    start();
  }

  wire::ControlReply ask(wire::ControlRequest request) {
    request.set_version(wire::kProtocolVersion);
    auto reply = coordinator->answer(request);
    REQUIRE(reply.has_value());
    return *reply;
  }
  InvitationToken invite(const std::string& name = {}, std::int64_t valid_ns = 3'600'000'000'000) {
    wire::ControlRequest request;
    request.mutable_invite_host()->set_name(name);
    request.mutable_invite_host()->set_valid_ns(valid_ns);
    const auto reply = ask(request);
    REQUIRE(reply.has_invitation());
    const auto token = invitation_token::from_text(reply.invitation().token());
    REQUIRE(token.has_value());
    return *token;
  }
  KeyPair joined(const std::string& name) {
    KeyPair own = new_key_pair();
    const auto in = join_pool(Env::real(), invite(), own, name, std::chrono::seconds(20));
    INFO((in ? "" : in.error().message));
    REQUIRE(in.has_value());
    return own;
  }
  wire::HostList hosts() {
    wire::ControlRequest request;
    request.mutable_list_hosts();
    return ask(request).hosts();
  }
  wire::HostEntry host(const std::string& name) {
    const wire::HostList list = hosts();
    for (const wire::HostEntry& entry : list.hosts()) {
      if (entry.name() == name) return entry;
    }
    return {};
  }
  wire::ControlReply revoke(const std::string& name) {
    wire::ControlRequest request;
    request.mutable_revoke_host()->set_name(name);
    return ask(request);
  }
  // Connected under that key, for whatever is to be sent.
  zmq::socket_t raw_socket(zmq::context_t& context, const KeyPair& own) {
    zmq::socket_t socket(context, ZMQ_DEALER);
    const auto set_key = [&](auto option, const HostKey& key) {
      socket.set(option, zmq::const_buffer(key.data(), key.size()));
    };
    set_key(zmq::sockopt::curve_serverkey, server_key.public_key);
    set_key(zmq::sockopt::curve_publickey, own.public_key);
    set_key(zmq::sockopt::curve_secretkey, own.secret_key);
    socket.set(zmq::sockopt::linger, 0);
    socket.connect(address);
    return socket;
  }
  std::unique_ptr<Link> link(const KeyPair& own, LinkListener* listener = nullptr) {
    const Uuid uuid = pool->status().uuid;
    auto started = Link::start(Env::real(), {"lab", uuid, address, server_key.public_key, own}, listener);
    REQUIRE(started.has_value());
    return std::move(*started);
  }
};

inline bool is_live(Link& link) {
  return becomes([&] { return link.status().phase == HostSession::Phase::normal; });
}

} // namespace vsnap::test
