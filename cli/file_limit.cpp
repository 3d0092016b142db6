#include "cli/file_limit.h"

#include <fmt/format.h>
#include <sys/resource.h>

namespace vsnap::cli {
namespace {

constexpr rlim_t kFewest = 64;

} // namespace

void raise_file_limit() noexcept {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit); // refused: what there is has to do
}

Result<> check_file_limit() {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= kFewest) return {};
  raise_file_limit();
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= kFewest) return {};
  return failure(ErrorKind::failed, EMFILE,
                 fmt::format("only {} files may be open at a time, and {} are needed (ulimit -n {})",
                             limit.rlim_cur, kFewest, kFewest));
}

} // namespace vsnap::cli
