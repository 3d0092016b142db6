#include "sync/link_socket.h"

#include <fmt/format.h>
#include <cstring>
#include <vector>

#include "sync/link_options.h"

namespace vsnap {
namespace {

// The pause before each attempt to connect, and up to as much again by chance. It never grows: a coordinator
// that has been away for most of a lease is to be found before the rest is over, as volumes lapse then.
constexpr int kReconnect_ms = 100;
// Of one attempt. The kernel asks again after pauses that double, up to a minute: after a network that was
// gone for long a new attempt finds it sooner.
constexpr int kConnect_ms = 1000;
constexpr int kEvents =
    ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_DISCONNECTED;

} // namespace

Result<LinkSocket> LinkSocket::open(zmq::context_t& context, Env& env, const Options& options) {
  try {
    LinkSocket made(context);
    zmq::socket_t& socket = made.socket_;
    const auto set_key = [&](auto option, const HostKey& key) {
      socket.set(option, zmq::const_buffer(key.data(), key.size()));
    };
    set_key(zmq::sockopt::curve_serverkey, options.server_key);
    set_key(zmq::sockopt::curve_publickey, options.own.public_key);
    set_key(zmq::sockopt::curve_secretkey, options.own.secret_key);
    // Of this connection alone, and known to nobody else: whoever had it could take over what is sent there.
    const std::string route = to_string(env.random_uuid());
    socket.set(zmq::sockopt::routing_id, route);
    socket.set(zmq::sockopt::immediate, true); // nothing waits for a connection, and is old when there is one
    link_options::set(socket, static_cast<std::int64_t>(link_message::kMaxToHost + 4096));
    socket.set(zmq::sockopt::reconnect_ivl, kReconnect_ms);
    socket.set(zmq::sockopt::connect_timeout, kConnect_ms);
    socket.set(zmq::sockopt::ipv6, true); // and names that stand for either
    const std::string monitor = "inproc://vsnap.link." + route;
    if (::zmq_socket_monitor(socket.handle(), monitor.c_str(), kEvents) != 0) throw zmq::error_t();
    made.monitor_.set(zmq::sockopt::linger, 0);
    made.monitor_.connect(monitor);
    socket.connect(options.address);
    return made;
  } catch (const zmq::error_t& e) {
    return failure(ErrorKind::failed, e.num(), fmt::format("{}: {}", options.address, e.what()));
  }
}

bool LinkSocket::send(const LinkMessage& message) {
  const auto flags = zmq::send_flags::dontwait;
  const auto more = [&](bool is_last) { return is_last ? flags : flags | zmq::send_flags::sndmore; };
  if (!socket_.send(zmq::buffer(link_message::encode(message)), more(message.frames.empty()))) return false;
  for (std::size_t i = 0; i < message.frames.size(); ++i)
    socket_.send(zmq::buffer(message.frames[i]), more(i + 1 == message.frames.size()));
  return true;
}

LinkSocket::Heard LinkSocket::receive(LinkMessage& message) {
  std::vector<zmq::message_t> parts;
  for (bool more = true; more;) {
    zmq::message_t part;
    const auto flags = parts.empty() ? zmq::recv_flags::dontwait : zmq::recv_flags::none;
    if (!socket_.recv(part, flags)) return Heard::nothing;
    more = part.more();
    if (parts.size() <= link_message::kMaxFrames + 1) parts.push_back(std::move(part));
  }
  std::vector<std::string_view> views;
  for (const zmq::message_t& part : parts) views.push_back(part.to_string_view());
  auto decoded = link_message::decode(views);
  if (!decoded) return Heard::malformed;
  message = std::move(*decoded);
  return Heard::message;
}

LinkSocket::Shake LinkSocket::handshake() {
  Shake last = Shake::nothing;
  for (;;) {
    zmq::message_t event;
    if (!monitor_.recv(event, zmq::recv_flags::dontwait)) return last;
    std::uint16_t number = 0;
    if (event.size() >= sizeof number) std::memcpy(&number, event.data(), sizeof number);
    while (event.more()) { // the address
      if (!monitor_.recv(event, zmq::recv_flags::none)) break;
    }
    // Of a refusal the end of the connection says nothing new.
    if (number == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) last = Shake::succeeded;
    if (number == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) last = Shake::refused;
    if (number == ZMQ_EVENT_DISCONNECTED && last != Shake::refused) last = Shake::disconnected;
  }
}

} // namespace vsnap
