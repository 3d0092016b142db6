// What this host knows of pools that other hosts coordinate, and by which key it is known to them: small
// files in the state directory, beside those of its own pools (registry.h).
//
//   shared/NAME.json   a pool that this host has joined (vsnap host join)
//   host.key           the key of this host (sync/curve_key.h)
//
// Invariants
// 1. A file holds all of an entry or does not exist.
// 2. A name here stands for the pool that this host is a guest of: nobody on this host opens its members
//    by himself, whatever the registry says. (shared_pool_find() is where who mounts or asks begins.)
// 3. Member paths are absolute; there may be none yet.
// Threads: plain functions over files; concurrent processes see whole entries.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/env.h"
#include "core/host.h"
#include "sync/curve_key.h"

namespace vsnap::cli {

struct SharedPool {
  std::string pool;
  Uuid uuid{};
  std::string address; // of the coordinator: tcp://ADDR:PORT
  HostKey server_key{};
  std::string host;                 // the name that this host has there
  std::vector<std::string> members; // paths on this host that were given or found
  bool operator==(const SharedPool&) const = default;
};

// nullopt: this host is no guest of a pool of that name. Kind damaged: the entry cannot be read.
[[nodiscard]] Result<std::optional<SharedPool>> shared_pool_find(const std::string& pool);
Result<> shared_pool_save(const SharedPool& entry); // in place of one of that name
Result<> shared_pool_remove(const std::string& pool);
// Busy where the host is a guest of that pool: what cannot be done here is done where it is coordinated.
[[nodiscard]] Result<> check_not_guest(const std::string& pool);

// Of this host; made on first use.
Result<KeyPair> host_key();

} // namespace vsnap::cli
