// Names, permissions and attributes through the mount.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <cstdio>

#include "tests/fuse/mounted_pool.h"

using namespace vsnap;
using Names = std::vector<std::string>;

namespace {

struct stat stat_of(const std::string& path) {
  struct stat out = {};
  REQUIRE(::stat(path.c_str(), &out) == 0);
  return out;
}

int rename_errno(const MountedPool& mounted, const std::string& from, const std::string& to,
                 unsigned flags = 0) {
  return errno_of(
      ::renameat2(AT_FDCWD, mounted.path(from).c_str(), AT_FDCWD, mounted.path(to).c_str(), flags));
}

void take_snapshot(MountedPool& mounted, const std::string& volume, const std::string& snapshot) {
  REQUIRE(mounted.pool().snapshot(std::vector<ViewName>{{volume, snapshot}}));
}

// Root may do what modes forbid, so it gets as far as to hear the real reason.
int write_refusal() { return ::geteuid() == 0 ? EROFS : EACCES; }

} // namespace

TEST_CASE("a volume is a file with its size, space, owner, mode and time") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  const ViewInfo made = mounted->make_volume("vm1", 10000);
  const struct stat found = stat_of(mounted->path("vm1"));
  CHECK(found.st_ino == made.id.value());
  CHECK(found.st_mode == (S_IFREG | 0600));
  CHECK(found.st_size == 10000);
  CHECK(found.st_blocks == 24);
  CHECK(found.st_blksize == 4096);
  CHECK(found.st_uid == ::geteuid());
  CHECK(found.st_nlink == 1);
  CHECK(found.st_mtim.tv_sec == made.modified_ns / 1'000'000'000);
  CHECK(found.st_mtim.tv_nsec == made.modified_ns % 1'000'000'000);
  const struct stat root = stat_of(mounted->path());
  CHECK(root.st_mode == (S_IFDIR | 0755));
  CHECK(root.st_uid == ::geteuid());
  CHECK(root.st_ino == 1);
}

TEST_CASE("creating a file makes a volume, with the mode asked for") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  const mode_t old_mask = ::umask(022);
  const Fd fd(mounted->path("vm1"), O_RDWR | O_CREAT | O_EXCL, 0666);
  ::umask(old_mask);
  REQUIRE(fd.error() == 0);
  CHECK(stat_of(mounted->path("vm1")).st_mode == (S_IFREG | 0644));
  CHECK(stat_of(mounted->path("vm1")).st_size == 0);
  CHECK(mounted->pool().find({"vm1", {}})->uid == ::geteuid());
  CHECK(Fd(mounted->path("vm1"), O_RDWR | O_CREAT | O_EXCL).error() == EEXIST);
  CHECK(Fd(mounted->path("vm1"), O_RDWR | O_CREAT).ok());
}

TEST_CASE("mknod makes a volume too, but no other kind of file") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  CHECK(::mknod(mounted->path("vm1").c_str(), S_IFREG | 0600, 0) == 0);
  CHECK(mounted->pool().find({"vm1", {}}));
  CHECK(errno_of(::mkfifo(mounted->path("pipe").c_str(), 0600)) == EPERM);
  CHECK(names_in(mounted->path()) == Names{"vm1"});
}

TEST_CASE("attributes can be changed and stay") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 10000);
  const std::string path = mounted->path("vm1");
  REQUIRE(::chmod(path.c_str(), 04640) == 0);
  CHECK(stat_of(path).st_mode == (S_IFREG | 0640)); // set-user-id bits are not kept
  const timespec times[2] = {{.tv_sec = 0, .tv_nsec = UTIME_OMIT}, {.tv_sec = -5, .tv_nsec = 7}};
  REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, 0) == 0);
  CHECK(stat_of(path).st_mtim.tv_sec == -5);
  CHECK(stat_of(path).st_mtim.tv_nsec == 7);
  for (const std::int64_t far : {10'000'000'000'000, -10'000'000'000'000}) { // kept as the farthest there is
    const timespec far_times[2] = {{.tv_sec = 0, .tv_nsec = UTIME_OMIT},
                                   {.tv_sec = far, .tv_nsec = 999'999'999}};
    REQUIRE(::utimensat(AT_FDCWD, path.c_str(), far_times, 0) == 0);
    CHECK(stat_of(path).st_mtim.tv_sec == (far < 0 ? -9'223'372'035 : 9'223'372'035));
  }
  if (::geteuid() != 0) return;
  REQUIRE(::chown(path.c_str(), 1000, 1001) == 0);
  CHECK(stat_of(path).st_uid == 1000);
  CHECK(stat_of(path).st_gid == 1001);
}

