#!/usr/bin/env python3
"""Full-sized snapshots on a real mount: copied beside a load, over kills and restarts, onto chosen members;
split and refresh. What they show is held against a plain copy of the bytes.

VSNAP_FULL_KILLS: how many times the daemon is killed (10).
"""

import errno
import os
import re
import signal
import sqlite3
import threading
import time

from support import BLOCK, MIB, LabTest, main, read_all, read_at, seeded, wait_until, write_at

KILLS = int(os.environ.get("VSNAP_FULL_KILLS") or 10)


class FullTest(LabTest):
    size = 48 * MIB
    members = 1

    def setUp(self):
        super().setUp()
        self.random = seeded()
        self.paths = self.lab.pool(size="256M", members=self.members)
        self.point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", str(self.size))
        self.content = self.random.randbytes(self.size)
        write_at(self.point / "v", 0, self.content)

    def state(self, name="v@f"):
        return self.lab.views()[name]["state"]

    def shows(self, name, content=None):
        self.assertTrue(read_all(self.point / name) == (content or self.content), f"{name} differs")

    def wait_for_copy(self, name="v@f", seconds=60):
        wait_until(lambda: self.state(name) is None, seconds=seconds, what=f"{name} copied")

    def scribble(self, stop):
        """Writes to the volume until told to stop; errors end it."""
        random = self.random
        while not stop.is_set():
            block = random.randrange(self.size // BLOCK)
            write_at(self.point / "v", block * BLOCK, random.randbytes(BLOCK))


class Copying(FullTest):
    def test_it_can_be_read_at_once_and_shares_nothing_in_the_end(self):
        self.lab.vsnap("snapshot", "--full", "--bwlimit", "4M", "p/v@f")
        view = self.lab.views()["v@f"]
        self.assertEqual("full", view["form"])
        self.assertRegex(view["state"], r"^copying \d+ %$")
        self.assertRegex(self.lab.vsnap("info", "p/v@f").out, r"state: +copying \d+ %")
        write_at(self.point / "v", 0, bytes(self.size))
        self.shows("v@f")
        self.lab.vsnap("copy", "limit", "p/v@f", "none")
        self.wait_for_copy()
        self.lab.settle()
        self.shows("v@f")
        self.assertGreaterEqual(self.lab.space()["data"], 2 * self.size)
        self.assertEqual(self.size, self.lab.frees()["v@f"])
        self.lab.umount()
        self.lab.check()

    def test_the_daemon_is_killed_again_and_again_while_it_copies_beside_a_load(self):
        self.lab.vsnap("snapshot", "--full", "--bwlimit", "4M", "p/v@f")
        stop = threading.Event()
        writer = threading.Thread(target=self.scribble, args=(stop,))
        writer.start()
        try:
            for _ in range(KILLS):
                time.sleep(self.random.uniform(0.05, 0.4))
                pid = self.lab.daemon_pid()
                os.kill(pid, signal.SIGKILL)  # its keeper starts another
                wait_until(lambda: self.lab.daemon_pid() not in (None, pid), what="successor")  # noqa: B023
            self.assertIsNotNone(self.state())
            self.lab.vsnap("copy", "limit", "p/v@f", "none")
            self.wait_for_copy()
        finally:
            stop.set()
            writer.join()
        self.shows("v@f")
        self.lab.umount()
        self.lab.check()

    def test_it_goes_on_where_it_stopped_when_the_pool_is_mounted_again(self):
        self.lab.vsnap("snapshot", "--full", "--bwlimit", "8M", "p/v@f")
        self.lab.vsnap("copy", "limit", "p/v@f", "8M")
        wait_until(lambda: self.percent() >= 20, what="a fifth is copied")
        self.lab.kill_daemon()
        self.assertGreaterEqual(self.percent(), 20)
        self.lab.vsnap("copy", "limit", "p/v@f", "none")
        self.lab.mount()
        self.shows("v@f")
        self.wait_for_copy()
        self.shows("v@f")
        self.lab.umount()
        self.lab.check()

    def percent(self):
        return int(re.match(r"copying (\d+) %", self.state())[1])

    def test_it_is_paused_resumed_and_limited(self):
        self.lab.vsnap("snapshot", "--full", "--bwlimit", "1M", "p/v@f")
        self.lab.vsnap("copy", "pause", "p/v@f")
        paused = self.state()
        self.assertRegex(paused, r"^copying \d+ %, paused$")
        time.sleep(0.5)
        self.lab.umount()
        self.lab.mount()
        self.assertEqual(paused, self.state())
        began = time.monotonic()
        self.lab.vsnap("copy", "limit", "p/v@f", "16M")
        self.lab.vsnap("copy", "resume", "p/v@f")
        self.wait_for_copy()
        took = time.monotonic() - began
        self.assertGreater(took, 1.5)
        self.assertLess(took, 20)
        self.shows("v@f")
        self.assertIn("complete", self.lab.vsnap("copy", "pause", "p/v@f", code=1).err)
        self.assertIn("no full-sized", self.lab.vsnap("copy", "pause", "p/v", code=1).err)
        self.assertIn("not a rate", self.lab.vsnap("copy", "limit", "p/v@f", "fast", code=2).err)

    def test_without_a_mount_it_rests_or_the_command_copies(self):
        self.lab.umount()
        said = self.lab.vsnap("snapshot", "--full", "p/v@f").err
        self.mentions(said, "p/v@f", "once the pool is mounted")
        self.assertEqual("copying 0 %", self.state())
        self.lab.vsnap("snapshot", "--full", "--wait", "p/v@g")
        self.assertIsNone(self.state("v@g"))
        self.assertEqual("copying 0 %", self.state())
        self.lab.check()
        self.lab.mount()
        self.wait_for_copy()
        self.shows("v@f")
        self.shows("v@g")

    def test_wait_returns_when_the_copy_is_complete_mounted_or_not(self):
        self.lab.vsnap("snapshot", "--full", "--bwlimit", "8M", "p/v@f")
        self.assertIn("copying", self.lab.vsnap("wait", "p/v@f", "--timeout", "1", code=4).err)
        self.lab.vsnap("copy", "limit", "p/v@f", "none")
        self.lab.vsnap("wait", "p/v@f")
        self.assertIsNone(self.state())
        self.lab.umount()
        self.lab.vsnap("snapshot", "--full", "--bwlimit", "8M", "p/v@g")
        self.assertIn("copying", self.lab.vsnap("wait", "p/v@g", "--timeout", "1", code=4).err)
        self.assertNotEqual("copying 0 %", self.state("v@g"))
        self.lab.vsnap("copy", "limit", "p/v@g", "none")
        self.lab.vsnap("wait", "p/v@g")
        self.assertIsNone(self.state("v@g"))

    def test_a_copy_without_space_says_so_and_goes_on(self):
        self.lab.vsnap("snapshot", "--full", "--bwlimit", "8M", "p/v@f")
        self.lab.vsnap("create", "p/w", "--size", "256M")
        self.fails_with(errno.ENOSPC, write_at, self.point / "w", 0, b"w" * (256 * MIB))
        self.lab.vsnap("copy", "limit", "p/v@f", "none")
        wait_until(lambda: self.state().endswith(", paused: no space"), what="no space")
        self.shows("v@f")
        self.assertIn("a copy needs", self.lab.vsnap("snapshot", "--full", "p/v@g", code=5).err)
        (self.point / "w").unlink()
        self.wait_for_copy()
        self.shows("v@f")

    def test_wrong_words_are_refused(self):
        self.assertIn("--full", self.lab.vsnap("snapshot", "--wait", "p/v@f", code=2).err)
        self.assertIn("--full", self.lab.vsnap("snapshot", "--full", "p/v@f", "p/v@g", code=2).err)
        self.assertIn("no member", self.lab.vsnap("snapshot", "--full", "--to", "7", "p/v@f", code=2).err)
        self.assertEqual(["v"], sorted(os.listdir(self.point)))


class Split(FullTest):
    def test_the_base_can_go_at_once_and_the_copy_goes_on_for_the_volume(self):
        self.lab.vsnap("snapshot", "--full", "--bwlimit", "8M", "p/v@f")
        view = self.lab.json("split", "p/v@f", "w")["view"]
        self.assertEqual(("p/w", "volume", "thin"), (view["name"], view["type"], view["form"]))
        self.assertEqual(["v", "w"], sorted(os.listdir(self.point)))
        (self.point / "v").unlink()
        self.assertRegex(self.state("w"), r"^copying \d+ %$")
        changed = bytearray(self.content)
        for _ in range(200):
            at = self.random.randrange(self.size - 20000)
            data = self.random.randbytes(self.random.randrange(1, 20000))
            write_at(self.point / "w", at, data)
            changed[at : at + len(data)] = data
        self.shows("w", changed)
        self.lab.vsnap("copy", "limit", "p/w", "none")
        self.wait_for_copy("w")
        self.shows("w", changed)
        self.lab.settle()
        self.assertEqual(self.size, self.lab.space()["data"])
        self.lab.umount()
        self.lab.check()

    def test_what_is_not_full_sized_or_open_is_refused(self):
        self.lab.vsnap("snapshot", "p/v@thin")
        said = self.lab.vsnap("split", "p/v@thin", "w", code=2).err
        self.mentions(said, "vsnap clone p/v@thin w", "--full")
        self.lab.vsnap("snapshot", "--full", "--wait", "p/v@f")
        with open(self.point / "v@f", "rb"):
            self.assertIn("in use", self.lab.vsnap("split", "p/v@f", "w", code=4).err)
        self.lab.vsnap("split", "p/v@f", "v", code=1)
        self.lab.vsnap("split", "p/v@f", "w")


class Refresh(FullTest):
    def test_the_file_shows_the_content_of_now(self):
        for full in ([], ["--full"]):
            with self.subTest(full=full):
                self.lab.vsnap("snapshot", *full, "p/v@s")
                self.shows("v@s")
                before = os.stat(self.point / "v@s").st_ino
                with open(self.point / "v@s", "rb"):
                    self.assertIn("in use", self.lab.vsnap("refresh", "p/v@s", code=4).err)
                self.content = self.random.randbytes(self.size)
                write_at(self.point / "v", 0, self.content)
                self.assertIn("would free", self.lab.vsnap("refresh", "-n", "p/v@s").out)
                self.assertEqual(before, os.stat(self.point / "v@s").st_ino)
                self.lab.vsnap("refresh", "p/v@s")
                self.assertNotEqual(before, os.stat(self.point / "v@s").st_ino)
                write_at(self.point / "v", 0, b"later")
                self.shows("v@s")
                if full:
                    self.wait_for_copy("v@s")
                self.lab.settle()
                self.shows("v@s")
                self.lab.vsnap("rm", "p/v@s")
                write_at(self.point / "v", 0, self.content[:5])
        self.lab.umount()
        self.lab.check()


class Members(FullTest):
    members = 2

    def test_the_copy_is_good_whatever_becomes_of_the_blocks_of_the_base(self):
        self.lab.vsnap("snapshot", "--full", "--wait", "--to", self.paths[1], "p/v@f")
        self.lab.umount()
        dump = self.lab.path / "catalog.db"
        self.lab.vsnap("catalog", "dump", "p", dump)
        with sqlite3.connect(dump) as catalog:
            branch = catalog.execute("SELECT branch FROM snapshot WHERE name = 'f'").fetchone()[0]
            rows = catalog.execute("SELECT branch, member, physical, count FROM extent").fetchall()
            parent = catalog.execute("SELECT parent FROM branch WHERE id = ?", (branch,)).fetchone()[0]
        catalog.close()
        self.assertIsNone(parent)
        self.assertEqual({1}, {member for owner, member, _, _ in rows if owner == branch})
        for owner, member, physical, count in rows:
            if owner != branch:
                write_at(self.paths[member], physical * BLOCK, b"\xdb" * (count * BLOCK))
        self.lab.mount()
        self.shows("v@f")
        self.assertEqual(b"\xdb" * BLOCK, read_at(self.point / "v", 0, BLOCK))

    def test_a_pool_without_one_of_its_members_is_refused_also_where_the_copy_lies_on_the_other(self):
        self.lab.vsnap("snapshot", "--full", "--wait", "--to", "1", "p/v@f")
        self.lab.umount()
        away = self.lab.path / "away"
        self.paths[0].rename(away)
        said = self.lab.vsnap("mount", "p", self.point, code=(1, 3, 6)).err
        self.assertIn(str(self.paths[0]), said)
        away.rename(self.paths[0])
        self.lab.mount()
        self.shows("v@f")


if __name__ == "__main__":
    main()
