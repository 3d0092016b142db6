#include "cli/freeze_guard.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "core/assert.h"

namespace vsnap::cli {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using State = FreezeGuard::State;

constexpr std::size_t kMostTargets = 1000;
constexpr milliseconds kGrace(2000);       // for the guard's word after the limit has passed
constexpr milliseconds kStatusLimit(2000); // for a guest to say that it is frozen still
constexpr milliseconds kReapTime(500);

constexpr std::string_view kBeingFrozen =
    "may be frozen still: freezing it has not ended (fsfreeze -u, or guest-fsfreeze-thaw, when it has)";

double seconds(milliseconds time) { return static_cast<double>(time.count()) / 1000; }

// Messages: a kind, and words for people; empty: it went well.
constexpr char kFreeze = 'f';
constexpr char kThaw = 't';
constexpr char kIsFrozen = 'F';
constexpr char kIsThawed = 'T';

int freeze_file_system(int descriptor) { return ::ioctl(descriptor, FIFREEZE, 0) == 0 ? 0 : errno; }
int write_file_system_back(int descriptor) { return ::syncfs(descriptor) == 0 ? 0 : errno; }
int thaw_file_system(int descriptor) { return ::ioctl(descriptor, FITHAW, 0) == 0 ? 0 : errno; }

void send_message(int channel, char kind, const std::string& text) {
  const std::string message = kind + text.substr(0, 4000);
  while (::send(channel, message.data(), message.size(), MSG_NOSIGNAL) < 0 && errno == EINTR) continue;
}

enum class Heard { message, nothing, end };
Heard hear(int channel, std::optional<Clock::time_point> deadline, std::string& message) {
  for (;;) {
    const auto left = deadline ? std::chrono::ceil<milliseconds>(*deadline - Clock::now()).count() : -1;
    pollfd waiting{channel, POLLIN, 0};
    const int ready = ::poll(&waiting, 1, deadline ? static_cast<int>(std::max<std::int64_t>(left, 0)) : -1);
    if (ready == 0) return Heard::nothing;
    if (ready < 0 && errno == EINTR) continue;
    std::array<char, 4096> buffer{};
    const ssize_t got = ::recv(channel, buffer.data(), buffer.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return Heard::end;
    message.assign(buffer.data(), static_cast<std::size_t>(got));
    return Heard::message;
  }
}

} // namespace

struct FreezeGuard::Shared {
  std::array<std::atomic<State>, kMostTargets> states; // agents, then file systems
  static_assert(std::atomic<State>::is_always_lock_free);
};

// The guard's side.
class GuardProcess {
 public:
  GuardProcess(FreezeGuard::Options& options, FreezeGuard::Shared& shared, int channel)
      : options_(options), shared_(shared), channel_(channel) {}

  void run() {
    std::string message;
    if (hear(channel_, std::nullopt, message) != Heard::message || message[0] != kFreeze) return;
    if (const std::string trouble = write_back(); !trouble.empty()) return give_up(trouble);
    deadline_ = Clock::now() + options_.limit;
    try {
      freezer_ = std::thread([this] { freeze_all(); });
    } catch (const std::system_error& error) {
      return give_up(fmt::format("freezing: no thread can be had: {}", error.code().message()));
    }
    Heard heard = hear(channel_, deadline_, message);
    // First, as the command does not wait for guests then.
    if (heard == Heard::nothing) say_frozen(trouble_or_late());
    let_go(heard == Heard::message);
    if (heard == Heard::nothing) heard = hear(channel_, std::nullopt, message);
    if (heard == Heard::message) send_message(channel_, kIsThawed, all_left());
    freezer_.join();
  }

 private:
  std::size_t agents() const { return options_.agents.size(); }
  std::size_t targets() const { return agents() + options_.file_systems.size(); }
  std::atomic<State>& state(std::size_t i) { return shared_.states[i]; }

  void say_frozen(const std::string& text) {
    const std::lock_guard lock(mutex_);
    if (!said_) send_message(channel_, kIsFrozen, text);
    said_ = true;
  }

  // Nothing is frozen, nor will be.
  void give_up(const std::string& trouble) {
    say_frozen(trouble);
    std::string message;
    if (hear(channel_, std::nullopt, message) == Heard::message) send_message(channel_, kIsThawed, {});
  }

  std::string trouble_or_late() {
    const std::lock_guard lock(mutex_);
    return trouble_.empty() ? fmt::format("not frozen within {} s (--freeze-limit)", seconds(options_.limit))
                            : trouble_;
  }

