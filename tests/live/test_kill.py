#!/usr/bin/env python3
"""kill -9 of the daemon under a verifying load: what a write answered is there, with or without fsync.

VSNAP_KILLS: how many times (20); 1,000 is the long run.
"""

import mmap
import os
import threading
import time
from pathlib import Path

from support import BLOCK, KEEP_SIZE, MIB, PUNCH_HOLE, LabTest, fallocate, main, read_all, seeded, wait_until

KILLS = int(os.environ.get("VSNAP_KILLS") or 20)
BLOCKS = 2048
WORKERS = 3


class Worker:
    """Owns every third block. Knows what each has to hold: what was answered, or what was asked for last."""

    def __init__(self, path, index, random):
        self.path, self.index, self.random = path, index, random
        self.answered = {}  # block -> stamp; 0: discarded
        self.asked = None  # (block, stamp) that has no answer
        self.count = 0
        self.failed = None

    def run(self, direct):
        """Until the mount fails."""
        try:
            fd = os.open(self.path, os.O_RDWR | (os.O_DIRECT if direct else 0))
        except OSError:
            return  # killed already
        page = mmap.mmap(-1, BLOCK)
        try:
            while True:
                block = self.random.randrange(BLOCKS // WORKERS) * WORKERS + self.index
                stamp = 0 if self.random.random() < 0.1 else self.next_stamp()
                self.asked = (block, stamp)
                if stamp:
                    page[:] = stamp.to_bytes(8, "little") * (BLOCK // 8)
                    if os.pwrite(fd, page, block * BLOCK) != BLOCK:
                        self.failed = f"a short write of block {block}"
                else:
                    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, block * BLOCK, BLOCK)
                self.answered[block] = stamp
                self.asked = None
                self.count += 1
        except OSError:
            pass  # the daemon is gone
        finally:
            try:
                os.close(fd)
            except OSError:
                pass

    def next_stamp(self):
        return (self.index + 1) << 56 | self.random.randrange(1, 1 << 56)

    def verify(self, content):
        """What is wrong with the volume now; takes what was not answered for what it is."""
        wrong = []
        for block, stamp in self.answered.items():
            found = content[block * BLOCK : (block + 1) * BLOCK]
            good = [stamp.to_bytes(8, "little") * (BLOCK // 8)]
            if self.asked and self.asked[0] == block:
                good.append(self.asked[1].to_bytes(8, "little") * (BLOCK // 8))
            if found not in good:
                wrong.append(f"block {block}: expected {stamp:x}, found {found[:8].hex()}")
        if self.asked:
            block = self.asked[0]
            self.answered[block] = int.from_bytes(content[block * BLOCK : block * BLOCK + 8], "little")
            self.asked = None
        return wrong


class Kill(LabTest):
    def setUp(self):
        super().setUp()
        self.random = seeded()
        self.lab.pool()
        self.point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", str(BLOCKS * BLOCK))

    def test_what_writes_answered_is_there_after_each_kill(self):
        workers = [Worker(self.point / "v", i, self.random) for i in range(WORKERS)]
        frozen = {}
        for turn in range(KILLS):
            threads = [threading.Thread(target=w.run, args=(turn % 2 == 1,)) for w in workers]
            for thread in threads:
                thread.start()
            time.sleep(self.random.uniform(0.02, 0.3))
            if turn % 3 == 0:
                self.lab.vsnap("snapshot", f"p/v@{turn}")
                frozen[f"v@{turn}"] = None  # what it holds is known once it was read
            self.lab.kill_daemon()
            for thread in threads:
                thread.join()
            self.lab.mount()
            content = read_all(self.point / "v")
            for worker in workers:
                self.assertIsNone(worker.failed)
                self.assertEqual(worker.verify(content), [], f"kill {turn}")
            for name, before in frozen.items():
                now = read_all(self.point / name)
                self.assertTrue(before is None or before == now, f"kill {turn}: {name} has changed")
                frozen[name] = now
            if len(frozen) > 4:
                oldest = next(iter(frozen))
                self.lab.vsnap("rm", "-y", f"p/{oldest}")
                del frozen[oldest]
        self.assertGreater(sum(w.count for w in workers), KILLS * 20)
        self.lab.umount()
        self.lab.check()

    def test_size_and_mode_survive_as_well(self):
        path = self.point / "v"
        for turn in range(5):
            size = MIB + self.random.randrange(8 * MIB)
            with open(path, "r+b", buffering=0) as volume:
                os.ftruncate(volume.fileno(), size)
                os.pwrite(volume.fileno(), b"end", size)
                os.fchmod(volume.fileno(), 0o600 + turn)
            self.lab.kill_daemon()
            self.lab.mount()
            self.assertEqual(path.stat().st_size, size + 3)
            self.assertEqual(path.stat().st_mode & 0o777, 0o600 + turn)
            self.assertEqual(read_all(path)[-3:], b"end")

    def tails(self):
        return list(Path("/dev/shm").glob(f"vsnap-tail-{self.lab.status()['uuid']}"))

    def test_a_tail_is_there_while_the_pool_is_mounted_and_until_what_it_holds_is_kept(self):
        tails = self.tails()
        self.assertEqual(len(tails), 1)
        (self.point / "v").write_bytes(b"without fsync")
        self.lab.kill_daemon()
        self.assertTrue(tails[0].exists())
        self.lab.vsnap("ls", "p")  # a command brings it to the catalog
        self.assertFalse(tails[0].exists())
        self.lab.mount()
        self.assertEqual(read_all(self.point / "v")[:13], b"without fsync")
        self.lab.umount()
        self.assertFalse(tails[0].exists())

    def test_the_tail_of_a_pool_that_is_gone_is_removed_by_the_next_daemon(self):
        tails = self.tails()
        self.lab.kill_daemon()
        (self.lab.path / "p-0.img").unlink()
        self.assertTrue(tails[0].exists())
        self.lab.pool("q")
        self.lab.mount("q")
        wait_until(lambda: not tails[0].exists(), what="the tail removed")

    def test_the_counters_of_a_killed_daemon_are_removed_by_the_next_daemon_of_any_pool(self):
        counters = Path("/dev/shm") / f"vsnap-live-{self.lab.status()['uuid']}"
        self.assertTrue(counters.exists())
        self.lab.kill_daemon()
        self.lab.pool("q")
        self.lab.mount("q")
        wait_until(lambda: not counters.exists(), what="the counters removed")
        self.assertTrue((Path("/dev/shm") / f"vsnap-live-{self.lab.status('q')['uuid']}").exists())
        self.lab.mount()
        self.lab.umount("q")  # which removes its own alone
        self.assertTrue(counters.exists())


if __name__ == "__main__":
    main()
