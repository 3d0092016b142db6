// What mountinfo says, and what it does not say of files that nobody uses.
#include "cli/volume_use.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <array>
#include <csignal>
#include <cstdlib>
#include <string>

#include "cli/descriptor.h"
#include "cli/holders.h"
#include "tests/support/catch.h"

using namespace vsnap::cli;

TEST_CASE("lines of mountinfo are read with and without optional fields, and with blanks in names") {
  const auto found = parse_mount_entries(
      "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n"
      "41 27 7:3 /sub /mnt/a\\040b rw shared:5 master:1 - xfs /dev/loop3 rw\n"
      "42 27 0:45 / /mnt/c ro - btrfs /dev/loop4 rw,subvol=/\n"
      "nonsense\n"
      "43 27 0:46 / /mnt/d rw shared:7\n");
  REQUIRE(found.size() == 3);
  CHECK(found[0] == MountEntry{27, "254:0", "/", "ext4", "/dev/vda"});
  CHECK(found[1] == MountEntry{41, "7:3", "/mnt/a b", "xfs", "/dev/loop3"});
  CHECK(found[2] == MountEntry{42, "0:45", "/mnt/c", "btrfs", "/dev/loop4"});
}

TEST_CASE("a file that nobody uses has no use") {
  const VolumeUses uses = uses_of({"/nowhere/vm1", "/nowhere/vm2"});
  CHECK(uses.file_systems.empty());
  REQUIRE(uses.volumes.size() == 2);
  for (const VolumeUse& use : uses.volumes) {
    CHECK(use.loops.empty());
    CHECK(use.file_systems.empty());
    CHECK(use.claimed.empty());
    CHECK(use.others.empty());
  }
}

namespace {

// Whether a process that has nothing but this open counts as one that has disks.
bool has_disks_with(int fd) {
  std::array<int, 2> ready{};
  REQUIRE(::pipe(ready.data()) == 0);
  const pid_t process = ::fork();
  if (process == 0) {
    ::dup2(fd, 0);
    ::dup2(ready[1], 1);
    ::close_range(2, ~0U, 0);
    static_cast<void>(!::write(1, "r", 1));
    ::pause();
    ::_exit(0);
  }
  char byte = 0;
  REQUIRE(::read(ready[0], &byte, 1) == 1);
  const bool found = has_disks(process);
  ::kill(process, SIGKILL);
  ::waitpid(process, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
  return found;
}

} // namespace

TEST_CASE(
    "a process with a file open to read and to write has disks, one that reads or writes a log has not") {
  std::string path = "/tmp/vsnap-disk-XXXXXX";
  const Descriptor disk(::mkstemp(path.data())); // to read and to write
  REQUIRE(disk.get() >= 0);
  const Descriptor log(::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
  const Descriptor image(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const Descriptor null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  CHECK(has_disks_with(disk.get()));
  CHECK_FALSE(has_disks_with(log.get()));
  CHECK_FALSE(has_disks_with(image.get()));
  CHECK_FALSE(has_disks_with(null.get()));
  CHECK(::unlink(path.c_str()) == 0);
  std::string shared = "/dev/shm/vsnap-disk-XXXXXX"; // no device, though in /dev
  const Descriptor in_memory(::mkstemp(shared.data()));
  REQUIRE(in_memory.get() >= 0);
  CHECK(has_disks_with(in_memory.get()));
  CHECK(::unlink(shared.c_str()) == 0);
}
