// The data of volumes through the mount: reading, writing, space.
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <algorithm>

#include "core/wait_listener.h"
#include "tests/fuse/mounted_pool.h"

using namespace vsnap;

namespace {

constexpr std::size_t kMegabyte = 1U << 20;

struct stat stat_of(const std::string& path) {
  struct stat out = {};
  REQUIRE(::stat(path.c_str(), &out) == 0);
  return out;
}

bool all_equal(const std::byte* data, std::size_t length, unsigned value) {
  return std::all_of(data, data + length, [&](std::byte b) { return b == static_cast<std::byte>(value); });
}

// Direct writes of a block each, all of them under way at once: io_submit(2).
class AsyncWrites {
 public:
  AsyncWrites(const std::string& path, unsigned count)
      : fd_(path, O_RDWR | O_DIRECT), events_(count), data_(aligned_bytes(kBlockBytes, 5)) {
    REQUIRE(fd_.ok());
    REQUIRE(::syscall(SYS_io_setup, count, &context_) == 0);
    for (unsigned i = 0; i < count; ++i) {
      iocb one{};
      one.aio_lio_opcode = IOCB_CMD_PWRITE;
      one.aio_fildes = static_cast<std::uint32_t>(fd_.get());
      one.aio_buf = reinterpret_cast<std::uintptr_t>(data_.get());
      one.aio_nbytes = kBlockBytes;
      one.aio_offset = static_cast<std::int64_t>(i * kBlockBytes);
      iocb* const all[] = {&one};
      REQUIRE(::syscall(SYS_io_submit, context_, 1, all) == 1);
    }
  }
  ~AsyncWrites() { ::syscall(SYS_io_destroy, context_); }
  AsyncWrites(const AsyncWrites&) = delete;
  AsyncWrites& operator=(const AsyncWrites&) = delete;
  // For all of them; how many have succeeded.
  [[nodiscard]] std::size_t wait() {
    const auto count = static_cast<long>(events_.size());
    REQUIRE(::syscall(SYS_io_getevents, context_, count, count, events_.data(), nullptr) == count);
    const auto is_whole = [](const io_event& e) { return e.res == kBlockBytes; };
    return static_cast<std::size_t>(std::count_if(events_.begin(), events_.end(), is_whole));
  }

 private:
  const Fd fd_;
  aio_context_t context_ = 0;
  std::vector<io_event> events_;
  const AlignedBytes data_;
};

} // namespace

TEST_CASE("what is written is read back, at any offset and length") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 3 * kMegabyte);
  const Fd fd(mounted->path("vm1"), O_RDWR);
  REQUIRE(fd.error() == 0);
  CHECK(read_at(fd, 0, 4 * kMegabyte) == pattern_bytes(0, 3 * kMegabyte));
  write_at(fd, 12345, filled(70001, 9));
  CHECK(read_at(fd, 12345, 70001) == filled(70001, 9));
  CHECK(read_at(fd, 12345 + 70001, 100) == pattern_bytes(12345 + 70001, 100));
  CHECK(read_at(fd, 3 * kMegabyte - 5, 100).size() == 5);
}

TEST_CASE("read and write move the file's position") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 8192);
  const Fd fd(mounted->path("vm1"), O_RDWR);
  char text[6] = {};
  REQUIRE(::write(fd.get(), "hello", 5) == 5);
  REQUIRE(::lseek(fd.get(), 0, SEEK_SET) == 0);
  REQUIRE(::read(fd.get(), text, 5) == 5);
  CHECK(std::string(text) == "hello");
}

TEST_CASE("direct I/O reads and writes past the page cache") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 4 * kMegabyte);
  const Fd fd(mounted->path("vm1"), O_RDWR | O_DIRECT);
  REQUIRE(fd.error() == 0);
  const AlignedBytes data = aligned_bytes(2 * kMegabyte, 5);
  REQUIRE(::pwrite(fd.get(), data.get(), 2 * kMegabyte, 4096) == 2 * kMegabyte);
  const AlignedBytes back = aligned_bytes(2 * kMegabyte);
  REQUIRE(::pread(fd.get(), back.get(), 2 * kMegabyte, 4096) == 2 * kMegabyte);
  CHECK(all_equal(back.get(), 2 * kMegabyte, 5));
  CHECK(::pread(fd.get(), back.get(), 8192, 4 * kMegabyte - 4096) == 4096);
  CHECK(::pread(fd.get(), back.get(), 512, 512) == 512);
}

