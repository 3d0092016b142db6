#!/usr/bin/env python3
"""How requests reach the daemon: over /dev/fuse, or over io_uring where it is asked for and can be had."""

import contextlib
import mmap
import os
from pathlib import Path

from support import BLOCK, MIB, LabTest, is_running, main, read_all, wait_until


class OverIoUring(LabTest):
    def setUp(self):
        super().setUp()
        self.lab.pool(size="64M")
        self.point = self.lab.mount("p", "-o", "io_uring")
        self.lab.vsnap("create", "p/v", "--size", "8M")

    def ring_threads(self):
        tasks = Path(f"/proc/{self.lab.daemon_pid()}/task").glob("*/comm")
        return [name for name in (task.read_text().strip() for task in tasks) if name.startswith("fuse-ring")]

    def test_is_used_or_one_line_says_why_not(self):
        log = (self.lab.path / "run" / "p.log").read_text()
        said = [line for line in log.splitlines() if "io_uring" in line]
        self.assertEqual(len(said), 0 if self.ring_threads() else 1, log)

    def test_reads_what_was_written_by_handles_of_both_kinds(self):
        content = os.urandom(4 * MIB)
        path = self.point / "v"
        with open(path, "r+b") as file:
            file.write(content)
        direct = os.open(path, os.O_RDWR | os.O_DIRECT)
        try:
            buffer = mmap.mmap(-1, BLOCK)  # aligned, as O_DIRECT asks
            for at in range(0, 4 * MIB, 64 * BLOCK):
                buffer[:] = bytes([at % 251]) * BLOCK
                os.pwritev(direct, [buffer], at)
                content = content[:at] + buffer[:] + content[at + BLOCK :]
            buffer.close()
        finally:
            os.close(direct)
        self.assertTrue(read_all(path)[: 4 * MIB] == content, "content differs")

    def test_ends_with_files_open(self):
        file = os.open(self.point / "v", os.O_RDWR)
        try:
            os.pwrite(file, b"x" * BLOCK, 0)
            os.fsync(file)
            pid = self.lab.daemon_pid()
            os.kill(pid, 15)
            wait_until(lambda: not is_running(pid), what="daemon ended")
        finally:
            with contextlib.suppress(OSError):  # the mount is gone
                os.close(file)
        self.lab.check()


if __name__ == "__main__":
    main()
