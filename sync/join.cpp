#include "sync/join.h"

#include <fmt/format.h>

#include "sync/link_socket.h"
#include "sync/sharing.pb.h"
#include "sync/wire.h"

namespace vsnap {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kAskEvery(500);

struct Asked {
  enum class By { answer, gate, time } ended_by = By::time;
  wire::Joined joined = {}; // of an answer
};

// Asks under a key until there is an answer, the gate refuses that key, or time is up.
Result<Asked> ask(Env& env, const InvitationToken& token, const KeyPair& by, const LinkMessage& message,
                  milliseconds longest) {
  zmq::context_t context(1);
  VSNAP_TRY_ASSIGN(LinkSocket socket, LinkSocket::open(context, env, {token.address, token.server_key, by}));
  const std::int64_t end_ns = env.monotonic_ns() + std::chrono::nanoseconds(longest).count();
  std::int64_t ask_at_ns = 0;
  for (;;) {
    const std::int64_t now_ns = env.monotonic_ns();
    if (now_ns >= end_ns) return Asked{};
    if (now_ns >= ask_at_ns)
      ask_at_ns =
          now_ns + std::chrono::nanoseconds(socket.send(message) ? kAskEvery : milliseconds(20)).count();
    const std::chrono::nanoseconds wait(std::min(ask_at_ns, end_ns) - now_ns);
    zmq::pollitem_t items[] = {socket.socket_item(), socket.monitor_item()};
    zmq::poll(items, 2, std::chrono::ceil<milliseconds>(wait));
    if (socket.handshake() == LinkSocket::Shake::refused) return Asked{Asked::By::gate, {}};
    LinkMessage got;
    Asked asked{Asked::By::answer, {}};
    const bool is_answer = socket.receive(got) == LinkSocket::Heard::message;
    if (is_answer && got.type == LinkType::refused) return Asked{Asked::By::gate, {}};
    if (is_answer && got.type == LinkType::joined && asked.joined.ParseFromString(got.payload)) return asked;
  }
}

Failure not_in(const InvitationToken& token) {
  return failure(ErrorKind::failed, EACCES,
                 fmt::format("{0}: {1} lets nobody in by this token: it has expired, or was used (vsnap host "
                             "invite {0}, there, makes another)",
                             token.pool, token.address));
}

} // namespace

Result<std::string> join_pool(Env& env, const InvitationToken& token, const KeyPair& own,
                              const std::string& name, milliseconds longest) {
  wire::Join join;
  join.set_key(own.public_key.data(), own.public_key.size());
  join.set_name(name);
  join.set_version(VSNAP_VERSION);
  const LinkMessage message{LinkType::join, 0, 0, 0, 1, join.SerializeAsString()};
  Asked asked;
  try {
    VSNAP_TRY_ASSIGN(asked, ask(env, token, key_pair_of(token.secret_key), message, longest));
    const bool was_used = asked.ended_by == Asked::By::gate || asked.joined.error().errno_value() == EACCES;
    if (was_used) { // perhaps by this host
      VSNAP_TRY_ASSIGN(asked, ask(env, token, own, message, longest));
    }
  } catch (const zmq::error_t& e) {
    return system_failure(e.num(), token.address);
  }
  if (asked.ended_by == Asked::By::gate) return not_in(token);
  if (asked.ended_by == Asked::By::time) {
    return failure(ErrorKind::no_answer,
                   fmt::format("{}: no answer from {} within {} s: whether this host is in is not known "
                               "(the same command can be repeated)",
                               token.pool, token.address,
                               std::chrono::duration_cast<std::chrono::seconds>(longest).count()));
  }
  if (asked.joined.has_error()) return Failure(wire::from_wire(asked.joined.error()));
  if (asked.joined.pool_uuid() != std::string(token.pool_uuid.begin(), token.pool_uuid.end()))
    return failure(ErrorKind::failed, EPROTO,
                   fmt::format("{}: {} has another pool", token.pool, token.address));
  return asked.joined.name();
}

} // namespace vsnap
