#include "cli/keeper.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <optional>

#include "cli/descriptor.h"
#include "cli/file_limit.h"
#include "cli/keeper_line.h"
#include "core/log.h"

namespace vsnap::cli {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// When nobody comes to serve: tries that follow at once; of a mount that somebody wants to end there are no
// more, over that time.
constexpr int kTriesAtOnce = 20;
constexpr milliseconds kLongestStopping(3000);
// A daemon that dies sooner than that after it said to be ready did not come to serve.
constexpr milliseconds kProbation(250);
constexpr milliseconds kFirstPause(20); // doubled up to the longest
constexpr milliseconds kLongestPause(1000);
constexpr milliseconds kReapTime(200); // for a process whose descriptors are closed already

class Keeper {
 public:
  Keeper(DaemonOptions options, const std::function<void()>& ready, KeeperSettings settings)
      : options_(std::move(options)), on_ready_(ready), settings_(std::move(settings)) {
    options_.keeper_pid = ::getpid();
  }
  Result<> prepare();
  Result<> run();

 private:
  enum class Next { go_on, end };

  Result<> start();
  [[noreturn]] void become_daemon(int program, const KeeperLine& line) const;
  void serve_line();
  void take(KeeperMessage message);
  void on_ready();
  void let_go();
  void on_signal();
  Next on_end();
  Next after_failure();
  [[nodiscard]] std::string reap() const;
  void pause();
  Result<> outcome() const;

  DaemonOptions options_;
  const std::function<void()>& on_ready_;
  const KeeperSettings settings_;
  Descriptor signals_;
  Descriptor program_;      // that served last, or is the first
  Descriptor next_program_; // asked for
  Descriptor trying_;       // of the daemon that runs, while it has not served
  Descriptor previous_;     // that served before program_, until that one has served for a while

