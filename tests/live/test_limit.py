#!/usr/bin/env python3
"""A limit on the space of snapshots, and holds, on a real mount: what is refused, what waits, what goes."""

import errno
import os
import signal
import threading
import time
from pathlib import Path

from support import BLOCK, MIB, LabTest, main, punch, read_all, read_at, wait_until, write_at

SIZE = 8 * MIB
LIMIT = MIB


class Writer(threading.Thread):
    """Writes in a process of its own thread; a write that waits ends with the mount at the latest."""

    def __init__(self, path, offset, data):
        super().__init__(daemon=True)
        self.path, self.offset, self.data = path, offset, data
        self.error = None
        self.start()

    def run(self):
        try:
            fd = os.open(self.path, os.O_RDWR)
            try:
                os.pwrite(fd, self.data, self.offset)
            finally:
                os.close(fd)
        except OSError as e:
            self.error = e.errno

    def end(self, test):
        self.join(30)
        test.assertFalse(self.is_alive(), "a write goes on waiting")


class LimitTest(LabTest):
    def setUp(self):
        super().setUp()
        self.lab.pool(size="128M")
        self.lab.vsnap("create", "p/v", "--size", str(SIZE))
        self.point = self.lab.mount()
        self.v = self.point / "v"
        write_at(self.v, 0, b"\1" * SIZE)

    def limit(self, on_full, volume="v", limit=LIMIT):
        self.lab.vsnap("set", f"p/{volume}", f"snapshot-limit={limit}", f"on-full={on_full}")

    def used(self, volume="v"):
        return self.lab.json("info", f"p/{volume}")["view"]["snapshot_used"]

    def fill(self):
        """Snapshots use all of the limit from here on."""
        self.lab.vsnap("snapshot", "p/v@s")
        write_at(self.v, 0, b"\2" * LIMIT)
        self.assertEqual(LIMIT, self.used())

    def assert_full(self, offset=LIMIT, path=None):
        with self.assertRaises(OSError) as refused:
            write_at(path or self.v, offset, b"\3" * BLOCK)
        self.assertEqual(errno.ENOSPC, refused.exception.errno)


class AFullLimit(LimitTest):
    def test_refuses_what_needs_room_and_nothing_else(self):
        self.limit("error")
        self.fill()
        self.assert_full()
        write_at(self.v, 0, b"\4" * LIMIT)
        self.assertEqual(b"\1" * SIZE, read_all(self.point / "v@s"))
        self.lab.vsnap("snapshot", "p/v@t", code=5)
        punch(self.v, 4 * MIB, MIB)
        self.assertEqual(2 * LIMIT, self.used())
        self.lab.vsnap("rm", "p/v@s")
        write_at(self.v, LIMIT, b"\3" * BLOCK)
        self.lab.vsnap("umount", "p")
        self.lab.vsnap("check", "p")

    def test_drops_the_oldest_that_nobody_needs(self):
        self.limit("drop-oldest")
        quarter = LIMIT // 4
        self.lab.vsnap("snapshot", "p/v@a")
        self.lab.vsnap("snapshot", "p/v@b")
        self.lab.vsnap("hold", "p/v@b", "audit")
        with open(self.point / "v@a", "rb"):
            write_at(self.v, 0, b"\2" * quarter)
            self.lab.vsnap("snapshot", "p/v@c")
            write_at(self.v, 0, b"\3" * quarter)  # c alone shows what was there
            self.lab.vsnap("snapshot", "p/v@d")
            write_at(self.v, quarter, b"\2" * 2 * quarter)
            self.assertEqual(LIMIT, self.used())
            write_at(self.v, 3 * quarter, b"\2" * quarter)
            self.assert_full()
        self.assertEqual(["p/v@a", "p/v@b", "p/v@d"],
                         self.lab.vsnap("ls", "-H", "-o", "name", "-t", "snapshot", "p").out.split())
        self.assertFalse((self.point / "v@c").exists())

    def test_of_an_adopted_volume_holds_what_is_saved(self):
        image = self.lab.file("disk.raw", SIZE, b"\5" * SIZE)
        self.lab.vsnap("adopt", image, "p/a")
        self.limit("error", "a")
        self.lab.vsnap("snapshot", "p/a@s")
        write_at(self.point / "a", 0, b"\6" * LIMIT)
        self.assertEqual(LIMIT, self.used("a"))
        self.assert_full(LIMIT, self.point / "a")
        self.assertEqual(b"\5" * SIZE, read_all(self.point / "a@s"))
        self.assertEqual(b"\6" * LIMIT + b"\5" * (SIZE - LIMIT), image.read_bytes())
        self.lab.vsnap("release", "p/a", "--keep-snapshots")
        self.assertEqual(b"\5" * SIZE, read_all(self.point / "a@s"))
        self.assertEqual(str(LIMIT), self.lab.vsnap("get", "-H", "-p", "-o", "value", "p/a", "snapshot-limit")
                         .out.strip())


