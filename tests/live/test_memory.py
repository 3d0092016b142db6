#!/usr/bin/env python3
"""The daemon's memory stays within what `-o cache=SIZE` allows and a part that does not grow with volumes."""

import os
import threading
from pathlib import Path

from support import BLOCK, MIB, REGION, LabTest, main, seeded

CACHE = 8 * MIB
REGIONS = 16384  # a map takes 4.6 KiB for a region with one block: 73 MiB in all, nine times the limit
THREADS = 4
# What comes besides the maps, the pages of the catalog and what the daemon has from the start: regions that
# were taken out and wait for a grace period (1 MiB); tables that find a region; the log of changes and the
# commit of it (some 500 bytes a change, which may come from a quarter of as many regions as fit at their
# largest, here 19 with one change each); the ring of that log (1 MiB) and the rows written last (3 MiB); a
# stack and buffers for each worker that was not needed before; and what malloc keeps of all that for each
# thread.
FIXED = 16 * MIB


class Memory(LabTest):
    def setUp(self):
        super().setUp()
        self.random = seeded()
        self.lab.pool(size="1G")
        self.point = self.lab.mount("p", "-o", f"cache={CACHE}")
        self.lab.vsnap("create", "p/v", "--size", str(REGIONS * REGION))
        self.process = Path("/proc") / str(self.lab.daemon_pid())
        self.from_the_start = self.memory("VmRSS")

    def memory(self, which):
        line = next(l for l in (self.process / "status").read_text().splitlines() if l.startswith(which))
        return int(line.split()[1]) * 1024

    def forget_peak(self):
        (self.process / "clear_refs").write_text("5")

    def stays_within_the_limit(self, what):
        # SQLite keeps pages of the catalog: all there are, up to 64 MiB.
        pages = min(self.lab.space()["metadata_used"], 64 * MIB)
        bound = self.from_the_start + CACHE + pages + FIXED
        peak = self.memory("VmHWM")
        print(f"{what}: {peak / MIB:.0f} MiB at most, allowed are {bound / MIB:.0f} MiB", flush=True)
        self.assertLess(peak, bound)

    def in_threads(self, work):
        """work(region) once for each region, in random order, from several threads."""
        order = list(range(REGIONS))
        self.random.shuffle(order)
        failures = []

        def some(share):
            try:
                for region in share:
                    work(region)
            except BaseException as why:  # told by the thread that waits
                failures.append(why)

        threads = [threading.Thread(target=some, args=(order[i::THREADS],)) for i in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    @staticmethod
    def at(region):
        return region * REGION + region * 7919 % (REGION // BLOCK) * BLOCK

    @staticmethod
    def content(region):
        return region.to_bytes(8, "little") * (BLOCK // 8)

    def write_all(self, name):
        fd = os.open(self.point / name, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.in_threads(lambda region: os.pwrite(fd, self.content(region), self.at(region)))
            os.fsync(fd)
        finally:
            os.close(fd)

    def read_all(self, name):
        fd = os.open(self.point / name, os.O_RDONLY | os.O_CLOEXEC)
        try:

            def read(region):
                found = os.pread(fd, BLOCK, self.at(region))
                if found != self.content(region):
                    raise AssertionError(f"{name}: wrong content in region {region}")

            for _ in range(2):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # else the kernel answers the second time
                self.in_threads(read)
        finally:
            os.close(fd)

    def test_maps_of_far_more_than_fits_are_written_and_read(self):
        self.write_all("v")
        self.stays_within_the_limit("writes")
        self.lab.vsnap("snapshot", "p/v@s")
        self.lab.umount()
        self.lab.mount("p", "-o", f"cache={CACHE}")
        self.process = Path("/proc") / str(self.lab.daemon_pid())
        self.forget_peak()
        self.read_all("v")
        self.stays_within_the_limit("reads")
        self.read_all("v@s")
        self.write_all("v")
        self.stays_within_the_limit("reads of a snapshot and writes beside it")


if __name__ == "__main__":
    main()
