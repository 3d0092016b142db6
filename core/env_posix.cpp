// The real environment: files and block devices through the system calls.
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <fmt/format.h>
#include <cstring>
#include <ctime>
#include <fstream>
#include <mutex>

#include "core/assert.h"
#include "core/direct_io.h"
#include "core/env.h"
#include "core/image_file.h"
#include "core/io_ring.h"
#include "core/mutex.h"
#include "core/names.h"
#include "core/planted.h"
#include "core/shared_memory.h"

namespace vsnap {
namespace {

// Whatever is wrong below, its errno would mean something else to who has a volume open: only that there is
// no space is told as it is.
Failure io_failure(int errno_value, std::string_view what) {
  auto failed = system_failure(errno_value == ENODATA ? EIO : errno_value, what);
  if (failed.value().kind == ErrorKind::no_space) return failed;
  failed.value().kind = ErrorKind::failed;
  failed.value().errno_value = EIO;
  return failed;
}

class PosixFile final : public File {
 public:
  // `ring`: for what lies on a device; null for what lies in memory, is only looked at or not claimed.
  PosixFile(int fd, std::string path, bool block_device, std::uint64_t size_bytes, std::string identity,
            std::shared_ptr<IoRing> ring)
      : fd_(fd),
        path_(std::move(path)),
        block_device_(block_device),
        size_bytes_(size_bytes),
        identity_(std::move(identity)),
        ring_(std::move(ring)) {}
  ~PosixFile() override { ::close(fd_); }

  [[nodiscard]] int descriptor() const override { return fd_; }

  bool bypass_page_cache() override {
    direct_ = DirectIo::of(fd_, block_device_, size_bytes_);
    return direct_ != nullptr;
  }

  Result<> read_at(std::uint64_t offset, std::span<std::byte> out) override {
    if (direct_) {
      const int error = direct_->read(offset, out);
      if (error == 0) return {};
      return io_failure(error, fmt::format("{}: read at {}", path_, offset));
    }
    while (!out.empty()) {
      const ssize_t n = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return io_failure(errno, fmt::format("{}: read at {}", path_, offset));
      if (n == 0)
        return failure(ErrorKind::failed, EIO, fmt::format("{}: read at {}: end of file", path_, offset));
      if (planted(Fault::short_read_whole)) break;
      out = out.subspan(static_cast<std::size_t>(n));
      offset += static_cast<std::uint64_t>(n);
    }
    return {};
  }

  [[nodiscard]] bool may_wait() const override { return ring_ != nullptr; }

  // What the page cache has is read at once; in a direct file that is nothing. For the rest a few threads may
  // wait, and all others leave it to the ring.
  Result<Progress> start_read(std::uint64_t offset, std::span<std::byte> out, Done done) override {
    const std::size_t there = ring_ && !direct_ ? read_cached(offset, out) : 0;
    if (there == out.size()) return Progress::finished;
    offset += there;
    out = out.subspan(there);
    // What is not aligned goes through a buffer of the thread.
    if (ring_ && (!direct_ || direct_->is_aligned(offset, out))) {
      const IoRing::WaitHere wait(*ring_);
      if (!wait.allowed() && leave_to_ring(offset, out, std::move(done))) return Progress::pending;
      VSNAP_TRY(read_at(offset, out)); // counted among those that wait
      return Progress::finished;
    }
    VSNAP_TRY(read_at(offset, out));
    return Progress::finished;
  }

  Result<> write_at(std::uint64_t offset, std::span<const std::byte> data) override {
    if (direct_) return write_direct(offset, data, false);
    return write_all(offset, data, [this](std::span<const std::byte> part, off_t at) {
      return ::pwrite(fd_, part.data(), part.size(), at);
    });
  }

  Result<> write_durably(std::uint64_t offset, std::span<const std::byte> data) override {
    if (direct_) return write_direct(offset, data, true);
    VSNAP_TRY(write_at(offset, data));
    if (::fdatasync(fd_) == 0) return {};
    return flush_failure();
  }

  Result<> flush() override {
    if (::fdatasync(fd_) != 0) return flush_failure();
    return {};
  }

  void drop_cache() override {
    static_cast<void>(::fdatasync(fd_)); // dirty pages are not dropped
    if (block_device_)
      static_cast<void>(::ioctl(fd_, BLKFLSBUF, 0));
    else
      static_cast<void>(::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED));
  }

  void discard(std::uint64_t offset, std::uint64_t length) override {
    if (block_device_) {
      std::uint64_t range[2] = {offset, length};
      static_cast<void>(::ioctl(fd_, BLKDISCARD, range));
    } else {
      static_cast<void>(::fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                    static_cast<off_t>(offset), static_cast<off_t>(length)));
    }
  }

