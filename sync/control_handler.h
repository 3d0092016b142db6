// Turns a control request into calls of a pool: the only place that does. A command uses it in its own
// process on a pool that is not mounted, and through ControlServer on one that is, so both give the same
// answers and the same messages.
//
// Invariants
// 1. Every request gets a reply; what is missing or out of range in it is an error of kind usage, never a
//    crash.
// 2. Names are checked here before the pool sees them; a name that does not exist is answered with the
//    nearest that does.
// 3. A request that was asked for before, under the same id, has the effect of one: where the pool knows that
//    it was carried out (core/request_note.h) it is only answered, as well as can be said afterwards. Those
//    that have no id in the pool's catalog can be done twice: they only look, or the second time finds
//    nothing left to do.
//
// Threads: execute() may run in several threads on one pool; each call has a sink of its own.
#pragma once

#include <span>

#include "core/pool.h"
#include "sync/wire.h"

namespace vsnap {

// Receives what a long operation says before it ends, from the thread that runs execute(). false: give up.
class ControlSink {
 public:
  virtual ~ControlSink() = default;
  virtual bool progress(std::uint64_t done, std::uint64_t total) = 0;
  virtual bool diff(std::span<const DiffRange> ranges) = 0;
};

// ping, shutdown and cancel are the server's business; here they are refused.
[[nodiscard]] wire::ControlReply execute(Pool& pool, const wire::ControlRequest& request, ControlSink& sink);

} // namespace vsnap