  std::optional<KeeperLine> line_;
  pid_t daemon_ = 0;
  std::vector<Descriptor> kept_;
  std::vector<Descriptor> held_;       // of members, with their locks
  std::vector<Descriptor> newly_held_; // by the daemon that runs, until it serves
  bool is_ready_ = false;              // this daemon
  bool was_ready_ = false;             // any
  bool stopping_ = false;              // asked to
  std::optional<Error> reason_;        // why this daemon failed, as it said
  std::string how_;                    // it ended, if not in order
  Clock::time_point ready_at_;
  Clock::time_point ended_at_;
  Clock::time_point failing_since_;
  int failures_ = 0; // in a row
};

Result<> Keeper::prepare() {
  sigset_t mask;
  ::sigemptyset(&mask);
  for (const int signal : {SIGTERM, SIGINT}) ::sigaddset(&mask, signal);
  ::sigprocmask(SIG_BLOCK, &mask, nullptr);
  ::signal(SIGHUP, SIG_IGN);
  signals_ = Descriptor(::signalfd(-1, &mask, SFD_CLOEXEC));
  if (signals_.get() < 0) return system_failure(errno, "signalfd");
  raise_file_limit(); // it may have to hold a descriptor for each thread of the daemon
  program_ = Descriptor(::open(settings_.program.c_str(), O_PATH | O_CLOEXEC));
  if (program_.get() < 0) return system_failure(errno, settings_.program);
  return {};
}

Result<> Keeper::start() {
  VSNAP_TRY_ASSIGN(KeeperLine::Ends ends, KeeperLine::make());
  std::vector<int> kept;
  for (const Descriptor& one : kept_) kept.push_back(one.get());
  if (held_.empty()) held_ = std::move(newly_held_); // none has served yet
  std::vector<int> held;
  for (const Descriptor& one : held_) held.push_back(one.get());
  newly_held_.clear();
  options_.descriptors = kept.size();
  options_.held_members = held.size();
  VSNAP_TRY_ASSIGN(const std::string options, text_of(options_));
  trying_ = std::move(next_program_);
  next_program_.reset();
  const int program = trying_.get() >= 0 ? trying_.get() : program_.get();
  daemon_ = ::fork();
  if (daemon_ < 0) {
    daemon_ = 0;
    return system_failure(errno, "fork");
  }
  if (daemon_ == 0) become_daemon(program, ends.daemon);
  line_.emplace(std::move(ends.keeper));
  is_ready_ = false;
  reason_.reset();
  // Where these do not arrive the daemon ends by itself.
  if (!line_->send_descriptors(Word::keep, kept) || !line_->send_descriptors(Word::hold, held) ||
      !line_->send(Word::start, options))
    ::kill(daemon_, SIGKILL);
  return {};
}

void Keeper::become_daemon(int program, const KeeperLine& line) const {
  // SIGTERM and SIGINT stay blocked: one that comes before the daemon looks for them waits for it.
  const int socket = ::fcntl(line.socket(), F_DUPFD, STDERR_FILENO + 1); // not closed by exec
  const std::string number = fmt::format("{}", socket);
  std::array<const char*, 5> arguments = {"vsnap", "serve", options_.pool.c_str(), number.c_str(), nullptr};
  ::fexecve(program, const_cast<char**>(arguments.data()), environ);
  const Error error{ErrorKind::failed, errno, fmt::format("the daemon cannot be started: errno {}", errno)};
  line.send(Word::failed, text_of(error));
  ::_exit(1);
}

void Keeper::take(KeeperMessage message) {
  switch (message.word) {
    case Word::keep:
      for (const int fd : message.descriptors) kept_.emplace_back(fd);
      return;
    case Word::hold:
      for (const int fd : message.descriptors) newly_held_.emplace_back(fd);
      return;
    case Word::ready:
      on_ready();
      return;
    case Word::failed:
      reason_ = error_of(message.text);
      return;
    case Word::next:
      next_program_ = Descriptor(::open(message.text.c_str(), O_PATH | O_CLOEXEC));
      if (next_program_.get() < 0) log::error("{}: errno {}", message.text, errno);
      return;
    case Word::let_go:
      let_go();
      return;
    case Word::start:
      break;
  }
  for (const int fd : message.descriptors) ::close(fd); // of a word that this release does not know
}

void Keeper::on_ready() {
  is_ready_ = true;
  if (!newly_held_.empty()) held_ = std::move(newly_held_);
  newly_held_.clear();
  ready_at_ = Clock::now();
  if (trying_.get() >= 0) {
    previous_ = std::move(program_);
    program_ = std::move(trying_);
    trying_.reset();
  }
  if (was_ready_) {
    log::info("{}: served again, by pid {}, {} ms after the daemon before had ended", options_.pool, daemon_,
              std::chrono::duration_cast<milliseconds>(ready_at_ - ended_at_).count());
  } else {
    on_ready_();
  }
  was_ready_ = true;
  if (stopping_) ::kill(daemon_, SIGTERM);
}

void Keeper::let_go() {
  kept_.clear();
  held_.clear();
  newly_held_.clear();
  ::sd_notify(0, "STOPPING=1");
  line_->send(Word::let_go);
}

void Keeper::on_signal() {
  signalfd_siginfo info{};
  if (::read(signals_.get(), &info, sizeof info) != sizeof info) return;
  stopping_ = true;
  if (daemon_ > 0) ::kill(daemon_, SIGTERM);
}

// Until the daemon is gone. The end of the line says so: a thread of it may be stuck in the kernel until the
// successor answers what it waits for (notifier.h), and so long its process does not end.
void Keeper::serve_line() {
  for (;;) {
    std::array<pollfd, 2> fds = {{{.fd = line_->socket(), .events = POLLIN, .revents = 0},
                                  {.fd = signals_.get(), .events = POLLIN, .revents = 0}}};
    if (::poll(fds.data(), fds.size(), -1) < 0) continue; // EINTR
    if (fds[1].revents != 0) on_signal();
    if (fds[0].revents == 0) continue;
    auto message = line_->receive();
    if (!message) return;
    take(std::move(*message));
  }
}

// How it ended, for the log; empty: in order.
std::string Keeper::reap() const {
  const auto start = Clock::now();
  int status = 0;
  pid_t ended = 0;
  // Nobody waits for one that let go of the mount, so there is time.
  while ((ended = ::waitpid(daemon_, &status, WNOHANG)) == 0 &&
         (kept_.empty() || Clock::now() - start < kReapTime))
    ::usleep(1000);
  while (::waitpid(-1, nullptr, WNOHANG) > 0) { // of those that took longer
  }
  if (ended != daemon_) return "has been killed";
  if (WIFSIGNALED(status)) return fmt::format("was ended by signal {}", WTERMSIG(status));
  if (WEXITSTATUS(status) != 0) return fmt::format("ended with code {}", WEXITSTATUS(status));
  return {};
}

void Keeper::pause() {
  if (failures_ <= kTriesAtOnce) return;
  milliseconds pause = kFirstPause;
  for (int i = kTriesAtOnce + 1; i < failures_ && pause < kLongestPause; ++i) pause *= 2;
  pollfd signal{.fd = signals_.get(), .events = POLLIN, .revents = 0};
  if (::poll(&signal, 1, static_cast<int>(std::min(pause, kLongestPause).count())) > 0) on_signal();
}

Keeper::Next Keeper::on_end() {
  ended_at_ = Clock::now();
  how_ = reap();
  line_.reset();
  if (kept_.empty()) return Next::end;
  const bool served = is_ready_ && ended_at_ - ready_at_ >= kProbation;
  if (!how_.empty()) {
    log::warning("{}: the daemon, pid {}, {}{}{}", options_.pool, daemon_, how_, reason_ ? ": " : "",
                 reason_ ? reason_->message : "");
  }
  daemon_ = 0;
  if (served) {
    failures_ = 0;
    previous_.reset();
  }
  if (served || (is_ready_ && how_.empty())) return Next::go_on;
  if (trying_.get() >= 0 || previous_.get() >= 0) {
    log::error("{}: the new program did not come to serve: the one before goes on", options_.pool);
    if (previous_.get() >= 0) program_ = std::move(previous_);
    trying_.reset();
    previous_.reset();
    return Next::go_on;
  }
  return after_failure();
}

Keeper::Next Keeper::after_failure() {
  if (failures_++ == 0) failing_since_ = Clock::now();
  const int fewest = stopping_ ? std::min(kTriesAtOnce, settings_.fewest_tries) : settings_.fewest_tries;
  const auto longest = stopping_ ? kLongestStopping : settings_.longest_failing;
  if (failures_ >= fewest && Clock::now() - failing_since_ >= longest) {
    log::error("{}: no daemon comes to serve: given up, the mount is dead", options_.pool);
    return Next::end;
  }
  pause();
  return Next::go_on;
}

Result<> Keeper::outcome() const {
  if (reason_) return failure(reason_->kind, reason_->errno_value, reason_->message);
  if (how_.empty()) return {};
  return failure(ErrorKind::failed, fmt::format("{}: the daemon {}{}", options_.pool, how_,
                                                was_ready_ ? "" : " before the mount worked"));
}

Result<> Keeper::run() {
  for (;;) {
    if (const auto started = start(); !started) {
      if (kept_.empty()) return started;
      log::warning("{}", started.error().message);
      if (after_failure() == Next::end) return started;
      continue;
    }
    serve_line();
    if (on_end() == Next::end) return outcome();
  }
}

} // namespace

Result<> run_keeper(const DaemonOptions& options, const std::function<void()>& ready,
                    const KeeperSettings& settings) {
  log::set_level(options.debug ? log::Level::debug : log::Level::info);
  Keeper keeper(options, ready, settings);
  VSNAP_TRY(keeper.prepare());
  return keeper.run();
}

} // namespace vsnap::cli