TEST_CASE("synchronous writes and every kind of sync succeed") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 8192);
  for (const int flag : {O_SYNC, O_DSYNC}) {
    const Fd fd(mounted->path("vm1"), O_RDWR | flag);
    write_at(fd, 0, filled(4096, 3));
    CHECK(::fsync(fd.get()) == 0);
    CHECK(::fdatasync(fd.get()) == 0);
  }
  const Fd directory(mounted->path(), O_RDONLY | O_DIRECTORY);
  CHECK(::fsync(directory.get()) == 0);
}

TEST_CASE("a mapping shows the volume, and writes through the file show in it") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", kMegabyte);
  const Fd fd(mounted->path("vm1"), O_RDWR);
  void* const mapped = ::mmap(nullptr, kMegabyte, PROT_READ, MAP_SHARED, fd.get(), 0);
  REQUIRE(mapped != MAP_FAILED);
  const auto* bytes = static_cast<const std::byte*>(mapped);
  CHECK(Bytes(bytes, bytes + kMegabyte) == pattern_bytes(0, kMegabyte));
  write_at(fd, 5000, filled(10, 1));
  CHECK(all_equal(bytes + 5000, 10, 1));
  ::munmap(mapped, kMegabyte);
}

TEST_CASE("punching a hole gives the space back and reads zeros") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", kMegabyte);
  const Fd fd(mounted->path("vm1"), O_RDWR);
  REQUIRE(::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192) == 0);
  CHECK(read_at(fd, 4096, 8192) == filled(8192, 0));
  CHECK(read_at(fd, 0, 4096) == pattern_bytes(0, 4096));
  CHECK(stat_of(mounted->path("vm1")).st_blocks == (kMegabyte - 8192) / 512);
  CHECK(stat_of(mounted->path("vm1")).st_size == kMegabyte);
}

TEST_CASE("zeroing a range extends the volume unless it is to keep its size") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 8192);
  const Fd fd(mounted->path("vm1"), O_RDWR);
  REQUIRE(::fallocate(fd.get(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 4000, 100000) == 0);
  CHECK(stat_of(mounted->path("vm1")).st_size == 8192);
  CHECK(read_at(fd, 0, 4000) == pattern_bytes(0, 4000));
  CHECK(read_at(fd, 4000, 8192) == filled(8192 - 4000, 0));
  REQUIRE(::fallocate(fd.get(), FALLOC_FL_ZERO_RANGE, 4000, 100000) == 0);
  CHECK(stat_of(mounted->path("vm1")).st_size == 104000);
  CHECK(read_at(fd, 8192, 200000) == filled(104000 - 8192, 0));
}

TEST_CASE("allocating reserves space that is counted and reads zeros") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 8192);
  const Fd fd(mounted->path("vm1"), O_RDWR);
  REQUIRE(::fallocate(fd.get(), 0, 0, 65536) == 0);
  CHECK(stat_of(mounted->path("vm1")).st_size == 65536);
  CHECK(stat_of(mounted->path("vm1")).st_blocks == 65536 / 512);
  CHECK(read_at(fd, 8192, 65536) == filled(65536 - 8192, 0));
  CHECK(read_at(fd, 0, 8192) == pattern_bytes(0, 8192));
  REQUIRE(::ftruncate(fd.get(), 131072) == 0);
  REQUIRE(::fallocate(fd.get(), FALLOC_FL_KEEP_SIZE, 65536, 65536) == 0);
  CHECK(stat_of(mounted->path("vm1")).st_size == 131072);
  CHECK(stat_of(mounted->path("vm1")).st_blocks == 131072 / 512);
}

