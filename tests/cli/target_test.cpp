// What a user writes for a pool, volume or snapshot: specs, and paths under a mount.
#include "cli/mount_table.h"
#include "tests/support/catch.h"

namespace vsnap::cli {
namespace {

constexpr std::string_view kTable =
    "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
    "40 27 0:50 / /mnt/lab rw,nosuid shared:3 master:1 - fuse.vsnap vsnap:lab rw,user_id=0\n"
    "41 27 0:51 / /mnt/with\\040blank rw - fuse vsnap:other rw\n"
    "42 27 0:52 / /mnt/sshfs rw - fuse.sshfs host:dir rw\n"
    "43 27 0:53 / /mnt/liar rw - ext4 vsnap:lab rw\n"
    "garbage\n";

TEST_CASE("only mounts of ours are found, with blanks in their paths") {
  const auto mounts = parse_mount_table(kTable);
  REQUIRE(mounts.size() == 2);
  CHECK(mounts[0] == PoolMount{"lab", "/mnt/lab"});
  CHECK(mounts[1] == PoolMount{"other", "/mnt/with blank"});
}

TEST_CASE("a path under a mount stands for its volume or snapshot, the mount point for its pool") {
  const auto mounts = parse_mount_table(kTable);
  const auto view = spec_of_path("/mnt/lab/vm1@monday", mounts);
  REQUIRE(view);
  REQUIRE(*view);
  CHECK((*view)->pool == "lab");
  CHECK((*view)->view == ViewName{"vm1", "monday"});
  CHECK((*spec_of_path("/mnt/with blank/v", mounts))->view == ViewName{"v", {}});
  CHECK_FALSE((*spec_of_path("/mnt/lab", mounts))->view);
}

TEST_CASE("a path that only looks alike is not under the mount") {
  const auto mounts = parse_mount_table(kTable);
  CHECK_FALSE(spec_of_path("/mnt/lab2/vm1", mounts));
  CHECK_FALSE(spec_of_path("/mnt", mounts));
  CHECK_FALSE(spec_of_path("/mnt/sshfs/vm1", mounts));
}

TEST_CASE("a path below a volume, or with a bad name, is a usage error") {
  const auto mounts = parse_mount_table(kTable);
  CHECK((*spec_of_path("/mnt/lab/a/b", mounts)).error().kind == ErrorKind::usage);
  CHECK((*spec_of_path("/mnt/lab/.x", mounts)).error().kind == ErrorKind::usage);
}

TEST_CASE("a spec is taken as it is written") {
  CHECK(resolve_target("lab")->pool == "lab");
  CHECK(resolve_view("lab/vm1@s")->view == ViewName{"vm1", "s"});
  CHECK(resolve_volume("lab/vm1")->view == ViewName{"vm1", {}});
}

TEST_CASE("a pool where a view is needed, and a snapshot where a volume is, are usage errors") {
  CHECK(resolve_view("lab").error().kind == ErrorKind::usage);
  CHECK(resolve_volume("lab").error().kind == ErrorKind::usage);
  CHECK(resolve_volume("lab/vm1@s").error().kind == ErrorKind::usage);
  CHECK(resolve_target("").error().kind == ErrorKind::usage);
  CHECK(resolve_target("a b").error().kind == ErrorKind::usage);
}

TEST_CASE("a path outside of every mount is not_found") {
  CHECK(resolve_target("/etc/passwd").error().kind == ErrorKind::not_found);
  CHECK(resolve_target("./nothing").error().kind == ErrorKind::not_found);
}

} // namespace
} // namespace vsnap::cli
