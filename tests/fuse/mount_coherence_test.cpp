// What several handles see of each other's writes, and of changes that come past the mount.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "tests/fuse/mounted_pool.h"

using namespace vsnap;

namespace {

constexpr std::size_t kBlock = 4096;

// Looks until it is so; notifications to the kernel come a moment after the change.
template <class Condition>
bool soon(Condition condition) {
  for (int i = 0; i < 500; ++i) {
    if (condition()) return true;
    ::usleep(10000);
  }
  return false;
}

} // namespace

TEST_CASE("a change that comes past the file shows in cached handles and mappings") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  const ViewInfo made = mounted->make_volume("vm1", 65536);
  REQUIRE(mounted->pool().snapshot(std::vector<ViewName>{{"vm1", "a"}}));
  {
    const Fd fd(mounted->path("vm1"), O_RDWR);
    write_at(fd, 0, filled(65536, 1));
    CHECK(read_at(fd, 0, 65536) == filled(65536, 1));
  }
  // The rollback needs the volume closed, and the kernel sends the release a moment after close(2).
  REQUIRE(soon([&] { return mounted->pool().info(made.id)->open_handles == 0; }));
  REQUIRE(mounted->pool().rollback({"vm1", "a"}, true, false));
  CHECK(soon([&] { return read_file(mounted->path("vm1")) == pattern_bytes(0, 65536); }));
}

TEST_CASE("a resize past the file shows in an open handle") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 10000);
  const Fd fd(mounted->path("vm1"), O_RDWR);
  CHECK(read_at(fd, 0, 20000).size() == 10000);
  REQUIRE(mounted->pool().resize("vm1", 20000, false));
  struct stat found = {};
  REQUIRE(::fstat(fd.get(), &found) == 0);
  CHECK(found.st_size == 20000);
  CHECK(read_at(fd, 0, 30000).size() == 20000);
  REQUIRE(mounted->pool().resize("vm1", 5000, true));
  REQUIRE(::fstat(fd.get(), &found) == 0);
  CHECK(found.st_size == 5000);
  CHECK(soon([&] { return read_at(fd, 0, 30000) == pattern_bytes(0, 5000); }));
}

TEST_CASE("a direct and a cached handle see each other's writes at once") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 16 * kBlock);
  const Fd cached(mounted->path("vm1"), O_RDWR);
  const Fd direct(mounted->path("vm1"), O_RDWR | O_DIRECT);
  const AlignedBytes buffer = aligned_bytes(kBlock);
  for (unsigned i = 0; i < 200; ++i) {
    const std::uint64_t at = i % 16 * kBlock;
    (void)read_at(cached, at, kBlock); // in the cache now
    std::memset(buffer.get(), static_cast<int>(i), kBlock);
    REQUIRE(::pwrite(direct.get(), buffer.get(), kBlock, static_cast<off_t>(at)) ==
            static_cast<ssize_t>(kBlock));
    REQUIRE(read_at(cached, at, kBlock) == filled(kBlock, i & 0xff));
    write_at(cached, at, filled(kBlock, (i + 1) & 0xff));
    REQUIRE(::pread(direct.get(), buffer.get(), kBlock, static_cast<off_t>(at)) ==
            static_cast<ssize_t>(kBlock));
    REQUIRE(buffer[17] == static_cast<std::byte>(i + 1));
  }
}

TEST_CASE("a page that was read again beside a direct write does not outlive the write") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", kBlock);
  const Fd cached(mounted->path("vm1"), O_RDONLY);
  const Fd direct(mounted->path("vm1"), O_RDWR | O_DIRECT);
  std::atomic<int> beside{-1};
  mounted->pool().set_before_write([&] { // the kernel has dropped the page, the volume is not changed yet
    unsigned char byte = 0;
    if (::pread(cached.get(), &byte, 1, 1) == 1) beside = byte;
  });
  const AlignedBytes buffer = aligned_bytes(kBlock, 5);
  REQUIRE(::pwrite(direct.get(), buffer.get(), kBlock, 0) == static_cast<ssize_t>(kBlock));
  CHECK(beside == std::to_integer<int>(pattern(1)));
  CHECK(read_at(cached, 0, kBlock) == filled(kBlock, 5));
}

