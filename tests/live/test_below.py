#!/usr/bin/env python3
"""Errors from below the members: EIO, a full file system, a member that is gone, read-only, cut or foreign.

Members lie on a disk of our own: a file over FUSE that this program serves itself (`serve`), in a process of
its own, and that fails as the test says. Its faults: a read, write or flush of a range ends in any errno,
once or for ever; a flush that fails loses what was written since the last one, all of it or some sectors; the
process ends, and with it the disk. A file on it is a member whose writes fail at once; a loop device over it
is one whose writes go to the page cache, and fail when that is flushed. With KEEP_CACHE the kernel keeps
the pages that the disk lost, as it does for a file of a local file system.

The other faults are made with what the kernel has: tmpfs and ext4 that are full, a loop device that is set
read-only or whose file is cut or has no space to be in, members that are cut, exchanged or of another moment.

Runs in 45 s. VSNAP_BELOW_ROUNDS: how many rounds of random faults under a random load, for each kind of
member (12), and of random cuts (a quarter of that); 1,000 is the long run. VSNAP_TEST_SEED repeats one.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import mmap
import os
import random
import select
import shutil
import signal
import socket
import stat
import struct
import sys
import unittest
from pathlib import Path

from support import (
    BLOCK,
    GIB,
    KEEP_SIZE,
    MIB,
    PUNCH_HOLE,
    LabTest,
    fallocate,
    fsync,
    main,
    read_all,
    read_at,
    seeded,
    wait_until,
    write_at,
)

ROUNDS = int(os.environ.get("VSNAP_BELOW_ROUNDS") or 12)
SECTOR = 512
BLOCKS = 64
FOR_EVER = -1


# ---- the disk: the process that serves it ----

FORGET, BATCH_FORGET, INTERRUPT = 2, 42, 36  # have no answer
ROOT, FILE = 1, 2
DIRECT_IO, KEEP_CACHE = 1, 2  # of FUSE's answer to open
MAX_WRITE = MIB
ASYNC_READ, BIG_WRITES, MAX_PAGES = 1 << 0, 1 << 5, 1 << 22
HEADER = struct.Struct("<IIQQIIII")


class Refusal(Exception):
    def __init__(self, number):
        super().__init__(number)
        self.number = number


class Content:
    """What the disk holds now, and what it would hold if its cache were lost."""

    def __init__(self, path):
        self.now = os.open(path, os.O_RDWR)
        self.kept = os.open(path + ".kept", os.O_RDWR)
        self.size = os.fstat(self.now).st_size
        self.unflushed = []
        self.faults = []
        self.loss = random.Random(0)

    def failing(self, what, start=0, end=1 << 62):
        for fault in self.faults:
            if fault["what"] == what and fault["start"] < end and start < fault["end"] and fault["times"]:
                fault["skips"] -= 1
                if fault["skips"] < 0:
                    fault["times"] -= 1
                    return fault
        return None

    def read(self, offset, length):
        fault = self.failing("read", offset, offset + length)
        if fault:
            raise Refusal(fault["errno"])
        return os.pread(self.now, min(length, max(self.size - offset, 0)), offset)

    def write(self, offset, data):
        fault = self.failing("write", offset, offset + len(data))
        if fault:
            raise Refusal(fault["errno"])
        if offset + len(data) > self.size:
            raise Refusal(errno.EFBIG)
        os.pwrite(self.now, data, offset)
        self.unflushed.append((offset, len(data)))

    def discard(self, mode, offset, length):
        for fd in (self.now, self.kept):
            fallocate(fd, mode, offset, length)

    def flush(self):
        fault = self.failing("flush")
        if fault:
            self.lose(fault)
            raise Refusal(fault["errno"])
        for offset, length in self.unflushed:
            os.pwrite(self.kept, os.pread(self.now, length, offset), offset)
        self.unflushed = []

    def lose(self, fault):
        """Some of the sectors in the fault's range that were not flushed; the others are kept."""
        for offset, length in self.unflushed:
            for at in range(offset, offset + length, SECTOR):
                in_range = fault["start"] <= at < fault["end"]
                lost = in_range and self.loss.random() < fault["loses"]
                source, target = (self.kept, self.now) if lost else (self.now, self.kept)
                os.pwrite(target, os.pread(source, min(SECTOR, offset + length - at), at), at)
        self.unflushed = []


