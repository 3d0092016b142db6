// The lock of a member belongs to all processes that have its descriptor: real files, as a lock is the
// kernel's.
#include <fcntl.h>
#include <unistd.h>

#include "core/env.h"
#include "tests/support/catch.h"

using namespace vsnap;

namespace {

struct HeldLock {
  HeldLock() {
    const int fd = ::mkstemp(path.data());
    REQUIRE(fd >= 0);
    REQUIRE(::ftruncate(fd, 1 << 20) == 0);
    ::close(fd);
  }
  ~HeldLock() {
    for (const int fd : held) ::close(fd);
    ::unlink(path.c_str());
  }
  [[nodiscard]] std::unique_ptr<File> open(OpenMode mode = {}) const {
    auto opened = Env::real().open_file(path, mode);
    REQUIRE(opened.has_value());
    return std::move(*opened);
  }
  // Open and locked, and its descriptor held here as by another process.
  std::unique_ptr<File> locked() {
    auto file = open();
    REQUIRE(file->try_lock().value());
    held.push_back(::fcntl(file->descriptor(), F_DUPFD_CLOEXEC, 0));
    return file;
  }

  std::string path = "/tmp/vsnap-held-XXXXXX";
  std::vector<int> held;
};

bool takes_lock(File& file) {
  const auto locked = file.try_lock();
  REQUIRE(locked.has_value());
  return *locked;
}

} // namespace

TEST_CASE_METHOD(HeldLock,
                 "a lock stays with who holds the descriptor, and opens the file to its successor only") {
  locked().reset(); // the process has died
  CHECK_FALSE(takes_lock(*open()));
  auto successor = open({.held = held});
  CHECK(takes_lock(*successor));
  CHECK_FALSE(takes_lock(*open()));
  const std::vector<int> none = {-1, STDIN_FILENO};
  CHECK_FALSE(takes_lock(*open({.held = none})));
  ::close(held.front());
  held.clear();
  CHECK_FALSE(takes_lock(*open()));
  successor.reset();
  CHECK(takes_lock(*open()));
}

TEST_CASE_METHOD(HeldLock, "a file that was used past the page cache begins anew with its successor") {
  {
    const auto before = locked();
    if (!before->bypass_page_cache()) return; // not on this file system
  }
  const auto successor = open({.held = held});
  std::vector<std::byte> odd(100);
  CHECK(successor->read_at(11, odd));
}