  // Most of what a freeze has to write is written before it begins, in a thread that is left behind when it
  // takes longer than the limit. What went wrong, in words.
  std::string write_back() {
    if (options_.file_systems.empty()) return {};
    const auto write = [this] {
      for (std::size_t i = 0; i < options_.file_systems.size(); ++i) {
        const int error = options_.write_back(options_.file_systems[i].directory.get());
        const std::lock_guard lock(mutex_);
        if (error != 0) {
          trouble_ =
              fmt::format("{}: writing it back: {}", options_.file_systems[i].name, std::strerror(error));
        }
        written_ = error == 0 ? i + 1 : options_.file_systems.size();
        progress_.notify_all();
        if (error != 0) return;
      }
    };
    try {
      std::thread(write).detach();
    } catch (const std::system_error&) {
      return {}; // the freeze writes it
    }
    std::unique_lock lock(mutex_);
    const bool done =
        progress_.wait_for(lock, options_.limit, [&] { return written_ == options_.file_systems.size(); });
    if (done) return trouble_;
    return fmt::format("{}: not written back within {} s (--freeze-limit; is its volume full or paused?)",
                       options_.file_systems[written_].name, seconds(options_.limit));
  }

  // The freezing thread.
  void freeze_all() {
    std::string trouble;
    for (std::size_t i = 0; i < targets() && trouble.empty(); ++i) {
      {
        const std::lock_guard lock(mutex_);
        if (over_) break;
        state(i) = State::freezing;
      }
      const State now = i < agents() ? freeze_agent(i, trouble) : freeze_file_system(i - agents(), trouble);
      bool late = false;
      {
        const std::lock_guard lock(mutex_);
        state(i) = now;
        late = over_ && now == State::frozen;
        trouble_ = trouble;
      }
      if (late) add_left(thaw_one(i, false));
    }
    if (!trouble.empty()) {
      let_go(false);
      const std::string left = take_left();
      say_frozen(left.empty() ? trouble : trouble + "; " + left);
    } else {
      say_frozen({});
    }
    const std::lock_guard lock(mutex_);
    all_tried_ = true;
    progress_.notify_all();
  }

  State freeze_agent(std::size_t i, std::string& trouble) {
    GuestAgent& agent = *options_.agents[i];
    const auto frozen = agent.freeze(deadline_);
    if (frozen && *frozen > 0) return State::frozen;
    if (frozen) return State::empty;
    trouble = frozen.error().message;
    if (const auto thawed = agent.thaw(Clock::now() + options_.thaw_limit); !thawed)
      trouble += "; its guest may be frozen still (guest-fsfreeze-thaw)";
    return State::failed;
  }

  State freeze_file_system(std::size_t i, std::string& trouble) {
    const FreezeGuard::FileSystem& target = options_.file_systems[i];
    const int error = options_.freeze(target.directory.get());
    if (error == 0) return State::frozen;
    if (error == EBUSY) return State::busy;
    if (error == EOPNOTSUPP || error == ENOTTY) return State::unsupported;
    trouble = fmt::format("{}: freezing it: {}{}", target.name, std::strerror(error),
                          error == EPERM ? " (run this as root)" : "");
    return State::failed;
  }

  // Thaws all that is frozen; nothing is frozen any more from then on, but what is being frozen, which the
  // freezing thread thaws. Returns when that is done, whoever does it.
  void let_go(bool asked_for) {
    const std::lock_guard one_does_it(thawing_);
    std::vector<std::size_t> frozen;
    {
      const std::lock_guard lock(mutex_);
      if (over_) return;
      over_ = true;
      for (std::size_t i = targets(); i-- > 0;) {
        if (state(i) == State::frozen) frozen.push_back(i);
      }
    }
    const auto thaw = [&](std::size_t i) { add_left(thaw_one(i, asked_for)); };
    std::vector<std::thread> waiting; // for a guest each
    waiting.reserve(agents());
    std::vector<std::size_t> here;
    here.reserve(frozen.size());
    for (const std::size_t i : frozen) {
      try {
        if (i < agents()) waiting.emplace_back(thaw, i);
      } catch (const std::exception&) { // no thread can be had
        here.push_back(i);
      }
    }
    for (const std::size_t i : frozen) {
      if (i >= agents()) thaw(i);
    }
    for (const std::size_t i : here) thaw(i);
    for (std::thread& thread : waiting) thread.join();
  }

  void add_left(const std::string& text) {
    const std::lock_guard lock(mutex_);
    if (!text.empty()) left_.push_back(text);
  }

  // What could not be thawed, in words; once.
  std::string take_left() {
    const std::lock_guard lock(mutex_);
    return fmt::format("{}", fmt::join(std::exchange(left_, {}), "; "));
  }

