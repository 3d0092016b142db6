#!/usr/bin/env python3
"""A pool that runs full: a clear error for the write that needs space, and everything else goes on."""

import errno
import os
import re

from support import (
    BLOCK,
    GIB,
    KEEP_SIZE,
    MIB,
    PUNCH_HOLE,
    LabTest,
    fallocate,
    main,
    read_at,
    seeded,
    used_bytes,
)
from support import wait_until


class Full(LabTest):
    def setUp(self):
        super().setUp()
        self.random = seeded()
        self.lab.pool(size="64M")
        self.point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "1G")
        self.fd = os.open(self.point / "v", os.O_RDWR)
        self.addCleanup(lambda: os.close(self.fd))
        self.written = {}

    def write(self, block):
        data = self.random.randbytes(16) * (BLOCK // 16)
        os.pwrite(self.fd, data, block * BLOCK)
        self.written[block] = data

    def fill(self):
        """To the last block: in pieces with holes between them, so that each needs a row in the catalog, and
        with snapshots on the way; big pieces first, to be quick."""
        block = 0
        snapshots = 0
        for piece in (256, 16, 1):
            full = False
            while not full:
                try:
                    if piece == 1:
                        self.write(block)
                    else:
                        os.pwrite(self.fd, b"f" * piece * BLOCK, block * BLOCK)
                        self.last_piece = block
                    block += piece + 1
                except OSError as error:
                    self.assertEqual(error.errno, errno.ENOSPC)
                    full = True
                if snapshots < 8 and block > (snapshots + 1) * 1500:
                    self.lab.vsnap("snapshot", f"p/v@s{snapshots}")
                    snapshots += 1
        self.assertGreater(snapshots, 2)
        for _ in range(3):  # until nothing at all goes in any more
            for _ in range(50):
                block += 2
                try:
                    self.write(block)
                except OSError as error:
                    self.assertEqual(error.errno, errno.ENOSPC)
        return block

    def verify(self):
        for block, data in self.written.items():
            self.assertEqual(os.pread(self.fd, BLOCK, block * BLOCK), data, f"block {block}")

    def test_with_nothing_available_it_says_that_it_is_100_percent_full(self):
        self.fill()
        status = self.lab.status()
        self.assertEqual(status["space"]["available"], 0)
        self.mentions(status["health"], "100 % full")

    def test_to_the_last_block_the_write_gets_enospc_and_nothing_that_returned_is_lost(self):
        self.fill()
        self.assertLess(self.lab.space()["available"], 64 * BLOCK)
        self.verify()
        os.fsync(self.fd)
        self.verify()
        self.lab.vsnap("ls", "p")
        self.lab.vsnap("df", "p")
        self.lab.vsnap("check", "p")
        self.assertIn("s0", " ".join(os.listdir(self.point)))
        self.lab.vsnap("snapshot", "p/v@in-a-full-pool", code=(0, 5))
        os.close(self.fd)
        self.lab.umount()
        self.lab.check()
        self.lab.mount()
        self.fd = os.open(self.point / "v", os.O_RDWR)
        self.verify()

    def test_overwriting_what_only_the_volume_has_needs_no_space(self):
        self.fill()
        block = max(self.written, default=self.last_piece)
        for _ in range(100):
            self.write(block)
        self.verify()

    def test_what_was_discarded_a_moment_ago_can_be_written_at_once(self):
        with open(self.point / "w", "w+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"first" * MIB, 0)
            self.fill()
            for _ in range(5):
                fallocate(file.fileno(), PUNCH_HOLE | KEEP_SIZE, 0, 5 * MIB)
                os.pwrite(file.fileno(), b"again" * MIB, 0)
            self.assertEqual(os.pread(file.fileno(), 5 * MIB, 0), b"again" * MIB)
        self.verify()

    def test_removing_a_snapshot_works_and_makes_room(self):
        block = self.fill()
        frees = self.lab.frees()
        snapshots = [name for name in frees if "@" in name]
        expected = 0
        for name in snapshots:
            expected += self.lab.frees()[name]
            self.lab.vsnap("rm", "--wait", f"p/{name}")
        # Each block was written once, so the volume still has them all; a discard in it does give space back.
        os.truncate(self.point / "v", 16 * MIB)
        self.lab.settle()
        self.written = {block: data for block, data in self.written.items() if block < 16 * MIB // BLOCK}
        self.assertGreater(self.lab.space()["available"], 16 * MIB)
        self.verify()
        for number in range(500):
            self.write(block + 2 * number)
        self.verify()
        self.lab.check()

    def test_rewriting_below_snapshots_fills_it_and_removing_one_makes_room_for_more(self):
        os.pwrite(self.fd, b"0" * 20 * MIB, 0)
        for number in range(1, 8):
            self.lab.vsnap("snapshot", f"p/v@s{number}", code=(0, 5))
            try:
                for at in range(0, 20 * MIB, MIB):
                    os.pwrite(self.fd, bytes([48 + number]) * MIB, at)
            except OSError as error:
                self.assertEqual(error.errno, errno.ENOSPC)
                break
        else:
            self.fail("it never ran full")
        predicted = self.lab.frees()["v@s1"]
        before = self.lab.space()["data"]
        self.lab.vsnap("rm", "--wait", "p/v@s1")
        self.assertEqual(before - self.lab.space()["data"], predicted)
        self.assertEqual(read_at(self.point / "v@s2", 0, 4), b"1111")
        self.assertGreater(predicted, 10 * MIB)
        os.pwrite(self.fd, b"x" * 5 * MIB, 0)
        self.assertEqual(os.pread(self.fd, 5 * MIB, 0), b"x" * 5 * MIB)

    def test_adding_a_member_works_and_makes_room(self):
        block = self.fill()
        self.lab.vsnap("pool", "add", "p", self.lab.path / "more.img", "--size", "64M")
        for number in range(1000):
            self.write(block + 2 * number)
        os.fsync(self.fd)
        self.verify()
        os.close(self.fd)
        self.lab.umount()
        self.lab.check()
        self.lab.mount()
        self.fd = os.open(self.point / "v", os.O_RDWR)
        self.verify()

    def test_a_full_pool_opens_again_after_a_kill_and_can_be_emptied(self):
        self.fill()
        os.fsync(self.fd)
        os.close(self.fd)
        self.lab.kill_daemon()
        self.lab.check()
        self.lab.mount()
        self.fd = os.open(self.point / "v", os.O_RDWR)
        self.verify()
        os.close(self.fd)
        wait_until(lambda: self.lab.views()["v"]["open"] == 0, what="closed")
        self.lab.vsnap("rm", "-r", "-y", "--wait", "p/v")
        self.assertEqual(self.lab.space()["data"], 0)
        self.lab.umount()
        self.lab.check()
        self.fd = os.open("/dev/null", os.O_RDWR)

    def test_reserved_space_can_be_written_in_a_full_pool(self):
        self.lab.vsnap("create", "p/r", "--size", "8M")
        with open(self.point / "r", "r+b", buffering=0) as reserved:
            os.posix_fallocate(reserved.fileno(), 0, 8 * MIB)
            self.assertEqual(used_bytes(self.point / "r"), 8 * MIB)
            self.fill()
            os.pwrite(reserved.fileno(), b"r" * 8 * MIB, 0)
            os.fsync(reserved.fileno())
            self.assertEqual(os.pread(reserved.fileno(), 8 * MIB, 0), b"r" * 8 * MIB)


class Warnings(LabTest):
    def test_come_at_80_90_and_95_percent_in_status_and_log(self):
        self.lab.pool(size="256M")
        point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "1G")
        size = self.lab.space()["size"]
        fd = os.open(point / "v", os.O_RDWR)
        self.addCleanup(os.close, fd)
        at = 0
        for percent, levels in ((70, []), (82, [80]), (91, [80, 90]), (96, [80, 90, 95])):
            while size - self.lab.space()["available"] < size * percent // 100:
                os.pwrite(fd, b"x" * 2 * MIB, at)
                at += 2 * MIB
            os.fsync(fd)
            wait_until(lambda: self.levels_in_log() == levels, seconds=10, what=f"{percent} % in the log")
            health = self.lab.status()["health"]
            if levels:
                self.assertRegex(health, f"warning: ({percent}|{percent + 1}) % full")
            else:
                self.assertEqual(health, "ok")
        os.ftruncate(fd, 0)
        wait_until(lambda: self.lab.status()["health"] == "ok", what="ok again")

    def levels_in_log(self):
        """Of each warning in the daemon's log, the limit that it was given for."""
        log = (self.lab.path / "run/p.log").read_text()
        found = [int(percent) for percent in re.findall(r"warning: .* (\d+) % full", log)]
        return [max(level for level in (80, 90, 95) if level <= percent) for percent in found]


class BackingFull(LabTest):
    def test_a_full_file_system_below_the_pool_gives_enospc_and_nothing_is_lost(self):
        small = self.lab.directory("small")
        self.lab.run("mount", "-t", "tmpfs", "-o", "size=64M", "none", small)
        self.lab.vsnap("pool", "create", "p", small / "p.img", "--size", "1G")
        point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "1G")
        fd = os.open(point / "v", os.O_RDWR)
        self.addCleanup(os.close, fd)
        kept = 0
        with self.assertRaises(OSError) as raised:
            while kept < GIB:
                os.pwrite(fd, bytes([kept // MIB % 251 + 1]) * MIB, kept)
                kept += MIB
        self.assertEqual(raised.exception.errno, errno.ENOSPC)
        self.assertGreater(kept, 30 * MIB)
        for at in range(0, kept, MIB):
            self.assertEqual(os.pread(fd, MIB, at), bytes([at // MIB % 251 + 1]) * MIB)
        self.lab.run("mount", "-o", "remount,size=256M", small)
        os.pwrite(fd, b"after" * 1000, kept)
        os.fsync(fd)
        self.assertEqual(os.pread(fd, 5000, kept), b"after" * 1000)


if __name__ == "__main__":
    main()
