#!/usr/bin/env python3
"""Power cuts of a real pool: what was confirmed is in every state that its disk can be left in.

The member of a mounted pool is a disk that keeps a log of all writes, discards and flushes (write_log.py):
a file, or a loop device over it. Threads write stamps to a volume each, in whole blocks and in parts of
them, through the page cache and past it, discard, fsync, and give commands: snapshots (also of several
volumes at one moment), removals, resizes, clones, rollbacks. Of each it is noted how many entries the log
had, at least, when it began, and how many, at most, when it was confirmed.

Then the log is replayed: to flushes, and to points between them, where of all that came after the last
flush writes are lost, whole or sector by sector (512 bytes), so also as if their order had been another;
discards had an effect or none. Each such disk is attached as a pool in a registry of its own, as on another
machine. It must pass `vsnap check`; each sector must hold what it held at its last confirmed fsync or
later, each snapshot exactly what it was made of, and views and sizes must be those that were confirmed, or
asked for since. The same holds where the power goes again while a pool comes back from such a state: that
disk keeps a log, too.

A pool of two members has two such disks, and each a log of its own, which say nothing of each other. A
power cut takes both at one moment, so both logs are to be cut where they were at one moment: the lengths of
the two files are looked at all the while, again and again, and where two looks one after the other find the
same, both logs were that long between them (Moments). A log never becomes shorter and an entry is there
before its write or flush is answered, so such a pair lacks nothing that was answered before, and has nothing
that was asked for afterwards. What came to a disk since its own last flush is then lost as above, on each
disk by itself: a flush of one says nothing for the other, so that one that the program left out, or made in
the wrong order, is found. What was confirmed, and what may have been begun, is told by the time of the
moment instead of the number of entries. One log of both, as of two parts of one disk, would have an order of
all entries, but its flushes would count for both members.

Planted, to see that they are found: a write that is missing in the log; all that a command wrote missing
there; a daemon that leaves out every second flush, or those of the second member; a second member from an
earlier moment than the first.

What is done follows from the seed; how the threads run beside each other, and so the log, does not.

VSNAP_LOG_STATES: how many states (40; all tests together take 40 s); 2,000 is the long run.
VSNAP_LOG_KEEP: a directory for the image of a state in which something is wrong.
"""

import itertools
import mmap
import os
import shutil
import struct
import sys
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

from support import (
    BLOCK,
    KEEP_SIZE,
    MIB,
    PUNCH_HOLE,
    SKIPPED,
    LabTest,
    fallocate,
    main,
    read_all,
    seeded,
    wait_until,
)
from write_log import NEVER, SECTOR, Image, LoggedDisk, Moment, Moments, Replay, missing

STATES = int(os.environ.get("VSNAP_LOG_STATES") or 40)
OPERATIONS = min(200 + STATES, 1500)  # of each thread
KEEP = os.environ.get("VSNAP_LOG_KEEP")
DISK = 64 * MIB  # with a journal of 1 MiB: it goes round
SECTORS = 2 * MIB // SECTOR  # of a volume, at most
NAMES = ("a", "b", "c")  # of the volumes, each with a thread
ZEROS = bytes(SECTOR)