TEST_CASE("other ways to allocate are refused") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 16384);
  const Fd fd(mounted->path("vm1"), O_RDWR);
  CHECK(errno_of(::fallocate(fd.get(), FALLOC_FL_COLLAPSE_RANGE, 0, 4096)) == EOPNOTSUPP);
  CHECK(errno_of(::fallocate(fd.get(), FALLOC_FL_INSERT_RANGE, 0, 4096)) == EOPNOTSUPP);
}

TEST_CASE("seeking finds data and holes") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  const ViewInfo made = mounted->pool().create_volume("vm1", 1U << 30).value();
  REQUIRE(mounted->pool().open_view(made.id).value()->write(kMegabyte, filled(8192, 1)));
  const Fd fd(mounted->path("vm1"), O_RDONLY);
  CHECK(::lseek(fd.get(), 0, SEEK_DATA) == kMegabyte);
  CHECK(::lseek(fd.get(), 0, SEEK_HOLE) == 0);
  CHECK(::lseek(fd.get(), kMegabyte + 5, SEEK_DATA) == kMegabyte + 5);
  CHECK(::lseek(fd.get(), kMegabyte, SEEK_HOLE) == kMegabyte + 8192);
  CHECK(errno_of(::lseek(fd.get(), kMegabyte + 8192, SEEK_DATA)) == ENXIO);
  CHECK(::lseek(fd.get(), (1U << 30) - 1, SEEK_HOLE) == (1U << 30) - 1);
  CHECK(errno_of(::lseek(fd.get(), 1U << 30, SEEK_HOLE)) == ENXIO);
}

TEST_CASE("writing past the end makes the volume longer, with zeros between") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  const Fd fd(mounted->path("vm1"), O_RDWR | O_CREAT | O_EXCL);
  REQUIRE(fd.error() == 0);
  write_at(fd, 100000, filled(5, 7));
  CHECK(stat_of(mounted->path("vm1")).st_size == 100005);
  CHECK(stat_of(mounted->path("vm1")).st_blocks == 8);
  CHECK(read_at(fd, 0, 100000) == filled(100000, 0));
  CHECK(mounted->pool().find({"vm1", {}})->size_bytes == 100005);
}

TEST_CASE("appending writes at the end") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 5000);
  const Fd fd(mounted->path("vm1"), O_WRONLY | O_APPEND);
  REQUIRE(::write(fd.get(), "end", 3) == 3);
  CHECK(mounted->pool().find({"vm1", {}})->size_bytes == 5003);
}

TEST_CASE("truncating shrinks and grows, and what comes back is zeros") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 20000);
  const std::string path = mounted->path("vm1");
  REQUIRE(::truncate(path.c_str(), 5000) == 0);
  CHECK(stat_of(path).st_size == 5000);
  CHECK(stat_of(path).st_blocks == 16);
  REQUIRE(::truncate(path.c_str(), 20000) == 0);
  const Bytes content = read_file(path);
  REQUIRE(content.size() == 20000);
  CHECK(Bytes(content.begin(), content.begin() + 5000) == pattern_bytes(0, 5000));
  CHECK(Bytes(content.begin() + 5000, content.end()) == filled(15000, 0));
}

TEST_CASE("opening with O_TRUNC empties the volume") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 20000);
  const Fd fd(mounted->path("vm1"), O_RDWR | O_TRUNC);
  REQUIRE(fd.error() == 0);
  CHECK(stat_of(mounted->path("vm1")).st_size == 0);
  CHECK(stat_of(mounted->path("vm1")).st_blocks == 0);
}

TEST_CASE("a size that no file can have is refused") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 4096);
  const std::string path = mounted->path("vm1");
  CHECK(errno_of(::truncate(path.c_str(), -1)) == EINVAL);
  REQUIRE(::truncate(path.c_str(), static_cast<off_t>(kMaxVolumeBytes)) == 0);
  CHECK(stat_of(path).st_size == static_cast<off_t>(kMaxVolumeBytes));
  const Fd fd(path, O_RDWR);
  CHECK(::pwrite(fd.get(), "x", 1, static_cast<off_t>(kMaxVolumeBytes) - 1) == 1);
}

