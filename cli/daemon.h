// What `vsnap mount` becomes: the one process that has the pool open, serves its files, and answers commands.
//
// Invariants
// 1. Set up in the order pool, control socket, mount, record; torn down the other way round. Whatever step
// fails, the
//    earlier ones are undone.
// 2. SIGTERM, SIGINT, a shutdown request and an unmount from outside all end in the same orderly stop.
// Threads: run_daemon() is called by the main thread before any other thread exists.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/error.h"

namespace vsnap::cli {

struct DaemonOptions {
  std::string pool;
  std::vector<std::string> members;
  std::string uuid;        // of the pool
  std::string mount_point; // absolute
  bool allow_other = false;
  bool debug = false;
  bool io_uring = false;
  bool direct = false;           // see OpenPoolOptions
  unsigned threads = 0;          // 0: default
  std::uint64_t cache_bytes = 0; // 0: default
};

// Returns after the mount has ended. `ready` is called once the mount works.
Result<> run_daemon(const DaemonOptions& options, const std::function<void()>& ready);

// Runs run_daemon() in a child of its own session, with its messages in the daemon's log; returns once the
// mount works, or with the error that kept it from working.
Result<> start_background_daemon(const DaemonOptions& options);

} // namespace vsnap::cli
