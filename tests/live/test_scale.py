#!/usr/bin/env python3
"""Many snapshots and many extents: still right. What commands and reads take for it is printed."""

import os
import statistics
import time

from support import BLOCK, MIB, LabTest, fio, main, read_at, write_at

SNAPSHOTS = 1000
SIZE = 4096 * MIB


class Scale(LabTest):
    def setUp(self):
        super().setUp()
        self.lab.pool(size="6G")
        self.point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", str(SIZE))
        # Every second block: 524,288 extents that cannot be joined.
        self.lab.run(
            "fio",
            "--name=spread",
            f"--filename={self.point}/v",
            "--rw=write:4k",
            "--bs=4k",
            "--direct=1",
            "--ioengine=libaio",
            "--iodepth=32",
            f"--size={SIZE}",
            f"--io_size={SIZE // 2}",
            timeout=120,
        )
        self.lab.vsnap("create", "p/load", "--size", "64M")

    def timed(self, *arguments):
        start = time.monotonic()
        self.lab.vsnap(*arguments)
        return time.monotonic() - start

    def test_a_thousand_snapshots_under_load_are_right(self):
        load = self.lab.start(
            *fio(
                self.point / "load",
                "--rw=randwrite",
                "--bs=4k",
                "--direct=1",
                "--ioengine=libaio",
                "--iodepth=8",
                "--rate_iops=2000",
                "--time_based=1",
                "--runtime=600",
                size="64M",
            )
        )
        times = []
        try:
            for index in range(SNAPSHOTS):
                write_at(self.point / "v", 2 * index * BLOCK, index.to_bytes(8, "little"))
                times.append(self.timed("snapshot", f"p/v@{index}"))
        finally:
            load.terminate()
            load.communicate(timeout=30)
        first, last = statistics.median(times[:100]), statistics.median(times[-100:])
        print(
            f"snapshot command: first hundred {first * 1000:.1f} ms, last {last * 1000:.1f} ms",
            flush=True,
        )
        self.assertEqual(self.lab.status()["snapshots"], SNAPSHOTS)
        for index in range(0, SNAPSHOTS, 37):
            for block, expected in ((index, index), (max(index - 1, 0), max(index - 1, 0))):
                found = read_at(self.point / f"v@{index}", 2 * block * BLOCK, 8)
                self.assertEqual(int.from_bytes(found, "little"), expected)
            later = read_at(self.point / f"v@{index}", 2 * (index + 1) * BLOCK, 8)
            self.assertNotEqual(
                int.from_bytes(later, "little"), index + 1, "a snapshot holds a later write"
            )
        self.assertEqual(len(os.listdir(self.point)), SNAPSHOTS + 2)
        self.read_speed()
        self.remove_all()

    def read_speed(self):
        """Reads of the oldest snapshot against reads of a volume without one, in the same run."""
        self.lab.vsnap("create", "p/plain", "--size", "64M")
        self.lab.run(
            "dd", "if=/dev/urandom", f"of={self.point}/plain", "bs=1M", "count=64", "conv=notrunc"
        )
        rates = {}
        for name in ("plain", "v@0", "plain", "v@0"):
            out = self.lab.run(
                "fio",
                "--name=r",
                f"--filename={self.point}/{name}",
                "--rw=randread",
                "--bs=4k",
                "--direct=1",
                "--ioengine=libaio",
                "--iodepth=16",
                "--size=64M",
                "--readonly",
                "--time_based=1",
                "--runtime=1",
                "--output-format=terse",
            ).out
            rates.setdefault(name, []).append(float(out.split(";")[7]))
        medians = {name: statistics.median(found) for name, found in rates.items()}
        print(f"reads a second: {medians}", flush=True)

    def remove_all(self):
        names = [f"p/v@{index}" for index in range(SNAPSHOTS) if index % 10]
        start = time.monotonic()
        for at in range(0, len(names), 300):
            self.lab.vsnap("rm", *names[at : at + 300])
        print(f"{len(names)} removed in {time.monotonic() - start:.2f} s", flush=True)
        self.lab.settle()
        for index in range(0, SNAPSHOTS, 10):
            found = read_at(self.point / f"v@{index}", 2 * index * BLOCK, 8)
            self.assertEqual(int.from_bytes(found, "little"), index)
        self.lab.umount()
        self.lab.check()


if __name__ == "__main__":
    main()
