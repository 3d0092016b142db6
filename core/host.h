// The hosts that share a pool, as plain values. A host is known by its public key; its name is for people.
//
// Invariants
// 1. No two hosts of a pool have the same key or the same name.
// 2. An invitation brings in one host, before it expires; then there is none of its key any more.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/units.h"

namespace vsnap {

using HostKey = std::array<std::uint8_t, 32>; // a public key of CURVE

struct HostInfo {
  std::uint64_t id = 0; // never used twice
  std::string name;
  HostKey key{};
  std::int64_t joined_ns = 0; // since 1970
  bool operator==(const HostInfo&) const = default;
};

struct Invitation {
  HostKey key{};    // the public one of a pair that is used once
  std::string name; // that the host is to have; empty: as it likes
  std::int64_t created_ns = 0;
  std::int64_t expires_ns = 0;
  bool operator==(const Invitation&) const = default;
};

struct Hosts {
  std::vector<HostInfo> hosts;         // by name
  std::vector<Invitation> invitations; // those that will expire first, first
};

inline constexpr std::size_t kMaxHosts = 256; // with those that are invited

} // namespace vsnap