  // The same, and what is being frozen still after a while.
  std::string all_left() {
    {
      std::unique_lock lock(mutex_);
      progress_.wait_until(lock, deadline_ + options_.thaw_limit, [this] { return all_tried_; });
      for (std::size_t i = 0; i < targets(); ++i) {
        if (state(i) != State::freezing) continue;
        left_.push_back(fmt::format("{}: {}", FreezeGuard::name_of(options_, i), kBeingFrozen));
      }
    }
    return take_left();
  }

  std::string thaw_one(std::size_t i, bool asked_for) {
    const State thawed = asked_for ? State::held : State::let_go;
    if (i >= agents()) {
      const FreezeGuard::FileSystem& target = options_.file_systems[i - agents()];
      const int error = options_.thaw(target.directory.get());
      state(i) = error == 0 ? thawed : State::released;
      if (error == 0 || error == EINVAL) return {}; // EINVAL: it is not frozen
      return fmt::format("{}: may be frozen still: {} (fsfreeze -u)", target.name, std::strerror(error));
    }
    GuestAgent& agent = *options_.agents[i];
    bool held = false;
    if (asked_for) {
      const auto status = agent.is_frozen(Clock::now() + kStatusLimit);
      held = status && *status;
    }
    const auto done = agent.thaw(Clock::now() + options_.thaw_limit);
    state(i) = held || !asked_for ? thawed : State::released;
    if (done) return {};
    return done.error().message + "; its guest may be frozen still (guest-fsfreeze-thaw)";
  }

  FreezeGuard::Options& options_;
  FreezeGuard::Shared& shared_;
  const int channel_;
  Clock::time_point deadline_;
  std::thread freezer_;
  std::mutex thawing_;               // taken before mutex_
  std::mutex mutex_;                 // the states, while they are more than one's business, and what follows
  std::condition_variable progress_; // of written_ and all_tried_
  std::size_t written_ = 0;          // file systems
  std::string trouble_;              // of writing back or freezing
  std::vector<std::string> left_;    // what may be frozen still, and has not been told
  bool all_tried_ = false;           // the freezing thread has no more to do
  bool over_ = false;
  bool said_ = false;
};

namespace {

// Out of reach of everything that may end or stop it, and holding nothing of the command's.
void become_independent(std::vector<int> kept) {
  ::setsid();
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGTSTP, SIGTTOU, SIGUSR1, SIGUSR2})
    std::signal(number, SIG_IGN);
  if (const int null = ::open("/dev/null", O_RDWR); null >= 0) {
    for (const int standard : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(null, standard);
    if (null > STDERR_FILENO) ::close(null);
  }
  std::sort(kept.begin(), kept.end());
  unsigned first = STDERR_FILENO + 1;
  for (const int fd : kept) {
    const auto number = static_cast<unsigned>(fd);
    if (number > first) ::close_range(first, number - 1, 0);
    first = std::max(first, number + 1);
  }
  ::close_range(first, ~0U, 0);
  if (::chdir("/") != 0) return;
  ::mlockall(MCL_CURRENT); // as far as it may
}

} // namespace

FreezeGuard::FreezeGuard(Options options) : options_(std::move(options)) {
  if (options_.freeze == nullptr) options_.freeze = freeze_file_system;
  if (options_.write_back == nullptr) options_.write_back = write_file_system_back;
  if (options_.thaw == nullptr) options_.thaw = thaw_file_system;
}

Result<std::unique_ptr<FreezeGuard>> FreezeGuard::start(Options options) {
  if (options.agents.size() + options.file_systems.size() > kMostTargets)
    return failure(ErrorKind::usage, fmt::format("more than {} file systems to freeze", kMostTargets));
  std::unique_ptr<FreezeGuard> guard(new FreezeGuard(std::move(options)));
  void* const memory =
      ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return system_failure(errno, "freezing");
  guard->shared_ = std::construct_at(static_cast<Shared*>(memory)); // all idle
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0)
    return system_failure(errno, "freezing");
  guard->channel_ = Descriptor(ends[0]);
  Descriptor theirs(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return system_failure(errno, "freezing");
  if (pid == 0) {
    std::vector<int> kept{theirs.get()};
    for (const FileSystem& each : guard->options_.file_systems) kept.push_back(each.directory.get());
    for (const auto& agent : guard->options_.agents) kept.push_back(agent->descriptor());
    become_independent(std::move(kept));
    GuardProcess process(guard->options_, *guard->shared_, theirs.get());
    try {
      process.run();
    } catch (...) { // the command sees that it has ended, and thaws
    }
    ::_exit(0);
  }
  guard->pid_ = pid;
  for (const auto& agent : guard->options_.agents) agent->disconnect(); // the guard has it
  return guard;
}

FreezeGuard::~FreezeGuard() {
  if (pid_ > 0 && !over_) static_cast<void>(thaw());
  channel_.reset();
  static_cast<void>(ends_within(kReapTime)); // one that waits for a freeze to end stays until it can thaw
  if (shared_ != nullptr) ::munmap(shared_, sizeof(Shared));
}

