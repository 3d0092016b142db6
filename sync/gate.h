// Who may connect: answers libzmq's questions about the keys of clients (ZAP, RFC 27) in one context.
//
// A CURVE server asks nobody, and lets any key in, where there is neither a handler nor a domain that is
// enforced; so the order is: Gate first, then guard() each socket, then bind it.
//
// Invariants
// 1. From start() on the handler answers; a guarded socket of the context lets nobody in whom `admits` has
//    not said yes to, and nobody at all while there is no handler.
// 2. Whoever is let in carries its key as User-Id of every message (key_of).
// 3. It judges at the handshake only: who is revoked later still has its connection, and is to be refused
//    by whoever takes its messages.
// Threads: start() and the destructor by the owner. `admits` is called by a thread of the Gate, and must
// neither block nor throw.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/error.h"
#include "core/host.h"
#include "sync/curve_key.h"

namespace zmq {
class context_t;
class message_t;
class socket_t;
} // namespace zmq

namespace vsnap {

class Gate {
 public:
  using Admits = std::function<bool(const HostKey& key, const std::string& address)>;
  static Result<std::unique_ptr<Gate>> start(zmq::context_t& context, Admits admits);
  virtual ~Gate() = default; // from here on nobody comes in

  // Makes a socket a CURVE server that asks the gate. Before it is bound. Kind failed where libzmq cannot do
  // all of it.
  static Result<> guard(zmq::socket_t& socket, const KeyPair& own);
  // Of a message that came through a guarded socket; nullopt: it did not.
  [[nodiscard]] static std::optional<HostKey> key_of(zmq::message_t& message);
};

} // namespace vsnap
