// The guard of a freeze: what it froze is thawed whatever happens, and nothing else.
#include "cli/freeze_guard.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>
#include <thread>

#include "tests/cli/agent_server.h"
#include "tests/support/catch.h"

using namespace vsnap;
using namespace vsnap::cli;
using std::chrono::milliseconds;
using State = FreezeGuard::State;

namespace {

// What stands for file systems, seen by all processes; by descriptor, which both sides have alike.
struct World {
  struct FileSystem {
    std::atomic<bool> frozen;
    std::atomic<int> error;     // of freezing it
    std::atomic<int> freeze_ms; // how long that takes
    std::atomic<int> thaws;     // that found it frozen
    std::atomic<int> thaw_error;
    std::atomic<pid_t> freezing;    // the thread
    std::atomic<int> write_back_ms; // -1: it fails
  };
  std::array<FileSystem, 256> at;
};

World& world() {
  static World* const shared = static_cast<World*>(
      ::mmap(nullptr, sizeof(World), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  return *shared;
}
World::FileSystem& file_system(int descriptor) { return world().at.at(static_cast<std::size_t>(descriptor)); }

int freeze(int descriptor) {
  World::FileSystem& at = file_system(descriptor);
  at.freezing = ::gettid();
  std::this_thread::sleep_for(milliseconds(at.freeze_ms));
  if (at.error != 0) return at.error;
  return at.frozen.exchange(true) ? EBUSY : 0;
}

int write_back(int descriptor) {
  const int ms = file_system(descriptor).write_back_ms;
  if (ms < 0) return EIO;
  std::this_thread::sleep_for(milliseconds(ms));
  return 0;
}

int thaw(int descriptor) {
  World::FileSystem& at = file_system(descriptor);
  if (at.thaw_error != 0) return at.thaw_error;
  if (!at.frozen.exchange(false)) return EINVAL;
  ++at.thaws;
  return 0;
}

template <class Condition>
bool comes_true(Condition condition) {
  for (int waited_ms = 0; waited_ms < 20'000; ++waited_ms) {
    if (condition()) return true;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return false;
}

class Lab {
 public:
  explicit Lab(milliseconds limit = milliseconds(60'000), int count = 2) {
    options.limit = limit;
    options.freeze = freeze;
    options.thaw = thaw;
    options.write_back = write_back;
    for (int i = 0; i < count; ++i) {
      Descriptor directory(::open("/", O_RDONLY | O_CLOEXEC));
      REQUIRE(directory.get() >= 0);
      fds.push_back(directory.get());
      options.file_systems.push_back({"/fs" + std::to_string(i), std::move(directory)});
      World::FileSystem& at = file_system(fds.back());
      at.frozen = false;
      at.error = 0;
      at.freeze_ms = 0;
      at.thaws = 0;
      at.thaw_error = 0;
      at.freezing = 0;
      at.write_back_ms = 0;
    }
  }
  void add(const AgentServer& server) {
    auto agent = GuestAgent::connect(server.path, GuestAgent::Clock::now() + milliseconds(10'000));
    REQUIRE(agent.has_value());
    options.agents.push_back(std::move(*agent));
  }
  World::FileSystem& operator[](std::size_t i) { return file_system(fds[i]); }
  std::unique_ptr<FreezeGuard> start() {
    auto guard = FreezeGuard::start(std::move(options));
    REQUIRE(guard.has_value());
    return std::move(*guard);
  }
  FreezeGuard::Options options;
  std::vector<int> fds;
};

// Freezes, and refuses to thaw.
std::string stuck(const nlohmann::json& question) {
  const bool thaw = question["execute"] == "guest-fsfreeze-thaw";
  return AgentServer::synced(question, thaw ? "{\"error\": {\"desc\": \"stuck\"}}\n" : "{\"return\": 1}\n");
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

} // namespace

TEST_CASE("what is frozen stays so until the end is asked for, and is known to have been held") {
  Lab lab;
  const auto guard = lab.start();
  CHECK_FALSE(lab[0].frozen);
  REQUIRE(guard->freeze().has_value());
  CHECK(lab[0].frozen);
  CHECK(lab[1].frozen);
  REQUIRE(guard->thaw().has_value());
  CHECK_FALSE(lab[0].frozen);
  CHECK_FALSE(lab[1].frozen);
  CHECK(guard->file_system(0) == State::held);
  CHECK(guard->file_system(1) == State::held);
}

TEST_CASE("what others have frozen, or cannot be, is told and left as it is") {
  Lab lab(milliseconds(60'000), 3);
  lab[0].frozen = true;
  lab[1].error = EOPNOTSUPP;
  const auto guard = lab.start();
  REQUIRE(guard->freeze().has_value());
  REQUIRE(guard->thaw().has_value());
  CHECK(guard->file_system(0) == State::busy);
  CHECK(guard->file_system(1) == State::unsupported);
  CHECK(guard->file_system(2) == State::held);
  CHECK(lab[0].frozen);
  CHECK(lab[0].thaws == 0);
}

TEST_CASE("a freeze that fails thaws what was frozen before it") {
  Lab lab(milliseconds(60'000), 3);
  lab[1].error = EIO;
  const auto guard = lab.start();
  const auto frozen = guard->freeze();
  REQUIRE_FALSE(frozen.has_value());
  CHECK(frozen.error().message.find("/fs1: freezing it: Input/output error") != std::string::npos);
  CHECK_FALSE(lab[0].frozen);
  CHECK(lab[0].thaws == 1);
  CHECK_FALSE(lab[2].frozen);
}

TEST_CASE("after the limit all is thawed, and it shows that it was not held") {
  Lab lab(milliseconds(100));
  const auto guard = lab.start();
  REQUIRE(guard->freeze().has_value());
  REQUIRE(comes_true([&] { return !lab[0].frozen && !lab[1].frozen; }));
  REQUIRE(guard->thaw().has_value());
  CHECK(guard->file_system(0) == State::let_go);
  CHECK(guard->file_system(1) == State::let_go);
}

TEST_CASE("a freeze that outlasts the limit keeps nothing else frozen, and is undone when it ends") {
  Lab lab(milliseconds(100));
  lab[1].freeze_ms = 1500;
  lab.options.thaw_limit = milliseconds(50);
  auto guard = lab.start();
  const auto frozen = guard->freeze();
  REQUIRE_FALSE(frozen.has_value());
  CHECK(frozen.error().message.find("--freeze-limit") != std::string::npos);
  const auto thawed = guard->thaw();
  REQUIRE_FALSE(thawed.has_value());
  CHECK(thawed.error().message.starts_with("/fs1: may be frozen still: freezing it has not ended"));
  CHECK(lab[0].thaws == 1);
  CHECK(lab[1].thaws == 0); // not frozen yet
  guard.reset();            // the command ends; its guard stays
  REQUIRE(comes_true([&] { return lab[1].thaws == 1; }));
  CHECK_FALSE(lab[1].frozen);
}

TEST_CASE("a freeze that outlasts the limit is told at the limit, however long a guest takes to thaw") {
  AgentServer server(stuck);
  Lab lab(milliseconds(100));
  lab.add(server);
  lab[1].freeze_ms = 4000;
  lab.options.thaw_limit = milliseconds(6000);
  const auto guard = lab.start();
  const auto frozen = guard->freeze();
  REQUIRE_FALSE(frozen.has_value());
  CHECK(frozen.error().message == "not frozen within 0.1 s (--freeze-limit)");
  const auto thawed = guard->thaw();
  REQUIRE_FALSE(thawed.has_value());
  CHECK(contains(thawed.error().message, "its guest may be frozen still"));
  CHECK_FALSE(contains(thawed.error().message, "/fs1"));
  CHECK(lab[0].thaws == 1);
  CHECK(lab[1].thaws == 1);
}

TEST_CASE("what cannot be thawed after a freeze that failed is told") {
  AgentServer server(stuck);
  Lab lab;
  lab.add(server);
  lab.options.thaw_limit = milliseconds(200);
  lab[0].thaw_error = EIO;
  lab[1].error = EIO;
  const auto guard = lab.start();
  const auto frozen = guard->freeze();
  REQUIRE_FALSE(frozen.has_value());
  CHECK(contains(frozen.error().message, "/fs1: freezing it: Input/output error"));
  CHECK(contains(frozen.error().message, "/fs0: may be frozen still: Input/output error"));
  CHECK(contains(frozen.error().message, "its guest may be frozen still"));
  CHECK(guard->thaw().has_value()); // told already
}

TEST_CASE("what takes longer than the limit to write back is an error before anything is frozen") {
  Lab lab(milliseconds(100));
  lab[1].write_back_ms = 600'000;
  const auto guard = lab.start();
  const auto frozen = guard->freeze();
  REQUIRE_FALSE(frozen.has_value());
  CHECK(contains(frozen.error().message, "/fs1: not written back within 0.1 s (--freeze-limit"));
  CHECK(guard->thaw().has_value());
  CHECK(guard->file_system(0) == State::idle);
  CHECK(lab[0].thaws == 0);
}

TEST_CASE("an error of writing back is told, and nothing is frozen") {
  Lab lab;
  lab[0].write_back_ms = -1;
  const auto guard = lab.start();
  const auto frozen = guard->freeze();
  REQUIRE_FALSE(frozen.has_value());
  CHECK(frozen.error().message == "/fs0: writing it back: Input/output error");
  CHECK(guard->thaw().has_value());
  CHECK(guard->file_system(1) == State::idle);
}

TEST_CASE("what somebody else thaws meanwhile was not held") {
  Lab lab;
  const auto guard = lab.start();
  REQUIRE(guard->freeze().has_value());
  lab[0].frozen = false;
  REQUIRE(guard->thaw().has_value());
  CHECK(guard->file_system(0) == State::released);
  CHECK(guard->file_system(1) == State::held);
}

TEST_CASE("when the command is killed its guard thaws, whatever signals it was sent itself") {
  Lab lab;
  std::array<int, 2> ends{};
  REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
  const pid_t command = ::fork();
  if (command == 0) {
    auto guard = FreezeGuard::start(std::move(lab.options));
    const bool frozen = guard && (*guard)->freeze();
    const pid_t pid = frozen ? (*guard)->pid() : -1;
    static_cast<void>(!::write(ends[1], &pid, sizeof pid));
    ::pause();
    ::_exit(0);
  }
  pid_t guard = -1;
  REQUIRE(::read(ends[0], &guard, sizeof guard) == sizeof guard);
  REQUIRE(guard > 0);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) REQUIRE(::kill(guard, number) == 0);
  CHECK(::getsid(guard) == guard);
  CHECK(lab[0].frozen);
  REQUIRE(::kill(command, SIGKILL) == 0);
  REQUIRE(::waitpid(command, nullptr, 0) == command);
  REQUIRE(comes_true([&] { return lab[0].thaws == 1 && lab[1].thaws == 1; }));
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_CASE("a guard that is killed is stood in for, and nothing was held") {
  Lab lab;
  const auto guard = lab.start();
  REQUIRE(guard->freeze().has_value());
  REQUIRE(::kill(guard->pid(), SIGKILL) == 0);
  REQUIRE(guard->thaw().has_value());
  CHECK_FALSE(lab[0].frozen);
  CHECK_FALSE(lab[1].frozen);
  CHECK(guard->file_system(0) == State::let_go);
}

// A freeze in the kernel comes to its end also when its thread is to die. What does the same here: the thread
// is traced, so that its process is there until the tracer has seen it end.
TEST_CASE("a guard that is killed while it freezes is stood in for when the freeze has ended") {
  Lab lab;
  lab[1].freeze_ms = 600'000;
  const auto guard = lab.start();
  const pid_t pid = guard->pid();
  bool traced = false;
  std::thread kernel([&] {
    if (!comes_true([&] { return lab[1].freezing != 0; })) return;
    const pid_t thread = lab[1].freezing;
    traced = ::ptrace(PTRACE_SEIZE, thread, nullptr, nullptr) == 0;
    ::kill(pid, SIGKILL);
    traced = traced && comes_true([&] { return lab[0].thaws == 1; });
    lab[1].frozen = true;
    if (traced) ::waitpid(thread, nullptr, __WALL);
  });
  const auto frozen = guard->freeze();
  kernel.join();
  REQUIRE(traced);
  REQUIRE_FALSE(frozen.has_value());
  CHECK(frozen.error().message == "the process that freezes was killed");
  CHECK(lab[1].thaws == 1);
  CHECK_FALSE(lab[1].frozen);
}

TEST_CASE("a guard that was killed and does not end has its freezes told of, and not taken for thawed") {
  Lab lab;
  lab[1].freeze_ms = 600'000;
  lab.options.thaw_limit = milliseconds(100);
  auto guard = lab.start();
  const pid_t pid = guard->pid();
  std::atomic<bool> told{false};
  bool traced = false;
  std::thread kernel([&] {
    if (!comes_true([&] { return lab[1].freezing != 0; })) return;
    const pid_t thread = lab[1].freezing;
    traced = ::ptrace(PTRACE_SEIZE, thread, nullptr, nullptr) == 0;
    ::kill(pid, SIGKILL);
    traced = traced && comes_true([&] { return told.load(); });
    if (traced) ::waitpid(thread, nullptr, __WALL);
  });
  const auto frozen = guard->freeze();
  told = true;
  kernel.join();
  REQUIRE(traced);
  REQUIRE_FALSE(frozen.has_value());
  CHECK(contains(frozen.error().message, "/fs1: may be frozen still: freezing it has not ended"));
  CHECK(guard->file_system(1) == State::freezing);
  CHECK(lab[0].thaws == 1);
}

TEST_CASE("a guard that is given up before anything was frozen ends by itself") {
  Lab lab;
  auto guard = lab.start();
  const pid_t pid = guard->pid();
  guard.reset();
  CHECK(::waitpid(pid, nullptr, 0) == -1); // it was waited for
  CHECK(lab[0].thaws == 0);
}
