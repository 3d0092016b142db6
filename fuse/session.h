// One mount of one pool: the kernel's requests for its files become calls of core.
//
// Invariants
// 1. No thread is made before serve(), so a caller may fork() between making the session and that.
// 2. When serve() returns, or the session is destroyed, its mount point is unmounted, whoever still has files
//    of it open: they get ENOTCONN. Not so where it was stopped to hand over: then the mount stays, for the
//    process that has its descriptors, and what was read is answered, or comes to that process again.
// 3. A session over an adopted mount goes on where its predecessor ended, however that ended: open files stay
//    open, and no request is lost; see operations.h for those that come again.
// Threads: serve() is called once, by one thread, and works with several of its own; stop() may be called
// from any thread at any time, but not from a signal handler. The pool must outlive the session, and its
// observer is the session's while serve() runs.
#pragma once

#include <memory>

#include "core/error.h"
#include "core/pool.h"
#include "fuse/kernel_mount.h"

namespace vsnap {

class MountSession {
 public:
  enum class Stop { unmount, hand_over };

  // Requests of the kernel wait until serve().
  static Result<std::unique_ptr<MountSession>> over(Pool& pool, const MountOptions& options,
                                                    std::unique_ptr<KernelMount> mount);
  // The same over a mount made for it.
  static Result<std::unique_ptr<MountSession>> mount(Pool& pool, const MountOptions& options) {
    VSNAP_TRY_ASSIGN(auto made, KernelMount::make(options));
    return over(pool, options, std::move(made));
  }
  virtual ~MountSession() = default;
  // Answers requests until somebody unmounts or stop() is called.
  virtual Result<> serve() = 0;
  virtual void stop(Stop how) = 0; // returns when serve() is about to
  // Before stop(Stop::hand_over), where something else has to end first that may wait for such writes:
  // Pool::stop_waiting(), and what waited in the mount is left to the successor.
  virtual void leave_waiting() = 0;
  void stop() { stop(Stop::unmount); }
  // Kind busy: it would not come to an end, as a removal or renaming in the mount waits for a write that
  // waits for room (Pool::stop_waiting()), which only the successor is to answer. Takes two seconds then.
  [[nodiscard]] virtual Result<> check_hand_over() = 0;
  // After serve(): the mount stays, for another process; because of stop(), or because this one failed.
  [[nodiscard]] virtual bool was_handed_over() const = 0;
};

} // namespace vsnap