class APause(LimitTest):
    def setUp(self):
        super().setUp()
        self.lab.vsnap("create", "p/w", "--size", str(SIZE))
        self.limit("pause")
        self.fill()
        self.writers = []

    def waiting(self, count=2):
        """So many writes that wait, and go on waiting while others go on."""
        self.writers = [Writer(self.v, LIMIT + i * BLOCK, b"\3" * BLOCK) for i in range(count)]
        for i in range(50):
            write_at(self.point / "w", i * BLOCK, b"\7" * BLOCK)
            self.assertEqual(b"\2" * BLOCK, read_at(self.v, i * BLOCK, BLOCK))
        self.lab.vsnap("snapshot", "p/w@s")
        self.assertTrue(all(writer.is_alive() for writer in self.writers))

    def all_end(self):
        for writer in self.writers:
            writer.end(self)
        return [writer.error for writer in self.writers]

    def assert_written(self):
        self.assertEqual(b"\3" * 2 * BLOCK, read_all(self.v)[LIMIT : LIMIT + 2 * BLOCK])

    def test_ends_with_a_removal(self):
        self.waiting()
        self.lab.vsnap("rm", "p/v@s")
        self.assertEqual([None, None], self.all_end())
        self.assert_written()

    def test_ends_with_a_higher_limit(self):
        self.waiting()
        self.limit("pause", limit=LIMIT + 2 * BLOCK)
        self.assertEqual([None, None], self.all_end())
        self.assert_written()

    def test_outlives_a_daemon_that_is_killed(self):
        self.waiting()
        pid = self.lab.json("pool", "status", "p")["pool"]["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: self.lab.json("pool", "status", "p")["pool"]["pid"] not in (pid, None),
                   what="a successor")
        write_at(self.point / "w", 0, b"\10" * BLOCK)
        time.sleep(0.2)
        self.assertTrue(all(writer.is_alive() for writer in self.writers))
        self.lab.vsnap("rm", "p/v@s")
        self.assertEqual([None, None], self.all_end())
        self.assert_written()

    def test_and_a_removal_that_waits_for_it_refuse_an_upgrade(self):
        """The kernel has locked the directory for the removal, which waits for the write."""
        self.waiting()
        removal = self.lab.start("rm", "-f", self.v)
        wait_until(lambda: Path(f"/proc/{removal.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "D",
                   what="the removal waits")
        self.lab.vsnap("create", "p/other", "--size", "1M")
        self.assertIn("on-full=error", self.lab.vsnap("upgrade", "p", code=4).err)
        self.lab.vsnap("set", "p/v", "on-full=error")
        self.assertEqual([errno.ENOSPC, errno.ENOSPC], self.all_end())
        removal.wait(timeout=20)
        self.lab.vsnap("upgrade", "p")
        self.assertIn("v", self.lab.views())

    def test_ends_with_the_mount(self):
        self.waiting()
        self.lab.run("umount", "-l", self.point)
        pid = self.lab.json("pool", "status", "p")["pool"]["pid"]
        os.kill(pid, signal.SIGTERM)
        for error in self.all_end():
            self.assertIn(error, (errno.ENOSPC, errno.ENOTCONN, errno.ECONNABORTED))
        wait_until(lambda: self.lab.json("pool", "status", "p")["pool"]["pid"] is None, what="its end")
        self.lab.vsnap("check", "p")
        self.assertEqual(LIMIT, self.used())


class AHold(LimitTest):
    def test_keeps_a_snapshot_from_whoever_would_remove_it(self):
        self.lab.vsnap("snapshot", "p/v@s", "p/w@s", code=3)
        self.lab.vsnap("snapshot", "p/v@s")
        self.lab.vsnap("hold", "p/v@s", "audit")
        self.lab.vsnap("hold", "p/v@s", "audit", code=1)
        for command in (("rm", "p/v@s"), ("rm", "-r", "p/v"), ("refresh", "p/v@s")):
            refused = self.lab.vsnap(*command, code=4).err
            self.assertIn("held by audit (vsnap release-hold p/v@s audit)", refused)
        with self.assertRaises(OSError) as refused:
            (self.point / "v@s").unlink()
        self.assertEqual(errno.EBUSY, refused.exception.errno)
        self.assertEqual(["audit"], [hold["tag"] for hold in
                                     self.lab.json("info", "p/v@s")["view"]["holds"]])
        self.assertIn("audit since", self.lab.vsnap("info", "p/v@s").out)
        self.lab.vsnap("umount", "p")
        self.lab.vsnap("rm", "p/v@s", code=4)
        self.lab.vsnap("release-hold", "p/v@s", "audit")
        self.lab.vsnap("rm", "p/v@s")


class Properties(LimitTest):
    def test_are_set_listed_and_refused(self):
        self.lab.vsnap("set", "p/v", "snapshot-limit=20%")
        self.assertEqual([["p/v", "snapshot-limit", "20%", "local"], ["p/v", "on-full", "error", "default"]],
                         [line.split("\t") for line in self.lab.vsnap("get", "-H", "p").out.splitlines()])
        for bad in ("colour=red", "snapshot-limit=much", "on-full=panic", "on-full"):
            self.lab.vsnap("set", "p/v", bad, code=2)
        self.lab.vsnap("get", "p/v", "colour", code=2)
        self.lab.vsnap("get", "p/none", code=3)
        self.lab.vsnap("set", "p/v", "snapshot-limit=none")
        self.assertIsNone(self.used())

    def test_a_limit_that_is_nearly_reached_shows(self):
        self.limit("error")
        self.lab.vsnap("snapshot", "p/v@s")
        write_at(self.v, 0, b"\2" * (LIMIT * 84 // 100 // BLOCK * BLOCK))
        self.assertIsNone(self.lab.json("info", "p/v")["view"]["state"])
        wait_until(lambda: "p/v: its snapshots use 83 % of their limit" in
                   (self.lab.path / "run/p.log").read_text(), what="the log says so")
        health = self.lab.json("pool", "status", "p")["pool"]["health"]
        self.assertIn("snapshots of p/v use 83 % of their limit", health)
        row = self.lab.vsnap("ls", "-H", "-p", "-o", "snaplimit,snapused", "-t", "volume", "p").out.split()
        self.assertEqual([str(LIMIT), str(self.used())], row)


if __name__ == "__main__":
    main()
