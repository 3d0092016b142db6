#include "tests/fuse/mounted_pool.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>

namespace vsnap {
namespace {

constexpr int kLongestTestMs = 40'000; // with one mount; the whole program has 120 s

void unmount_lazily(const char* directory) {
  if (::geteuid() == 0) {
    ::umount2(directory, MNT_DETACH);
    return;
  }
  const pid_t child = ::fork();
  if (child == 0) {
    ::execlp("fusermount3", "fusermount3", "-u", "-z", "-q", directory, nullptr);
    ::_exit(1);
  }
  ::waitpid(child, nullptr, 0);
}

// Waits until the other end of the pipe is closed, by whatever way the test process ends. Where that takes
// too long the two wait for each other inside the kernel: a forced unmount ends all requests, and with them
// the wait.
[[noreturn]] void guard(int pipe_end, const char* directory) {
  pollfd ended{.fd = pipe_end, .events = POLLIN, .revents = 0};
  if (::poll(&ended, 1, kLongestTestMs) == 0) {
    ::umount2(directory, MNT_FORCE);
    (void)::poll(&ended, 1, kLongestTestMs);
  }
  unmount_lazily(directory);
  ::rmdir(directory);
  ::_exit(0);
}

} // namespace

std::unique_ptr<MountedPool> MountedPool::make(unsigned threads) {
  if (::access("/dev/fuse", R_OK | W_OK) != 0) {
    WARN("skipped: /dev/fuse cannot be opened here, so nothing can be mounted");
    return nullptr;
  }
  std::unique_ptr<MountedPool> mounted(new MountedPool);
  char directory[] = "/tmp/vsnap-mount-XXXXXX";
  REQUIRE(::mkdtemp(directory) != nullptr);
  mounted->directory_ = directory;
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  mounted->guardian_ = ::fork();
  REQUIRE(mounted->guardian_ >= 0);
  if (mounted->guardian_ == 0) {
    ::close(ends[1]);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::signal(signal, SIG_IGN);
    guard(ends[0], directory);
  }
  ::close(ends[0]);
  mounted->guardian_pipe_ = ends[1];
  MountOptions options;
  options.mount_point = directory;
  options.fs_name = "vsnap:lab";
  options.threads = threads;
  auto session = MountSession::mount(*mounted->pool_, options);
  if (!session) FAIL(session.error().message);
  mounted->session_ = std::move(*session);
  mounted->server_ = std::thread([&session = *mounted->session_] { (void)session.serve(); });
  return mounted;
}

MountedPool::~MountedPool() {
  if (session_) session_->stop();
  if (server_.joinable()) server_.join();
  session_.reset();
  if (guardian_pipe_ >= 0) ::close(guardian_pipe_);
  if (guardian_ > 0) ::waitpid(guardian_, nullptr, 0);
}

ViewInfo MountedPool::make_volume(const std::string& name, std::size_t size_bytes) {
  const ViewInfo made = pool_->create_volume(name, 0).value();
  REQUIRE(pool_->open_view(made.id).value()->write(0, pattern_bytes(0, size_bytes)));
  return pool_->info(made.id).value();
}

Fd::Fd(const std::string& path, int flags, unsigned mode)
    : fd_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {
  if (fd_ < 0) error_ = errno;
}

Fd::~Fd() { close(); }

void Fd::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

std::byte pattern(std::uint64_t offset) {
  return static_cast<std::byte>((offset * 2654435761U >> 13) & 0xff);
}

Bytes pattern_bytes(std::uint64_t offset, std::size_t length) {
  Bytes out(length);
  for (std::size_t i = 0; i < length; ++i) out[i] = pattern(offset + i);
  return out;
}

Bytes filled(std::size_t length, unsigned value) { return Bytes(length, static_cast<std::byte>(value)); }

void FreeBytes::operator()(std::byte* bytes) const { std::free(bytes); }

AlignedBytes aligned_bytes(std::size_t length, unsigned value) {
  AlignedBytes out(static_cast<std::byte*>(std::aligned_alloc(4096, length)));
  std::memset(out.get(), static_cast<int>(value), length);
  return out;
}

Bytes read_at(const Fd& fd, std::uint64_t offset, std::size_t length) {
  Bytes out(length);
  std::size_t done = 0;
  while (done < length) {
    const ssize_t got =
        ::pread(fd.get(), out.data() + done, length - done, static_cast<off_t>(offset + done));
    REQUIRE(errno_of(got) == 0);
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  out.resize(done);
  return out;
}

void write_at(const Fd& fd, std::uint64_t offset, const Bytes& data) {
  REQUIRE(::pwrite(fd.get(), data.data(), data.size(), static_cast<off_t>(offset)) ==
          static_cast<ssize_t>(data.size()));
}

Bytes read_file(const std::string& path) {
  const Fd fd(path, O_RDONLY);
  REQUIRE(fd.error() == 0);
  Bytes out;
  for (;;) {
    const Bytes part = read_at(fd, out.size(), 1U << 20);
    out.insert(out.end(), part.begin(), part.end());
    if (part.size() < (1U << 20)) return out;
  }
}

std::vector<std::string> names_in(const std::string& directory) {
  std::vector<std::string> out;
  DIR* const open = ::opendir(directory.c_str());
  REQUIRE(open != nullptr);
  while (const dirent* entry = ::readdir(open)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") out.push_back(name);
  }
  ::closedir(open);
  std::sort(out.begin(), out.end());
  return out;
}

Writers::Writers(const std::string& path, unsigned count) : fd_(path, O_RDWR | O_DIRECT), errors_(count, -1) {
  REQUIRE(fd_.ok());
  for (unsigned i = 0; i < count; ++i) {
    threads_.emplace_back([this, i] {
      const AlignedBytes data = aligned_bytes(kBlockBytes, i + 1);
      const auto at = static_cast<off_t>(i * kBlockBytes);
      const ssize_t length = ::pwrite(fd_.get(), data.get(), kBlockBytes, at);
      errors_[i] = length == static_cast<ssize_t>(kBlockBytes) ? 0 : errno_of(length);
      ++answered_;
    });
  }
}

void Writers::join() {
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void wait_for_writes(ModelPool& pool, std::size_t count) {
  for (int i = 0; i < 1000 && pool.waiting_writes() != count; ++i) ::usleep(10000);
  REQUIRE(pool.waiting_writes() == count);
}

} // namespace vsnap