State FreezeGuard::agent(std::size_t i) const { return shared_->states[i]; }
State FreezeGuard::file_system(std::size_t i) const { return shared_->states[options_.agents.size() + i]; }

// The words of the next message of that kind. Kind no_answer: the guard is gone, or says nothing.
Result<std::string> FreezeGuard::wait_for(char kind, milliseconds limit) {
  const Clock::time_point deadline = Clock::now() + limit;
  std::string message;
  for (;;) {
    switch (hear(channel_.get(), deadline, message)) {
      case Heard::message:
        if (message[0] == kind) return message.substr(1);
        break;
      case Heard::nothing:
        return failure(ErrorKind::no_answer, ETIMEDOUT, "the process that freezes says nothing");
      case Heard::end:
        return failure(ErrorKind::no_answer, ECONNRESET, "the process that freezes was killed");
    }
  }
}

Result<> FreezeGuard::freeze() {
  send_message(channel_.get(), kFreeze, {});
  const auto frozen = wait_for(kIsFrozen, 2 * options_.limit + kGrace); // to write back, and to freeze
  if (frozen && frozen->empty()) return {};
  if (frozen) return failure(ErrorKind::failed, *frozen);
  const auto thawed = thaw_in_its_place();
  return failure(ErrorKind::failed,
                 thawed ? frozen.error().message : frozen.error().message + "; " + thawed.error().message);
}

Result<> FreezeGuard::thaw() {
  if (over_) return {};
  over_ = true;
  send_message(channel_.get(), kThaw, {});
  const auto left = wait_for(kIsThawed, options_.thaw_limit + kStatusLimit + kGrace);
  if (!left) return thaw_in_its_place();
  return left->empty() ? Result<>() : failure(ErrorKind::failed, *left);
}

// Whether the guard is gone: no call of its threads is under way any more.
bool FreezeGuard::ends_within(milliseconds time) {
  const Clock::time_point deadline = Clock::now() + time;
  while (pid_ > 0) {
    const pid_t ended = ::waitpid(pid_, nullptr, WNOHANG);
    if (ended != 0 && !(ended < 0 && errno == EINTR)) pid_ = -1;
    if (pid_ < 0) break;
    if (Clock::now() >= deadline) return false;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return true;
}

// Of a guard that was killed, or hangs. A freeze that is under way comes to its end even in one that is
// killed, and can be undone only after that; a guard that does not end is left alone, as it thaws then.
Result<> FreezeGuard::thaw_in_its_place() {
  over_ = true;
  ::shutdown(channel_.get(), SHUT_RDWR); // to one that lives the command is gone
  if (pid_ > 0) ::kill(pid_, SIGCONT);
  std::vector<std::string> left;
  const std::size_t agents = options_.agents.size();
  const std::size_t targets = agents + options_.file_systems.size();
  // A freeze may wait for what is frozen.
  for (std::size_t i = targets; i-- > agents;) {
    if (shared_->states[i] == State::frozen) thaw_one(i, left);
  }
  const bool gone = ends_within(options_.thaw_limit);
  for (std::size_t i = targets; i-- > 0;) {
    const State now = shared_->states[i];
    if (now != State::frozen && now != State::freezing) continue;
    if (gone || (now == State::frozen && i >= agents)) {
      thaw_one(i, left);
    } else {
      left.push_back(fmt::format("{}: {}", name_of(options_, i), kBeingFrozen));
    }
  }
  if (left.empty()) return {};
  return failure(ErrorKind::failed, fmt::format("{}", fmt::join(left, "; ")));
}

void FreezeGuard::thaw_one(std::size_t i, std::vector<std::string>& left) {
  shared_->states[i] = State::let_go;
  if (i < options_.agents.size()) {
    // Its connection ended with the guard: agents have one at a time.
    const auto thawed = options_.agents[i]->thaw(Clock::now() + options_.thaw_limit);
    if (!thawed)
      left.push_back(thawed.error().message + "; its guest may be frozen still (guest-fsfreeze-thaw)");
    return;
  }
  const FileSystem& target = options_.file_systems[i - options_.agents.size()];
  const int error = options_.thaw(target.directory.get());
  if (error == 0 || error == EINVAL) return; // EINVAL: it is not frozen
  left.push_back(fmt::format("{}: may be frozen still: {} (fsfreeze -u)", target.name, std::strerror(error)));
}

const std::string& FreezeGuard::name_of(const Options& options, std::size_t i) {
  const std::size_t agents = options.agents.size();
  return i < agents ? options.agents[i]->socket() : options.file_systems[i - agents].name;
}

} // namespace vsnap::cli