  Result<> zero(std::uint64_t offset, std::uint64_t length) override {
    if (block_device_) {
      std::uint64_t range[2] = {offset, length};
      if (offset % 512 == 0 && length % 512 == 0 && ::ioctl(fd_, BLKZEROOUT, range) == 0) return {};
    } else if (::fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                           static_cast<off_t>(length)) == 0) {
      return {};
    }
    return File::zero(offset, length);
  }

  Result<FileStamp> stamp(bool durably) override {
    if (durably && ::fsync(fd_) != 0) return flush_failure();
    return block_device_ ? image_file::device_stamp(fd_, path_) : image_file::stamp(fd_, path_);
  }

  void take_space(std::uint64_t offset, std::uint64_t length) override {
    if (!block_device_)
      static_cast<void>(::fallocate(fd_, 0, static_cast<off_t>(offset), static_cast<off_t>(length)));
  }

  [[nodiscard]] std::uint64_t size_bytes() const override { return size_bytes_; }

  [[nodiscard]] std::uint64_t allocated_bytes() const override {
    struct stat found = {};
    if (block_device_ || ::fstat(fd_, &found) != 0) return size_bytes_;
    return static_cast<std::uint64_t>(found.st_blocks) * 512; // of this size, whatever st_blksize says
  }

  Result<> resize(std::uint64_t size_bytes) override {
    if (block_device_)
      return failure(ErrorKind::usage, fmt::format("{}: a block device has the size it has", path_));
    if (::ftruncate(fd_, static_cast<off_t>(size_bytes)) != 0) {
      return system_failure(errno, fmt::format("{}: set size to {}", path_, format_size(size_bytes)));
    }
    size_bytes_ = size_bytes;
    return {};
  }

  [[nodiscard]] std::string identity() const override { return identity_; }
  [[nodiscard]] bool is_block_device() const override { return block_device_; }

  Result<bool> try_lock() override {
    if (::flock(fd_, LOCK_EX | LOCK_NB) == 0) return true;
    if (errno == EWOULDBLOCK) return false;
    return system_failure(errno, fmt::format("{}: lock", path_));
  }

 private:
  // Of whatever kind: it may be another write's, and is told once.
  [[nodiscard]] Failure flush_failure() const {
    return failure(ErrorKind::failed, EIO,
                   fmt::format("{}: flush: {}", path_, std::generic_category().message(errno)));
  }
  template <class Write>
  Result<> write_all(std::uint64_t offset, std::span<const std::byte> data, Write write) {
    while (!data.empty()) {
      const ssize_t n = write(data, static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return io_failure(errno, fmt::format("{}: write at {}", path_, offset));
      if (n == 0)
        return failure(ErrorKind::failed, EIO,
                       fmt::format("{}: write at {}: nothing written", path_, offset));
      if (planted(Fault::short_write_whole)) break;
      data = data.subspan(static_cast<std::size_t>(n));
      offset += static_cast<std::uint64_t>(n);
    }
    return {};
  }

  Result<> write_direct(std::uint64_t offset, std::span<const std::byte> data, bool durably) {
    const int error = direct_->write(offset, data, durably);
    if (error == 0) return {};
    return io_failure(error, fmt::format("{}: write at {}", path_, offset));
  }

  // Bytes that could be read without waiting.
  std::size_t read_cached(std::uint64_t offset, std::span<std::byte> out) const {
    const iovec piece{out.data(), out.size()};
    const ssize_t n = ::preadv2(fd_, &piece, 1, static_cast<off_t>(offset), RWF_NOWAIT);
    return n > 0 ? static_cast<std::size_t>(n) : 0;
  }

  bool leave_to_ring(std::uint64_t offset, std::span<std::byte> out, Done done) {
    try {
      return ring_->read(fd_, offset, out, [this, offset, done = std::move(done)](int error) {
        if (error == 0)
          done({});
        else
          done(io_failure(error, fmt::format("{}: read at {}", path_, offset)));
      });
    } catch (const std::bad_alloc&) {
      return false;
    }
  }

  int fd_;
  std::string path_;
  bool block_device_;
  std::uint64_t size_bytes_;
  std::string identity_;
  std::shared_ptr<IoRing> ring_;     // that of all files
  std::unique_ptr<DirectIo> direct_; // null: through the page cache
};

// Whether reads of the file are copies from memory, and nothing else.
bool lies_in_memory(int fd, bool block_device) {
  struct statfs s = {};
  return !block_device && ::fstatfs(fd, &s) == 0 && (s.f_type == TMPFS_MAGIC || s.f_type == RAMFS_MAGIC);
}

