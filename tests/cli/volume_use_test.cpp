// What mountinfo says, and what it does not say of files that nobody uses.
#include "cli/volume_use.h"

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
    CHECK(use.others.empty());
  }
}
