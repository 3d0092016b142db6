#!/usr/bin/env python3
"""Existing images as volumes: they stay raw images while they get snapshots, whatever happens."""

import os
import shutil
import signal
import time

from support import (
    BLOCK,
    MIB,
    LabTest,
    kill_with_keeper,
    main,
    read_all,
    seeded,
    write_at,
)

SIZE = 32 * MIB


class AdoptTest(LabTest):
    def setUp(self):
        super().setUp()
        self.random = seeded()
        self.lab.pool(size="256M")
        self.image = self.lab.file("disk.raw", SIZE + 1000, self.random.randbytes(4 * MIB))

    def adopt(self, image=None, name="v", *options, **more):
        return self.lab.vsnap("adopt", image or self.image, f"p/{name}", *options, **more)

    def raw(self):
        return self.image.read_bytes()

    def scribble(self, path, count=30, start=0):
        content = bytearray(read_all(path))
        for _ in range(count):
            at = self.random.randrange(start, len(content) - 70000)
            data = self.random.randbytes(self.random.randrange(1, 70000))
            write_at(path, at, data)
            content[at : at + len(data)] = data
        return bytes(content)


class AFileSystemInAnImage(AdoptTest):
    def test_it_is_used_snapshotted_rolled_back_and_given_back(self):
        tree = self.lab.directory("tree")
        (tree / "kept").write_bytes(self.random.randbytes(3 * MIB))
        (tree / "hello").write_text("before")
        self.lab.file("disk.raw", 64 * MIB)
        self.lab.run("mkfs.ext4", "-q", "-d", tree, self.image)
        original = self.raw()
        begin = time.monotonic()
        self.adopt()
        self.assertLess(time.monotonic() - begin, 1)
        point = self.lab.mount()
        self.assertEqual(original, read_all(point / "v"))
        self.lab.vsnap("snapshot", "p/v@s")
        inside = self.lab.directory("inside")
        device = self.lab.losetup(point / "v")
        self.lab.run("mount", device, inside)
        (inside / "hello").write_text("after")
        (inside / "new").write_bytes(self.random.randbytes(2 * MIB))
        (inside / "kept").unlink()
        self.lab.run("fstrim", inside, code=(0, 1))
        self.lab.run("umount", inside)
        self.lab.run("losetup", "-d", device)
        self.assertEqual(original, read_all(point / "v@s"))
        self.assertEqual(self.raw(), read_all(point / "v"))
        self.assertEqual("adopted", self.lab.json("info", "p/v")["view"]["form"])
        self.assertEqual(str(self.image), self.lab.json("info", "p/v")["view"]["base"])
        changed = self.raw()
        self.lab.vsnap("rollback", "p/v@s")
        self.assertEqual(original, self.raw())
        self.assertEqual(changed, read_all(point / "v@before-rollback-1"))
        self.lab.vsnap("release", "p/v", code=4)
        self.lab.vsnap("release", "p/v", "--keep-snapshots")
        self.assertEqual(original, self.raw())
        self.assertEqual(changed, read_all(point / "v@before-rollback-1"))
        self.lab.vsnap("umount", "p")
        self.lab.run("e2fsck", "-fn", self.image)
        self.lab.run("mount", "-o", "loop,ro", self.image, inside)
        self.assertEqual("before", (inside / "hello").read_text())
        self.lab.run("umount", inside)
        self.lab.vsnap("check", "p")


