#include "core/direct_io.h"

#include <fcntl.h>
#include <unistd.h>
#include <atomic>
#include <cstdlib>
#include <future>
#include <random>
#include <span>
#include <thread>
#include <vector>

#include "core/env.h"
#include "core/units.h"
#include "tests/support/catch.h"
#include "tests/support/seed.h"

using namespace vsnap;

namespace {

constexpr std::size_t kFileBytes = 256 * kBlockBytes;

// On a disk: what lies in memory has no direct I/O before Linux 6.6.
class FileOnDisk {
 public:
  explicit FileOnDisk(std::size_t length = kFileBytes) {
    fd_ = ::mkstemp(path_);
    REQUIRE(fd_ >= 0);
    REQUIRE(::ftruncate(fd_, static_cast<off_t>(length)) == 0);
  }
  ~FileOnDisk() {
    ::close(fd_);
    ::unlink(path_);
  }
  FileOnDisk(const FileOnDisk&) = delete;
  FileOnDisk& operator=(const FileOnDisk&) = delete;
  [[nodiscard]] int fd() const { return fd_; }
  [[nodiscard]] const char* path() const { return path_; }

 private:
  char path_[32] = "/var/tmp/vsnap-direct-XXXXXX";
  int fd_ = -1;
};

using Random = std::mt19937_64;

std::vector<std::byte> random_bytes(Random& random, std::size_t length) {
  std::vector<std::byte> out(length);
  for (std::byte& byte : out) byte = static_cast<std::byte>(random());
  return out;
}

std::size_t below(Random& random, std::size_t limit) {
  return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random);
}

} // namespace

TEST_CASE("direct reads and writes of any offset, length and address are those of a file") {
  const FileOnDisk file;
  const auto io = DirectIo::of(file.fd(), false, kFileBytes);
  if (!io) {
    WARN("skipped: no direct I/O in /var/tmp");
    return;
  }
  CHECK((::fcntl(file.fd(), F_GETFL) & O_DIRECT) != 0);
  const std::uint64_t seed = test_seed();
  INFO("seed " << seed);
  Random random(seed);
  std::vector<std::byte> model(kFileBytes);
  for (int step = 0; step < 600; ++step) {
    const std::size_t offset = below(random, kFileBytes);
    const std::size_t longest = step % 4 == 0 ? kFileBytes : 3 * kBlockBytes; // some take several turns
    const std::size_t length = 1 + below(random, std::min(longest, kFileBytes - offset));
    if (step % 2 == 0) {
      const auto data = random_bytes(random, length);
      REQUIRE(io->write(offset, data, step % 16 == 0) == 0);
      std::copy(data.begin(), data.end(), model.begin() + static_cast<std::ptrdiff_t>(offset));
    } else {
      std::vector<std::byte> out(length);
      REQUIRE(io->read(offset, out) == 0);
      REQUIRE(std::equal(out.begin(), out.end(), model.begin() + static_cast<std::ptrdiff_t>(offset)));
    }
  }
  std::vector<std::byte> all(kFileBytes);
  REQUIRE(io->read(0, all) == 0);
  CHECK(all == model);
}

// Pieces of odd lengths, each of one thread, so that most blocks are several threads'.
TEST_CASE("writers of different parts of one block lose nothing of each other") {
  const FileOnDisk file;
  const auto io = DirectIo::of(file.fd(), false, kFileBytes);
  if (!io) {
    WARN("skipped: no direct I/O in /var/tmp");
    return;
  }
  constexpr std::size_t kThreads = 4, kPiece = 331, kPieces = 400, kWritten = kPiece * kPieces;
  static_assert(kWritten <= kFileBytes);
  const std::uint64_t seed = test_seed();
  INFO("seed " << seed);
  std::vector<std::byte> model(kWritten);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      Random random(seed + t);
      for (int step = 0; step < 300; ++step) {
        const std::size_t at = (below(random, kPieces / kThreads) * kThreads + t) * kPiece;
        const std::span<std::byte> mine = std::span(model).subspan(at, kPiece);
        if (step % 3 != 0) {
          const auto data = random_bytes(random, kPiece);
          wrong += io->write(at, data, false) != 0;
          std::copy(data.begin(), data.end(), mine.begin());
        } else {
          std::vector<std::byte> out(kPiece);
          wrong += io->read(at, out) != 0 || !std::equal(out.begin(), out.end(), mine.begin());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  std::vector<std::byte> all(kWritten);
  REQUIRE(io->read(0, all) == 0);
  CHECK(all == model);
}

TEST_CASE("a file that does not consist of whole blocks stays in the page cache") {
  const FileOnDisk file(10'001);
  CHECK_FALSE(DirectIo::of(file.fd(), false, 10'001));
  CHECK((::fcntl(file.fd(), F_GETFL) & O_DIRECT) == 0);
}

TEST_CASE("a direct read past the end of its file ends with ENODATA") {
  const FileOnDisk file;
  const auto io = DirectIo::of(file.fd(), false, kFileBytes);
  if (!io) {
    WARN("skipped: no direct I/O in /var/tmp");
    return;
  }
  std::vector<std::byte> out(100);
  CHECK(io->read(kFileBytes, out) == ENODATA);
}

TEST_CASE("a file of the environment keeps what it says past the page cache") {
  const FileOnDisk on_disk;
  const auto file = Env::real().open_file(on_disk.path(), {}).value();
  Random random(1);
  const auto before = random_bytes(random, 3 * kBlockBytes);
  REQUIRE(file->write_at(0, before)); // through the page cache
  if (!file->bypass_page_cache()) {
    WARN("skipped: no direct I/O in /var/tmp");
    return;
  }
  std::vector<std::byte> out(before.size());
  REQUIRE(file->read_at(0, out));
  CHECK(out == before);
  const auto data = random_bytes(random, 5'000);
  REQUIRE(file->write_durably(1'234, data));
  std::vector<std::byte> later(data.size());
  std::promise<Result<>> ended;
  const auto started =
      file->start_read(1'234, later, [&ended](Result<> read) { ended.set_value(std::move(read)); });
  REQUIRE(started);
  if (*started == File::Progress::pending) REQUIRE(ended.get_future().get());
  CHECK(later == data);
}
