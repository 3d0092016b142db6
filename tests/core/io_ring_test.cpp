#include "core/io_ring.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>
#include <condition_variable>
#include <cstdlib>
#include <future>
#include <mutex>
#include <optional>
#include <vector>

#include "tests/support/catch.h"

using namespace vsnap;

namespace {

class TemporaryFile {
 public:
  explicit TemporaryFile(std::size_t length) : content(length) {
    for (std::size_t i = 0; i < length; ++i) content[i] = static_cast<std::byte>(i * 7 % 251);
    fd_ = ::mkstemp(path_);
    REQUIRE(fd_ >= 0);
    REQUIRE(::pwrite(fd_, content.data(), length, 0) == static_cast<ssize_t>(length));
  }
  ~TemporaryFile() {
    ::close(fd_);
    ::unlink(path_);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  [[nodiscard]] int fd() const { return fd_; }

  std::vector<std::byte> content;

 private:
  char path_[32] = "/tmp/vsnap-io-ring-XXXXXX";
  int fd_ = -1;
};

// What a read ended with; nullopt: the machine has no io_uring to give.
std::optional<int> error_of_read(IoRing& ring, int fd, std::uint64_t offset, std::span<std::byte> out) {
  std::promise<int> ended;
  if (!ring.read(fd, offset, out, [&ended](int error) { ended.set_value(error); })) {
    WARN("skipped: no io_uring here");
    return std::nullopt;
  }
  return ended.get_future().get();
}

} // namespace

TEST_CASE("a ring reads as many places at a time as are asked for") {
  constexpr std::size_t kReads = 200;
  const TemporaryFile file(kReads * 4096);
  IoRing ring;
  std::vector<std::byte> out(file.content.size());
  std::mutex mutex;
  std::condition_variable changed;
  std::size_t ended = 0, failed = 0, taken = 0;
  for (std::size_t i = 0; i < kReads; ++i) {
    const std::size_t at = (kReads - 1 - i) * 4096;
    taken += ring.read(file.fd(), at, std::span(out).subspan(at, 4096), [&](int error) {
      const std::lock_guard lock(mutex);
      ++ended;
      failed += error != 0 ? 1U : 0U;
      changed.notify_one();
    });
  }
  if (taken == 0) {
    WARN("skipped: no io_uring here");
    return;
  }
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return ended == taken; });
  CHECK(taken == kReads);
  CHECK(failed == 0);
  CHECK(out == file.content);
}

TEST_CASE("a read past the end of its file has read what there is, and ends with ENODATA") {
  const TemporaryFile file(10'000);
  IoRing ring;
  std::vector<std::byte> out(8192);
  const auto error = error_of_read(ring, file.fd(), 8192, out);
  if (!error) return;
  CHECK(*error == ENODATA);
  CHECK(std::equal(out.begin(), out.begin() + 1808, file.content.begin() + 8192));
}

TEST_CASE("the error of a read is the kernel's") {
  IoRing ring;
  std::vector<std::byte> out(4096);
  const auto error = error_of_read(ring, -1, 0, out);
  if (error) CHECK(*error == EBADF);
}

TEST_CASE("where the kernel gives no ring, no read is taken") {
  const TemporaryFile file(4096);
  IoRing ring;
  std::vector<std::byte> out(4096);
  rlimit limit{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const rlimit none{0, limit.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
  const bool taken = ring.read(file.fd(), 0, out, [](int) {});
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK_FALSE(taken);
  CHECK_FALSE(ring.read(file.fd(), 0, out, [](int) {})); // nor is the kernel asked again
}

TEST_CASE("a ring that was never needed ends") { const IoRing ring; }

TEST_CASE("only a few threads may wait for devices by themselves") {
  IoRing ring;
  const IoRing::WaitHere first(ring), second(ring);
  CHECK(first.allowed());
  CHECK(second.allowed());
  {
    const IoRing::WaitHere third(ring);
    CHECK_FALSE(third.allowed());
  }
}
