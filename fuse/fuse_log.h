// What libfuse has to say, in the words of our log.
// Threads: any.
#pragma once

#include <string>

namespace vsnap {

void take_fuse_log(); // once for the process; before libfuse is asked for anything

// While it lives, what libfuse complains of in this thread is kept as the reason of a failure, not logged.
class FuseComplaint {
 public:
  FuseComplaint();
  ~FuseComplaint();
  FuseComplaint(const FuseComplaint&) = delete;
  FuseComplaint& operator=(const FuseComplaint&) = delete;
  [[nodiscard]] std::string text() const; // the last one; may be empty
};

} // namespace vsnap
