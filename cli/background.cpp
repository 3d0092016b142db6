// The daemon in the background: the fork, the pipe on which it says that it is ready, and its log.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>

#include "cli/daemon.h"
#include "core/log.h"
#include "sync/daemon_record.h"

namespace vsnap::cli {
namespace {

constexpr char kReady = 'R';
constexpr char kErrorDigit = '0'; // + ErrorKind; the message follows

void write_all(int fd, const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t n = ::write(fd, text.data() + at, text.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return; // the parent is gone: nobody to tell
    at += static_cast<std::size_t>(n);
  }
}

std::string read_all(int fd) {
  std::string out;
  char buffer[512];
  for (;;) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return out;
    out.append(buffer, static_cast<std::size_t>(n));
    if (out.front() == kReady) return out;
  }
}

// From now on nobody looks at the terminal.
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

// Files that the shell left open must not stay open as long as the mount.
void close_all_but(int keep) {
  if (keep > STDERR_FILENO + 1) ::close_range(STDERR_FILENO + 1, static_cast<unsigned>(keep) - 1, 0);
  ::close_range(static_cast<unsigned>(keep) + 1, ~0U, 0);
}

[[noreturn]] void run_child(const DaemonOptions& options, int pipe) {
  close_all_but(pipe);
  ::setsid();
  if (::chdir("/") != 0) log::debug("chdir /: errno {}", errno);
  bool is_ready = false;
  const auto result = run_daemon(options, [&] {
    leave_terminal(options.pool);
    is_ready = true;
    write_all(pipe, std::string(1, kReady));
    ::close(pipe);
  });
  if (result) ::_exit(0);
  if (is_ready) {
    log::error("{}", result.error().message);
  } else {
    const char kind = static_cast<char>(kErrorDigit + static_cast<int>(result.error().kind));
    write_all(pipe, kind + result.error().message);
  }
  ::_exit(exit_code(result.error().kind));
}

} // namespace

Result<> start_background_daemon(const DaemonOptions& options) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return system_failure(errno, "pipe");
  const pid_t child = ::fork();
  if (child < 0) return system_failure(errno, "fork");
  if (child == 0) {
    ::close(ends[0]);
    run_child(options, ends[1]);
  }
  ::close(ends[1]);
  const std::string said = read_all(ends[0]);
  ::close(ends[0]);
  if (!said.empty() && said.front() == kReady) return {};
  int status = 0;
  ::waitpid(child, &status, 0);
  if (said.empty()) {
    return failure(
        ErrorKind::failed,
        fmt::format("{}: the daemon ended before the mount worked{} (vsnap mount -f shows why)", options.pool,
                    WIFSIGNALED(status) ? fmt::format(", by signal {}", WTERMSIG(status)) : ""));
  }
  return failure(static_cast<ErrorKind>(said.front() - kErrorDigit), said.substr(1));
}

} // namespace vsnap::cli
