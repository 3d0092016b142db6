#!/usr/bin/env python3
"""A member that takes its time: many requests wait for it at a time, and few threads."""

import contextlib
import mmap
import os
import re
import subprocess
import threading
import unittest
from pathlib import Path

from support import BLOCK, MIB, ROOT, LabTest, is_running, main, read_all, wait_until

SLOW_FILE = Path(os.environ.get("VSNAP_SLOW_FILE", ROOT / "build/release/bin/slow_file"))
DEPTH = 32
SIZE = 64 * MIB


@unittest.skipUnless(SLOW_FILE.exists(), f"{SLOW_FILE} is not built")
class SlowMember(LabTest):
    options = ()

    def setUp(self):
        self.disk = None
        self.addCleanup(self.end_disk)  # after the lab has cleaned up, which ends it
        super().setUp()
        below = self.lab.directory("below")
        self.disk = self.lab.start(SLOW_FILE, "256", "2000", below)
        wait_until(lambda: os.path.ismount(below), what="the slow file mounted")
        self.device = self.lab.losetup(below / "disk", "--direct-io=on", "--sector-size", "4096")
        self.lab.vsnap("pool", "create", "p", self.device)
        self.point = self.lab.mount("p", *self.options)
        self.lab.vsnap("create", "p/v", "--size", str(SIZE))
        self.content = os.urandom(SIZE)
        with open(self.point / "v", "r+b") as file:
            file.write(self.content)
            os.fsync(file.fileno())

    def end_disk(self):
        if self.disk is not None:
            self.disk.wait(timeout=30)
            self.disk.stdout.close()

    def forget_pages(self):
        subprocess.run(["blockdev", "--flushbufs", self.device], check=True)

    def threads(self):
        return len(os.listdir(f"/proc/{self.lab.daemon_pid()}/task"))

    def at_a_time(self):
        """How many reads the disk had at a time, once nothing uses it any more."""
        self.lab.umount()
        self.lab.detach(self.device)
        self.lab.run("umount", self.lab.path / "below")
        said, _ = self.disk.communicate(timeout=30)
        return int(re.search(r"(\d+) reads at a time", said)[1])

    def test_reads_wait_without_a_thread_each(self):
        self.forget_pages()
        before = self.threads()
        self.lab.run("fio", "--name=read", f"--filename={self.point / 'v'}", "--rw=randread", "--bs=4k",
                     "--direct=1", "--ioengine=libaio", f"--iodepth={DEPTH}", f"--size={SIZE}",
                     "--io_size=8M", timeout=120)
        self.assertLessEqual(self.threads(), before + 4)
        self.assertGreater(self.at_a_time(), DEPTH // 2)

    def test_what_is_read_so_is_what_was_written(self):
        self.forget_pages()
        self.assertTrue(read_all(self.point / "v") == self.content, "content differs")

    def test_the_daemon_ends_while_reads_wait(self):
        self.forget_pages()
        going_on = threading.Event()

        def read_until_the_end(seed):
            fd = os.open(self.point / "v", os.O_RDONLY | os.O_DIRECT)
            buffer = mmap.mmap(-1, BLOCK)  # aligned, as O_DIRECT asks
            with contextlib.suppress(OSError):
                for step in range(SIZE // BLOCK):
                    os.preadv(fd, [buffer], (step * 4099 + seed * 131) % (SIZE // BLOCK) * BLOCK)
                    going_on.set()
            with contextlib.suppress(OSError):
                os.close(fd)

        readers = [threading.Thread(target=read_until_the_end, args=(seed,)) for seed in range(DEPTH)]
        for reader in readers:
            reader.start()
        going_on.wait()
        pid = self.lab.daemon_pid()
        os.kill(pid, 15)
        wait_until(lambda: not is_running(pid), what="daemon ended")
        for reader in readers:
            reader.join()
        self.lab.check()


class SlowMemberPastThePageCache(SlowMember):
    options = ("-o", "direct=on")


if __name__ == "__main__":
    main()