TEST_CASE("a cached reader never goes back behind a direct write that returned") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", kBlock);
  const Fd direct(mounted->path("vm1"), O_RDWR | O_DIRECT);
  std::atomic<bool> done{false};
  std::atomic<std::uint64_t> written{0};
  std::uint64_t behind = 0;
  std::thread reader([&] {
    while (!done) {
      const Fd cached(mounted->path("vm1"), O_RDONLY);
      for (int i = 0; i < 20; ++i) {
        const std::uint64_t at_least = written;
        std::uint64_t seen = 0;
        if (::pread(cached.get(), &seen, sizeof seen, 0) != sizeof seen || seen < at_least) ++behind;
      }
    }
  });
  const AlignedBytes buffer = aligned_bytes(kBlock);
  std::memset(buffer.get(), 0, kBlock);
  bool all_written = true;
  for (std::uint64_t value = 1; value <= 3000; ++value) {
    std::memcpy(buffer.get(), &value, sizeof value);
    all_written =
        all_written && ::pwrite(direct.get(), buffer.get(), kBlock, 0) == static_cast<ssize_t>(kBlock);
    written = value;
  }
  done = true;
  reader.join();
  CHECK(all_written);
  CHECK(behind == 0);
}

TEST_CASE("direct writes to one volume run side by side") {
  const auto mounted = MountedPool::make(4);
  if (!mounted) return;
  constexpr unsigned kThreads = 4;
  mounted->make_volume("vm1", kThreads * kBlock);
  std::atomic<unsigned> arrived{0};
  mounted->pool().set_before_write([&] { // each waits for all the others
    ++arrived;
    (void)soon([&] { return arrived == kThreads; });
  });
  const Fd fd(mounted->path("vm1"), O_RDWR | O_DIRECT);
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      const AlignedBytes buffer = aligned_bytes(kBlock, t);
      (void)::pwrite(fd.get(), buffer.get(), kBlock, static_cast<off_t>(t * kBlock));
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(arrived == kThreads);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(4)); // in vain: 5
}

TEST_CASE("parallel direct writes all arrive") {
  const auto mounted = MountedPool::make(4);
  if (!mounted) return;
  constexpr std::size_t kThreads = 4, kPerThread = 200;
  mounted->make_volume("vm1", kThreads * kPerThread * kBlock);
  const Fd fd(mounted->path("vm1"), O_RDWR | O_DIRECT);
  std::vector<std::thread> threads;
  std::atomic<unsigned> failed{0};
  for (std::size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      const AlignedBytes buffer = aligned_bytes(kBlock, static_cast<unsigned>(t + 1));
      for (std::size_t i = 0; i < kPerThread; ++i) {
        const auto at = static_cast<off_t>((i * kThreads + t) * kBlock);
        if (::pwrite(fd.get(), buffer.get(), kBlock, at) != static_cast<ssize_t>(kBlock)) ++failed;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(failed == 0);
  const Bytes content = read_file(mounted->path("vm1"));
  bool all_right = content.size() == kThreads * kPerThread * kBlock;
  for (std::size_t i = 0; all_right && i < content.size(); ++i) {
    all_right = content[i] == static_cast<std::byte>(i / kBlock % kThreads + 1);
  }
  CHECK(all_right);
}

TEST_CASE("a snapshot taken while the volume is open keeps what was there") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 65536);
  const Fd fd(mounted->path("vm1"), O_RDWR);
  write_at(fd, 0, filled(4096, 1));
  REQUIRE(mounted->pool().snapshot(std::vector<ViewName>{{"vm1", "a"}}));
  write_at(fd, 0, filled(4096, 2));
  const Bytes snapshot = read_file(mounted->path("vm1@a"));
  CHECK(Bytes(snapshot.begin(), snapshot.begin() + 4096) == filled(4096, 1));
  CHECK(read_at(fd, 0, 4096) == filled(4096, 2));
}
