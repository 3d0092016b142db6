#!/usr/bin/env python3
"""Preserve on real mounts: old programs finish on the first image of a volume, later ones use the second."""

import errno
import mmap
import os
import signal
import threading
import time

from support import BLOCK, MIB, LabTest, main, seeded, wait_until


def aligned(stamp, size=BLOCK):
    """A buffer for O_DIRECT."""
    area = mmap.mmap(-1, size)
    area.write(bytes([stamp]) * size)
    return area


class PreserveTest(LabTest):
    OPTIONS = ()

    def setUp(self):
        super().setUp()
        self.random = seeded()
        self.lab.pool(size="512M")
        self.point = self.lab.mount("p", *self.OPTIONS)
        self.volume = self.point / "v"
        self.image = self.point / "v@a"
        self.lab.vsnap("create", "p/v", "--size", "64M")

    def open(self, path, flags=os.O_RDWR):
        fd = os.open(path, flags)
        self.addCleanup(self.close, fd)
        return fd

    def close(self, fd):
        try:
            os.close(fd)
        except OSError:
            pass

    def state(self, name="v@a"):
        return self.lab.views()[name]["state"]

    def write(self, fd, block, stamp):
        self.assertEqual(os.pwrite(fd, bytes([stamp]) * BLOCK, block * BLOCK), BLOCK)

    def stamp(self, fd, block):
        data = os.pread(fd, BLOCK, block * BLOCK)
        self.assertEqual(len(data), BLOCK)
        self.assertEqual(len(set(data)), 1, "a mix of contents")
        return data[0]

    def stamp_of(self, path, block):
        with open(path, "rb", buffering=0) as file:
            return self.stamp(file.fileno(), block)


