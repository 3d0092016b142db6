// One mount of one pool: the kernel's requests for its files become calls of core.
//
// Invariants
// 1. mount() either gives a mount point that is mounted, or an Error and nothing mounted.
// 2. No thread is made before serve(), so a caller may fork() between the two.
// 3. When serve() returns, or the session is destroyed, its mount point is unmounted, whoever still has files
//    of it open: they get ENOTCONN.
// Threads: serve() is called once, by one thread, and works with several of its own; stop() may be called
// from any thread at any time, but not from a signal handler. The pool must outlive the session, and its
// observer is the session's while serve() runs.
#pragma once

#include <memory>
#include <string>

#include "core/error.h"
#include "core/pool.h"

namespace vsnap {

struct MountOptions {
  std::string mount_point;
  bool allow_other = false; // other users too; as an ordinary user: user_allow_other in /etc/fuse.conf
  bool debug = false;       // every request to the log, at level debug
  bool io_uring = false;    // requests through rings, where libfuse and the kernel can; see request_ring.h
  unsigned threads = 0;     // 0: the default
  std::string fs_name;      // what mount(8) shows as the source, such as vsnap:lab
};

class MountSession {
 public:
  // Mounted; requests of the kernel wait until serve().
  static Result<std::unique_ptr<MountSession>> mount(Pool& pool, const MountOptions& options);
  virtual ~MountSession() = default;
  // Answers requests until somebody unmounts or stop() is called; then unmounts.
  virtual Result<> serve() = 0;
  virtual void stop() = 0; // returns when serve() is about to
};

} // namespace vsnap
