// Where the requests of a mount come from and their answers go to: one descriptor for each worker, all of the
// same mount. The kernel takes the answer to a request only over the descriptor that gave it.
//
// Invariant: what a thread answers goes to the channel of the request it is at, which is that of the last one
// it read, or of the one that an AnswerFor names.
// Threads: everything here is of the calling thread.
#pragma once

#include <cstdint>

#include "fuse/kernel_api.h"

namespace vsnap {

// The request that a thread is at.
struct RequestOrigin {
  int channel = -1;     // -1: none of ours; libfuse knows where the answer goes
  std::uint64_t id = 0; // the kernel's; no two requests of a mount have the same
  bool again = false;   // the kernel sent it to a process that died before it answered: it may have been
                        // carried out, see operations.h
};

[[nodiscard]] inline RequestOrigin& current_request() {
  thread_local RequestOrigin origin;
  return origin;
}

// While it lives the calling thread answers a request that another thread read.
class AnswerFor {
 public:
  explicit AnswerFor(const RequestOrigin& origin) : before_(current_request()) { current_request() = origin; }
  ~AnswerFor() { current_request() = before_; }
  AnswerFor(const AnswerFor&) = delete;
  AnswerFor& operator=(const AnswerFor&) = delete;

 private:
  const RequestOrigin before_;
};

} // namespace vsnap
