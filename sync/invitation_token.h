// What `vsnap host invite` prints and `vsnap host join` takes: one line with all that a host needs in order
// to come in once. Whoever has it before it expires can use it.
//
// Invariants
// 1. from_text(text_of(t)) == t. A token that was cut or mistyped is refused as one, and never shown.
// Threads: any; pure functions.
#pragma once

#include <string>
#include <string_view>

#include "core/env.h"
#include "core/host.h"

namespace vsnap {

struct InvitationToken {
  std::string address; // tcp://ADDR:PORT of the coordinator
  HostKey server_key{};
  std::string pool;
  Uuid pool_uuid{};
  HostKey secret_key{};        // of the one-time pair
  std::int64_t expires_ns = 0; // since 1970, by the coordinator's clock
  bool operator==(const InvitationToken&) const = default;
};

namespace invitation_token {

[[nodiscard]] std::string text_of(const InvitationToken& token);
// Kind usage; the error does not repeat the text.
[[nodiscard]] Result<InvitationToken> from_text(std::string_view text);

} // namespace invitation_token

// tcp://HOST:PORT that other hosts can connect to: not every address at once, and a port of its own.
[[nodiscard]] Result<> check_address(std::string_view what, const std::string& address);

} // namespace vsnap