def sector(stamp, index):
    """What a sector of a volume holds that was written with this stamp; 0: nothing."""
    return struct.pack("<QQ", stamp, index) * (SECTOR // 16) if stamp else ZEROS


def stamp_in(content, index):
    """That of a sector; -1: what it holds was never written there."""
    if content == ZEROS:
        return 0
    stamp, _ = struct.unpack_from("<QQ", content)
    return stamp if content == sector(stamp, index) else -1


class Span:
    """When something was done, in entries of the log or by a clock: not before `begin`, and confirmed before
    `end`."""

    def __init__(self, begin=NEVER, end=NEVER):
        self.begin, self.end = begin, end

    def certain(self, durable):
        return self.end <= durable

    def possible(self, point):
        return self.begin <= point


class View:
    """A volume or snapshot: when it was made and removed."""

    def __init__(self, made):
        self.made, self.removed = made, Span()

    def must_be(self, durable, point):
        return self.made.certain(durable) and not self.removed.possible(point)

    def may_be(self, durable, point):
        return self.made.possible(point) and not self.removed.certain(durable)


class Snapshot(View):
    def __init__(self, volume, made):
        super().__init__(made)
        self.volume = volume
        self.stamps = [stamps[-1] for stamps in volume.history]
        self.versions = {index: len(stamps) - 1 for index, stamps in enumerate(volume.history)}
        self.size = volume.size
        self.group = {}  # what was taken at the same moment, by name

    def wrong(self, content):
        expected = b"".join(sector(self.stamps[index], index) for index in range(self.size // SECTOR))
        if content == expected:
            return []
        if len(content) != len(expected):
            return [f"has {len(content)} bytes, not {len(expected)}"]
        return [
            f"sector {index}: expected {stamp:x}, found {content[index * SECTOR :][:16].hex()}"
            for index, stamp in enumerate(self.stamps[: self.size // SECTOR])
            if content[index * SECTOR : (index + 1) * SECTOR] != sector(stamp, index)
        ]


class Volume(View):
    """Of each sector all stamps that it had, in order; of each fsync which of them it confirmed."""

    def __init__(self, made, size, stamps=(0,) * SECTORS):
        super().__init__(made)
        self.history = [[stamp] for stamp in stamps]
        self.unconfirmed = set()
        self.confirmed = []  # (end, {sector: index of its stamp})
        self.sizes = [(made, size)]
        self.lock = threading.Lock()

    @property
    def size(self):
        return self.sizes[-1][1]

    def put(self, begin, end, stamp):
        for index in range(begin, end):
            self.history[index].append(stamp)
        self.unconfirmed.update(range(begin, end))

    def confirm(self, end, sectors=None):
        """What these sectors hold now, or all that were written."""
        sectors = self.unconfirmed if sectors is None else sectors
        self.confirmed.append((end, {index: len(self.history[index]) - 1 for index in sectors}))
        self.unconfirmed -= self.confirmed[-1][1].keys()

    def oldest(self, durable, snapshots):
        """Of each sector the oldest version that it may have, beside these snapshots of it."""
        found = [0] * SECTORS
        known = [versions for end, versions in self.confirmed if end <= durable]
        for versions in known + [snapshot.versions for snapshot in snapshots]:
            for index, version in versions.items():
                found[index] = max(found[index], version)
        return found

    def sizes_at(self, durable, point):
        certain = [number for number, (span, _) in enumerate(self.sizes) if span.certain(durable)]
        return [size for span, size in self.sizes[max(certain, default=0) :] if span.possible(point)]

    def wrong(self, content, oldest):
        found = []
        for index in range(len(content) // SECTOR):
            stamp = stamp_in(content[index * SECTOR : (index + 1) * SECTOR], index)
            allowed = self.history[index][oldest[index] :]
            if stamp not in allowed:
                known = ", ".join(f"{one:x}" for one in allowed[:9])
                hexed = content[index * SECTOR :][:16].hex()
                found.append(f"sector {index}: expected one of {known}; found {hexed}")
        return found


class Model:
    """All views there ever were, by name."""

    def __init__(self):
        self.views = {}

    def wrong(self, directory, durable, point):
        """What is not as it has to be on a disk that has `durable` entries whole, and got `point`."""
        found = {path.name: path for path in Path(directory).iterdir()}
        wrong = [f"{name}: is missing" for name, view in self.views.items()
                 if view.must_be(durable, point) and name not in found]  # fmt: skip
        for name, path in found.items():
            view = self.views.get(name)
            if view is None or not view.may_be(durable, point):
                wrong.append(f"{name}: should not be there")
            elif isinstance(view, Snapshot):
                wrong += [f"{name}: {what}" for what in view.wrong(read_all(path))]
                wrong += [f"{name}: is there without {other}" for other, taken in view.group.items()
                          if other not in found and not taken.removed.possible(point)]  # fmt: skip
            else:
                wrong += [f"{name}: {what}" for what in self.wrong_volume(view, found, durable, point, path)]
        return wrong

    def wrong_volume(self, volume, found, durable, point, path):
        content = read_all(path)
        sizes = volume.sizes_at(durable, point)
        if len(content) not in sizes:
            return [f"has {len(content)} bytes, not one of {sizes}"]
        there = [self.views[name] for name in found if isinstance(self.views.get(name), Snapshot)]
        snapshots = [snapshot for snapshot in there if snapshot.volume is volume]
        return volume.wrong(content, volume.oldest(durable, snapshots))


class Worker:
    """Writes one volume, and all that came from it."""

    KINDS = {
        **{"write": 60, "rewrite": 20, "scatter": 3, "churn": 2, "discard": 6, "fsync": 10},
        **{"snapshot": 4, "snapshot_all": 1, "remove": 3, "resize": 2, "rollback": 1},
        **{"clone": 1, "write_clone": 3},
    }
    stamps = itertools.count(1)

    def __init__(self, load, name, kinds, seed):
        self.load, self.lab, self.disk, self.model = load, load.lab, load.disk, load.model
        self.name, self.random = name, Random(seed)
        self.kinds = {kind: self.KINDS[kind] for kind in kinds or self.KINDS}
        self.buffer = mmap.mmap(-1, 32 * BLOCK)  # aligned, as O_DIRECT asks
        self.snapshots, self.clone_name, self.count, self.rollbacks = [], None, 0, 0
        begin = self.disk.flushed()
        self.lab.vsnap("create", f"p/{name}", "--size", str(SECTORS // 2 * SECTOR))
        self.volume = self.model.views[name] = Volume(self.span(begin), SECTORS // 2 * SECTOR)

    def open(self):
        path = self.load.point / self.name
        self.cached, self.direct = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR | os.O_DIRECT)

    def close(self):
        os.close(self.cached)
        os.close(self.direct)

    def span(self, begin):
        return Span(begin, self.disk.flushed())

    def wait_until_closed(self, name):
        wait_until(lambda: self.lab.views()[name]["open"] == 0, what=f"{name} closed")

    def run(self, operations):
        names, weights = list(self.kinds), list(self.kinds.values())
        self.open()
        try:
            for name in self.random.choices(names, weights, k=operations):
                if name == "snapshot_all":
                    self.snapshot_all()
                else:
                    with self.volume.lock:
                        getattr(self, name)()
            with self.volume.lock:
                self.fsync()
        finally:
            self.close()

    # Data

    def some_sectors(self, most):
        """Blocks as a rule; of a few the worker is fond, so that they change often."""
        last = self.volume.size // SECTOR
        at = self.random.randrange(512 if self.random.random() < 0.5 else last)
        length = self.random.randint(1, most)
        if self.random.random() < 0.7:
            at, length = at // 8 * 8, (length + 7) // 8 * 8
        return at, min(at + length, last)

    def put(self, fd, volume, begin, end):
        stamp = next(self.stamps)
        length = (end - begin) * SECTOR
        self.buffer[:length] = b"".join(sector(stamp, index) for index in range(begin, end))
        volume.put(begin, end, stamp)
        written = os.pwrite(fd, memoryview(self.buffer)[:length], begin * SECTOR)
        if written != length:
            raise AssertionError(f"a write of {length} bytes of {self.name} was one of {written}")

    def write(self):
        begin, end = self.some_sectors(self.random.choice((8, 8, 32, 256)))
        self.put(self.random.choice((self.cached, self.direct)), self.volume, begin, end)

    def rewrite(self):
        for _ in range(8):
            begin = self.random.randrange(64) * 8
            self.put(self.direct, self.volume, begin, begin + 8)

    def scatter(self):
        """Many small changes that no fsync follows at once."""
        for _ in range(100):
            begin = self.random.randrange(self.volume.size // SECTOR)
            self.put(self.cached, self.volume, begin, begin + 1)

    def churn(self):
        """Few small changes with an fsync each."""
        for _ in range(8):
            begin = self.random.randrange(64) * 8
            self.volume.put(begin, begin + 8, 0)
            fallocate(self.cached, PUNCH_HOLE | KEEP_SIZE, begin * SECTOR, BLOCK)
            self.put(self.direct, self.volume, begin, begin + 8)
            self.fsync()

    def discard(self):
        begin, end = self.some_sectors(512)
        self.volume.put(begin, end, 0)
        fallocate(self.cached, PUNCH_HOLE | KEEP_SIZE, begin * SECTOR, (end - begin) * SECTOR)

    def fsync(self):
        os.fsync(self.random.choice((self.cached, self.direct)))
        self.volume.confirm(self.disk.flushed())

    # Commands

    def add_snapshot(self, name, snapshot):
        self.model.views[name] = snapshot
        self.snapshots.append(name)

    def next_snapshot(self):
        self.count += 1
        return f"{self.name}@{self.count}"

    def snapshot(self):
        if len(self.snapshots) > 2:
            return self.remove()
        name, begin = self.next_snapshot(), self.disk.flushed()
        self.lab.vsnap("snapshot", f"p/{name}")
        self.add_snapshot(name, Snapshot(self.volume, self.span(begin)))
        self.volume.confirm(self.disk.flushed())

    def snapshot_all(self):
        """Of all volumes at one moment."""
        workers = self.load.workers
        for worker in workers:
            worker.volume.lock.acquire()
        try:
            names = [worker.next_snapshot() for worker in workers]
            begin = self.disk.flushed()
            self.lab.vsnap("snapshot", *(f"p/{name}" for name in names))
            made = self.span(begin)
            taken = {name: Snapshot(worker.volume, made) for name, worker in zip(names, workers, strict=True)}
            for worker, (name, snapshot) in zip(workers, taken.items(), strict=True):
                snapshot.group = taken
                worker.add_snapshot(name, snapshot)
                worker.volume.confirm(made.end)
        finally:
            for worker in workers:
                worker.volume.lock.release()

    def remove(self):
        if not self.snapshots:
            return
        name = self.snapshots.pop(self.random.randrange(len(self.snapshots)))
        view = self.model.views[name]
        begin = self.disk.flushed()
        self.lab.vsnap("rm", "-y", f"p/{name}")
        view.removed = self.span(begin)

    def resize(self):
        """By command, or as any file."""
        size = self.random.randrange(SECTORS // 4, SECTORS + 1) // 8 * 8 * SECTOR
        cut = range(size // SECTOR, self.volume.size // SECTOR)
        self.volume.put(cut.start, max(cut.start, cut.stop), 0)
        begin = self.disk.flushed()
        if self.random.random() < 0.5:
            os.ftruncate(self.cached, size)
            os.fsync(self.cached)
        else:
            self.close()  # or it is not made smaller
            self.wait_until_closed(self.name)
            self.lab.vsnap("resize", "-y", "--shrink", f"p/{self.name}", str(size))
            self.open()
        done = self.span(begin)
        self.volume.confirm(done.end, cut)
        self.volume.sizes.append((done, size))

    def clone(self):
        """Of the last snapshot, in place of the last clone."""
        if self.clone_name is not None:
            self.wait_until_closed(self.clone_name)
            begin = self.disk.flushed()
            self.lab.vsnap("rm", "-y", f"p/{self.clone_name}")
            self.model.views[self.clone_name].removed = self.span(begin)
            self.clone_name = None
        elif self.snapshots:
            self.count += 1
            source, name = self.snapshots[-1], f"{self.name}-clone-{self.count}"
            snapshot, begin = self.model.views[source], self.disk.flushed()
            self.lab.vsnap("clone", f"p/{source}", name)
            self.model.views[name] = Volume(self.span(begin), snapshot.size, snapshot.stamps)
            self.clone_name = name

    def write_clone(self):
        if self.clone_name is None:
            return
        clone = self.model.views[self.clone_name]
        fd = os.open(self.load.point / self.clone_name, os.O_RDWR)
        try:
            for _ in range(3):
                begin = self.random.randrange(clone.size // SECTOR)
                self.put(fd, clone, begin, min(begin + 20, clone.size // SECTOR))
            os.fsync(fd)
            clone.confirm(self.disk.flushed())
        finally:
            os.close(fd)

    def rollback(self):
        if not self.snapshots or self.rollbacks == 4:
            return
        self.rollbacks += 1
        name = self.random.choice(self.snapshots)
        source = self.model.views[name]
        self.close()
        self.wait_until_closed(self.name)
        begin = self.disk.flushed()
        kept = self.lab.json("rollback", "-y", f"p/{name}")["kept"]
        done = self.span(begin)
        self.open()
        # Stays: its name would be given again.
        self.model.views[kept.removeprefix("p/")] = Snapshot(self.volume, done)
        for index, stamp in enumerate(source.stamps):
            if stamp != self.volume.history[index][-1]:
                self.volume.put(index, index + 1, stamp)
        self.volume.sizes.append((done, source.size))
        self.volume.confirm(done.end, range(SECTORS))


class Load:
    """A pool on logged disks, and the threads that use it. `disk`: the only one, or what tells the time."""

    def __init__(self, lab, disk, members, random, options=(), kinds=None):
        self.lab, self.disk, self.options = lab, disk, options
        self.lab.vsnap("pool", "create", "p", *members)
        self.point = lab.mount("p", *options)
        self.model = Model()
        self.workers = []
        for name in NAMES:
            self.workers.append(Worker(self, name, kinds, random.getrandbits(64)))
        self.begin = disk.flushed()  # the pool and the volumes are there
        self.pauses = []  # when it was not mounted

    def run(self):
        """Half of it after the pool was closed and opened."""
        self.run_threads()
        begin = self.disk.flushed()
        self.lab.umount()
        self.lab.mount("p", *self.options)
        self.pauses.append(Span(begin, self.disk.flushed()))
        self.run_threads()
        self.lab.umount()

    def run_threads(self):
        with ThreadPoolExecutor(len(NAMES)) as threads:
            for running in [threads.submit(worker.run, OPERATIONS // 2) for worker in self.workers]:
                running.result()

    def commands(self):
        """When they were under way."""
        for view in self.model.views.values():
            yield from (span for span in (view.made, view.removed) if self.begin <= span.begin < NEVER)
            if isinstance(view, Volume):
                yield from (span for span, _ in view.sizes[1:])


class Again:
    """A state of the disk, or of several, as a pool in a registry of its own."""

    def __init__(self, lab):
        self.lab = lab
        self.directory = lab.directory("again")
        self.point = lab.directory("mnt-again")
        self.env = {
            "VSNAP_STATE_DIR": str(self.directory / "state"),
            "VSNAP_RUNTIME_DIR": str(self.directory / "run"),
        }
        self.said = []

    def vsnap(self, *arguments):
        done = self.lab.vsnap(*arguments, env=self.env, code=None)
        if done.code != 0:
            self.said.append(str(done))
        return done.code == 0

    def attach(self, *paths):
        shutil.rmtree(self.directory)
        self.directory.mkdir()
        self.said = []
        return self.vsnap("pool", "attach", *paths)

    def wrong(self, images, model, durable, point, check_first=False):
        """What is wrong with this state of the disks."""
        paths = [self.lab.path / f"state-{number}.img" for number in range(len(images))]
        for image, path in zip(images, paths, strict=True):
            image.store(path)
        if self.attach(*paths):
            if check_first:
                self.vsnap("check", "p")
            if self.vsnap("mount", "p", self.point):
                try:
                    self.said += model.wrong(self.point, durable, point)
                except OSError as error:
                    self.said.append(f"reading the views: {error}")
                finally:
                    self.vsnap("umount", "p")
            self.vsnap("check", "p")
        return self.said

    def come_back(self, path, by_check):
        """What the pool needs is done, and nothing else; what was wrong."""
        if self.attach(path):
            if by_check:
                self.vsnap("check", "p")
            elif self.vsnap("mount", "p", self.point):
                self.vsnap("umount", "p")
        return self.said


def between(flushes):
    """Where there is anything from one flush to the next: (point after the one, point before the next)."""
    return [(one, next - 1) for one, next in itertools.pairwise(flushes) if next - one > 1]


class Recorded(LabTest):
    through_loop = False
    options = ()

    def setUp(self):
        self.disks = []
        self.addCleanup(lambda: [disk.forget() for disk in self.disks])  # after the lab has ended them
        super().setUp()
        self.random = seeded()

    def new_disk(self, name, content):
        self.disks.append(LoggedDisk(self.lab, name, content))
        return self.disks[-1]

    def make(self, kinds=None):
        """A pool on a new disk, with volumes, and nothing in them."""
        disk = self.new_disk("disk", Image(DISK))
        self.member = self.lab.losetup(disk.path) if self.through_loop else disk.path
        return Load(self.lab, disk, [self.member], self.random, self.options, kinds)

    def end(self, load):
        """The log of its disk."""
        if self.through_loop:
            self.lab.detach(self.member)
        log = load.disk.end()
        self.check_that_it_is_complete(log, load.disk)
        frames = sum(entry.data is not None and entry.data[:8] == b"VSNAPJNL" for entry in log.entries)
        print(f"{len(log.entries)} entries, {len(log.flushes)} flushes, {frames} frames of the journal, "
              f"{log.size >> 20} MiB", flush=True)  # fmt: skip
        return log

    def record(self, kinds=None):
        """Makes and uses a pool; the load, which knows what it held, and the log."""
        load = self.make(kinds)
        load.run()
        return load, self.end(load)

    def check_that_it_is_complete(self, log, disk):
        replay = Replay(log, Image(DISK))
        replay.advance(len(log.entries))
        self.assertTrue(replay.images[0].bytes == disk.image.read_bytes(), "the log lacks a write")

    def points(self, load, log, count):
        """A third of them flushes, a third between two flushes, the rest while a command was under way, while
        the pool was closed and opened, or anywhere; in order."""
        last = len(log.entries)
        flushes = [flush for flush in log.flushes if flush >= load.begin]
        found = self.random.sample(flushes, min(count // 3, len(flushes)))
        for begin, end in self.random.choices(between(flushes), k=count // 3):
            found.append(self.random.choice((end, self.random.randint(begin + 1, end))))
        commands = [*load.pauses, *self.random.choices(list(load.commands()), k=count // 6)]
        found += [self.random.randint(span.begin, min(span.end, last)) for span in commands]
        while len(found) < count - 1:
            found.append(self.random.randint(load.begin, last))
        return [*sorted(found), last]

    def leave_out_flushes(self, *which):
        """From now on these that the daemon asks for are not made, and said to have been."""
        pid = self.lab.daemon_pid()
        strace = self.lab.start("strace", "-f", "-qq", "-o", self.lab.path / "trace", "--trace=fdatasync",
                                *which, "-p", str(pid))  # fmt: skip
        self.addCleanup(strace.stdout.close)
        status = Path(f"/proc/{pid}/status")
        wait_until(lambda: strace.poll() is not None or "TracerPid:\t0" not in status.read_text(),
                   what="the daemon traced")  # fmt: skip
        if strace.poll() is not None:
            self.skipTest(f"this machine lacks the right to trace: {strace.stdout.read().strip()}")
        return strace

    def demand(self, wrong, images, what):
        if wrong and KEEP:
            for number, image in enumerate(images):
                image.store(Path(KEEP) / f"state-{number}.img")
        self.assertEqual(wrong[:20], [], what)

    def check_states(self, count):
        load, log = self.record()
        replay, again, lost = Replay(log, Image(DISK)), Again(self.lab), 0
        points = self.points(load, log, count)
        for point in points:
            durable = replay.durable_at(point)
            lost += point > durable
            image = replay.cut(point, self.random)
            wrong = again.wrong([image], load.model, durable, point, check_first=self.random.random() < 0.5)
            self.demand(wrong, [image], f"after {point} of {len(log.entries)} entries, {durable} flushed")
        print(f"{len(points)} states, {lost} of them with writes after the last flush", flush=True)


class States(Recorded):
    def test_what_was_confirmed_is_in_every_state_that_the_disk_can_be_left_in(self):
        self.check_states(STATES)

    def test_it_is_also_there_when_the_power_goes_again_while_the_pool_comes_back(self):
        load, log = self.record()
        replay, again, count = Replay(log, Image(DISK)), Again(self.lab), 0
        for turn, point in enumerate(self.points(load, log, max(STATES // 8, 4))):
            durable = replay.durable_at(point)
            where = f"after {point} of {len(log.entries)} entries, {durable} flushed"
            first = replay.cut(point, self.random)
            disk = self.new_disk("back", first)
            self.demand(again.come_back(disk.path, by_check=turn % 2 == 0), [first], where)
            back = disk.end()
            second = Replay(back, first)
            for _, end in between([0, *back.flushes]):  # before each flush of that
                image = second.cut(end, self.random)
                wrong = again.wrong([image], load.model, durable, point)
                self.demand(wrong, [image], f"{where}, and {end} of {len(back.entries)} then")
                count += 1
        print(f"{count} states", flush=True)


class StatesOfALoopDevice(Recorded):
    through_loop = True

    def test_what_was_confirmed_is_in_every_state_that_the_disk_can_be_left_in(self):
        self.check_states(STATES // 2)


class StatesOfALoopDevicePastThePageCache(StatesOfALoopDevice):
    options = ("-o", "direct=on")


class Planted(Recorded):
    """A harness that has never caught a bug proves nothing."""

    def last_copies(self, load, log):
        """Of what the volumes hold at the end: {entry that brought a sector of it: (volume, sector)}."""
        entries = {}  # of (stamp, sector) the last one
        for number, entry in enumerate(log.entries):
            for at in range(0, len(entry.data or b""), SECTOR):
                stamp, index = struct.unpack_from("<QQ", entry.data, at)
                if stamp and index < SECTORS and entry.data[at : at + SECTOR] == sector(stamp, index):
                    entries[stamp, index] = number
        found = {}
        for worker in load.workers:
            for index in range(worker.volume.size // SECTOR):
                number = entries.get((worker.volume.history[index][-1], index))
                if number is not None:
                    found[number] = (worker.name, index)
        return found

    def wrong_without(self, entries, load, log, point):
        replay = Replay(log, Image(DISK), without=entries)
        replay.advance(point)
        return Again(self.lab).wrong([replay.images[0]], load.model, point, point)

    def test_a_log_with_one_confirmed_write_missing_is_found(self):
        load, log = self.record(kinds=("write", "rewrite", "discard", "fsync", "snapshot"))
        copies, last = self.last_copies(load, log), len(log.entries)
        self.assertEqual(self.wrong_without([], load, log, last), [])
        for number in self.random.sample(sorted(copies), 5):
            name, index = copies[number]
            wrong = self.wrong_without([number], load, log, last)
            self.mentions("\n".join(wrong), f"{name}: sector {index}:")

    def test_a_log_without_what_a_command_wrote_is_found(self):
        load, log = self.record(kinds=("write", "fsync", "snapshot"))
        views = load.model.views
        kept = [name for name in views if "@" in name and views[name].removed.begin == NEVER]
        for name in self.random.sample(sorted(kept), 3):
            made = views[name].made
            self.assertEqual(self.wrong_without([], load, log, made.end), [])
            wrong = self.wrong_without(range(made.begin, made.end), load, log, made.end)
            self.assertTrue(wrong, f"{name} was made in entries {made.begin} to {made.end}")

    @unittest.skipUnless(shutil.which("strace"), "this machine lacks strace")
    def test_a_daemon_that_leaves_out_flushes_is_found(self):
        load = self.make(kinds=("write", "churn", "fsync", "snapshot"))
        strace = self.leave_out_flushes("--inject=fdatasync:retval=0:when=1+2")
        load.run_threads()
        self.lab.umount()
        strace.wait(timeout=30)  # it ends with the daemon
        log = self.end(load)
        self.assertIn("INJECTED", (self.lab.path / "trace").read_text())
        replay, again = Replay(log, Image(DISK)), Again(self.lab)
        for count, point in enumerate(self.points(load, log, 60)):
            image = replay.cut(point, self.random)
            wrong = again.wrong([image], load.model, replay.durable_at(point), point)
            if wrong:
                print(f"found in state {count + 1}: {wrong[0]}", flush=True)
                return
        self.fail("nobody missed them")


class Clock:
    """In place of the number of entries: microseconds, since it was made."""

    def __init__(self):
        self.start = time.monotonic_ns()

    def flushed(self):
        return (time.monotonic_ns() - self.start) // 1000


class TwoMembers(Recorded):
    """Each behind a log of its own."""

    def make_pair(self, kinds=None):
        self.pair = [self.new_disk(f"disk-{number}", Image(DISK // 2)) for number in range(2)]
        clock = Clock()
        load = Load(self.lab, clock, [disk.path for disk in self.pair], self.random, self.options, kinds)
        self.moments = Moments(self.pair, clock.flushed)
        return load

    def end_pair(self):
        """Of each disk the log; the moments to cut them at, in order, the end among them."""
        moments = self.moments.end()
        logs = [disk.end() for disk in self.pair]
        end = self.moments.clock()
        entries = " and ".join(str(len(log.entries)) for log in logs)
        print(f"{entries} entries, {len(moments)} moments", flush=True)
        return logs, [*moments, Moment(end, end, [log.size for log in logs])]

    def record_pair(self):
        load = self.make_pair()
        try:
            load.run()
        finally:
            self.moments.end()
        return load, *self.end_pair()

    def cut(self, replays, moment):
        points = [replay.log.entries_in(size) for replay, size in zip(replays, moment.sizes, strict=True)]
        lost = sum(point > replay.durable_at(point) for replay, point in zip(replays, points, strict=True))
        images = [replay.cut(point, self.random) for replay, point in zip(replays, points, strict=True)]
        return images, lost, f"at {moment.after} us, after {' and '.join(map(str, points))} entries"

    def some(self, load, moments, count):
        """In order; a third of them while a command was under way."""
        chosen = set(self.random.sample(range(len(moments)), min(count - count // 3, len(moments))))
        for span in self.random.choices([*load.pauses, *load.commands()], k=count // 3):
            under_way = [number for number, moment in enumerate(moments)
                         if span.begin <= moment.after and moment.before <= span.end]  # fmt: skip
            chosen.update(self.random.sample(under_way, min(1, len(under_way))))
        return [moments[number] for number in sorted(chosen | {len(moments) - 1})]

    def test_what_was_confirmed_is_there_whatever_each_member_lost(self):
        load, logs, moments = self.record_pair()
        replays, again, one, both = [Replay(log, Image(DISK // 2)) for log in logs], Again(self.lab), 0, 0
        chosen = self.some(load, moments, STATES)
        for moment in chosen:
            images, lost, where = self.cut(replays, moment)
            one, both = one + (lost == 1), both + (lost == 2)
            wrong = again.wrong(images, load.model, moment.after, moment.before,
                                check_first=self.random.random() < 0.5)  # fmt: skip
            self.demand(wrong, images, where)
        print(f"{len(chosen)} states: {one} with writes after the last flush of one member, {both} of both",
              flush=True)  # fmt: skip
        self.assertGreater(len(chosen), min(STATES, 40) // 2)

    def test_a_second_member_from_an_earlier_moment_is_found(self):
        load, logs, moments = self.record_pair()
        replays = [Replay(log, Image(DISK // 2)) for log in logs]
        replays[0].advance(len(logs[0].entries))
        replays[1].advance(logs[1].entries_in(moments[len(moments) // 2].sizes[1]))
        last = moments[-1]
        images = [replay.images[0] for replay in replays]
        self.assertTrue(Again(self.lab).wrong(images, load.model, last.after, last.before))

    @unittest.skipUnless(shutil.which("strace"), "this machine lacks strace")
    def test_a_daemon_that_leaves_out_the_flushes_of_its_second_member_is_found(self):
        load = self.make_pair(kinds=("write", "churn", "fsync", "snapshot"))
        try:
            strace = self.leave_out_flushes("--inject=fdatasync:retval=0", "-P", str(self.pair[1].path))
            load.run_threads()
            self.lab.umount()
        finally:
            self.moments.end()
        strace.wait(timeout=30)
        logs, moments = self.end_pair()
        self.assertIn("INJECTED", (self.lab.path / "trace").read_text())
        replays, again = [Replay(log, Image(DISK // 2)) for log in logs], Again(self.lab)
        for count, moment in enumerate(self.some(load, moments, 60)):
            images, _, _ = self.cut(replays, moment)
            wrong = again.wrong(images, load.model, moment.after, moment.before)
            if wrong:
                print(f"found in state {count + 1}: {wrong[0]}", flush=True)
                return
        self.fail("nobody missed them")


if __name__ == "__main__":
    lacking = missing()
    if lacking:
        print(f"skipped: this machine lacks {lacking}")
        sys.exit(SKIPPED)
    main()