TEST_CASE("a full pool answers ENOSPC, and goes on after space was made") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 65536);
  mounted->pool().set_capacity(65536);
  const Fd fd(mounted->path("vm1"), O_RDWR);
  CHECK(errno_of(::pwrite(fd.get(), "x", 1, 65536)) == ENOSPC);
  CHECK(read_at(fd, 0, 65536) == pattern_bytes(0, 65536));
  REQUIRE(::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0);
  CHECK(::pwrite(fd.get(), "x", 1, 65536) == 1);
}

TEST_CASE("copy_file_range of a whole view shares it") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  const ViewInfo source = mounted->make_volume("vm1", 3 * kMegabyte + 17);
  const Fd from(mounted->path("vm1"), O_RDONLY);
  const Fd to(mounted->path("vm2"), O_RDWR | O_CREAT);
  const std::uint64_t used_before = mounted->pool().space().data_bytes;
  REQUIRE(::copy_file_range(from.get(), nullptr, to.get(), nullptr, 1U << 30, 0) == 3 * kMegabyte + 17);
  CHECK(mounted->pool().space().data_bytes == used_before);
  CHECK(mounted->pool().shares_all_of(mounted->pool().find({"vm2", {}})->id, source.id));
  CHECK(read_file(mounted->path("vm2")) == pattern_bytes(0, 3 * kMegabyte + 17));
}

TEST_CASE("copy_file_range of a part copies it") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", kMegabyte);
  const Fd from(mounted->path("vm1"), O_RDONLY);
  const Fd to(mounted->path("vm2"), O_RDWR | O_CREAT);
  off_t at = 4096;
  std::size_t left = 100000;
  while (left > 0) {
    const ssize_t copied = ::copy_file_range(from.get(), &at, to.get(), nullptr, left, 0);
    REQUIRE(copied > 0);
    left -= static_cast<std::size_t>(copied);
  }
  CHECK(read_file(mounted->path("vm2")) == pattern_bytes(4096, 100000));
}

TEST_CASE("copying back into a copy that was written really copies") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 65536);
  const Fd from(mounted->path("vm1"), O_RDONLY);
  const Fd to(mounted->path("vm2"), O_RDWR | O_CREAT);
  REQUIRE(::copy_file_range(from.get(), nullptr, to.get(), nullptr, 65536, 0) == 65536);
  write_at(to, 8192, filled(4096, 1));
  off_t from_at = 8192, to_at = 8192;
  REQUIRE(::copy_file_range(from.get(), &from_at, to.get(), &to_at, 4096, 0) == 4096);
  CHECK(read_at(to, 0, 65536) == pattern_bytes(0, 65536));
}

TEST_CASE("a copy longer than one request can say is shared, chunk by chunk") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  constexpr std::uint64_t kSize = 10ULL << 30;
  const std::vector<std::uint64_t> marks{0, 5ULL << 30, kSize - 10};
  const ViewInfo source = mounted->pool().create_volume("vm1", kSize).value();
  const auto view = mounted->pool().open_view(source.id).value();
  for (const std::uint64_t at : marks) REQUIRE(view->write(at, pattern_bytes(at, 10)));
  const Fd from(mounted->path("vm1"), O_RDONLY);
  const Fd to(mounted->path("vm2"), O_RDWR | O_CREAT);
  const ssize_t first = ::copy_file_range(from.get(), nullptr, to.get(), nullptr, kSize, 0);
  REQUIRE(first > 1LL << 30);
  CHECK(stat_of(mounted->path("vm2")).st_size == first);
  std::uint64_t done = static_cast<std::uint64_t>(first);
  unsigned calls = 1;
  for (ssize_t got = 1; got > 0; ++calls) {
    got = ::copy_file_range(from.get(), nullptr, to.get(), nullptr, kSize, 0);
    REQUIRE(errno_of(got) == 0);
    done += static_cast<std::uint64_t>(got);
  }
  CHECK(calls < 6);
  CHECK(done == kSize);
  CHECK(stat_of(mounted->path("vm2")).st_size == static_cast<off_t>(kSize));
  for (const std::uint64_t at : marks) CHECK(read_at(to, at, 10) == pattern_bytes(at, 10));
}

