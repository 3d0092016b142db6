#!/usr/bin/env python3
"""Members that are used past the page cache (-o direct=on)."""

import mmap
import os

from support import BLOCK, MIB, LabTest, main, read_all, seeded

SIZE = 16 * MIB
SECTOR = 512


class Direct(LabTest):
    on_disk = True

    def setUp(self):
        super().setUp()
        self.random = seeded()

    def make(self, sector_bytes):
        disk = self.lab.file("disk", 256 * MIB)
        self.device = self.lab.losetup(disk, "--sector-size", str(sector_bytes))
        self.lab.vsnap("pool", "create", "p", self.device)
        self.point = self.lab.mount("p", "-o", "direct=on")
        self.lab.vsnap("create", "p/v", "--size", str(SIZE))
        self.model = bytearray(SIZE)

    def flags_of_member(self):
        """The flags with which the daemon has the device open."""
        process = f"/proc/{self.lab.daemon_pid()}"
        for fd in os.listdir(f"{process}/fd"):
            if os.readlink(f"{process}/fd/{fd}") == self.device:
                with open(f"{process}/fdinfo/{fd}") as lines:
                    return int(next(line.split()[1] for line in lines if line.startswith("flags:")), 8)
        self.fail(f"the daemon does not have {self.device} open")

    def write_sectors(self, fd, count):
        """Of any length and place, also in parts of a block, past the page cache of the mount."""
        for _ in range(count):
            length = self.random.randrange(1, 40) * SECTOR
            offset = self.random.randrange((SIZE - length) // SECTOR + 1) * SECTOR
            data = self.random.randbytes(length)
            with mmap.mmap(-1, length) as buffer:  # aligned, as O_DIRECT asks
                buffer[:] = data
                self.assertEqual(os.pwrite(fd, buffer, offset), length)
            self.model[offset : offset + length] = data

    def check_crashes(self):
        for turn in range(3):
            fd = os.open(self.point / "v", os.O_RDWR | os.O_DIRECT)
            self.write_sectors(fd, 150)
            os.fsync(fd)
            os.close(fd)
            self.lab.vsnap("snapshot", f"p/v@{turn}")
            kept = bytes(self.model)
            self.lab.kill_daemon()
            self.lab.mount("p", "-o", "direct=on")
            self.assertTrue(read_all(self.point / "v") == kept, f"kill {turn}: content differs")
            self.assertTrue(read_all(self.point / f"v@{turn}") == kept, f"kill {turn}: snapshot differs")
        self.lab.umount()
        self.lab.check()  # through the page cache

    def test_a_device_with_blocks_of_4096_keeps_what_fsync_confirmed(self):
        self.make(BLOCK)
        self.assertTrue(self.flags_of_member() & os.O_DIRECT)
        self.check_crashes()

    def test_a_device_with_blocks_of_512_keeps_what_fsync_confirmed(self):
        self.make(SECTOR)
        self.check_crashes()

    def test_a_member_that_is_added_is_used_the_same_way(self):
        self.make(BLOCK)
        second = self.lab.losetup(self.lab.file("second", 256 * MIB), "--sector-size", "4096")
        self.lab.vsnap("pool", "add", "p", second)
        self.device = second
        self.assertTrue(self.flags_of_member() & os.O_DIRECT)

    def test_without_the_option_the_page_cache_is_used(self):
        self.make(BLOCK)
        self.lab.umount()
        self.lab.mount()
        self.assertFalse(self.flags_of_member() & os.O_DIRECT)


if __name__ == "__main__":
    main()