TEST_CASE("an open handle stays valid when its volume is renamed") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 10000);
  take_snapshot(*mounted, "vm1", "a");
  const Fd fd(mounted->path("vm1"), O_RDWR);
  CHECK(rename_errno(*mounted, "vm1", "vm2") == 0);
  CHECK(read_at(fd, 0, 10000) == pattern_bytes(0, 10000));
  write_at(fd, 0, filled(10, 1));
  CHECK(names_in(mounted->path()) == Names{"vm2", "vm2@a"});
  CHECK(::access(mounted->path("vm1@a").c_str(), F_OK) != 0);
}

TEST_CASE("renaming over a volume without snapshots replaces it") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 10000);
  mounted->make_volume("vm2", 20000);
  CHECK(rename_errno(*mounted, "vm1", "vm2", RENAME_NOREPLACE) == EEXIST);
  take_snapshot(*mounted, "vm2", "a");
  CHECK(rename_errno(*mounted, "vm1", "vm2") == EBUSY);
  REQUIRE(::unlink(mounted->path("vm2@a").c_str()) == 0);
  CHECK(rename_errno(*mounted, "vm1", "vm2", RENAME_EXCHANGE) == EINVAL);
  const Fd replaced(mounted->path("vm2"), O_RDWR);
  CHECK(rename_errno(*mounted, "vm1", "vm2") == 0);
  CHECK(names_in(mounted->path()) == Names{"vm2"});
  CHECK(stat_of(mounted->path("vm2")).st_size == 10000);
  // Who had it open keeps it, and may change its size.
  struct stat kept = {};
  REQUIRE(::ftruncate(replaced.get(), 30000) == 0);
  REQUIRE(::fstat(replaced.get(), &kept) == 0);
  CHECK(kept.st_size == 30000);
}

TEST_CASE("a snapshot is renamed within its volume only") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 10000);
  mounted->make_volume("vm2", 10000);
  take_snapshot(*mounted, "vm1", "a");
  take_snapshot(*mounted, "vm1", "b");
  CHECK(rename_errno(*mounted, "vm1@a", "vm2@a") == EPERM);
  CHECK(rename_errno(*mounted, "vm1@a", "vm3") == EPERM);
  CHECK(rename_errno(*mounted, "vm2", "vm1@c") == EPERM);
  CHECK(rename_errno(*mounted, "vm1@a", "vm1@b") == EEXIST);
  CHECK(rename_errno(*mounted, "vm1@a", "vm1@c") == 0);
  CHECK(names_in(mounted->path()) == Names{"vm1", "vm1@b", "vm1@c", "vm2"});
}

TEST_CASE("an open volume can be unlinked and lives until it is closed") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  const ViewInfo made = mounted->make_volume("vm1", 10000);
  Fd fd(mounted->path("vm1"), O_RDWR);
  REQUIRE(::unlink(mounted->path("vm1").c_str()) == 0);
  CHECK(names_in(mounted->path()).empty());
  CHECK(read_at(fd, 0, 10000) == pattern_bytes(0, 10000));
  write_at(fd, 0, filled(10, 1));
  struct stat found = {};
  REQUIRE(::fstat(fd.get(), &found) == 0);
  CHECK(found.st_nlink == 0);
  CHECK(found.st_size == 10000);
  fd.close();
  for (int i = 0; i < 200 && mounted->pool().info(made.id); ++i) ::usleep(10000); // release comes after close
  CHECK_FALSE(mounted->pool().info(made.id));
}

TEST_CASE("an open snapshot can be unlinked and lives until it is closed") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 10000);
  take_snapshot(*mounted, "vm1", "a");
  const Fd fd(mounted->path("vm1@a"), O_RDONLY);
  REQUIRE(::unlink(mounted->path("vm1@a").c_str()) == 0);
  CHECK(names_in(mounted->path()) == Names{"vm1"});
  CHECK(read_at(fd, 0, 10000) == pattern_bytes(0, 10000));
  struct stat found = {};
  REQUIRE(::fstat(fd.get(), &found) == 0);
  CHECK(found.st_nlink == 0);
}

TEST_CASE("a volume with snapshots cannot be removed, a snapshot can") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 10000);
  take_snapshot(*mounted, "vm1", "a");
  CHECK(errno_of(::unlink(mounted->path("vm1").c_str())) == EBUSY);
  CHECK(::unlink(mounted->path("vm1@a").c_str()) == 0);
  CHECK(::unlink(mounted->path("vm1").c_str()) == 0);
  CHECK(errno_of(::unlink(mounted->path("vm1").c_str())) == ENOENT);
}

