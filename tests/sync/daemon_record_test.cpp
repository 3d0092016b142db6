// Which daemon has a pool mounted: true records are believed, stale ones are not.
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <filesystem>
#include <fstream>

#include "sync/daemon_record.h"
#include "tests/support/catch.h"
#include "tests/sync/scratch_dir.h"

namespace vsnap {
namespace {

struct Fixture {
  test::ScratchDir dir;
  test::ScopedVariable runtime{"VSNAP_RUNTIME_DIR", dir / "run"};
  Env& env = Env::real();
  DaemonRecord record = own_record(env, "lab", Uuid{}, "/mnt/lab", dir / "run/lab.sock");
  Fixture() { REQUIRE(prepare_runtime_dir()); }
};

TEST_CASE_METHOD(Fixture, "the record of a running daemon is found") {
  REQUIRE(write_record(record));
  CHECK(live_daemon(env, "lab") == record);
  CHECK_FALSE(live_daemon(env, "other"));
  remove_record(record);
  CHECK_FALSE(live_daemon(env, "lab"));
}

TEST_CASE_METHOD(Fixture, "a process that ended is not taken for a daemon, not even before it is reaped") {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  record.pid = child;
  record.start_ticks = 0;
  siginfo_t info{};
  REQUIRE(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT) == 0); // a zombie now
  REQUIRE(write_record(record));
  CHECK_FALSE(live_daemon(env, "lab"));
  ::waitpid(child, nullptr, 0);
  CHECK_FALSE(live_daemon(env, "lab"));
}

TEST_CASE_METHOD(Fixture, "another process with the same id is not taken for the daemon") {
  record.start_ticks += 1;
  REQUIRE(write_record(record));
  CHECK_FALSE(live_daemon(env, "lab"));
}

TEST_CASE_METHOD(Fixture, "a record from before a reboot is not believed") {
  record.boot_id = "another";
  REQUIRE(write_record(record));
  CHECK_FALSE(live_daemon(env, "lab"));
}

TEST_CASE_METHOD(Fixture, "last words stay until they are taken back, or the pool is mounted anew") {
  CHECK_FALSE(read_last_words("lab"));
  leave_last_words(record, false, {});
  REQUIRE(read_last_words("lab"));
  CHECK(read_last_words("lab")->message.empty());
  leave_last_words(record, true, "no space \xff");
  REQUIRE(read_last_words("lab"));
  CHECK(read_last_words("lab")->no_space);
  CHECK(read_last_words("lab")->message.starts_with("no space"));
  DaemonRecord other = record;
  other.start_ticks += 1;
  CHECK_FALSE(is_of(*read_last_words("lab"), other));
  take_back_last_words(other);
  CHECK(read_last_words("lab"));
  take_back_last_words(record);
  CHECK_FALSE(read_last_words("lab"));
  leave_last_words(record, true, "no space");
  REQUIRE(write_record(other));
  CHECK_FALSE(read_last_words("lab"));
}

TEST_CASE_METHOD(Fixture, "half a record, and things that are no record, are as good as none") {
  REQUIRE(write_record(record));
  std::string whole;
  std::getline(std::ifstream(dir / "run/lab.json"), whole);
  for (std::size_t n = 0; n < whole.size(); ++n) {
    std::ofstream(dir / "run/lab.json") << whole.substr(0, n);
    CHECK_FALSE(live_daemon(env, "lab"));
  }
  for (const char* text : {"[]", "3", "{}", "{\"pid\": \"x\"}", "null"}) {
    std::ofstream(dir / "run/lab.json") << text;
    CHECK_FALSE(live_daemon(env, "lab"));
  }
}

TEST_CASE_METHOD(Fixture, "the runtime directory is private, and one that others can write to is refused") {
  CHECK(std::filesystem::status(dir / "run").permissions() == std::filesystem::perms::owner_all);
  REQUIRE(::chmod((dir / "run").c_str(), 0777) == 0);
  CHECK_FALSE(prepare_runtime_dir());
}

TEST_CASE("a runtime directory that is a link is refused") {
  const test::ScratchDir dir;
  std::filesystem::create_directory(dir / "real");
  std::filesystem::create_directory_symlink(dir / "real", dir / "link");
  const test::ScopedVariable runtime("VSNAP_RUNTIME_DIR", dir / "link");
  CHECK_FALSE(prepare_runtime_dir());
}

TEST_CASE("a path too long for a socket is refused with the way out") {
  const test::ScopedVariable runtime("VSNAP_RUNTIME_DIR", "/tmp/" + std::string(100, 'x'));
  const auto path = control_socket_path("lab");
  REQUIRE_FALSE(path);
  CHECK(path.error().kind == ErrorKind::usage);
  CHECK(path.error().message.find("VSNAP_RUNTIME_DIR") != std::string::npos);
}

TEST_CASE("the longest path that fits is taken") {
  // 107 bytes = directory, slash, "lab.sock"
  const test::ScopedVariable runtime("VSNAP_RUNTIME_DIR", "/" + std::string(107 - 1 - 9, 'x'));
  const auto path = control_socket_path("lab");
  REQUIRE(path);
  CHECK(path->size() == 107);
}

} // namespace
} // namespace vsnap
