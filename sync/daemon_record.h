// Which daemon has a pool mounted on this machine: a small file in the runtime directory next to its control
// socket.
//
// Invariants
// 1. The record is only a hint where to ask; the lock on the members is what keeps a pool from being opened
//    twice.
// 2. A record that a killed daemon left behind is never taken for a live one: boot, process id and the start
//    time of that process must all agree.
// 3. A daemon that ended without a word, and without leaving its record, ended in order: all is on disk.
// 4. A pool whose daemon died belongs to its keeper, if it has one that lives: a successor is about to serve
//    it, and nobody else may open it.
// 5. The runtime directory belongs to the user who runs this and nobody else can write there.
//
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
  std::int64_t keeper_pid = 0; // the process that starts a successor, should this one die; 0: none does
  std::uint64_t keeper_start_ticks = 0;
  std::string first_member; // path; tells a pool from its copy. Empty: unknown
  bool operator==(const DaemonRecord&) const = default;
};

// What a daemon leaves that could not end in order, until the next mount.
struct LastWords {
  std::int64_t pid = 0; // as in its record
  std::uint64_t start_ticks = 0;
  std::string boot_id;
  bool no_space = false;
  std::string message; // empty: it was closing the pool, and has not come to the end of that
};

// VSNAP_RUNTIME_DIR, /run/vsnap (root), $XDG_RUNTIME_DIR/vsnap, else /tmp/vsnap-UID.
[[nodiscard]] std::string runtime_dir();
// Makes it (0700) where it is missing; refuses one that others could write to.
Result<> prepare_runtime_dir();
// Refuses a path that is too long for a socket address.
Result<std::string> control_socket_path(const std::string& pool);
[[nodiscard]] std::string daemon_log_path(const std::string& pool);

// The record of this process. `keeper`: the process id of its keeper, or 0.
[[nodiscard]] DaemonRecord own_record(Env& env, const std::string& pool, const Uuid& uuid,
                                      const std::string& mount_point, const std::string& socket_path,
                                      std::int64_t keeper = 0);
Result<> write_record(const DaemonRecord& record);       // forgets the last words of the daemon before
void remove_record(const DaemonRecord& record) noexcept; // and the socket
[[nodiscard]] bool is_running(Env& env, const DaemonRecord& record);
[[nodiscard]] bool is_kept(Env& env, const DaemonRecord& record); // its keeper runs
// What the last daemon of `pool` wrote, if it did not end in order; it may be dead.
[[nodiscard]] std::optional<DaemonRecord> read_record(const std::string& pool);
// Before the pool is closed with an empty message, after it if that failed; a word that went well is taken
// back. Best effort: what cannot be written is in the log.
void leave_last_words(const DaemonRecord& record, bool no_space, const std::string& message) noexcept;
void take_back_last_words(const DaemonRecord& record) noexcept;
[[nodiscard]] std::optional<LastWords> read_last_words(const std::string& pool);
[[nodiscard]] bool is_of(const LastWords& words, const DaemonRecord& record);
// The daemon that has `pool` mounted; nullopt: none that lives or has a keeper. Waits, for 10 s at most, for
// the successor of one that was killed.
[[nodiscard]] std::optional<DaemonRecord> live_daemon(Env& env, const std::string& pool);

} // namespace vsnap
