// The keeper: the parent of a daemon. It holds the descriptors of the mount, so that the mount outlives the
// daemon, and starts a successor when the daemon ends without having ended the mount: killed, or to be
// replaced by another program. It opens no pool, starts no thread, and does nothing else.
//
//             ┌──────────── has died, or hands over ◄──────────┐
//             ▼                                                │
//   start ──► daemon runs ──► ready, its descriptors are kept ─┤
//             │                                                │
//             └──► failed, nothing kept ──► end                └──► let go, nothing kept ──► end
//
// Invariants
// 1. While descriptors are kept, a daemon runs or is about to; unless fewest_tries were made over at least
//    longest_failing and none came to serve. Then the keeper ends, and the mount is dead: its users get
//    ENOTCONN.
// 2. A new program that does not come to serve gives way to the one that served before.
// 3. SIGTERM and SIGINT reach a daemon, or the next one once it serves, so the end is in order.
// 4. While the mount is kept so are the locks of the members: only a successor can open the pool.
// 5. Where the keeper is killed, the daemon goes on; only a successor it has none.
// Threads: the main thread, before any other exists.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "cli/daemon.h"
#include "core/error.h"

namespace vsnap::cli {

struct KeeperSettings {
  int fewest_tries = 60;
  std::chrono::milliseconds longest_failing{60'000};
  std::string program = "/proc/self/exe"; // of this release, also when another was installed over it
};

// Returns after the mount has ended. `ready` is called once the mount works for the first time.
Result<> run_keeper(const DaemonOptions& options, const std::function<void()>& ready,
                    const KeeperSettings& settings = {});

// Runs run_keeper() in a child of its own session, with its messages in the daemon's log; returns once the
// mount works, or with the error that kept it from working.
Result<> start_in_background(const DaemonOptions& options);

} // namespace vsnap::cli
