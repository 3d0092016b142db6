// The keeper in the background: the fork, and the pipe on which it says that the mount works.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>

#include "cli/daemon_log.h"
#include "cli/keeper.h"
#include "cli/keeper_line.h"
#include "core/log.h"

namespace vsnap::cli {
namespace {

// Files that the shell left open must not stay open as long as the mount.
void close_all_but(int keep) {
  if (keep > STDERR_FILENO + 1) ::close_range(STDERR_FILENO + 1, static_cast<unsigned>(keep) - 1, 0);
  ::close_range(static_cast<unsigned>(keep) + 1, ~0U, 0);
}

[[noreturn]] void run_child(const DaemonOptions& options, KeeperLine line) {
  close_all_but(line.socket());
  ::setsid();
  if (::chdir("/") != 0) log::debug("chdir /: errno {}", errno);
  bool is_ready = false;
  const auto result = run_keeper(options, [&] {
    leave_terminal(options.pool);
    is_ready = true;
    line.send(Word::ready);
    { const KeeperLine done = std::move(line); }
  });
  if (result) ::_exit(0);
  if (is_ready) {
    log::error("{}", result.error().message);
  } else {
    line.send(Word::failed, text_of(result.error()));
  }
  ::_exit(exit_code(result.error().kind));
}

} // namespace

Result<> start_in_background(const DaemonOptions& options) {
  VSNAP_TRY_ASSIGN(KeeperLine::Ends ends, KeeperLine::make());
  const pid_t child = ::fork();
  if (child < 0) return system_failure(errno, "fork");
  if (child == 0) {
    DaemonOptions background = options;
    background.background = true;
    run_child(background, std::move(ends.daemon));
  }
  { const KeeperLine theirs = std::move(ends.daemon); } // closed here
  const auto said = ends.keeper.receive();
  if (said && said->word == Word::ready) return {};
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!said) {
    return failure(ErrorKind::failed,
                   fmt::format("{}: the mount's keeper ended before the mount worked{} (vsnap mount -f shows "
                               "why)",
                               options.pool,
                               WIFSIGNALED(status) ? fmt::format(", by signal {}", WTERMSIG(status)) : ""));
  }
  const Error error = error_of(said->text);
  return failure(error.kind, error.message);
}

} // namespace vsnap::cli