class Handles(PreserveTest):
    def test_old_handles_keep_the_first_image_and_new_ones_get_the_second(self):
        old = self.open(self.volume)
        inode = os.fstat(old).st_ino
        self.write(old, 0, 1)
        self.write(old, 1, 1)
        self.lab.vsnap("preserve", "p/v@a")
        self.assertEqual(self.state(), "draining")
        self.assertNotEqual(os.stat(self.volume).st_ino, inode)
        self.assertEqual(os.stat(self.image).st_ino, inode)
        new = self.open(self.volume)
        self.write(new, 1, 2)
        self.write(old, 0, 3)
        self.write(old, 1, 3)
        self.assertEqual([self.stamp(new, block) for block in (0, 1)], [3, 2])
        self.assertEqual([self.stamp(old, block) for block in (0, 1)], [3, 3])
        self.assertEqual([self.stamp_of(self.image, block) for block in (0, 1)], [3, 3])
        with self.assertRaises(OSError) as refused:
            os.open(self.image, os.O_RDWR)
        self.assertEqual(refused.exception.errno, errno.EROFS)
        self.lab.vsnap("wait", "p/v@a", "--timeout", "0.2", code=4)
        os.close(old)
        self.lab.vsnap("wait", "p/v@a", "--timeout", "20")
        self.assertIsNone(self.state())
        self.assertEqual([self.stamp(new, block) for block in (0, 1)], [3, 2])
        self.write(new, 0, 4)
        self.assertEqual(self.stamp_of(self.image, 0), 3)
        os.close(new)
        self.lab.vsnap("snapshot", "p/v@b")
        self.lab.check()

    def test_wait_names_the_programs_that_hold_the_image(self):
        holder = self.lab.start("sh", "-c", f"exec sleep 60 3<>{self.volume}")

        def files():
            directory = f"/proc/{holder.pid}/fd"
            return [os.readlink(f"{directory}/{fd}") for fd in os.listdir(directory)]

        wait_until(lambda: str(self.volume) in files(), what="opened")
        self.lab.vsnap("preserve", "p/v@a")
        told = self.lab.vsnap("wait", "p/v@a", "--timeout", "0", code=4).err
        self.assertIn(f"sleep (pid {holder.pid})", told)
        holder.send_signal(signal.SIGTERM)
        holder.communicate()
        self.lab.vsnap("wait", "p/v@a", "--timeout", "20")

    def test_what_needs_a_still_image_is_refused_and_says_what_to_wait_for(self):
        old = self.open(self.volume)
        self.write(old, 0, 1)
        self.lab.vsnap("preserve", "p/v@a")
        refused_ones = (("snapshot", "p/v@b"), ("rm", "-y", "p/v@a"), ("rollback", "-y", "p/v@a"),
                        ("clone", "p/v@a", "c"))
        for command in refused_ones:
            self.assertIn("vsnap wait p/v@a", self.lab.vsnap(*command, code=4).err)
        with self.assertRaises(OSError) as refused:
            os.unlink(self.image)
        self.assertEqual(refused.exception.errno, errno.EBUSY)

    def test_sizes_go_their_own_ways(self):
        old = self.open(self.volume)
        self.write(old, 10, 1)
        self.lab.vsnap("preserve", "p/v@a")
        os.ftruncate(old, 10 * BLOCK)
        self.assertEqual(os.stat(self.volume).st_size, 64 * MIB)
        self.assertEqual(self.stamp_of(self.volume, 10), 0)
        self.lab.vsnap("resize", "p/v", "80M")
        self.assertEqual(os.stat(self.image).st_size, 10 * BLOCK)
        os.close(old)
        self.lab.vsnap("wait", "p/v@a", "--timeout", "20")
        self.assertEqual(os.stat(self.volume).st_size, 80 * MIB)
        self.assertEqual(os.stat(self.image).st_size, 10 * BLOCK)

    def test_overlapping_preserves(self):
        first = self.open(self.volume)
        self.write(first, 0, 1)
        self.lab.vsnap("preserve", "p/v@a")
        second = self.open(self.volume)
        self.write(second, 1, 2)
        self.lab.vsnap("preserve", "p/v@b")
        third = self.open(self.volume)
        self.write(third, 2, 3)
        self.write(first, 3, 1)
        self.assertEqual([self.stamp(third, block) for block in range(4)], [1, 2, 3, 1])
        os.close(second)
        time.sleep(0.2)
        self.assertEqual(self.state("v@b"), "draining")  # the first shows through it
        self.write(first, 4, 1)
        self.assertEqual(self.stamp_of(self.point / "v@b", 4), 1)
        os.close(first)
        self.lab.vsnap("wait", "p/v@b", "--timeout", "20")
        self.assertIsNone(self.state("v@a"))
        self.assertEqual([self.stamp(third, block) for block in range(5)], [1, 2, 3, 1, 1])
        self.lab.check()


class Together(PreserveTest):
    """Old and new programs on the same ranges, buffered and direct: nobody sees a mix, or a block go back."""

    BLOCKS = 64

    def counts(self, fd, stop, direct):
        count = 0
        while not stop.is_set():
            count = min(count + 1, 250)
            for block in range(self.BLOCKS):
                if direct:
                    os.pwritev(fd, [aligned(count)], block * BLOCK)
                else:
                    self.write(fd, block, count)

    def in_turn(self, old_flags, new_flags):
        old = self.open(self.volume, os.O_RDWR | old_flags)
        for block in range(self.BLOCKS):
            os.pwritev(old, [aligned(1)], block * BLOCK)
        self.lab.vsnap("preserve", "p/v@a")
        new = self.open(self.volume, os.O_RDWR | new_flags)
        stop = threading.Event()
        wrong = []

        def guarded(body, *arguments):
            try:
                body(*arguments)
            except Exception as failure:  # pylint: disable=broad-except
                wrong.append(failure)

        writer = threading.Thread(target=guarded, args=(self.counts, old, stop, bool(old_flags)))
        writer.start()
        own = set()
        seen = [0] * self.BLOCKS
        buffer = mmap.mmap(-1, BLOCK)
        try:
            for turn in range(3000):
                block = self.random.randrange(self.BLOCKS)
                if turn % 50 == 49 and len(own) < self.BLOCKS - 4:
                    os.pwritev(new, [aligned(255)], block * BLOCK)
                    own.add(block)
                self.assertEqual(os.preadv(new, [buffer], block * BLOCK), BLOCK)
                values = set(buffer[:])
                if block in own:
                    self.assertEqual(values, {255})
                else:
                    self.assertGreaterEqual(min(values), min(seen[block], 250))
                    seen[block] = min(values)
        finally:
            stop.set()
            writer.join()
        self.assertEqual(wrong, [])
        last = {block: self.stamp_of(self.image, block) for block in range(self.BLOCKS)}
        os.close(old)
        self.lab.vsnap("wait", "p/v@a", "--timeout", "20")
        for block in range(self.BLOCKS):
            self.assertEqual(self.stamp_of(self.volume, block), 255 if block in own else last[block])
            self.assertEqual(self.stamp_of(self.image, block), last[block])

    def test_both_buffered(self):
        self.in_turn(0, 0)

    def test_both_direct(self):
        self.in_turn(os.O_DIRECT, os.O_DIRECT)

    def test_old_direct_new_buffered(self):
        self.in_turn(os.O_DIRECT, 0)

    def test_old_buffered_new_direct(self):
        self.in_turn(0, os.O_DIRECT)


