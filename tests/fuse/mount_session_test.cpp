// Mounting, its errors, and the end of a session.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <cstdlib>

#include "tests/fuse/mounted_pool.h"

using namespace vsnap;

namespace {

class TemporaryDirectory {
 public:
  TemporaryDirectory() { REQUIRE(::mkdtemp(path_) != nullptr); }
  ~TemporaryDirectory() { ::rmdir(path_); }
  [[nodiscard]] std::string path() const { return path_; }

 private:
  char path_[32] = "/tmp/vsnap-session-XXXXXX";
};

bool is_mounted(const std::string& path) {
  struct stat here {
  }, above{};
  return ::stat(path.c_str(), &here) == 0 && ::stat((path + "/..").c_str(), &above) == 0 &&
         here.st_dev != above.st_dev;
}

Error mount_error(const std::string& mount_point) {
  const auto pool = ModelPool::make("lab");
  MountOptions options;
  options.mount_point = mount_point;
  auto session = MountSession::mount(*pool, options);
  REQUIRE_FALSE(session);
  return session.error();
}

} // namespace

TEST_CASE("a mount point that is missing or no directory is named in the error") {
  if (::access("/dev/fuse", R_OK | W_OK) != 0) return;
  const Error missing = mount_error("/tmp/vsnap-no-such-directory");
  CHECK(missing.kind == ErrorKind::not_found);
  CHECK(missing.message == "/tmp/vsnap-no-such-directory: no such directory (mkdir it first)");
  CHECK(mount_error("/dev/null").errno_value == ENOTDIR);
}

TEST_CASE("a mount point in use is refused") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  const Error error = mount_error(mounted->path());
  CHECK(error.kind == ErrorKind::busy);
  CHECK(error.message.find("mounted there already") != std::string::npos);
}

TEST_CASE("a session that never served unmounts too") {
  if (::access("/dev/fuse", R_OK | W_OK) != 0) return;
  const TemporaryDirectory directory;
  const auto pool = ModelPool::make("lab");
  MountOptions options;
  options.mount_point = directory.path();
  {
    auto session = MountSession::mount(*pool, options);
    REQUIRE(session);
    (*session)->stop();
    CHECK((*session)->serve()); // returns at once: it was stopped
  }
  CHECK_FALSE(is_mounted(directory.path()));
}

TEST_CASE("stopping ends serve, with files open and requests coming in") {
  for (int round = 0; round < 20; ++round) {
    auto mounted = MountedPool::make();
    if (!mounted) return;
    mounted->make_volume("vm1", 1U << 20);
    const std::string path = mounted->path("vm1");
    const Fd held(path, O_RDONLY);
    std::atomic<bool> started{false};
    std::thread client([&] {
      const Fd fd(path, O_RDWR);
      std::byte byte{1};
      for (off_t at = 0; ::pwrite(fd.get(), &byte, 1, at % (1 << 20)) == 1; at += 4096) started = true;
    });
    while (!started) std::this_thread::yield();
    const std::string directory = mounted->path();
    mounted.reset();
    client.join();
    CHECK_FALSE(is_mounted(directory));
    std::byte byte{};
    CHECK(errno_of(::pread(held.get(), &byte, 1, 4096 * 7)) == ENOTCONN);
  }
}

TEST_CASE("serve returns when somebody unmounts") {
  if (::access("/dev/fuse", R_OK | W_OK) != 0 || ::geteuid() != 0) return;
  const TemporaryDirectory directory;
  const auto pool = ModelPool::make("lab");
  MountOptions options;
  options.mount_point = directory.path();
  auto session = MountSession::mount(*pool, options);
  REQUIRE(session);
  bool served = false;
  std::thread server([&] { served = (*session)->serve().has_value(); });
  struct statfs out = {};
  CHECK(::statfs(directory.path().c_str(), &out) == 0); // answered, so it serves
  CHECK(::umount2(directory.path().c_str(), 0) == 0);
  server.join();
  CHECK(served);
}

TEST_CASE("a mount that is taken away ends, though a write waits for room in one of its workers") {
  if (::access("/dev/fuse", R_OK | W_OK) != 0 || ::geteuid() != 0) return;
  for (int round = 0; round < 6; ++round) { // any of them
    const TemporaryDirectory directory;
    const auto pool = ModelPool::make("lab");
    pool->pause_writes(pool->create_volume("v", kBlockBytes)->id, WriteWait::none);
    MountOptions options;
    options.mount_point = directory.path();
    options.threads = 2;
    auto session = MountSession::mount(*pool, options);
    REQUIRE(session);
    bool served = false;
    std::thread server([&] { served = (*session)->serve().has_value(); });
    Writers writers(directory.path() + "/v", 1);
    wait_for_writes(*pool, 1);
    CHECK(::umount2(directory.path().c_str(), MNT_FORCE | MNT_DETACH) == 0);
    server.join();
    writers.join();
    CHECK(served);
    CHECK(writers.errors() != std::vector<int>{0});
  }
}

TEST_CASE("no file stays open in the pool after the session") {
  auto mounted = MountedPool::make();
  if (!mounted) return;
  const ViewInfo made = mounted->make_volume("vm1", 4096);
  const Fd fd(mounted->path("vm1"), O_RDWR);
  CHECK(mounted->pool().info(made.id)->open_handles == 1);
  mounted->session().stop();
  for (int i = 0; i < 500 && mounted->pool().info(made.id)->open_handles != 0; ++i) ::usleep(10000);
  CHECK(mounted->pool().info(made.id)->open_handles == 0);
}
