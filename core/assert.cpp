#include "core/assert.h"

#include <cstdio>
#include <cstdlib>

namespace vsnap {

void assertion_failed(const char* expression, const char* file, int line) noexcept {
  std::fprintf(stderr, "vsnap: internal error, stopping before harm is done: %s (%s:%d)\n", expression, file,
               line);
  std::fflush(stderr);
  std::abort();
}

} // namespace vsnap
