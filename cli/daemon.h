// The one process that has the pool open, serves its files, and answers commands. A keeper starts it and, if
// it dies, its successor.
//
// Invariants
// 1. Set up in the order pool, coordinator, control socket, mount, record; a successor has the mount first,
//    and its open files before the control socket. Torn down the other way round. Whatever step fails, the
//    earlier ones are undone.
// 2. SIGTERM, SIGINT, a shutdown request and an unmount from outside all end in the same orderly stop.
// 3. A successor has the mount already, and never asks the kernel about anything below the mount point before
//    it serves. If it fails the mount stays, for the next one.
// 4. The keeper has the descriptors of the mount and of the members only where a successor can go on with it.
//    With the latter it holds their locks: nobody else opens the pool between two daemons.
// Threads: run_daemon() is called by the main thread before any other thread exists.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/error.h"

namespace vsnap::cli {

class KeeperLine;

struct DaemonOptions {
  std::string pool;
  std::vector<std::string> members;
  std::string uuid;        // of the pool
  std::string mount_point; // absolute
  bool allow_other = false;
  bool debug = false;
  bool io_uring = false;
  bool direct = false;           // see OpenPoolOptions
  bool degraded = false;         // the same
  bool restart = true;           // by the keeper
  bool background = false;       // its messages go to the log
  unsigned threads = 0;          // 0: default
  std::uint64_t cache_bytes = 0; // 0: default
  bool joined = false;           // another host coordinates the pool (shared_pool.h)
  std::vector<std::string> only; // of a joined pool: see JoinedPool::Options
  std::string listen = {};       // tcp://ADDR:PORT at which it coordinates other hosts; empty: it does not
  std::int64_t lease_ns = 0;     // of those hosts; 0: default
  std::string fence = {};        // fence_command.h, for those hosts; empty: none
  std::size_t descriptors = 0;   // that the keeper gives of the mount
  std::size_t held_members = 0;  // and of members
  std::int64_t keeper_pid = 0;
};

// Descriptors of a predecessor with whose mount it goes on; else none.
struct Inheritance {
  std::vector<int> mount;
  std::vector<int> members; // with their locks
};

// Returns after the mount has ended, or was handed over. `ready` is called once the mount works.
Result<> run_daemon(const DaemonOptions& options, const KeeperLine& keeper, Inheritance inheritance,
                    const std::function<void()>& ready);

} // namespace vsnap::cli
