"""A disk that keeps a log of all that is written to it, and what it may hold after a power cut.

`LoggedDisk` is a file in a lab: qemu-storage-daemon shows an image as that file, and its driver
blklogwrites notes every write, discard and flush that the file gets, in the format of Linux's dm-log-
writes: a super block, then entries of one sector each, those of writes followed by what was written.
`WriteLog` reads it, `Replay` makes images from it.

Order: a write is noted once it has ended, and before it is answered; of two that overlap the kernel sends
the second only then. The image itself ignores flushes, so that a flush is noted in the moment in which it
comes. So whatever was answered before a flush came stands before it in the log. The number of entries is in
the super block, which is written with each flush before that is answered, and is never ahead of the
entries.
"""

import bisect
import mmap
import os
import shutil
import struct
import threading

from support import Lab, read_at, wait_until

SECTOR = 512
MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
NEVER = 1 << 40  # entries between two updates of the super block, besides those with flushes
DAEMON = "qemu-storage-daemon"


class LoggedDisk:
    """An image as the file `path`, with what is written to it in the file `log`."""

    def __init__(self, lab, name, content):
        self.image, self.log = lab.path / f"{name}.below", lab.file(f"{name}.log", 0)
        content.store(self.image)
        self.path = lab.file(f"{name}.img", len(content.bytes))
        before = self.path.stat().st_dev
        self.process = lab.start(
            DAEMON,
            "--blockdev",
            f"driver=file,node-name=image,filename={self.image},cache.no-flush=on,discard=unmap",
            "--blockdev",
            f"driver=file,node-name=log,filename={self.log},cache.no-flush=on",
            "--blockdev",
            "driver=blklogwrites,node-name=logged,file=image,log=log,discard=unmap,"
            f"log-sector-size={SECTOR},log-super-update-interval={NEVER}",
            "--export",
            f"type=fuse,id=shown,node-name=logged,mountpoint={self.path},writable=on",
        )
        wait_until(lambda: self._ended() or self.path.stat().st_dev != before, what="the logged disk")
        if self._ended():
            raise OSError(f"{DAEMON} ended: {self.process.communicate()[0].strip()}")

    def _ended(self):
        return self.process.poll() is not None

    def flushed(self):
        """How many entries the log had at the last flush that was answered."""
        found, again = b"", None
        while found != again:  # it may be written in this moment
            found, again = again, read_at(self.log, 0, 24)
        return struct.unpack("<QQQ", found)[2] if found else 0

    def end(self):
        """Nobody uses the file any more; what has been written to it."""
        fd = os.open(self.path, os.O_RDWR)
        os.fsync(fd)
        os.close(fd)
        self.process.terminate()
        self.forget()
        log = WriteLog(self.log)
        self.log.unlink()  # the next disk of this name has one of its own
        return log

    def forget(self):
        """The daemon is ending, or was ended with the lab."""
        self.process.wait(timeout=30)
        self.process.stdout.close()


def missing():
    """What this machine lacks for a logged disk, or None."""
    if shutil.which(DAEMON) is None:
        return DAEMON
    with Lab() as lab:
        try:
            disk = LoggedDisk(lab, "probe", Image(1 << 20))
        except OSError as error:
            return f"a {DAEMON} with blklogwrites and FUSE exports ({error})"
        disk.process.terminate()
        disk.forget()
    return None


class Entry:
    """One of the log: bytes [begin, end) of the disk; data is None for what is no write."""

    __slots__ = ("begin", "data", "end", "flags")

    def __init__(self, begin, end, flags, data):
        self.begin, self.end, self.flags, self.data = begin, end, flags, data

    def is_flush(self):
        return self.flags & FLUSH != 0

    def is_discard(self):
        return self.flags & DISCARD != 0