class Devices(PreserveTest):
    def test_both_images_are_loop_devices_with_file_systems_at_once(self):
        old_device = self.lab.map("p/v")
        self.lab.run("mkfs.ext4", "-q", old_device)
        old = self.lab.mount_device(old_device, "old")
        (old / "before").write_text("there before\n")
        self.lab.run("sync", "-f", old)
        self.lab.run("fsfreeze", "-f", old)
        self.lab.vsnap("preserve", "p/v@a")
        new_device = self.lab.map("p/v")
        new = self.lab.mount_device(new_device, "new")  # replays its journal into the second image
        (new / "after").write_text("of the second image\n")
        self.lab.run("fsfreeze", "-u", old)
        self.assertEqual((new / "before").read_text(), "there before\n")
        self.lab.umount_device(new, new_device)
        self.lab.unmap(new_device)
        self.assertEqual((old / "before").read_text(), "there before\n")
        self.assertFalse((old / "after").exists())
        self.lab.umount_device(old, old_device)
        self.lab.detach(old_device)
        self.lab.vsnap("wait", "p/v@a", "--timeout", "20")
        again = self.lab.map("p/v")
        self.lab.run("e2fsck", "-fn", again)
        point = self.lab.mount_device(again, "again")
        self.assertEqual((point / "after").read_text(), "of the second image\n")
        self.lab.umount_device(point, again)
        self.lab.unmap(again)
        self.lab.check()


class Killed(PreserveTest):
    def test_old_handles_drain_on_after_the_daemon_was_killed(self):
        old = self.open(self.volume)
        self.write(old, 0, 1)
        self.lab.vsnap("preserve", "p/v@a")
        new = self.open(self.volume)
        self.write(new, 1, 2)
        for kill in range(3):
            pid = self.lab.daemon_pid()
            os.kill(pid, signal.SIGKILL)
            os.stat(self.point)
            self.write(old, 2, 10 + kill)
            self.assertEqual(self.stamp(new, 2), 10 + kill)
            self.assertEqual(self.stamp(new, 1), 2)
            self.assertEqual(self.state(), "draining")
        os.close(old)
        self.lab.vsnap("wait", "p/v@a", "--timeout", "20")
        self.assertEqual(self.stamp(new, 2), 12)
        self.lab.check()

    def test_without_a_mount_the_image_is_final_at_the_next_start(self):
        old = self.open(self.volume)
        self.write(old, 0, 1)
        self.lab.vsnap("preserve", "p/v@a")
        self.write(old, 1, 1)
        self.lab.kill_daemon()
        self.close(old)
        self.lab.check()
        self.assertIsNone(self.state())
        self.lab.mount("p")
        self.assertEqual(self.stamp_of(self.image, 1), 1)
        self.assertEqual(self.stamp_of(self.volume, 1), 1)


if __name__ == "__main__":
    main()
