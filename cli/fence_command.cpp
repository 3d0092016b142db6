#include "cli/fence_command.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/log.h"

extern char** environ;

namespace vsnap::cli {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// What a process is started with: nothing of this one but its output and its environment.
class Setting {
 public:
  Setting() {
    ::posix_spawn_file_actions_init(&files_);
    ::posix_spawnattr_init(&attributes_);
  }
  ~Setting() {
    ::posix_spawn_file_actions_destroy(&files_);
    ::posix_spawnattr_destroy(&attributes_);
  }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

  int prepare() {
    sigset_t none;
    sigset_t all;
    ::sigemptyset(&none);
    ::sigfillset(&all);
    for (const int code :
         {::posix_spawn_file_actions_addopen(&files_, STDIN_FILENO, "/dev/null", O_RDONLY, 0),
          ::posix_spawn_file_actions_adddup2(&files_, STDERR_FILENO, STDOUT_FILENO),
          ::posix_spawn_file_actions_addclosefrom_np(&files_, STDERR_FILENO + 1),
          ::posix_spawnattr_setpgroup(&attributes_, 0), ::posix_spawnattr_setsigmask(&attributes_, &none),
          ::posix_spawnattr_setsigdefault(&attributes_, &all),
          ::posix_spawnattr_setflags(
              &attributes_, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF)}) {
      if (code != 0) return code;
    }
    return 0;
  }
  [[nodiscard]] const posix_spawn_file_actions_t* files() const { return &files_; }
  [[nodiscard]] const posix_spawnattr_t* attributes() const { return &attributes_; }

 private:
  posix_spawn_file_actions_t files_{};
  posix_spawnattr_t attributes_{};
};

std::vector<std::string> environment_with(const std::vector<std::string>& own) {
  std::vector<std::string> all = own;
  for (char** at = environ; *at != nullptr; ++at) {
    const std::string_view one = *at;
    if (!one.starts_with("VSNAP_POOL=") && !one.starts_with("VSNAP_HOST=")) all.emplace_back(one);
  }
  return all;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (std::string& one : strings) out.push_back(one.data());
  out.push_back(nullptr);
  return out;
}

// 0, or an errno.
int start(const std::string& command, const std::string& pool, const std::string& host, pid_t& child) {
  std::vector<std::string> arguments = {"sh", "-c", command, "fence", pool, host};
  std::vector<std::string> environment = environment_with({"VSNAP_POOL=" + pool, "VSNAP_HOST=" + host});
  Setting setting;
  if (const int code = setting.prepare(); code != 0) return code;
  return ::posix_spawn(&child, "/bin/sh", setting.files(), setting.attributes(), pointers(arguments).data(),
                       pointers(environment).data());
}

enum class Waited { ended, too_long, given_up, unknown };

Waited wait(pid_t child, int given_up, milliseconds longest) {
  const auto until = Clock::now() + longest;
  // By number: where glibc has a function for it, its header is not for C++.
  const Descriptor ended(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
  if (ended.get() < 0) return Waited::unknown; // no descriptors are left
  for (;;) {
    const auto left = std::chrono::ceil<milliseconds>(until - Clock::now());
    if (left <= milliseconds(0)) return Waited::too_long;
    std::array<pollfd, 2> fds = {{{.fd = ended.get(), .events = POLLIN, .revents = 0},
                                  {.fd = given_up, .events = POLLIN, .revents = 0}}};
    if (::poll(fds.data(), fds.size(), static_cast<int>(left.count())) <= 0) continue; // EINTR, or time is up
    if (fds[0].revents != 0) return Waited::ended;
    return Waited::given_up;
  }
}

std::string why_killed(Waited waited, milliseconds longest) {
  if (waited == Waited::given_up) return "the daemon ends";
  if (waited == Waited::unknown) return "nobody can say how long it takes";
  return fmt::format("it had not ended after {} s", static_cast<double>(longest.count()) / 1000);
}

std::string how(int status) {
  if (WIFSIGNALED(status)) return fmt::format("was ended by signal {}", WTERMSIG(status));
  return fmt::format("ended with code {}", WEXITSTATUS(status));
}

} // namespace

FenceCommand::FenceCommand(std::string command, std::string pool, milliseconds longest)
    : command_(std::move(command)),
      pool_(std::move(pool)),
      longest_(longest),
      given_up_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

void FenceCommand::give_up() const noexcept {
  const std::uint64_t one = 1;
  while (::write(given_up_.get(), &one, sizeof one) < 0 && errno == EINTR) {
  }
}

bool FenceCommand::run(const std::string& host) const {
  pollfd given_up{.fd = given_up_.get(), .events = POLLIN, .revents = 0};
  if (given_up_.get() < 0 || ::poll(&given_up, 1, 0) > 0) {
    log::warning("{}: the fence command for host {} is not run: the daemon ends", pool_, host);
    return false;
  }
  pid_t child = 0;
  if (const int code = start(command_, pool_, host, child); code != 0) {
    log::warning("{}: the fence command for host {} cannot be started: errno {}", pool_, host, code);
    return false;
  }
  const Waited waited = wait(child, given_up_.get(), longest_);
  // Nobody else waits for it, so the number is still its own.
  if (waited != Waited::ended) ::kill(-child, SIGKILL);
  int status = 0;
  pid_t reaped = 0;
  do reaped = ::waitpid(child, &status, 0);
  while (reaped < 0 && errno == EINTR);
  if (waited != Waited::ended) {
    log::warning("{}: the fence command for host {} was killed: {}", pool_, host,
                 why_killed(waited, longest_));
    return false;
  }
  if (reaped == child && WIFEXITED(status) && WEXITSTATUS(status) == 0) return true;
  log::warning("{}: the fence command for host {} {}", pool_, host,
               reaped == child ? how(status) : "cannot be waited for");
  return false;
}

} // namespace vsnap::cli
