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
// 1. While descriptors are kept, a daemon runs or is about to; unless kFewestTries were made over at least
//    kLongestFailing and none came to serve. Then the keeper ends, and the mount is dead: its users get
//    ENOTCONN.
// 2. A new program that does not come to serve gives way to the one that served before.
// 3. SIGTERM and SIGINT reach a daemon, or the next one once it serves, so the end is in order.
// 4. While the mount is kept so are the locks of the members: only a successor can open the pool.
// 5. Where the keeper is killed, the daemon goes on; only a successor it has none.
// Threads: the main thread, before any other exists.
#pragma once

#include <functional>

#include "cli/daemon.h"
#include "core/error.h"

namespace vsnap::cli {

// Returns after the mount has ended. `ready` is called once the mount works for the first time.
Result<> run_keeper(const DaemonOptions& options, const std::function<void()>& ready);

// Runs run_keeper() in a child of its own session, with its messages in the daemon's log; returns once the
// mount works, or with the error that kept it from working.
Result<> start_in_background(const DaemonOptions& options);

} // namespace vsnap::cli
