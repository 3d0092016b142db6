#!/usr/bin/env python3
"""A pool that has lost a member, mounted for what is on the others: an image file beside a loop device that
is gone. What it shows is held against a plain copy of the bytes, and the members against themselves.
"""

import errno
import hashlib
import os
import signal

from support import MIB, LabTest, main, read_all, read_at, seeded, wait_until, write_at

SIZE = 16 * MIB


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Degraded(LabTest):
    def setUp(self):
        super().setUp()
        self.content = seeded().randbytes(SIZE)
        self.left = self.lab.file("left.img", 64 * MIB)
        self.lost = self.lab.losetup(self.lab.file("lost.img", 64 * MIB))
        self.lab.vsnap("pool", "create", "p", self.lost, self.left)
        self.point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", str(SIZE))
        write_at(self.point / "v", 0, self.content)
        self.lab.vsnap("snapshot", "--full", "--to", "1", "--wait", "p/v@f")
        write_at(self.point / "v", 0, b"x" * SIZE)

    def lose(self):
        """The device is there and has nothing behind it any more."""
        self.lab.detach(self.lost)

    def bring_back(self):
        self.lab.losetup(self.lab.path / "lost.img")  # the lowest free one: not for certain the same
        self.assertTrue(os.path.exists(self.lost))

    def mount_degraded(self):
        return self.lab.mount("p", "-o", "degraded")

    def test_a_snapshot_on_the_others_is_read_and_nothing_is_changed(self):
        self.lab.umount()
        self.lose()
        before = digest(self.left)
        refused = self.lab.vsnap("mount", "p", self.point, code=6)
        self.mentions(refused.err, "vsnap mount -o degraded p DIR")
        self.mount_degraded()
        self.assertTrue(read_all(self.point / "v@f") == self.content)
        copy = self.lab.path / "copy"
        self.lab.run("cp", "--sparse=always", self.point / "v@f", copy)
        self.lab.run("cmp", self.point / "v@f", copy)
        missing = f"member 0 ({self.lost})"
        self.assertEqual(f"degraded: {missing} is missing; read-only", self.lab.status()["health"])
        self.assertEqual({"v", "v@f"}, set(self.lab.views()))
        for command in (["df", "p"], ["info", "p/v@f"], ["tree", "p"]):
            self.lab.vsnap(*command)
        for command in (
            ["snapshot", "p/v@s"],
            ["create", "p/w", "--size", "1M"],
            ["rm", "-y", "p/v@f"],
            ["preserve", "p/v@s"],
            ["clone", "p/v@f", "w"],
            ["resize", "p/v", "32M"],
            ["rename", "p/v", "w"],
        ):
            refused = self.lab.vsnap(*command, code=1)
            self.mentions(refused.err, f"pool p is open without {missing} and takes no changes")
            self.assertEqual(1, len(refused.err.splitlines()))
        self.fails_with(errno.EROFS, write_at, self.point / "v", 0, b"y")
        self.fails_with(errno.EROFS, os.unlink, self.point / "v@f")
        self.lab.umount()
        self.assertEqual(before, digest(self.left))

    def test_what_lies_on_the_missing_member_is_an_error(self):
        self.lab.vsnap("snapshot", "--full", "--to", "0", "--wait", "p/v@g")
        self.lab.umount()
        self.lose()
        self.mount_degraded()
        for at in range(0, SIZE, MIB):
            self.fails_with(errno.EIO, read_at, self.point / "v@g", at, 4096)
        log = next(self.lab.path.glob("run/**/*.log")).read_text()
        self.assertEqual(1, log.count("v@g: blocks of it are on member 0"), log)
        self.lab.umount()

    def test_a_killed_daemon_is_replaced_and_a_member_that_comes_back_fits(self):
        self.lab.umount()
        self.lose()
        self.mount_degraded()
        with open(self.point / "v@f", "rb") as file:
            pid = self.lab.daemon_pid()
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: self.lab.daemon_pid() not in (None, pid), what="successor")
            self.assertTrue(file.read() == self.content)
        self.assertIn("read-only", self.lab.status()["health"])
        self.lab.umount()
        self.bring_back()
        self.lab.check()
        self.lab.mount()
        self.assertEqual("ok", self.lab.status()["health"])
        self.assertTrue(read_all(self.point / "v") == b"x" * SIZE)
        self.lab.umount()

    def test_after_a_kill_what_was_answered_is_shown_where_its_blocks_are_there(self):
        write_at(self.point / "v", 0, b"z" * MIB)
        self.lab.kill_daemon()
        self.lose()
        self.mount_degraded()
        self.assertTrue(read_all(self.point / "v@f") == self.content)
        for at in range(0, SIZE, 4096):
            try:
                found = read_at(self.point / "v", at, 4096)
            except OSError as error:
                self.assertEqual(errno.EIO, error.errno)
                continue
            self.assertEqual((b"z" if at < MIB else b"x") * 4096, found, at)
        self.lab.umount()

    def test_with_all_members_it_is_an_ordinary_mount(self):
        self.lab.umount()
        self.mount_degraded()
        write_at(self.point / "v", 0, b"y" * MIB)
        self.assertEqual("ok", self.lab.status()["health"])
        self.lab.umount()
        self.lab.check()


if __name__ == "__main__":
    main()
