#include "cli/daemon_log.h"

#include <fcntl.h>
#include <unistd.h>

#include "sync/daemon_record.h"

namespace vsnap::cli {

void leave_terminal(const std::string& pool) {
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  const int log =
      ::open(daemon_log_path(pool).c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (null < 0) return;
  ::dup2(null, STDIN_FILENO);
  ::dup2(null, STDOUT_FILENO);
  ::dup2(log >= 0 ? log : null, STDERR_FILENO);
  ::close(null);
  if (log >= 0) ::close(log);
}

} // namespace vsnap::cli