TEST_CASE("a long copy that is given up ends where it stopped") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  constexpr std::uint64_t kSize = 10ULL << 30;
  REQUIRE(mounted->pool().create_volume("vm1", kSize));
  ssize_t first = 0;
  {
    const Fd from(mounted->path("vm1"), O_RDONLY);
    const Fd to(mounted->path("vm2"), O_RDWR | O_CREAT);
    first = ::copy_file_range(from.get(), nullptr, to.get(), nullptr, kSize, 0);
    REQUIRE(first > 1LL << 30);
    write_at(to, 0, filled(1, 1));
    CHECK(mounted->pool().find({"vm2", {}})->size_bytes == static_cast<std::uint64_t>(first));
  }
  CHECK(stat_of(mounted->path("vm2")).st_size == first);
}

TEST_CASE("statfs tells the pool's space") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  struct statvfs out = {};
  REQUIRE(::statvfs(mounted->path().c_str(), &out) == 0);
  const SpaceInfo space = mounted->pool().space();
  CHECK(out.f_bsize == 4096);
  CHECK(out.f_blocks == space.size_bytes / 4096);
  CHECK(out.f_bfree == space.free_bytes / 4096);
  CHECK(out.f_bavail == space.available_bytes / 4096);
  CHECK(out.f_namemax == 127);
}

TEST_CASE("writes that wait hold no worker, however many they are") {
  const auto mounted = MountedPool::make(1);
  if (!mounted) return;
  constexpr unsigned kWriters = kThreadsOfAView + 8; // the others wait in the mount
  const ViewInfo full = mounted->make_volume("full", kWriters * kBlockBytes);
  mounted->make_volume("vm1", kMegabyte);
  mounted->pool().pause_writes(full.id);
  Writers writers(mounted->path("full"), kWriters);
  wait_for_writes(mounted->pool(), kThreadsOfAView);
  const Fd other(mounted->path("vm1"), O_RDWR);
  write_at(other, 4096, filled(8192, 7));
  CHECK(::fsync(other.get()) == 0);
  CHECK(read_at(other, 4096, 8192) == filled(8192, 7));
  const Fd reader(mounted->path("full"), O_RDONLY | O_DIRECT); // the kernel lets no cached one in beside them
  CHECK(read_at(reader, 0, kWriters * kBlockBytes) == pattern_bytes(0, kWriters * kBlockBytes));
  CHECK(writers.answered() == 0);
  mounted->pool().let_writes_go();
  writers.join();
  CHECK(writers.errors() == std::vector<int>(kWriters, 0));
  Bytes expected;
  for (unsigned i = 0; i < kWriters; ++i) expected.insert(expected.end(), kBlockBytes, std::byte(i + 1));
  const Fd fd(mounted->path("full"), O_RDWR | O_APPEND);
  CHECK(read_at(fd, 0, expected.size()) == expected);
  // It may wait still, so threads of the view carry these out as well.
  CHECK(::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096) == 0);
  std::fill_n(expected.begin() + 4096, 4096, std::byte{0});
  for (unsigned i = 1; i < 4; ++i) {
    CHECK(::write(fd.get(), pattern_bytes(0, 1000).data(), 1000) == 1000);
    const Bytes more = pattern_bytes(0, 1000);
    expected.insert(expected.end(), more.begin(), more.end());
    CHECK(stat_of(mounted->path("full")).st_size == static_cast<off_t>(expected.size()));
  }
  CHECK(read_at(fd, 0, 2 * kMegabyte) == expected);
  CHECK(errno_of(::fallocate(fd.get(), FALLOC_FL_COLLAPSE_RANGE, 0, 4096)) == EOPNOTSUPP);
}

