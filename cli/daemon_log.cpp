#include "cli/daemon_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/log.h"
#include "sync/daemon_record.h"

namespace vsnap::cli {

void leave_terminal(const std::string& pool) {
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  const int file =
      ::open(daemon_log_path(pool).c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (null < 0) return;
  ::dup2(null, STDIN_FILENO);
  ::dup2(null, STDOUT_FILENO);
  ::dup2(file >= 0 ? file : null, STDERR_FILENO);
  ::close(null);
  if (file < 0) return;
  ::close(file);
  log::add_times();
}

void know_log(const std::string& pool) {
  struct stat error = {}, file = {};
  if (::fstat(STDERR_FILENO, &error) != 0 || ::stat(daemon_log_path(pool).c_str(), &file) != 0) return;
  if (error.st_dev == file.st_dev && error.st_ino == file.st_ino) log::add_times();
}

} // namespace vsnap::cli
