// The command line: exit codes of wrong usage, suggestions, help. Commands that need a pool are tested live.
#include "cli/command.h"
#include "cli/mount_table.h"
#include "tests/support/catch.h"
#include "tests/sync/scratch_dir.h"

namespace vsnap::cli {
namespace {

struct Fixture {
  test::ScratchDir dir;
  test::ScopedVariable state{"VSNAP_STATE_DIR", dir / "state"};
  test::ScopedVariable runtime{"VSNAP_RUNTIME_DIR", dir / "run"};

  static int run(std::vector<const char*> words) {
    words.insert(words.begin(), "vsnap");
    Program program;
    register_all(program);
    return program.main(static_cast<int>(words.size()), words.data());
  }
};

TEST_CASE_METHOD(Fixture, "wrong usage is exit code 2") {
  CHECK(run({}) == 2);
  CHECK(run({"lss"}) == 2);
  CHECK(run({"pool"}) == 2);
  CHECK(run({"pool", "mkae"}) == 2);
  CHECK(run({"create"}) == 2);
  CHECK(run({"create", "lab/v"}) == 2);
  CHECK(run({"create", "lab/v", "--size", "-5"}) == 2);
  CHECK(run({"create", "lab/v", "--size", "5X"}) == 2);
  CHECK(run({"create", "lab/v", "--size", "9E"}) == 2);
  CHECK(run({"create", "lab/../v", "--size", "5"}) == 2);
  CHECK(run({"create", "lab", "--size", "5"}) == 2);
  CHECK(run({"create", "lab/v", "extra", "--size", "5"}) == 2);
  CHECK(run({"create", "lab/v", "--size", "5", "-n"}) == 2); // nothing that a dry run could keep from harm
  CHECK(run({"ls", "-t", "bogus"}) == 2);
  CHECK(run({"ls", "-o", "bogus"}) == 2);
  CHECK(run({"snapshot", "a/v@s", "b/v@s"}) == 2);
  CHECK(run({"mount", "lab", "/", "-o", "bogus"}) == 2);
  CHECK(run({"mount", "lab", "/", "-o", "threads=0"}) == 2);
  CHECK(run({"mount", "lab", "/", "-o", "direct=maybe"}) == 2);
  CHECK(run({"mount", "lab", "/", "--listen", "tcp://*:7800"}) == 2);
  CHECK(run({"mount", "lab", "/", "--lease", "5s"}) == 2); // of whom?
  CHECK(run({"mount", "lab", "/", "--listen", "tcp://10.0.0.1:7800", "--lease", "1ms"}) == 2);
  CHECK(run({"mount", "lab", "/", "--listen", "tcp://10.0.0.1:7800", "-o", "degraded"}) == 2);
  CHECK(run({"host"}) == 2);
  CHECK(run({"host", "invite", "lab", "--expires", "soon"}) == 2);
  CHECK(run({"host", "invite", "lab", "--name", "../x"}) == 2);
  CHECK(run({"host", "join", "vsnap-join-1.xyz"}) == 2);
  CHECK(run({"host", "revoke", "lab", "a/b"}) == 2);
  CHECK(run({"map", "lab/v", "--sector-size", "513"}) == 2);
  CHECK(run({"--json"}) == 2);
}

TEST_CASE_METHOD(Fixture, "a pool that is not known is exit code 3") {
  CHECK(run({"ls", "lab"}) == 3);
  CHECK(run({"create", "lab/v", "--size", "5"}) == 3);
  CHECK(run({"create", "--size", "5", "--json", "lab/v"}) == 3);
  CHECK(run({"pool", "status", "lab"}) == 3);
  CHECK(run({"host", "list", "lab"}) == 3);
  CHECK(run({"host", "invite", "lab"}) == 3);
  CHECK(run({"host", "revoke", "lab", "beta", "-y"}) == 3);
  CHECK(run({"pool", "destroy", "lab", "-y"}) == 3);
  CHECK(run({"mount", "lab", "/"}) == 3);
  CHECK(run({"umount", "lab"}) == 3);
  CHECK(run({"map", "lab/v"}) == 3);
  CHECK(run({"rm", "/nowhere/v"}) == 3);
}

TEST_CASE_METHOD(Fixture, "lists of nothing are no error") {
  CHECK(run({"pool", "list"}) == 0);
  CHECK(run({"ls"}) == 0);
  CHECK(run({"ls", "--json"}) == 0);
  CHECK(run({"df"}) == 0);
}

TEST_CASE_METHOD(Fixture, "help and version are exit code 0, for every command") {
  CHECK(run({"--help"}) == 0);
  CHECK(run({"--version"}) == 0);
  Program program;
  register_all(program);
  for (const std::string& name : program.command_names()) {
    CAPTURE(name);
    const auto blank = name.find(' ');
    const std::string first = name.substr(0, blank);
    const std::string second = blank == std::string::npos ? "--help" : name.substr(blank + 1);
    CHECK(run({first.c_str(), second.c_str(), "--help"}) == 0);
  }
}

} // namespace
} // namespace vsnap::cli