class WriteLog:
    """The entries of a log, in order. `flushes`: after how many entries all before is durable."""

    def __init__(self, path):
        with open(path, "rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        magic, version, count, sector_bytes = struct.unpack_from("<QQQI", content)
        if (magic, version, sector_bytes) != (MAGIC, 1, SECTOR):
            raise ValueError(f"{path}: not a log: {magic:x}, version {version}, sectors of {sector_bytes}")
        self.entries = []
        self.ends = []  # of each entry: how long the log was once it stood there
        at = SECTOR
        for _ in range(count):
            sector, sectors, flags, _ = struct.unpack_from("<QQQQ", content, at)
            at += SECTOR
            begin, length = sector * SECTOR, sectors * SECTOR
            data = None
            if flags & ~(FLUSH | FUA | DISCARD | MARK):
                raise ValueError(f"{path}: entry {len(self.entries)} has flags {flags:x}")
            if not flags & (DISCARD | FLUSH) and sectors:
                data = content[at : at + length]
                at += length
            self.entries.append(Entry(begin, begin + length, flags, data))
            self.ends.append(at)
        self.size = at
        if at > len(content):
            raise ValueError(f"{path}: {count} entries end at {at}, the file at {len(content)}")
        self.flushes = [number + 1 for number, entry in enumerate(self.entries) if entry.is_flush()]

    def entries_in(self, size):
        """How many entries stood there whole when the log was that long."""
        return bisect.bisect_right(self.ends, size)


class Moment:
    """How long several logs were at once: already at the time `before`, and still at the time `after`. What
    was confirmed by `after` is on the disks, and nothing is that began later than `before`."""

    def __init__(self, after, before, sizes):
        self.after, self.before, self.sizes = after, before, sizes  # after < before where it was seen once


class Moments:
    """Looks again and again at how long the logs of several disks are, and keeps what they were together.

    Logs only become longer. Of two looks at all of them that find the same, none changed between the end of
    the first and the begin of the second, so that in between all of them were that long at once: what the
    disks got until then is what they have when the power of all goes there. `clock`: what tells the time."""

    def __init__(self, disks, clock):
        self.disks, self.clock = disks, clock
        self.found, self.ending = [], threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _look(self):
        return [os.stat(disk.log).st_size for disk in self.disks]

    def _run(self):
        sizes, ended = self._look(), self.clock()
        while not self.ending.wait(0.0002):
            began = self.clock()
            again = self._look()
            if again == sizes and self.found and self.found[-1].sizes == sizes:
                self.found[-1].after = ended
            elif again == sizes:
                self.found.append(Moment(ended, began, sizes))
            sizes, ended = again, self.clock()

    def end(self):
        self.ending.set()
        self.thread.join()
        return self.found


class Image:
    """The content of a disk. `discards`: whether it forgets what is discarded, or leaves it as it is."""

    def __init__(self, size, discards=True):
        self.bytes, self.discards = bytearray(size), discards

    def copy(self):
        made = Image(0, self.discards)
        made.bytes = bytearray(self.bytes)
        return made

    def apply(self, entry, begin=None, end=None):
        """All of an entry, or the bytes [begin, end) of the disk of it."""
        begin, end = entry.begin if begin is None else begin, entry.end if end is None else end
        if entry.data is not None:
            self.bytes[begin:end] = entry.data[begin - entry.begin : end - entry.begin]
        elif entry.is_discard() and self.discards:
            self.bytes[begin:end] = bytes(end - begin)

    def store(self, path):
        """As a sparse file."""
        piece = 1 << 16
        zeros = bytes(piece)
        with open(path, "wb") as file:
            for at in range(0, len(self.bytes), piece):
                if self.bytes[at : at + piece] != zeros:
                    file.seek(at)
                    file.write(self.bytes[at : at + piece])
            file.truncate(len(self.bytes))


class Replay:
    """Goes through a log, forwards only, on two disks: one that forgets what is discarded, one that does not.
    `without`: entries that get lost."""

    def __init__(self, log, start, without=()):
        self.log, self.without = log, frozenset(without)
        self.images = [start.copy(), start.copy()]
        self.images[0].discards, self.images[1].discards = True, False
        self.position = 0

    def durable_at(self, point):
        """How many entries of the first `point` were followed by a flush there."""
        return max((flush for flush in self.log.flushes if flush <= point), default=0)

    def advance(self, point):
        """To the disks that got the first `point` entries and lost nothing."""
        for number in range(self.position, point):
            if number not in self.without:
                for image in self.images:
                    image.apply(self.log.entries[number])
        self.position = max(self.position, point)

    def cut(self, point, random):
        """A disk whose power went after `point` entries: of what came since the last flush each write is
        there whole, in part or not at all, in whatever order. Of two writes of one sector it has the later
        one, the earlier one or none: never the earlier one over the later."""
        self.advance(self.durable_at(point))
        image = random.choice(self.images).copy()
        kept, torn = random.choice((0.1, 0.5, 0.9)), random.choice((0.0, 0.2, 1.0))
        for number in range(self.position, point):
            entry = self.log.entries[number]
            if number in self.without or entry.is_flush():
                continue
            if random.random() < torn:
                for at in range(entry.begin, entry.end, SECTOR):
                    if random.random() < kept:
                        image.apply(entry, at, at + SECTOR)
            elif random.random() < kept:
                image.apply(entry)
        return image
