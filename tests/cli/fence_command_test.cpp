// A fence command: what it is started with, what it says, and that nothing waits for one that does not end.
#include "cli/fence_command.h"

#include <unistd.h>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "core/log.h"
#include "tests/support/catch.h"

using namespace vsnap;
using namespace vsnap::cli;

namespace {

constexpr std::chrono::seconds kLongest(60); // before a test gives up

class Scratch {
 public:
  Scratch() {
    vsnap::log::set_level(vsnap::log::Level::off);
    std::string path = (std::filesystem::temp_directory_path() / "fence-XXXXXX").string();
    REQUIRE(::mkdtemp(path.data()) != nullptr);
    path_ = path;
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  [[nodiscard]] std::string path() const { return path_.string(); }
  [[nodiscard]] std::string text(const std::string& name) const {
    std::ostringstream out;
    out << std::ifstream(path_ / name).rdbuf();
    return out.str();
  }
  // A number that the command writes, with the end of the line after it.
  [[nodiscard]] pid_t number(const std::string& name) const {
    const auto until = std::chrono::steady_clock::now() + kLongest;
    std::string found;
    while (!found.ends_with('\n') && std::chrono::steady_clock::now() < until) found = text(name);
    return static_cast<pid_t>(std::stol(found));
  }

 private:
  std::filesystem::path path_;
};

// It was not this process's own, so that it goes is seen a moment later.
bool has_ended(pid_t pid) {
  const auto until = std::chrono::steady_clock::now() + kLongest;
  while (std::chrono::steady_clock::now() < until) {
    if (::kill(pid, 0) != 0) return errno == ESRCH;
    std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
    std::string number, name, state;
    if (stat >> number >> name >> state && state == "Z") return true; // for whoever adopted it
  }
  return false;
}

} // namespace

TEST_CASE("only exit code 0 says that a host is fenced") {
  const Scratch scratch;
  CHECK(FenceCommand("exit 0", "lab").run("beta"));
  CHECK(FenceCommand("true && [ 1 = 1 ]", "lab").run("beta"));
  for (const char* command : {"exit 1", "exit 255", "kill -9 $$", "/nowhere/fence", "if", "false; (exit 3)"})
    CHECK_FALSE(FenceCommand(command, "lab").run("beta"));
}

TEST_CASE("a fence command knows the pool and the host, from its arguments and its environment") {
  const Scratch scratch;
  ::setenv("VSNAP_HOST", "another", 1);
  const FenceCommand fence("cd '" + scratch.path() + "' && echo \"$#,$1,$2,$VSNAP_POOL,$VSNAP_HOST\" > said",
                           "lab");
  CHECK(fence.run("be ta"));
  CHECK(scratch.text("said") == "2,lab,be ta,lab,be ta\n");
  CHECK(fence.run("gamma"));
  CHECK(scratch.text("said") == "2,lab,gamma,lab,gamma\n");
  ::unsetenv("VSNAP_HOST");
}

TEST_CASE("a fence command inherits no files, reads nothing, and can be ended by signals") {
  const Scratch scratch;
  sigset_t mask, before;
  ::sigemptyset(&mask);
  ::sigaddset(&mask, SIGTERM);
  REQUIRE(::pthread_sigmask(SIG_BLOCK, &mask, &before) == 0);
  const int open = ::dup(STDERR_FILENO); // not closed by exec
  REQUIRE(open > STDERR_FILENO);
  CHECK(FenceCommand("cd '" + scratch.path() + "' && cat > read && { [ ! -e /proc/$$/fd/" +
                         std::to_string(open) + " ] || exit 1; }",
                     "lab")
            .run("beta"));
  CHECK(scratch.text("read").empty());
  CHECK_FALSE(FenceCommand("kill $$; exit 0", "lab").run("beta")); // SIGTERM is not blocked there
  ::close(open);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST_CASE("a fence command that does not end in time is killed, with all that it has started") {
  const Scratch scratch;
  const FenceCommand fence(
      "cd '" + scratch.path() + "'; trap '' TERM; sleep 1000 & echo $! > child; wait; exit 0", "lab",
      std::chrono::milliseconds(2000));
  CHECK_FALSE(fence.run("beta"));
  CHECK(has_ended(scratch.number("child")));
}

TEST_CASE("a daemon that ends waits for no fence command, and starts none") {
  const Scratch scratch;
  const FenceCommand fence("cd '" + scratch.path() + "'; sleep 1000 & echo $! > child; wait; exit 0", "lab");
  bool worked = true;
  std::thread runs([&] { worked = fence.run("beta"); });
  const pid_t child = scratch.number("child");
  fence.give_up();
  runs.join(); // before kLongest of the command, or the test's time is over
  CHECK_FALSE(worked);
  CHECK(has_ended(child));
  std::filesystem::remove(scratch.path() + "/child");
  CHECK_FALSE(fence.run("beta"));
  CHECK_FALSE(std::filesystem::exists(scratch.path() + "/child"));
}