TEST_CASE("writes that wait for a flush alone stay with workers, and leave half of them to others") {
  for (const unsigned workers : {1U, 4U}) {
    const auto mounted = MountedPool::make(workers);
    if (!mounted) return;
    constexpr unsigned kWriters = 8;
    const ViewInfo saving = mounted->make_volume("saving", kWriters * kBlockBytes);
    mounted->make_volume("vm1", kMegabyte);
    std::atomic<unsigned> by_workers{0};
    mounted->pool().set_before_write([&] { by_workers += wait_listener() == nullptr ? 1 : 0; });
    mounted->pool().pause_writes(saving.id, WriteWait::flush);
    Writers writers(mounted->path("saving"), kWriters);
    wait_for_writes(mounted->pool(), kWriters);
    CHECK(by_workers == workers / 2);
    const Fd other(mounted->path("vm1"), O_RDWR);
    CHECK(read_at(other, 4096, 8192) == pattern_bytes(4096, 8192));
    mounted->pool().let_writes_go();
    writers.join();
    CHECK(writers.errors() == std::vector<int>(kWriters, 0));
    const Fd fd(mounted->path("saving"), O_RDWR | O_DIRECT);
    const AlignedBytes data = aligned_bytes(kBlockBytes, 7);
    // They come back, each a moment after its write was answered: not in the first round, perhaps.
    for (unsigned round = 0; round < 10; ++round) {
      by_workers = 0;
      for (unsigned i = 0; i < kWriters; ++i)
        CHECK(::pwrite(fd.get(), data.get(), kBlockBytes, 0) == kBlockBytes);
      if (by_workers == kWriters) break;
    }
    CHECK(by_workers == (workers > 1 ? kWriters : 0));
    mounted->pool().set_before_write({});
  }
}

TEST_CASE("what needs no room goes on beside writes that wait for some") {
  const auto mounted = MountedPool::make(1);
  if (!mounted) return;
  constexpr unsigned kWriters = kThreadsOfAView - 8; // more than a view's threads that do not wait
  constexpr std::uint64_t kEnd = kWriters * kBlockBytes;
  const ViewInfo full = mounted->make_volume("full", 2 * kEnd);
  mounted->pool().pause_writes(full.id, WriteWait::others, kEnd);
  Writers writers(mounted->path("full"), kWriters);
  wait_for_writes(mounted->pool(), kWriters);
  const Fd fd(mounted->path("full"), O_RDWR | O_DIRECT);
  const AlignedBytes data = aligned_bytes(kBlockBytes, 7);
  for (std::uint64_t at = kEnd; at < 2 * kEnd; at += kBlockBytes)
    REQUIRE(::pwrite(fd.get(), data.get(), kBlockBytes, static_cast<off_t>(at)) == kBlockBytes);
  CHECK(writers.answered() == 0);
  CHECK(mounted->pool().waiting_writes() == kWriters);
  mounted->pool().let_writes_go();
  writers.join();
  CHECK(writers.errors() == std::vector<int>(kWriters, 0));
  CHECK(read_at(fd, kEnd, kEnd) == filled(kEnd, 7));
}

TEST_CASE("asynchronous writes of one volume that wait leave the kernel room for those of others") {
  const auto mounted = MountedPool::make(1);
  if (!mounted) return;
  constexpr unsigned kDeep = 1000;
  const ViewInfo full = mounted->make_volume("full", kDeep * kBlockBytes);
  mounted->make_volume("vm1", kMegabyte);
  mounted->pool().pause_writes(full.id);
  AsyncWrites waiting(mounted->path("full"), kDeep);
  wait_for_writes(mounted->pool(), kThreadsOfAView);
  AsyncWrites others(mounted->path("vm1"), 64);
  CHECK(others.wait() == 64);
  CHECK(mounted->pool().waiting_writes() == kThreadsOfAView);
  mounted->pool().let_writes_go();
  CHECK(waiting.wait() == kDeep);
}

TEST_CASE("a session that ends waits for no write that waits for room") {
  auto mounted = MountedPool::make();
  if (!mounted) return;
  constexpr unsigned kWriters = kThreadsOfAView + 8;
  const ViewInfo full = mounted->make_volume("full", kWriters * kBlockBytes);
  mounted->pool().pause_writes(full.id);
  Writers writers(mounted->path("full"), kWriters);
  wait_for_writes(mounted->pool(), kThreadsOfAView);
  mounted->session().stop();
  writers.join();
  for (const int error : writers.errors())
    CHECK((error == ENOSPC || error == ENOTCONN || error == ECONNABORTED));
}
