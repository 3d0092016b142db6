// Key pairs of CURVE, by which hosts know each other, and the file that has a host's own.
//
//   vsnap-host-key-1
//   SECRET             in Z85, 40 characters
//
// Invariants
// 1. The file of a host's key is made once, with a new pair, for its owner alone (0600).
// 2. A key file that somebody else could read or write, or that belongs to another user, is refused.
// Threads: any; concurrent processes that make the file get the same key.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/error.h"
#include "core/host.h"

namespace vsnap {

struct KeyPair {
  HostKey public_key{};
  HostKey secret_key{};
};

[[nodiscard]] KeyPair new_key_pair();
[[nodiscard]] KeyPair key_pair_of(const HostKey& secret);
// In Z85, 40 characters.
[[nodiscard]] std::string key_text(const HostKey& key);
[[nodiscard]] std::optional<HostKey> key_from(std::string_view text);

// The pair of this host, from that file; made where there is none.
Result<KeyPair> own_key(const std::string& path);

} // namespace vsnap
