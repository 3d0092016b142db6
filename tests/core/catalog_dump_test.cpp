// The catalog as a plain file: whole or not there, and errors blame who failed.
#include <SQLiteCpp/SQLiteCpp.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <csignal>
#include <filesystem>
#include <fstream>

#include "tests/core/refusal.h"
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

class Target {
 public:
  Target() {
    std::string made = (std::filesystem::temp_directory_path() / "vsnap-dump-XXXXXX").string();
    REQUIRE(::mkdtemp(made.data()) != nullptr);
    folder_ = made;
  }
  ~Target() { std::filesystem::remove_all(folder_); }
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;
  [[nodiscard]] std::string path(const std::string& name = "x.db") const { return folder_ / name; }
  [[nodiscard]] bool empty() const { return std::filesystem::is_empty(folder_); }

 private:
  std::filesystem::path folder_;
};

// Files of this process grow no further.
class NoSpace {
 public:
  NoSpace() : old_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &old_) == 0);
    rlimit small = old_;
    small.rlim_cur = 16 * 1024;
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  }
  ~NoSpace() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, old_handler_);
  }
  NoSpace(const NoSpace&) = delete;
  NoSpace& operator=(const NoSpace&) = delete;

 private:
  rlimit old_{};
  void (*old_handler_)(int);
};

} // namespace

TEST_CASE("a dump is an ordinary database with the rows of the catalog") {
  SmallPool lab;
  lab.create("v", kMiB);
  const Target target;
  REQUIRE(lab.pool->dump_catalog(target.path(), {}).has_value());
  SQLite::Database dump(target.path(), SQLite::OPEN_READONLY);
  CHECK(dump.execAndGet("SELECT name FROM volume").getString() == "v");
  CHECK(dump.execAndGet("PRAGMA integrity_check").getString() == "ok");
  CHECK(dump.execAndGet("PRAGMA journal_mode").getString() == "delete");
}

TEST_CASE("a dump goes over no file") {
  SmallPool lab;
  const Target target;
  std::ofstream(target.path()) << "mine";
  const Error error = refusal(lab.pool->dump_catalog(target.path(), {}));
  CHECK(error.errno_value == EEXIST);
  CHECK(says(error, target.path()));
  std::string content;
  std::ifstream(target.path()) >> content;
  CHECK(content == "mine");
}

TEST_CASE("a dump that fails names the file, not the pool, and leaves nothing") {
  SmallPool lab;
  lab.create("v", kMiB);
  const Target target;
  const Error missing = refusal(lab.pool->dump_catalog(target.path("none/x.db"), {}));
  CHECK(missing.kind == ErrorKind::failed);
  CHECK(says(missing, target.path("none/x.db") + ": No such file or directory"));
  {
    const NoSpace full;
    const Error error = refusal(lab.pool->dump_catalog(target.path(), {}));
    CHECK(error.kind == ErrorKind::failed);
    CHECK(says(error, target.path() + ": File too large"));
  }
  CHECK(target.empty());
  CHECK(refusal(lab.pool->dump_catalog(target.path(), [](std::uint64_t, std::uint64_t) {
          return false;
        })).errno_value == ECANCELED);
  CHECK(target.empty());
  CHECK(lab.findings().empty());
}
