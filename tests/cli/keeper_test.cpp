// The keeper with daemons that do not come to serve, or do at last.
#include "cli/keeper.h"

#include <sys/wait.h>
#include <unistd.h>
#include <fstream>

#include "tests/support/catch.h"

using namespace vsnap;
using namespace vsnap::cli;

namespace {

struct Outcome {
  bool succeeded = false;
  std::vector<std::string> lives; // what each daemon was given
};

// In a process of its own, as the keeper waits for all its children.
Outcome keep(const std::string& pool, const KeeperSettings& settings) {
  std::string file = "/tmp/vsnap-keeper-XXXXXX";
  const int fd = ::mkstemp(file.data());
  REQUIRE(fd >= 0);
  ::close(fd);
  DaemonOptions options;
  options.pool = pool;
  options.mount_point = file;
  const pid_t keeper = ::fork();
  if (keeper == 0) {
    const auto kept = run_keeper(
        options, [] {}, settings);
    ::_exit(kept ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(keeper, &status, 0) == keeper);
  REQUIRE(WIFEXITED(status));
  Outcome outcome{WEXITSTATUS(status) == 0, {}};
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) outcome.lives.push_back(line);
  ::unlink(file.c_str());
  return outcome;
}

KeeperSettings settings(int tries) {
  KeeperSettings out;
  out.fewest_tries = tries;
  out.longest_failing = std::chrono::milliseconds(0);
  out.program = VSNAP_KEEPER_TEST_DAEMON;
  return out;
}

} // namespace

TEST_CASE("a mount that no daemon comes to serve is given up after as many tries as are set") {
  const Outcome outcome = keep("fails", settings(5));
  CHECK_FALSE(outcome.succeeded);
  CHECK(outcome.lives == std::vector<std::string>{"0 0", "2 1", "2 1", "2 1", "2 1"});
}

TEST_CASE("a daemon that comes to serve at last gets what the first one had") {
  const Outcome outcome = keep("serves at last", settings(100));
  CHECK(outcome.succeeded);
  CHECK(outcome.lives == std::vector<std::string>{"0 0", "2 1", "2 1", "2 1"});
}