std::int64_t clock_ns(clockid_t clock) {
  timespec t{};
  VSNAP_ASSERT(::clock_gettime(clock, &t) == 0);
  return static_cast<std::int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

bool same_file(const struct stat& one, const struct stat& other) {
  if (S_ISBLK(one.st_mode) && S_ISBLK(other.st_mode)) return one.st_rdev == other.st_rdev;
  return one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

// A duplicate of the one of these that is of this file; -1: none is. It begins as a new one would.
int held_open(const struct stat& wanted, std::span<const int> held) {
  for (const int fd : held) {
    struct stat s = {};
    if (::fstat(fd, &s) != 0 || !same_file(s, wanted)) continue;
    const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (const int flags = ::fcntl(copy, F_GETFL); copy >= 0 && (flags & O_DIRECT) != 0)
      static_cast<void>(::fcntl(copy, F_SETFL, flags & ~O_DIRECT));
    return copy;
  }
  return -1;
}

class PosixEnv final : public Env {
 public:
  Result<std::unique_ptr<File>> open_file(const std::string& path, OpenMode mode) override {
    struct stat s = {};
    int flags = O_RDWR | O_CLOEXEC;
    if (mode.create || mode.exclusive_create) flags |= O_CREAT;
    if (mode.exclusive_create) flags |= O_EXCL;
    // On a block device O_EXCL without O_CREAT claims it: refused while it is mounted or claimed by somebody
    // else.
    const bool there = ::stat(path.c_str(), &s) == 0;
    if (there && S_ISBLK(s.st_mode) && !mode.unclaimed) flags = O_RDWR | O_CLOEXEC | O_EXCL;
    if (mode.read_only) flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK; // a FIFO in its place is not waited for
    int fd = there ? held_open(s, mode.held) : -1;
    if (fd < 0) fd = ::open(path.c_str(), flags, 0600);
    if (fd < 0) return system_failure(errno, path);
    if (::fstat(fd, &s) != 0) {
      const int error = errno;
      ::close(fd);
      return system_failure(error, path);
    }
    std::uint64_t size_bytes = static_cast<std::uint64_t>(s.st_size);
    std::string identity;
    if (S_ISBLK(s.st_mode)) {
      if (::ioctl(fd, BLKGETSIZE64, &size_bytes) != 0) {
        const int error = errno;
        ::close(fd);
        return system_failure(error, path);
      }
      identity = fmt::format("device {}:{}", major(s.st_rdev), minor(s.st_rdev));
    } else if (S_ISREG(s.st_mode)) {
      identity = fmt::format("file {}:{} {}", major(s.st_dev), minor(s.st_dev), s.st_ino);
    } else {
      ::close(fd);
      return failure(ErrorKind::usage, fmt::format("{}: neither a file nor a block device", path));
    }
    const bool block_device = S_ISBLK(s.st_mode);
    // io_uring does not wait for what was opened with O_NONBLOCK.
    const bool waits = !mode.read_only && !mode.unclaimed && !lies_in_memory(fd, block_device);
    return std::make_unique<PosixFile>(fd, path, block_device, size_bytes, std::move(identity),
                                       waits ? ring() : nullptr);
  }

  Result<> remove_file(const std::string& path) override {
    if (::unlink(path.c_str()) != 0) return system_failure(errno, path);
    return {};
  }

  Result<std::string> find_image(const std::string& path, bool any_name) override {
    return image_file::find(path, any_name);
  }

  std::int64_t wall_clock_ns() override { return clock_ns(CLOCK_REALTIME); }
  std::int64_t monotonic_ns() override { return clock_ns(CLOCK_BOOTTIME); }

  Uuid random_uuid() override {
    Uuid uuid{};
    VSNAP_ASSERT(::getrandom(uuid.data(), uuid.size(), 0) == static_cast<ssize_t>(uuid.size()));
    uuid[6] = static_cast<std::uint8_t>((uuid[6] & 0x0f) | 0x40); // version 4
    uuid[8] = static_cast<std::uint8_t>((uuid[8] & 0x3f) | 0x80);
    return uuid;
  }

  std::string boot_id() override {
    std::string id;
    std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
    return id;
  }

  std::string host_name() override {
    char name[256] = {};
    static_cast<void>(::gethostname(name, sizeof name - 1));
    return name;
  }

  Result<std::unique_ptr<SharedMemory>> make_shared_memory(const std::string& name,
                                                           std::size_t bytes) override {
    return shared_memory::make(name, bytes);
  }
  Result<std::unique_ptr<SharedMemory>> open_shared_memory(const std::string& name) override {
    return shared_memory::open(name);
  }
  void remove_shared_memory(const std::string& name) override { shared_memory::remove(name); }
  std::vector<std::string> shared_memory_names(const std::string& prefix) override {
    return shared_memory::names(prefix);
  }

 private:
  std::shared_ptr<IoRing> ring() VSNAP_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    std::shared_ptr<IoRing> out = ring_.lock();
    if (!out) ring_ = out = std::make_shared<IoRing>();
    return out;
  }

  Mutex mutex_;
  std::weak_ptr<IoRing> ring_ VSNAP_GUARDED_BY(mutex_); // lives as long as a file that may need it
};

} // namespace

Env& Env::real() {
  static PosixEnv env;
  return env;
}

} // namespace vsnap
