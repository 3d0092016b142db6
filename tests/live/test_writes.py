#!/usr/bin/env python3
"""Writes of any offset and length, discards and holes, against a plain buffer that gets the same."""

import mmap
import os
import threading

from support import (
    BLOCK,
    KEEP_SIZE,
    KIB,
    PUNCH_HOLE,
    REGION,
    ZERO_RANGE,
    LabTest,
    data_ranges,
    fallocate,
    fio,
    main,
    read_all,
    seeded,
    used_bytes,
)

SIZE = 3 * REGION


class Shadow:
    """A volume next to a buffer: each operation is done to both. `mapped`: the blocks that take space."""

    def __init__(self, path, random):
        self.path, self.random = path, random
        self.fd = os.open(path, os.O_RDWR)
        self.direct = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.content = bytearray(SIZE)
        self.mapped = set()

    def close(self):
        for fd in {self.fd, self.direct} - {-1}:
            os.close(fd)
        self.fd = self.direct = -1

    def somewhere(self):
        """(offset, length), often across the border of a region, often of sectors or blocks only."""
        length = self.random.choice((1, 7, 512, 4096, 5000, 65536, self.random.randrange(1, 300 * KIB)))
        at = self.random.randrange(SIZE - length)
        if self.random.random() < 0.3:
            at = self.random.choice((1, 2)) * REGION - self.random.randrange(length + 1)
        unit = self.random.choice((1, 1, 512, BLOCK))
        at -= at % unit
        return at, max(unit, length - length % unit)

    def write(self):
        at, length = self.somewhere()
        data = self.random.randbytes(length)
        if at % BLOCK == 0 and length % BLOCK == 0 and self.random.random() < 0.5:
            buffer = mmap.mmap(-1, length)  # aligned, as O_DIRECT asks
            buffer[:] = data
            os.pwritev(self.direct, [buffer], at)
            buffer.close()
        else:
            os.pwrite(self.fd, data, at)
        self.content[at : at + length] = data
        self.mapped.update(range(at // BLOCK, (at + length - 1) // BLOCK + 1))

    def discard(self):
        at, length = self.somewhere()
        fallocate(self.fd, self.random.choice((PUNCH_HOLE, ZERO_RANGE)) | KEEP_SIZE, at, length)
        self.content[at : at + length] = bytes(length)
        self.mapped.difference_update(range(-(-at // BLOCK), (at + length) // BLOCK))

    def steps(self, count):
        for _ in range(count):
            self.random.choice((self.write, self.write, self.write, self.discard))()

    def ranges(self):
        found = []
        for block in sorted(self.mapped):
            if found and found[-1][1] == block * BLOCK:
                found[-1][1] += BLOCK
            else:
                found.append([block * BLOCK, (block + 1) * BLOCK])
        return [tuple(pair) for pair in found]


class RandomWrites(LabTest):
    def setUp(self):
        super().setUp()
        self.lab.pool(size="256M", members=3)
        self.point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", str(SIZE))
        self.shadow = Shadow(self.point / "v", seeded())
        self.addCleanup(self.shadow.close)

    def verify(self):
        shadow = self.shadow
        self.assertTrue(read_all(shadow.path) == shadow.content, "content differs")
        self.assertEqual(data_ranges(shadow.path), shadow.ranges())
        self.assertEqual(used_bytes(shadow.path), len(shadow.mapped) * BLOCK)

    def test_of_any_offset_and_length_are_read_back_and_mapped_exactly(self):
        for _ in range(4):
            self.shadow.steps(150)
            self.verify()
        # All of it comes from the members, and nothing from memory.
        self.shadow.close()
        self.lab.umount()
        self.lab.check()
        self.lab.mount()
        self.verify()

    def test_leave_snapshots_as_they_were(self):
        kept = {}
        for index in range(5):
            self.shadow.steps(80)
            self.lab.vsnap("snapshot", f"p/v@s{index}")
            kept[f"v@s{index}"] = (bytes(self.shadow.content), self.shadow.ranges())
            self.verify()
        self.shadow.steps(80)
        self.verify()
        for name, (content, ranges) in kept.items():
            self.assertTrue(read_all(self.point / name) == content, name)
            self.assertEqual(data_ranges(self.point / name), ranges, name)

    def test_whole_blocks_after_a_snapshot_take_just_their_own_space(self):
        self.shadow.steps(100)
        self.lab.vsnap("snapshot", "p/v@s")
        before = self.lab.space()["data"]
        os.pwrite(self.shadow.fd, b"n" * 10 * BLOCK, REGION - 5 * BLOCK)
        self.assertEqual(self.lab.space()["data"], before + 10 * BLOCK)

    def test_discarding_everything_gives_all_space_back(self):
        self.shadow.steps(100)
        fallocate(self.shadow.fd, PUNCH_HOLE | KEEP_SIZE, 0, SIZE)
        self.assertEqual(used_bytes(self.shadow.path), 0)
        self.assertEqual(data_ranges(self.shadow.path), [])
        os.fsync(self.shadow.fd)  # what was freed counts from the next commit on
        self.assertEqual(self.lab.space()["data"], 0)


class Verified(LabTest):
    def setUp(self):
        super().setUp()
        self.lab.pool(size="512M", members=2)
        self.point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "64M")

    def verified(self, *options):
        done = self.lab.run(*fio(self.point / "v", *options, size="64M"), timeout=120)
        self.assertIn("err= 0", done.out)

    def test_direct_random_writes_of_mixed_sizes(self):
        self.verified(
            "--rw=randwrite",
            "--bsrange=4k-128k",
            "--blockalign=4k",
            "--direct=1",
            "--ioengine=libaio",
            "--iodepth=32",
        )

    def test_direct_writes_of_single_sectors(self):
        self.verified(
            "--rw=randwrite",
            "--bs=512",
            "--direct=1",
            "--ioengine=libaio",
            "--iodepth=16",
            "--io_size=8M",
        )

    def test_cached_random_writes_of_odd_sizes(self):
        self.verified("--rw=randwrite", "--bsrange=512-70k", "--bs_unaligned=1", "--ioengine=psync")

    def test_cached_sequential_writes_with_fsync(self):
        self.verified("--rw=write", "--bs=64k", "--ioengine=psync", "--fsync=16")

    def test_direct_writes_while_snapshots_are_taken_and_removed(self):
        load = self.lab.start(
            *fio(
                self.point / "v",
                "--rw=randwrite",
                "--bs=4k",
                "--direct=1",
                "--ioengine=libaio",
                "--iodepth=16",
                "--time_based=1",
                "--runtime=4",
                size="64M",
            )
        )
        try:
            count = 0
            while load.poll() is None and count < 40:
                self.lab.vsnap("snapshot", f"p/v@s{count}")
                if count >= 3:
                    self.lab.vsnap("rm", f"p/v@s{count - 3}")
                count += 1
            output = load.communicate(timeout=60)[0]
        finally:
            load.kill()
        self.assertEqual(load.returncode, 0, output)
        self.assertGreater(count, 5)
        self.lab.umount()
        self.lab.check()


class Overlapping(LabTest):
    """Writers of the same blocks at the same time: each block ends up with the content of one of them."""

    def setUp(self):
        super().setUp()
        self.random = seeded()
        self.lab.pool()
        self.point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "4M")

    def race(self, flags, rounds=60, writers=4):
        fds = [os.open(self.point / "v", os.O_RDWR | flags) for _ in range(writers)]
        try:
            for turn in range(rounds):
                if turn % 10 == 0:
                    self.lab.vsnap(
                        "snapshot", f"p/v@{flags}-{turn}"
                    )  # so that they have to find new places
                self.one_round(fds)
        finally:
            for fd in fds:
                os.close(fd)

    def one_round(self, fds):
        jobs = []
        for index, fd in enumerate(fds):
            length = self.random.randrange(1, 40)
            first = self.random.randrange(64 - length)
            jobs.append((fd, first, length, bytes([self.random.randrange(1, 64) * 4 + index])))
        start = threading.Barrier(len(jobs))

        def write(fd, first, length, fill):
            buffer = mmap.mmap(-1, length * BLOCK)
            buffer[:] = fill * (length * BLOCK)
            start.wait()
            os.pwritev(fd, [buffer], first * BLOCK)

        threads = [threading.Thread(target=write, args=job) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        content = read_all(self.point / "v")
        for block in range(64):
            fills = {fill for _, first, length, fill in jobs if first <= block < first + length}
            found = content[block * BLOCK : (block + 1) * BLOCK]
            if fills:
                self.assertIn(found, {fill * BLOCK for fill in fills}, f"block {block} is a mix")

    def test_direct_writers_leave_one_or_the_other_in_each_block(self):
        self.race(os.O_DIRECT)

    def test_cached_writers_leave_one_or_the_other_in_each_block(self):
        self.race(0)

    def test_writers_of_parts_of_one_block_both_stay(self):
        fds = [os.open(self.point / "v", os.O_RDWR | os.O_DIRECT) for _ in range(8)]
        for turn in range(40):
            if turn % 8 == 0:
                self.lab.vsnap("snapshot", f"p/v@{turn}")
            fills = [bytes([self.random.randrange(1, 256)]) * 512 for _ in fds]
            start = threading.Barrier(len(fds))

            def write(index, fill):
                buffer = mmap.mmap(-1, BLOCK)
                buffer[:512] = fill
                start.wait()
                os.pwritev(fds[index], [memoryview(buffer)[:512]], turn * BLOCK + index * 512)

            threads = [threading.Thread(target=write, args=job) for job in enumerate(fills)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(
                read_all(self.point / "v")[turn * BLOCK : (turn + 1) * BLOCK], b"".join(fills)
            )
        for fd in fds:
            os.close(fd)


if __name__ == "__main__":
    main()
