#include "fuse/reply.h"

#include "core/log.h"

namespace vsnap {

int errno_for(const Error& error) {
  const bool told = error.message.empty(); // by whoever found it
  if (!told && (error.errno_value == EIO || error.kind == ErrorKind::damaged))
    log::error("{}", error.message);
  return error.errno_value > 0 ? error.errno_value : usual_errno(error.kind);
}

void report_stray(const char* what) noexcept {
  try {
    log::error("a request ended in an exception, answered with EIO: {}", what);
  } catch (...) { // the log is all that is lost
  }
}

} // namespace vsnap