TEST_CASE("a snapshot can be read and never changed") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 10000);
  REQUIRE(::chmod(mounted->path("vm1").c_str(), 0664) == 0);
  take_snapshot(*mounted, "vm1", "a");
  const std::string path = mounted->path("vm1@a");
  CHECK(stat_of(path).st_mode == (S_IFREG | 0444));
  CHECK(read_file(path) == pattern_bytes(0, 10000));
  CHECK(Fd(path, O_RDWR).error() == write_refusal());
  CHECK(Fd(path, O_WRONLY | O_DIRECT).error() == write_refusal());
  CHECK(Fd(path, O_RDONLY | O_TRUNC).error() == write_refusal());
  CHECK(errno_of(::truncate(path.c_str(), 5)) == write_refusal());
  CHECK(errno_of(::chmod(path.c_str(), 0600)) == EROFS);
  CHECK(errno_of(::utimensat(AT_FDCWD, path.c_str(), nullptr, 0)) == EROFS);
  CHECK(read_file(path) == pattern_bytes(0, 10000));
}

TEST_CASE("directories, links and special files are refused") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 10000);
  CHECK(errno_of(::mkdir(mounted->path("dir").c_str(), 0700)) == EPERM);
  CHECK(errno_of(::link(mounted->path("vm1").c_str(), mounted->path("vm2").c_str())) == EPERM);
  CHECK(errno_of(::symlink("vm1", mounted->path("vm2").c_str())) == EPERM);
  CHECK(errno_of(::rmdir(mounted->path("vm1").c_str())) == ENOTDIR);
  CHECK(errno_of(::setxattr(mounted->path("vm1").c_str(), "user.x", "1", 1, 0)) == EOPNOTSUPP);
  CHECK(names_in(mounted->path()) == Names{"vm1"});
}

TEST_CASE("a bad name is not found, and nothing can be made under it") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 10000);
  take_snapshot(*mounted, "vm1", "a");
  const Names bad{".hidden",       "-dash", "sp ace", "tab\t",   "new\nline",
                  "uml\xc3\xa4ut", "vm1@",  "@a",     "vm1@a@b", "vm1@-x"};
  for (const std::string& name : bad) {
    CAPTURE(name);
    CHECK(errno_of(::access(mounted->path(name).c_str(), F_OK)) == ENOENT);
    CHECK(Fd(mounted->path(name), O_RDWR | O_CREAT).error() == EINVAL);
    CHECK(errno_of(::mknod(mounted->path(name).c_str(), S_IFREG | 0600, 0)) == EINVAL);
    CHECK(rename_errno(*mounted, "vm1", name) == EINVAL);
    CHECK(errno_of(::unlink(mounted->path(name).c_str())) == ENOENT);
  }
  const std::string longest(63, 'x');
  for (const std::string& name : {longest + "x", "vm1@" + longest + "x"}) {
    CHECK(errno_of(::access(mounted->path(name).c_str(), F_OK)) == ENOENT);
    CHECK(Fd(mounted->path(name), O_RDWR | O_CREAT).error() == ENAMETOOLONG);
    CHECK(rename_errno(*mounted, "vm1", name) == ENAMETOOLONG);
  }
  CHECK(names_in(mounted->path()) == Names{"vm1", "vm1@a"});
  CHECK(Fd(mounted->path(longest), O_RDWR | O_CREAT).ok());
}

TEST_CASE("a snapshot is not made by making a file") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 10000);
  CHECK(Fd(mounted->path("vm1@x"), O_RDWR | O_CREAT).error() == EINVAL);
  CHECK(names_in(mounted->path()) == Names{"vm1"});
}

TEST_CASE("what appears in the pool appears in the mount") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 10000);
  CHECK(::access(mounted->path("vm1@a").c_str(), F_OK) != 0);
  const struct stat before = stat_of(mounted->path());
  take_snapshot(*mounted, "vm1", "a");
  CHECK(::access(mounted->path("vm1@a").c_str(), F_OK) == 0);
  CHECK(names_in(mounted->path()) == Names{"vm1", "vm1@a"});
  const struct stat after = stat_of(mounted->path());
  CHECK(std::pair(after.st_mtim.tv_sec, after.st_mtim.tv_nsec) >
        std::pair(before.st_mtim.tv_sec, before.st_mtim.tv_nsec));
  REQUIRE(mounted->pool().remove(std::vector<ViewName>{{"vm1", "a"}}, {}));
  CHECK(::access(mounted->path("vm1@a").c_str(), F_OK) != 0);
}

TEST_CASE("a directory with many entries is listed whole") {
  const auto mounted = MountedPool::make();
  if (!mounted) return;
  mounted->make_volume("vm1", 10000);
  Names expected{"vm1"};
  for (unsigned i = 1000; i < 2000; ++i) {
    take_snapshot(*mounted, "vm1", "snapshot-with-a-long-name-" + std::to_string(i));
    expected.push_back("vm1@snapshot-with-a-long-name-" + std::to_string(i));
  }
  CHECK(names_in(mounted->path()) == expected);
}