class Server:
    """Answers the kernel and the test, one request at a time."""

    def __init__(self, content, directory, open_flags, control):
        """Nobody has to look at the directory before run(), which answers."""
        self.content, self.open_flags, self.control = content, open_flags, control
        self.device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,allow_other,max_read={MAX_WRITE}"
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"disk", directory.encode(), b"fuse", 0, options.encode()) != 0:
            raise OSError(ctypes.get_errno(), "mount")
        self.handlers = {
            1: self.lookup, 3: self.attributes, 4: self.attributes, 14: self.open, 15: self.read,
            16: self.write, 17: lambda *_: bytes(80), 18: self.nothing, 20: self.flush, 25: self.nothing,
            26: self.begin, 38: self.nothing, 43: self.allocate,
        }

    def nothing(self, *_):
        return b""

    def begin(self, _, body):
        major, minor, readahead, _ = struct.unpack_from("<IIII", body)
        flags = ASYNC_READ | BIG_WRITES | MAX_PAGES
        return struct.pack("<IIIIHHIIHHI28x", major, min(minor, 31), readahead, flags, 64, 48, MAX_WRITE, 1,
                           MAX_WRITE // BLOCK, 0, 0)

    def attributes_of(self, node):
        mode, size = (stat.S_IFDIR | 0o755, 0) if node == ROOT else (stat.S_IFREG | 0o600, self.content.size)
        return struct.pack("<QQQQQQIIIIIIIIII", node, size, size // SECTOR, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0,
                           0, BLOCK, 0)

    def lookup(self, _, body):
        if body.rstrip(b"\0") != b"disk":
            raise Refusal(errno.ENOENT)
        return struct.pack("<QQQQII", FILE, 0, 3600, 3600, 0, 0) + self.attributes_of(FILE)

    def attributes(self, node, _):
        return struct.pack("<QII", 3600, 0, 0) + self.attributes_of(node)

    def open(self, *_):
        return struct.pack("<QII", 0, self.open_flags, 0)

    def read(self, _, body):
        _, offset, length = struct.unpack_from("<QQI", body)
        return self.content.read(offset, length)

    def write(self, _, body):
        _, offset, length = struct.unpack_from("<QQI", body)
        self.content.write(offset, body[40 : 40 + length])
        return struct.pack("<II", length, 0)

    def flush(self, *_):
        self.content.flush()
        return b""

    def allocate(self, _, body):
        _, offset, length, mode = struct.unpack_from("<QQQI", body)
        if mode != PUNCH_HOLE | KEEP_SIZE:
            raise Refusal(errno.EOPNOTSUPP)
        self.content.discard(mode, offset, length)
        return b""

    def answer(self, request):
        _, operation, unique, node = HEADER.unpack_from(request)[:4]
        if operation in (FORGET, BATCH_FORGET, INTERRUPT):
            return
        number, reply = 0, b""
        try:
            if operation not in self.handlers:
                raise Refusal(errno.ENOSYS)
            reply = self.handlers[operation](node, request[HEADER.size :])
        except Refusal as refusal:
            number = refusal.number
        except OSError as error:
            number = error.errno
        with contextlib.suppress(FileNotFoundError):  # whoever asked has gone
            os.write(self.device, struct.pack("<IiQ", 16 + len(reply), -number, unique) + reply)

    def obey(self, line):
        order = json.loads(line)
        self.content.faults = order["faults"]
        self.content.loss = random.Random(order["seed"])
        self.control.sendall(b"done\n")

    def run(self):
        orders = self.control.makefile("rb")
        poll = select.poll()
        poll.register(self.device, select.POLLIN)
        poll.register(self.control, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self.device:
                    try:
                        self.answer(os.read(self.device, MAX_WRITE + BLOCK))
                    except OSError as error:
                        if error.errno == errno.ENODEV:  # unmounted
                            return
                        if error.errno not in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                            raise
                else:
                    line = orders.readline()
                    if line:
                        self.obey(line)
                    else:  # the test is gone; its lab's watcher unmounts
                        poll.unregister(fd)


def serve(path, directory, open_flags, monitor):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(monitor + ".new")
    listener.listen()
    os.rename(monitor + ".new", monitor)
    control, _ = listener.accept()
    Server(Content(path), directory, int(open_flags), control).run()


# ---- the disk, as the tests see it ----


class Disk:
    def __init__(self, lab, size, open_flags=DIRECT_IO):
        self.lab, self.open_flags = lab, open_flags
        self.content = lab.file("disk.content", size)
        lab.file("disk.content.kept", size)
        self.path = lab.directory("below") / "disk"
        self.start()

    def start(self):
        monitor = self.lab.path / "monitor"
        monitor.unlink(missing_ok=True)
        self.process = self.lab.start(sys.executable, "-B", os.path.abspath(__file__), "serve", self.content,
                                      self.path.parent, str(self.open_flags), monitor)
        wait_until(monitor.exists, what="the disk started")
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(os.fspath(monitor))
        self.faults([])  # answered once it is mounted

    def faults(self, faults, seed=0):
        self.socket.sendall(json.dumps({"faults": faults, "seed": seed}).encode() + b"\n")
        if self.socket.recv(16) != b"done\n":
            raise AssertionError("the disk does not answer")

    def fail(self, what, start=0, length=None, times=FOR_EVER, number=errno.EIO, loses=1.0,
             skips=0):
        """From the request after the first `skips` on, `times` of them; a flush loses the range's share."""
        end = start + (length or 1 << 62)
        self.faults([{"what": what, "start": start, "end": end, "errno": number, "times": times,
                      "loses": loses, "skips": skips}])

    def heal(self):
        self.faults([])

    def find(self, data):
        """Where on the disk the data lies."""
        at = self.content.read_bytes().find(data)
        if at < 0:
            raise AssertionError("the data is not on the disk")
        return at

    def vanish(self):
        """The process ends, and every request from then on gets ENOTCONN."""
        self.socket.close()
        os.kill(self.process.pid, signal.SIGKILL)
        self.end()

    def come_back(self):
        self.lab.run("umount", "-l", self.path.parent)
        self.start()

    def end(self):
        """After the lab has cleaned up, which ends the process."""
        self.process.wait(timeout=30)
        self.process.stdout.close()
        self.socket.close()


def content_of(block, generation, name="v"):
    """A block whose every sector is like no other."""
    seed = f"{name} {block} {generation}".encode()
    return b"".join(hashlib.blake2b(seed, salt=sector.to_bytes(2, "little")).digest() * (SECTOR // 64)
                    for sector in range(BLOCK // SECTOR))


def read_direct(path, block=0, count=1):
    """Past the page cache of the mount."""
    buffer = mmap.mmap(-1, count * BLOCK)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        return buffer[: os.preadv(fd, [buffer], block * BLOCK)]
    finally:
        os.close(fd)


class BelowTest(LabTest):
    """A pool of one member on the disk, and in it p/v of BLOCKS blocks of generation 0, which was fsynced."""

    open_flags = DIRECT_IO
    as_device = False
    options = ()

    def setUp(self):
        self.disk = None
        self.addCleanup(lambda: self.disk and self.disk.end())
        super().setUp()
        self.disk = Disk(self.lab, 64 * MIB, self.open_flags)
        self.member = self.lab.losetup(self.disk.path, "--direct-io=on") if self.as_device else self.disk.path
        self.lab.vsnap("pool", "create", "p", self.member)
        self.point = self.lab.mount("p", *self.options)
        self.volume = self.point / "v"
        self.lab.vsnap("create", "p/v", "--size", str(BLOCKS * BLOCK))
        self.write_blocks(range(BLOCKS), 0)
        fsync(self.volume)

    def end_tail(self):
        """As a restart of the machine does, which takes the memory with it."""
        uuid = self.lab.json("pool", "list")["pools"][0]["uuid"]
        Path(f"/dev/shm/vsnap-tail-{uuid}").unlink(missing_ok=True)

    def write_blocks(self, blocks, generation):
        for block in blocks:
            write_at(self.volume, block * BLOCK, content_of(block, generation))

    def forget_pages(self):
        """Of the member: the next read comes from the disk."""
        if self.as_device:
            self.lab.run("blockdev", "--flushbufs", self.member)

    def is_right(self, generation_of, view="v"):
        for block in range(BLOCKS):
            self.assertTrue(read_direct(self.point / view, block) == content_of(block, generation_of(block)),
                            f"block {block} of {view} is wrong")

    def log(self):
        return (self.lab.path / "run/p.log").read_text()

    def logs(self, *words):
        """One line of the daemon's log has all of them."""
        found = [line for line in self.log().splitlines() if all(str(word) in line for word in words)]
        self.assertTrue(found, f"no line of the log has {words}:\n{self.log()}")

    def health(self):
        return self.lab.status()["health"]

    def is_refused_until_checked(self):
        """The pool is unmounted; says what is wrong and what to do, and a check clears it."""
        for command in (("mount", "p", self.point), ("ls", "p"), ("create", "p/w", "--size", "1M")):
            self.mentions(self.lab.vsnap(*command, code=6).err, "vsnap check p")
        self.lab.check()
        self.lab.mount()
        self.assertEqual(self.health(), "ok")

    def takes_no_changes(self):
        before = sorted(self.lab.views())
        self.fails_with(errno.EIO, fsync, self.volume)
        self.fails_with(errno.EIO, write_at, self.volume, 0, b"x" * BLOCK)
        self.fails_with(errno.EIO, os.truncate, self.volume, 4 * MIB)
        for command in (("snapshot", "p/v@refused"), ("create", "p/w", "--size", "1M"), ("rm", "-y", "p/v"),
                        ("rename", "p/v", "w"), ("resize", "p/v", "1M")):
            self.mentions(self.lab.vsnap(*command, code=(1, 6)).err, "takes no changes")
        self.assertEqual(sorted(self.lab.views()), before)

    def is_old_or_new(self, view="v", old=0, new=1):
        """Each sector of each block is of one of the two generations."""
        for block in range(BLOCKS):
            found = read_direct(self.point / view, block)
            for at in range(0, BLOCK, SECTOR):
                allowed = [content_of(block, generation)[at : at + SECTOR] for generation in (old, new)]
                self.assertTrue(found[at : at + SECTOR] in allowed,
                                f"block {block} of {view} is neither old nor new at {at}")

    def says_that_a_check_is_needed(self):
        self.mentions(self.health(), "vsnap check")
        self.mentions(self.lab.vsnap("pool", "status", "p").out, "vsnap check")


class OfDevice:
    """Writes of the mount go to the page cache of a device."""

    as_device = True


class Reading(BelowTest):
    def test_a_read_error_is_eio_for_that_block_only_and_is_logged_with_member_and_offset(self):
        self.lab.vsnap("snapshot", "p/v@s")
        bad = 17
        at = self.disk.find(content_of(bad, 0))
        self.disk.fail("read", at, BLOCK)
        self.forget_pages()
        for view in ("v", "v@s"):
            for block in range(BLOCKS):
                if block == bad:
                    self.fails_with(errno.EIO, read_direct, self.point / view, block)
                else:
                    self.assertEqual(read_direct(self.point / view, block), content_of(block, 0))
        self.logs(self.member, f"read at {at}")
        self.assertEqual(self.health(), "ok")
        self.disk.heal()
        self.is_right(lambda _: 0)
        self.is_right(lambda _: 0, "v@s")

    def test_a_read_over_a_bad_block_never_returns_anything_in_its_place(self):
        bad = 17
        self.disk.fail("read", self.disk.find(content_of(bad, 0)), SECTOR)
        self.forget_pages()
        expected = b"".join(content_of(block, 0) for block in range(BLOCKS))
        fd = os.open(self.volume, os.O_RDONLY | os.O_DIRECT)
        self.addCleanup(os.close, fd)
        buffer = mmap.mmap(-1, BLOCKS * BLOCK)
        try:
            length = os.preadv(fd, [buffer], 0)
        except OSError as error:
            self.assertEqual(error.errno, errno.EIO)
        else:
            self.assertLessEqual(length, bad * BLOCK)
            self.assertTrue(buffer[:length] == expected[:length], "the part before is wrong")

    def test_a_part_of_a_block_that_cannot_be_read_is_not_written_and_nothing_changes(self):
        self.lab.vsnap("snapshot", "p/v@s")
        bad = 5
        self.disk.fail("read", self.disk.find(content_of(bad, 0)), BLOCK)
        self.forget_pages()
        self.fails_with(errno.EIO, write_at, self.volume, bad * BLOCK + 100, b"part")
        self.disk.heal()
        self.is_right(lambda _: 0)
        write_at(self.volume, bad * BLOCK + 100, b"part")
        fsync(self.volume)
        expected = content_of(bad, 0)
        self.assertEqual(read_direct(self.volume, bad), expected[:100] + b"part" + expected[104:])
        self.is_right(lambda _: 0, "v@s")

    def test_a_catalog_that_cannot_be_read_is_refused_with_the_command_to_run_next(self):
        self.lab.umount()
        self.disk.fail("read", MIB)
        self.forget_pages()
        for command in (("mount", "p", self.point), ("ls", "p")):
            self.mentions(self.lab.vsnap(*command, code=6).err, "vsnap check")

    def test_a_catalog_that_cannot_be_read_is_an_error_and_all_is_there_once_it_can(self):
        self.lab.umount()
        self.disk.fail("read", MIB)
        self.forget_pages()
        for command in (("mount", "p", self.point), ("ls", "p"), ("check", "p"), ("check", "p", "--repair")):
            said = self.lab.vsnap(*command, code=(1, 6))
            self.mentions(said.out + said.err, self.member, "read at")
        self.disk.heal()
        self.lab.check()
        self.lab.mount("p", *self.options)
        self.is_right(lambda _: 0)

    def test_one_copy_of_the_superblock_that_cannot_be_read_does_no_harm(self):
        self.lab.umount()
        for copy in (0, 64 << 10):
            with self.subTest(copy=copy):
                self.disk.fail("read", copy, BLOCK)
                self.forget_pages()
                self.lab.mount("p", *self.options)
                self.is_right(lambda _: 0)
                self.lab.umount()
                self.disk.heal()


class ReadingDirect(Reading):
    options = ("-o", "direct=on")


class ReadingDeviceDirect(OfDevice, Reading):
    options = ("-o", "direct=on")


class ReadingDevice(OfDevice, BelowTest):
    def test_a_read_error_is_eio_and_what_can_be_read_beside_it_is_right(self):
        """The kernel reads several blocks as one page, which fail together; direct=on has none."""
        bad = 17
        self.disk.fail("read", self.disk.find(content_of(bad, 0)), BLOCK)
        self.forget_pages()
        failed = []
        for block in range(BLOCKS):
            try:
                self.assertTrue(read_direct(self.volume, block) == content_of(block, 0), f"block {block}")
            except OSError as error:
                self.assertEqual(error.errno, errno.EIO)
                failed.append(block)
        self.assertIn(bad, failed)
        self.assertLess(len(failed), BLOCKS)
        self.logs(self.member, "read at")
        self.assertEqual(self.health(), "ok")
        self.disk.heal()
        self.forget_pages()
        self.is_right(lambda _: 0)


class OtherNumbers(BelowTest):
    """Of errors below: to whoever uses the mount they are EIO, as others say something untrue of it. ENOTCONN
    would say that its daemon is gone, EPERM that he may not."""

    def test_of_a_read_are_eio_and_logged(self):
        at = self.disk.find(content_of(3, 0))
        for number in (errno.ENOTCONN, errno.ETIMEDOUT, errno.EREMOTEIO, errno.EPERM, errno.EROFS):
            with self.subTest(number=errno.errorcode[number]):
                self.disk.fail("read", at, BLOCK, number=number)
                self.fails_with(errno.EIO, read_direct, self.volume, 3)
                self.logs(self.member, f"read at {at}", os.strerror(number))

    def test_of_a_write_are_eio_and_logged(self):
        at = self.disk.find(content_of(3, 0))
        for number in (errno.ENOTCONN, errno.EPERM, errno.EROFS, errno.EFBIG):
            with self.subTest(number=errno.errorcode[number]):
                self.disk.fail("write", at, BLOCK, number=number)
                self.fails_with(errno.EIO, self.write_blocks, [3], 1)
                self.logs(self.member, f"write at {at}", os.strerror(number))

    def test_change_nothing(self):
        at = self.disk.find(content_of(3, 0))
        self.disk.fail("read", at, BLOCK, number=errno.ENOTCONN)
        self.assertRaises(OSError, read_direct, self.volume, 3)
        self.disk.fail("write", at, BLOCK, number=errno.ENOTCONN)
        self.assertRaises(OSError, self.write_blocks, [3], 1)
        self.disk.heal()
        self.is_right(lambda _: 0)

    def test_of_a_flush_are_eio_also_where_it_says_that_there_is_no_space(self):
        """ENOSPC would say that what was written before is kept; a thin device below gives it."""
        self.disk.fail("flush", number=errno.ENOSPC)
        self.write_blocks([0], 1)
        self.fails_with(errno.EIO, fsync, self.volume)


class WritingFile(BelowTest):
    def test_a_write_error_is_eio_for_that_range_only_and_is_logged_with_member_and_offset(self):
        bad = 9
        at = self.disk.find(content_of(bad, 0))
        self.disk.fail("write", at, BLOCK)
        for block in range(BLOCKS):
            if block == bad:
                self.fails_with(errno.EIO, self.write_blocks, [block], 1)
            else:
                self.write_blocks([block], 1)
        fsync(self.volume)
        self.logs(self.member, f"write at {at}")
        self.assertEqual(self.health(), "ok")
        self.is_right(lambda block: 0 if block == bad else 1)
        self.disk.heal()
        self.write_blocks([bad], 1)
        fsync(self.volume)
        self.is_right(lambda _: 1)
        self.lab.umount()
        self.lab.check()

    def test_a_write_to_a_new_place_that_fails_leaves_what_was_there(self):
        self.lab.vsnap("snapshot", "p/v@s")
        self.disk.fail("write")
        for block in (0, 7, 8):
            self.fails_with(errno.EIO, self.write_blocks, [block], 1)
        self.disk.heal()
        self.is_right(lambda _: 0)
        self.write_blocks(range(BLOCKS), 1)
        fsync(self.volume)
        self.is_right(lambda _: 1)
        self.is_right(lambda _: 0, "v@s")

    def write_to_new_places_and_fail(self):
        """The data is written; neither the journal nor the catalog can be."""
        self.lab.vsnap("snapshot", "p/v@s")
        self.write_blocks([4], 1)
        self.disk.fail("write")
        self.fails_with(errno.EIO, fsync, self.volume)
        self.disk.heal()

    def test_when_neither_journal_nor_catalog_can_be_written_fsync_fails_and_goes_on_failing(self):
        self.write_to_new_places_and_fail()
        self.takes_no_changes()
        self.lab.umount()
        self.is_refused_until_checked()
        self.is_right(lambda _: 0, "v@s")
        self.is_old_or_new()

    def test_when_neither_journal_nor_catalog_can_be_written_the_status_says_what_to_do(self):
        self.write_to_new_places_and_fail()
        self.says_that_a_check_is_needed()


class Unmounting(BelowTest):
    def test_umount_says_so_where_the_last_changes_could_not_be_kept(self):
        self.lab.vsnap("snapshot", "p/v@s")
        self.write_blocks([4], 1)
        self.disk.fail("write", number=errno.ENOSPC)
        for _ in range(2):  # the tail has the change; who opens the pool next cannot keep it either
            self.mentions(self.lab.vsnap("umount", "p", code=5).err, "not all is on disk", "p.log")
            self.assertFalse(self.point.is_mount())
        self.disk.heal()
        self.lab.check()
        self.lab.mount()
        self.is_right(lambda block: 1 if block == 4 else 0)
        self.is_right(lambda _: 0, "v@s")


class WritingDevice(OfDevice, BelowTest):
    def test_a_write_error_comes_with_fsync_and_every_fsync_fails_from_then_on(self):
        bad = 9
        at = self.disk.find(content_of(bad, 0))
        self.disk.fail("write", at, BLOCK)
        self.write_blocks(range(BLOCKS), 1)
        self.fails_with(errno.EIO, fsync, self.volume)
        self.logs(self.member, "flush failed")
        self.disk.heal()
        self.takes_no_changes()
        self.says_that_a_check_is_needed()
        self.lab.umount()
        self.is_refused_until_checked()
        self.is_old_or_new()


class Flushing(BelowTest):
    def flush_fails(self, loses=1.0):
        self.disk.fail("flush", times=1, loses=loses)
        self.fails_with(errno.EIO, fsync, self.volume)

    def test_after_a_failed_flush_the_pool_takes_no_changes_until_it_was_checked(self):
        self.lab.vsnap("snapshot", "p/v@s")
        self.is_right(lambda _: 0, "v@s")
        self.write_blocks(range(0, BLOCKS, 2), 1)
        self.flush_fails(loses=0)
        self.logs(self.member, "flush failed")
        self.takes_no_changes()
        self.says_that_a_check_is_needed()
        self.is_right(lambda _: 0, "v@s")
        with contextlib.suppress(OSError):  # what may be lost is an error
            self.is_old_or_new()
        self.lab.umount()
        self.is_refused_until_checked()
        self.is_right(lambda _: 0, "v@s")
        self.is_old_or_new()
        self.write_blocks(range(BLOCKS), 2)
        fsync(self.volume)
        self.is_right(lambda _: 2)

    def test_after_a_failed_flush_a_snapshot_that_was_confirmed_before_can_be_read(self):
        self.write_blocks([0], 1)
        self.lab.vsnap("snapshot", "p/v@s")
        self.write_blocks([0], 2)
        self.flush_fails()
        self.is_right(lambda block: 1 if block == 0 else 0, "v@s")

    def is_marked(self):
        """On the member, in either copy of its superblock."""
        raw = self.disk.content.read_bytes()[: 128 << 10]
        return any(raw[at + 48] & 1 for at in (0, 64 << 10))

    def test_it_is_known_when_the_daemon_is_killed_after_the_mark_was_written(self):
        self.write_blocks([0], 1)
        self.flush_fails()
        wait_until(self.is_marked, what="the mark on the member")
        self.lab.kill_daemon()
        self.is_refused_until_checked()

    def test_it_is_known_when_the_daemon_is_killed_as_soon_as_fsync_said_so(self):
        pid = self.lab.daemon_pid()
        for _ in range(3):
            self.write_blocks([0], 1)
            self.flush_fails()
            self.lab.kill_daemon(pid=pid)
            self.is_refused_until_checked()
            pid = self.lab.daemon_pid()

    def test_a_check_of_the_mounted_pool_does_not_clear_it(self):
        self.write_blocks([0], 1)
        self.flush_fails()
        self.lab.vsnap("check", "p", code=None)
        self.takes_no_changes()
        self.lab.umount()
        self.is_refused_until_checked()

    def lose_what_was_written_beside_a_snapshot(self):
        """To new places, which hold zeros where the write is lost."""
        self.lab.vsnap("snapshot", "p/v@s")
        self.write_blocks(range(BLOCKS), 1)
        self.flush_fails()
        self.lab.umount()

    def test_what_it_lost_is_old_or_new_and_nothing_else(self):
        self.lose_what_was_written_beside_a_snapshot()
        self.is_refused_until_checked()
        self.is_old_or_new()

    def test_what_it_lost_is_old_or_new_after_a_restart_of_the_machine(self):
        self.lose_what_was_written_beside_a_snapshot()
        self.end_tail()
        self.is_refused_until_checked()
        self.is_old_or_new()
        self.is_right(lambda _: 0, "v@s")

    def test_while_it_stays_mounted_what_is_read_is_old_or_new_or_an_error(self):
        self.lab.vsnap("snapshot", "p/v@s")
        self.write_blocks(range(BLOCKS), 1)
        self.flush_fails()
        self.forget_pages()
        with contextlib.suppress(OSError):
            self.is_old_or_new()

    def test_what_it_lost_is_nothing_that_another_volume_had(self):
        self.leave_only_places_of_a_removed_volume()
        self.lab.vsnap("create", "p/w", "--size", str(BLOCKS * BLOCK))
        self.disk.fail("flush")
        with contextlib.suppress(OSError):
            write_at(self.point / "w", 0, b"w" * (BLOCKS // 2) * BLOCK)
        self.fails_with(errno.EIO, fsync, self.point / "w")
        self.disk.heal()
        self.lab.umount()
        self.is_refused_until_checked()
        self.assertFalse(b"secret!!" in read_all(self.point / "w"), "another volume's data")

    def leave_only_places_of_a_removed_volume(self):
        """In runs too short to be given back to the member."""
        secret = b"secret!!" * (BLOCK // 8)
        self.lab.vsnap("create", "p/secret", "--size", "256M")
        fd = os.open(self.point / "secret", os.O_WRONLY)
        try:
            for block in range(16384):
                os.pwrite(fd, secret, 2 * block * BLOCK)
        except OSError as error:
            self.assertEqual(error.errno, errno.ENOSPC)
        else:
            self.fail("it never ran full")
        finally:
            os.fsync(fd)
            os.close(fd)
        wait_until(lambda: self.lab.views()["secret"]["open"] == 0, what="closed")
        self.lab.vsnap("rm", "-y", "--wait", "p/secret")
        self.assertTrue(secret in self.disk.content.read_bytes(), "nothing is left to be seen")

    def be_killed_with_writes_beside_a_snapshot(self, generation=1):
        """They were answered, and nobody flushed them."""
        self.lab.vsnap("snapshot", f"p/v@s{generation}")
        pid = self.lab.daemon_pid()
        self.write_blocks(range(BLOCKS), generation)
        self.lab.kill_daemon(pid=pid)
        self.forget_pages()

    def test_what_is_lost_while_a_killed_daemons_writes_are_brought_back_is_old_or_new(self):
        self.be_killed_with_writes_beside_a_snapshot()
        self.disk.fail("flush", times=1)
        self.lab.vsnap("mount", "p", self.point, code=(1, 6))
        self.is_refused_until_checked()
        self.is_old_or_new()

    def test_a_power_cut_while_a_killed_daemons_writes_are_brought_back_leaves_old_or_new(self):
        """After each of the flushes that this takes, the disk has kept all but the killed daemon's data."""
        for flush in range(1, 6):
            with self.subTest(flush=flush):
                self.be_killed_with_writes_beside_a_snapshot(flush)
                places = [self.disk.find(content_of(block, flush)) for block in (0, BLOCKS - 1)]
                self.disk.fail("flush", min(places), max(places) + BLOCK - min(places), skips=flush - 1)
                self.lab.vsnap("ls", "p", code=None)
                self.disk.heal()
                self.end_tail()
                self.lab.check()
                self.lab.mount()
                self.is_old_or_new("v", flush - 1, flush)
                self.write_blocks(range(BLOCKS), flush)
                fsync(self.volume)

    def test_a_snapshot_whose_flush_fails_is_there_as_a_whole_or_not(self):
        self.write_blocks(range(BLOCKS), 1)
        self.disk.fail("flush", loses=0.5)
        self.lab.vsnap("snapshot", "p/v@s", code=(1, 6))
        self.disk.heal()
        self.lab.umount()
        self.is_refused_until_checked()
        for view in self.lab.views():
            self.is_old_or_new(view)


class FlushingDevice(OfDevice, Flushing):
    pass


class StalePages(BelowTest):
    """The kernel's pages of the member say what the disk has lost."""

    open_flags = KEEP_CACHE

    def forget_pages(self):
        fd = os.open(self.member, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)

    def found(self):
        return {view: [read_direct(self.point / view, block) for block in range(BLOCKS)]
                for view in self.lab.views()}

    def stays_as_the_check_had_it(self):
        self.lab.umount()
        self.is_refused_until_checked()
        before = self.found()
        self.lab.umount()
        self.forget_pages()
        self.lab.check()
        self.lab.mount()
        self.assertTrue(self.found() == before, "what was read after the check is not on the member")
        return before

    def test_overwritten_data_that_is_in_pages_only_is_not_read_as_kept(self):
        self.write_blocks(range(BLOCKS), 1)
        self.disk.fail("flush", times=1)
        self.fails_with(errno.EIO, fsync, self.volume)
        self.stays_as_the_check_had_it()

    def test_a_journal_and_catalog_that_are_in_pages_only_are_not_taken_for_kept(self):
        self.lab.vsnap("snapshot", "p/v@s")
        self.write_blocks(range(BLOCKS), 1)
        self.disk.fail("flush")
        self.fails_with(errno.EIO, fsync, self.volume)
        self.disk.heal()
        found = self.stays_as_the_check_had_it()
        self.assertEqual(found["v@s"], [content_of(block, 0) for block in range(BLOCKS)])


class RandomLoad(BelowTest):
    def setUp(self):
        super().setUp()
        self.random = seeded()
        self.generation = 0
        self.latest = {block: content_of(block, 0) for block in range(BLOCKS)}  # None: a write failed
        self.may_be = {block: [content] for block, content in self.latest.items()}
        self.snapshots = {}
        self.perhaps_removed = set()  # the command said that it failed

    def write(self):
        self.generation += 1
        block = self.random.randrange(BLOCKS)
        new = content_of(block, self.generation)
        start, end = (0, BLOCK) if self.random.random() < 0.6 else self.part()
        self.may_be[block] += [one[:start] + new[start:end] + one[end:] for one in self.may_be[block][-1:]]
        latest = self.latest[block]
        self.latest[block] = None
        fd = os.open(self.volume, os.O_WRONLY)
        try:
            os.pwrite(fd, new[start:end], block * BLOCK + start)
            if latest:
                self.latest[block] = latest[:start] + new[start:end] + latest[end:]
        except OSError as error:
            self.assertEqual(error.errno, errno.EIO)
        finally:
            os.close(fd)

    def part(self):
        start = self.random.randrange(BLOCK // SECTOR)
        return start * SECTOR, self.random.randrange(start, BLOCK // SECTOR) * SECTOR + SECTOR

    def sync(self):
        try:
            fsync(self.volume)
        except OSError as error:
            self.assertEqual(error.errno, errno.EIO)
            return
        self.confirm()

    def confirm(self):
        for block, content in self.latest.items():
            if content:
                self.may_be[block] = [content]

    def look(self):
        """What is read is what was written last, where that is known, and else one of what it may be."""
        for block in range(BLOCKS):
            try:
                found = read_direct(self.volume, block)
            except OSError as error:
                self.assertEqual(error.errno, errno.EIO)
                continue
            try:
                self.is_allowed(found, self.may_be[block], f"block {block} of v")
                if self.latest[block]:
                    self.assertTrue(found == self.latest[block], f"block {block} of v is not the latest")
            except AssertionError:
                if self.health() == "ok":  # else see Flushing.test_while_it_stays_mounted_...
                    raise
                return

    def is_allowed(self, found, contents, what):
        """Each sector is as one of the contents has it."""
        for at in range(0, BLOCK, SECTOR):
            self.assertTrue(found[at : at + SECTOR] in [one[at : at + SECTOR] for one in contents],
                            f"{what}, byte {at}: none of {len(contents)} contents that it may have")

    def snapshot(self):
        name = f"s{self.generation}"
        if name in self.snapshots or len(self.snapshots) > 5:
            return
        if self.lab.vsnap("snapshot", f"p/v@{name}", code=None).code == 0:
            self.confirm()
            self.snapshots[name] = {block: list(contents) for block, contents in self.may_be.items()}

    def remove(self):
        if len(self.snapshots) > 2:
            name = self.random.choice(sorted(self.snapshots))
            if self.lab.vsnap("rm", "-y", f"p/v@{name}", code=None).code == 0:
                del self.snapshots[name]
            else:
                self.perhaps_removed.add(name)

    def load(self, steps):
        for _ in range(steps):
            self.random.choices([self.write, self.sync, self.look, self.snapshot, self.remove],
                                [60, 8, 1, 2, 1])[0]()

    def break_something(self):
        what = self.random.choice(["read", "write", "write", "flush", "flush"])
        whole = what == "flush" or self.random.random() < 0.3
        start = 0 if whole else self.random.randrange(MIB, 16 * MIB) // BLOCK * BLOCK
        length = None if whole else self.random.choice([1, 16, 1024]) * BLOCK
        fault = {"what": what, "start": start, "end": start + (length or 1 << 62), "errno": errno.EIO,
                 "times": self.random.choice([1, 2, 5, FOR_EVER]), "loses": self.random.choice([0, 0.5, 1]),
                 "skips": self.random.randrange(3)}
        self.disk.faults([fault], seed=self.random.randrange(1 << 30))
        return fault

    def restart(self, fault):
        """Also by a kill, which loses nothing that was answered. A failed flush may have lost what nobody
        confirmed, whatever was read since."""
        self.trace = [f"{fault}", self.health()]
        if self.trace[-1] != "ok":
            self.latest = dict.fromkeys(self.latest)
            self.lab.umount()
            self.mentions(self.lab.vsnap("mount", "p", self.point, code=6).err, "vsnap check p")
            self.before_check()
        elif self.random.random() < 0.3:
            self.trace.append("killed")
            self.lab.kill_daemon()
        else:
            self.lab.umount()
        self.lab.check()
        self.forget_pages()
        self.lab.mount()

    def before_check(self):
        pass

    def verify(self):
        """What is read after a restart is kept, and stays."""
        self.look()
        for block in range(BLOCKS):
            self.latest[block] = read_direct(self.volume, block)
        self.confirm()
        for name in self.perhaps_removed - set(view.partition("@")[2] for view in self.lab.views()):
            self.snapshots.pop(name, None)
        self.perhaps_removed.clear()
        for name, contents in self.snapshots.items():
            for block in range(BLOCKS):
                found = read_direct(self.point / f"v@{name}", block)
                self.is_allowed(found, contents[block], f"block {block} of {name}")
                contents[block] = [found]

    def go_through(self, rounds):
        for turn in range(rounds):
            self.load(20)
            fault = self.break_something()
            self.load(30)
            self.disk.heal()
            try:
                self.restart(fault)
                self.verify()
            except AssertionError as error:
                raise AssertionError(f"round {turn}, {self.trace}: {error}") from error


class Random(RandomLoad):
    def test_what_was_confirmed_is_there_and_nothing_else_after_random_faults(self):
        self.go_through(max(ROUNDS, 20))


class RandomWithRestarts(RandomLoad):
    """The machine is started anew before the check."""

    before_check = BelowTest.end_tail

    def test_what_was_confirmed_is_there_and_nothing_else_after_random_faults(self):
        self.go_through(ROUNDS)


class RandomWithRestartsDevice(OfDevice, RandomWithRestarts):
    pass


class Gone(BelowTest):
    def test_a_disk_that_vanishes_gives_errors_and_nothing_confirmed_is_lost_when_it_is_back(self):
        self.forget_pages()
        self.disk.vanish()
        for function in (lambda: read_direct(self.volume, 3), self.write_and_sync, self.write_and_sync):
            with self.assertRaises(OSError):
                function()
        self.lab.vsnap("snapshot", "p/v@s", code=(1, 6))
        self.lab.vsnap("umount", "p", code=None)
        self.lab.vsnap("mount", "p", self.point, code=(1, 3, 6))
        self.disk.come_back()
        self.lab.check()
        self.lab.mount()
        self.is_right(lambda _: 0)

    def write_and_sync(self):
        self.write_blocks([0], 0)
        fsync(self.volume)


class Cut(LabTest):
    def test_reads_beyond_the_end_of_a_file_below_a_device_are_eio_and_never_zeros(self):
        below = self.lab.file("below.img", 64 * MIB)
        device = self.lab.losetup(below)
        self.lab.vsnap("pool", "create", "p", device)
        point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "1M")
        write_at(point / "v", 0, b"kept" * (MIB // 4))
        fsync(point / "v")
        os.truncate(below, MIB)
        self.lab.run("blockdev", "--flushbufs", device)
        os.truncate(below, MIB)  # the owner's record and others may have been written
        self.fails_with(errno.EIO, read_direct, point / "v", 0)
        self.mentions((self.lab.path / "run/p.log").read_text(), f"{device}: read at")

    def test_an_image_that_is_cut_while_it_is_in_use_gives_eio_and_never_zeros(self):
        member, = self.lab.pool()
        point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "1M")
        write_at(point / "v", 0, b"kept" * (MIB // 4))
        fsync(point / "v")
        os.truncate(member, MIB)
        self.fails_with(errno.EIO, read_direct, point / "v", 0)
        self.mentions((self.lab.path / "run/p.log").read_text(), f"{member}: read at")

    def test_an_image_that_is_unlinked_while_it_is_in_use_goes_on(self):
        member, = self.lab.pool()
        point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "1M")
        member.unlink()
        write_at(point / "v", 0, b"kept")
        fsync(point / "v")
        self.lab.vsnap("snapshot", "p/v@s")
        self.assertEqual(read_at(point / "v@s", 0, 4), b"kept")


class ReadOnly(LabTest):
    def setUp(self):
        super().setUp()
        self.device = self.lab.losetup(self.lab.file("below.img", 64 * MIB), "--direct-io=on")
        self.lab.vsnap("pool", "create", "p", self.device)
        self.point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "1M")
        write_at(self.point / "v", 0, b"kept" * (MIB // 4))
        fsync(self.point / "v")
        self.addCleanup(self.set_writable)
        self.lab.run("blockdev", "--setro", self.device)

    def set_writable(self):
        self.lab.run("blockdev", "--setrw", self.device)

    def test_writes_are_eio_and_logged(self):
        self.fails_with(errno.EIO, write_at, self.point / "v", 0, b"lost" * 1024)
        self.mentions((self.lab.path / "run/p.log").read_text(), f"{self.device}: write at")

    def test_nothing_is_said_to_be_done_and_nothing_confirmed_is_lost(self):
        with contextlib.suppress(OSError):
            write_at(self.point / "v", 0, b"lost" * 1024)
        self.lab.vsnap("snapshot", "p/v@s", code=(1, 6))
        self.assertNotIn("v@s", self.lab.views())
        self.assertEqual(read_direct(self.point / "v", 0), b"kept" * 1024)
        self.lab.vsnap("umount", "p", code=None)
        self.lab.vsnap("mount", "p", self.point, code=(1, 6))
        self.set_writable()
        self.lab.check()
        self.lab.mount()
        self.assertEqual(read_all(self.point / "v"), b"kept" * (MIB // 4))
        self.lab.vsnap("snapshot", "p/v@s")


class Full(LabTest):
    """A sparse member in a file system that runs full."""

    def make_room(self):
        (self.small / "ballast").unlink()

    def setUp(self):
        super().setUp()
        self.small = self.lab.directory("small")
        self.make_file_system()
        (self.small / "ballast").write_bytes(b"b" * 24 * MIB)
        self.lab.vsnap("pool", "create", "p", self.small / "p.img", "--size", "1G")
        self.point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "1G")
        self.lab.vsnap("create", "p/gone", "--size", "8M")
        write_at(self.point / "gone", 0, b"g" * 8 * MIB)
        fsync(self.point / "gone")

    def make_file_system(self):
        self.lab.run("mount", "-t", "tmpfs", "-o", "size=96M", "none", self.small)

    def fill(self, start=0):
        at = start
        fd = os.open(self.point / "v", os.O_RDWR)
        try:
            with self.assertRaises(OSError) as raised:
                while at < GIB:
                    os.pwrite(fd, self.piece(at), at)
                    at += MIB // 4
            self.assertEqual(raised.exception.errno, errno.ENOSPC)
        finally:
            os.close(fd)
        return at

    def piece(self, at):
        return content_of(at, 0) * (MIB // 4 // BLOCK)

    def is_all_there(self, start, end):
        with open(self.point / "v", "rb") as file:
            for at in range(start, end, MIB // 4):
                file.seek(at)
                self.assertTrue(file.read(MIB // 4) == self.piece(at), f"at {at}")

    def test_the_write_gets_enospc_and_reads_and_snapshots_go_on(self):
        end = self.fill()
        self.assertGreater(end, 16 * MIB)
        self.is_all_there(0, end)
        self.lab.vsnap("ls", "p")
        done = self.lab.vsnap("snapshot", "p/v@full", code=(0, 5))
        self.assertEqual("v@full" in self.lab.views(), done.code == 0)
        self.is_all_there(0, end)

    def test_a_removal_works_and_makes_room(self):
        end = self.fill()
        self.lab.vsnap("rm", "-y", "--wait", "p/gone")
        self.assertNotIn("gone", self.lab.views())
        write_at(self.point / "v", end, self.piece(end))
        fsync(self.point / "v")
        self.is_all_there(0, end + MIB // 4)

    def test_after_making_room_everything_goes_on_without_a_remount(self):
        end = self.fill()
        self.make_room()
        write_at(self.point / "v", end, self.piece(end))
        fsync(self.point / "v")
        self.lab.vsnap("snapshot", "p/v@after")
        self.assertEqual(self.lab.status()["health"].split(":")[0].replace("warning", "ok"), "ok")
        self.is_all_there(0, end + MIB // 4)
        self.lab.umount()
        self.lab.check()
        self.lab.mount()
        self.is_all_there(0, end + MIB // 4)

    def test_a_daemon_that_is_killed_in_a_full_file_system_loses_nothing(self):
        end = self.fill()
        with contextlib.suppress(OSError):
            fsync(self.point / "v")
        self.lab.kill_daemon()
        self.make_room()
        self.lab.check()
        self.lab.mount()
        self.is_all_there(0, end)


class FullExt4(Full):
    def make_file_system(self):
        device = self.lab.losetup(self.lab.file("small.img", 112 * MIB))
        self.lab.run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)
        self.lab.run("mount", device, self.small)


class SparseBelow(LabTest):
    """A device over a sparse file in a full file system: its writes work, and its flush does not."""

    def setUp(self):
        super().setUp()
        self.small = self.lab.directory("small")
        self.lab.run("mount", "-t", "tmpfs", "-o", "size=48M", "none", self.small)
        with open(self.small / "below.img", "wb") as file:
            file.truncate(256 * MIB)
        self.device = self.lab.losetup(self.small / "below.img")
        self.lab.vsnap("pool", "create", "p", self.device)
        self.point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "128M")
        self.kept = os.urandom(8 * MIB)
        write_at(self.point / "v", 0, self.kept)
        self.lab.vsnap("snapshot", "p/v@s")
        fsync(self.point / "v")

    def test_what_was_confirmed_is_there_and_the_rest_is_old_or_new(self):
        holder = os.open(self.device, os.O_RDONLY)  # as long as it is open the kernel keeps the pages
        self.addCleanup(os.close, holder)
        new = os.urandom(64 * MIB)
        with contextlib.suppress(OSError):  # writeback may have failed already
            write_at(self.point / "v", len(self.kept), new[len(self.kept) :])
            write_at(self.point / "v", 0, new[: len(self.kept)])
        self.fails_with(errno.EIO, fsync, self.point / "v")
        self.fails_with(errno.EIO, fsync, self.point / "v")
        self.lab.umount()
        self.mentions(self.lab.vsnap("mount", "p", self.point, code=6).err, "vsnap check p")
        self.lab.run("mount", "-o", "remount,size=512M", self.small)
        self.lab.check()
        self.is_old_or_new(new)
        self.lab.umount()
        self.lab.run("blockdev", "--flushbufs", self.device)
        self.lab.check()
        self.is_old_or_new(new)

    def is_old_or_new(self, new):
        self.lab.mount()
        self.assertTrue(read_all(self.point / "v@s")[: len(self.kept)] == self.kept, "the snapshot is wrong")
        found = read_all(self.point / "v")
        old = self.kept.ljust(len(new), b"\0")
        for at in range(0, len(new), SECTOR):
            self.assertTrue(found[at : at + SECTOR] in (old[at : at + SECTOR], new[at : at + SECTOR]),
                            f"byte {at} of v is neither old nor new")


class Exchanged(LabTest):
    def setUp(self):
        super().setUp()
        self.random = seeded()
        self.members = self.lab.pool(members=2, size="32M")
        self.point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "8M")
        self.content = os.urandom(8 * MIB)
        write_at(self.point / "v", 0, self.content)
        self.lab.umount()

    def is_refused(self, member, *words):
        """By every command, with nothing changed on any member."""
        before = [self.digest(path) for path in self.members]
        for command in (("mount", "p", self.point), ("ls", "p"), ("check", "p"), ("check", "p", "--repair"),
                        ("create", "p/w", "--size", "1M"), ("pool", "status", "p")):
            said = self.lab.vsnap(*command, code=6).err
            self.mentions(said, member, *words)
        self.assertEqual([self.digest(path) for path in self.members], before)
        self.assertFalse(os.path.ismount(self.point))

    def digest(self, path):
        return hashlib.blake2b(path.read_bytes()).hexdigest()

    def unharmed(self):
        self.lab.check()
        self.lab.mount()
        self.assertTrue(read_all(self.point / "v") == self.content, "content differs")

    def test_a_member_cut_at_any_block_is_refused_with_expected_and_found(self):
        size = self.members[0].stat().st_size
        lengths = [MIB, MIB + BLOCK, size // 2, size - BLOCK]
        lengths += [self.random.randrange(256, size // BLOCK) * BLOCK for _ in range(ROUNDS // 4)]
        for index, member in enumerate(self.members):
            backup = self.lab.path / "backup"
            shutil.copyfile(member, backup)
            for length in lengths[index::2]:
                with self.subTest(member=index, length=length):
                    os.truncate(member, length)
                    self.is_refused(member, "expected", size, "found", length)
                    shutil.copyfile(backup, member)
        self.unharmed()

    def test_a_member_of_another_pool_is_refused_with_expected_and_found(self):
        others = self.lab.pool("q", members=2, size="32M")
        uuids = {pool["name"]: pool["uuid"] for pool in self.lab.json("pool", "list")["pools"]}
        aside = self.lab.path / "aside"
        for index, member in enumerate(self.members):
            with self.subTest(member=index):
                os.rename(member, aside)
                shutil.copyfile(others[index], member)
                self.is_refused("expected", uuids["p"], uuids["q"])
                os.rename(aside, member)
        self.unharmed()

    def test_the_first_member_in_the_place_of_the_second_is_refused(self):
        aside = self.lab.path / "aside"
        os.rename(self.members[1], aside)
        shutil.copyfile(self.members[0], self.members[1])
        self.is_refused(self.members[1])
        os.rename(aside, self.members[1])
        self.unharmed()

    def test_an_older_copy_of_one_member_is_refused(self):
        backup = self.lab.path / "backup"
        shutil.copyfile(self.members[1], backup)
        for _ in range(2):
            self.lab.mount()
            self.lab.vsnap("snapshot", "p/v@s", code=None)
            self.lab.umount()
        newer = self.lab.path / "newer"
        os.rename(self.members[1], newer)
        shutil.copyfile(backup, self.members[1])
        self.is_refused("last used together")
        os.rename(newer, self.members[1])
        self.unharmed()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(*sys.argv[2:])
    else:
        main()
