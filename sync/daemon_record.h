// Which daemon has a pool mounted on this machine: a small file in the runtime directory next to its control
// socket.
//
// Invariants
// 1. The record is only a hint where to ask; the lock on the members is what keeps a pool from being opened
// twice.
// 2. A record that a killed daemon left behind is never taken for a live one: boot, process id and the start
// time of
//    that process must all agree.
// 3. The runtime directory belongs to the user who runs this and nobody else can write there.
// Threads: plain functions; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/env.h"

namespace vsnap {

struct DaemonRecord {
  std::string pool;
  std::string pool_uuid;
  std::string mount_point;
  std::string socket_path;
  std::int64_t pid = 0;
  std::uint64_t start_ticks = 0; // of the process, since boot; 0: unknown
  std::string boot_id;
  bool operator==(const DaemonRecord&) const = default;
};

// VSNAP_RUNTIME_DIR, /run/vsnap (root), $XDG_RUNTIME_DIR/vsnap, else /tmp/vsnap-UID.
[[nodiscard]] std::string runtime_dir();
// Makes it (0700) where it is missing; refuses one that others could write to.
Result<> prepare_runtime_dir();
// Refuses a path that is too long for a socket address.
Result<std::string> control_socket_path(const std::string& pool);
[[nodiscard]] std::string daemon_log_path(const std::string& pool);

// The record of this process.
[[nodiscard]] DaemonRecord own_record(Env& env, const std::string& pool, const Uuid& uuid,
                                      const std::string& mount_point, const std::string& socket_path);
Result<> write_record(const DaemonRecord& record);
void remove_record(const DaemonRecord& record) noexcept; // and the socket
[[nodiscard]] bool is_running(Env& env, const DaemonRecord& record);
// What the last daemon of `pool` wrote, if it did not end in order; it may be dead.
[[nodiscard]] std::optional<DaemonRecord> read_record(const std::string& pool);
// The daemon that has `pool` mounted; nullopt: none that lives.
[[nodiscard]] std::optional<DaemonRecord> live_daemon(Env& env, const std::string& pool);

} // namespace vsnap