class Images(AdoptTest):
    def test_an_odd_length_is_kept(self):
        self.adopt()
        point = self.lab.mount()
        self.lab.vsnap("snapshot", "p/v@s")
        before = self.raw()
        write_at(point / "v", SIZE + 990, b"0123456789")
        self.assertEqual(before[:-10] + b"0123456789", self.raw())
        self.assertEqual(before, read_all(point / "v@s"))
        with self.assertRaises(OSError):
            write_at(point / "v", SIZE + 995, b"0123456789")

    def test_snapshots_go_in_any_order_and_rm_gives_the_image_back(self):
        self.adopt()
        point = self.lab.mount()
        held = {}
        for name in "abcd":
            self.lab.vsnap("snapshot", f"p/v@{name}")
            held[name] = self.raw()
            self.scribble(point / "v", 10)
        for name in "bdac":
            self.lab.vsnap("rm", f"p/v@{name}", "--wait")
            del held[name]
            for left, content in held.items():
                self.assertEqual(content, read_all(point / f"v@{left}"))
        now = self.raw()
        plan = self.lab.vsnap("rm", "-n", "p/v").out
        self.assertIn(f"would give back {self.image}", plan)
        self.lab.vsnap("rm", "-y", "p/v")
        self.assertEqual(now, self.raw())
        self.lab.vsnap("check", "p")

    def test_a_file_grows_and_does_not_shrink(self):
        self.adopt()
        self.lab.vsnap("snapshot", "p/v@s")
        self.lab.vsnap("resize", "p/v", "40M")
        self.assertEqual(40 * MIB, self.image.stat().st_size)
        self.lab.vsnap("resize", "p/v", "8M", "--shrink", code=1)
        point = self.lab.mount()
        write_at(point / "v", 39 * MIB, b"x" * BLOCK)
        self.assertEqual(self.raw(), read_all(point / "v"))
        self.assertEqual(SIZE + 1000, os.stat(point / "v@s").st_size)

    def test_a_device_is_adopted_by_the_name_given_if_forced(self):
        device = self.lab.losetup(self.lab.file("backing", 16 * MIB, self.random.randbytes(MIB)))
        self.assertIn("no name that lasts", self.adopt(device, code=2).err)
        self.adopt(device, "v", "--force")
        point = self.lab.mount()
        self.lab.vsnap("snapshot", "p/v@s")
        before = read_all(point / "v@s")
        self.scribble(point / "v")
        os.sync()
        self.assertEqual(before, read_all(point / "v@s"))
        self.lab.vsnap("umount", "p")
        with open(device, "r+b") as raw:
            raw.write(b"somebody else")
            os.fsync(raw.fileno())
        self.lab.vsnap("rm", "-y", "p/v@s")
        point = self.lab.mount()
        with self.assertRaises(OSError):
            read_all(point / "v")


class Refusals(AdoptTest):
    def refused(self, code, message, *arguments):
        before = self.lab.vsnap("ls", "p").out
        done = self.adopt(*arguments, code=code)
        self.assertIn(message, done.err)
        self.assertEqual(1, done.err.count("\n"))
        self.assertEqual(before, self.lab.vsnap("ls", "p").out)

    def test_what_somebody_uses_is_refused(self):
        with open(self.image, "r+b"):
            self.refused(4, f"with pid {os.getpid()}")
        device = self.lab.losetup(self.image)
        self.refused(4, device)
        self.refused(2, "no name that lasts", device)
        self.lab.run("mkfs.ext4", "-q", device)
        self.lab.run("mount", device, self.lab.directory("inside"))
        self.refused(4, "mounted on", device)
        self.lab.run("umount", self.lab.path / "inside")
        self.lab.run("losetup", "-d", device)
        self.adopt()

    def test_what_is_no_image_is_refused(self):
        self.refused(2, "too small", self.lab.file("small", 4000))
        self.refused(3, "No such file", self.lab.path / "none")
        self.refused(2, "neither a file", self.lab.path)
        member = self.lab.json("pool", "status", "p")["pool"]["members"][0]["path"]
        self.refused((2, 4), member, member)
        qcow2 = self.lab.file("qcow2", MIB)
        write_at(qcow2, 0, b"QFI\xfb\0\0\0\3")
        self.refused(2, "qcow2", qcow2)
        self.lab.vsnap("adopt", "--force", qcow2, "p/bytes")
        self.lab.vsnap("release", "p/bytes")
        other = self.lab.path / "other"
        self.lab.vsnap("pool", "create", "q", other, "--size", "32M")
        self.refused(2, "member of pool q", other)
        self.adopt()
        self.refused((1, 4), "already", self.image, "w")
        self.refused(1, "exists", self.lab.file("second", MIB), "v")
        self.lab.vsnap("create", "p/thin", "--size", "1M")
        point = self.lab.mount()
        self.refused((2, 4), str(point), point / "thin", "w")
        self.lab.vsnap("release", "p/thin", code=2)


