// Getting in: what `vsnap host join` says to the coordinator, once.
//
// Invariants
// 1. Success means that the coordinator has this host's key in the catalog, durably.
// 2. It can be repeated: where the answer to the one-time key was lost, the host's own key is known
//    already, and is asked with.
// Threads: any; waits.
#pragma once

#include <chrono>
#include <string>

#include "core/env.h"
#include "sync/curve_key.h"
#include "sync/invitation_token.h"

namespace vsnap {

// The name that the host has from now on. `name`: that it would like; the invitation's goes before. Kind
// failed, EACCES: the token has expired or was used by somebody else. no_answer: nobody answers there.
Result<std::string> join_pool(Env& env, const InvitationToken& token, const KeyPair& own,
                              const std::string& name, std::chrono::milliseconds longest);

} // namespace vsnap