class BehindItsBack(AdoptTest):
    def setUp(self):
        super().setUp()
        self.adopt()
        self.lab.vsnap("create", "p/other", "--size", "1M")
        self.lab.vsnap("snapshot", "p/v@s")
        self.before = self.raw()
        point = self.lab.mount()
        self.scribble(point / "v", 5, start=7 * MIB)  # so that nothing that lies at 5 MiB is saved
        self.lab.vsnap("umount", "p")

    def test_an_untouched_image_is_taken(self):
        point = self.lab.mount()
        self.assertEqual(self.before, read_all(point / "v@s"))

    def test_a_changed_one_is_refused_until_the_user_has_decided(self):
        write_at(self.image, 5 * MIB, b"changed")
        point = self.lab.mount()
        for name in ("v", "v@s"):
            with self.assertRaises(OSError):
                read_all(point / name)
        write_at(point / "other", 0, b"good")
        self.assertEqual("no image", self.lab.json("info", "p/v")["view"]["state"])
        self.mentions(self.lab.vsnap("check", "p", code=6).out, "p/v", "was changed without vsnap")
        self.mentions(self.lab.status()["health"], "p/v", "was changed without vsnap")
        self.assertIn("--changed=keep", self.adopt(code=1).err)
        self.adopt(None, "v", "--changed=keep")
        self.assertEqual(self.raw(), read_all(point / "v"))
        self.assertEqual(b"changed", read_all(point / "v@s")[5 * MIB : 5 * MIB + 7])

    def test_snapshots_can_be_dropped(self):
        write_at(self.image, 5 * MIB, b"changed")
        said = self.adopt(None, "v", "--changed=drop-snapshots", "-n").out
        self.assertEqual("would remove p/v@s\n", said)
        self.lab.vsnap("info", "p/v@s")
        self.adopt(None, "v", "--changed=drop-snapshots")
        self.lab.vsnap("info", "p/v@s", code=3)
        point = self.lab.mount()
        self.assertEqual(self.raw(), read_all(point / "v"))

    def test_one_that_has_moved_is_found_again(self):
        moved = self.lab.path / "moved"
        self.image.rename(moved)
        point = self.lab.mount()
        with self.assertRaises(OSError):
            read_all(point / "v")
        self.adopt(moved)
        self.assertEqual(moved.read_bytes(), read_all(point / "v"))
        self.assertEqual(self.before, read_all(point / "v@s"))

    def test_one_that_is_missing_can_be_given_up(self):
        self.image.unlink()
        self.lab.mount()
        self.lab.vsnap("rm", "-y", "-r", "p/v")
        self.lab.vsnap("check", "p")


class Kills(AdoptTest):
    def test_a_killed_daemon_leaves_the_image_as_it_was_written(self):
        self.adopt()
        held = {}
        for turn in range(6):
            point = self.lab.mount()
            self.lab.vsnap("snapshot", f"p/v@s{turn}")
            held[f"v@s{turn}"] = self.raw()
            content = self.scribble(point / "v")
            kill_with_keeper(self.lab.json("pool", "status", "p")["pool"]["pid"])
            self.lab.run("umount", "-l", point)
            self.assertEqual(content, self.raw())
            point = self.lab.mount()
            self.assertEqual(content, read_all(point / "v"))
            for name, was in held.items():
                self.assertEqual(was, read_all(point / name), name)
            self.lab.vsnap("umount", "p")
            self.lab.vsnap("check", "p")

    def test_a_killed_daemon_is_replaced_while_the_volume_is_in_use(self):
        self.adopt()
        point = self.lab.mount()
        self.lab.vsnap("snapshot", "p/v@s")
        before = self.raw()
        device = self.lab.losetup(point / "v")
        with open(point / "v", "r+b", buffering=0) as handle:
            handle.write(b"one")
            pid = self.lab.daemon_pid()
            os.kill(pid, signal.SIGKILL)
            handle.seek(1 * MIB)
            handle.write(b"two")
        self.assertNotEqual(pid, self.lab.daemon_pid())
        self.lab.run("losetup", "-d", device)
        self.assertEqual(before, read_all(point / "v@s"))
        self.assertEqual(self.raw(), read_all(point / "v"))
        self.assertEqual(b"two", self.raw()[MIB : MIB + 3])

    def test_a_daemon_that_is_replaced_goes_on(self):
        self.adopt()
        point = self.lab.mount()
        self.lab.vsnap("snapshot", "p/v@s")
        before = self.raw()
        self.scribble(point / "v", 5)
        self.lab.vsnap("upgrade", "p")
        self.scribble(point / "v", 5)
        self.assertEqual(before, read_all(point / "v@s"))
        self.assertEqual(self.raw(), read_all(point / "v"))


if __name__ == "__main__":
    if not shutil.which("mkfs.ext4"):
        raise SystemExit(77)
    main()
