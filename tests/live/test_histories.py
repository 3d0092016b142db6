#!/usr/bin/env python3
"""What programs are answered that use one volume through several paths and hosts, while daemons die and
networks break: history_client writes it down, and judges whether one volume could have answered so.

A round on two hosts is some seconds in which both use the volume, a fault, and a snapshot. The normal run has
53 of them, 50 with a kill, a daemon that stands still or a cable that is cut, and 8 kills on one host: some
two minutes and a half.

VSNAP_HISTORY_ROUNDS: how many rounds of each kind instead, and kills of each kind on one host.
VSNAP_KEEP_HISTORIES: a folder where the records of a test that fails are kept.
"""

import contextlib
import mmap
import os
import re
import signal
import sys
import time
from pathlib import Path

import support
from test_hosts import HostsTest

BUILT = support.ROOT / "build/release/bin/history_client"
CLIENT = Path(os.environ.get("VSNAP_HISTORY_CLIENT", BUILT)).resolve()
ROUNDS = int(os.environ.get("VSNAP_HISTORY_ROUNDS") or 0)
BLOCKS = 24  # so few that the clients meet all the time
WORKERS = 2  # on each path

READER = """import os, sys
file = os.open(sys.argv[1], os.O_RDONLY)
while True:
    os.posix_fadvise(file, 0, 4096, os.POSIX_FADV_DONTNEED)
    os.pread(file, 4096, 0)
"""


class Clients:
    """Those that read and write, in processes of their own: whoever uses a mount may stand still with it."""

    def __init__(self, test):
        self.test, self.lab = test, test.lab
        self.folder = test.lab.directory("histories")
        self.numbers = self.looks = self.snapshots = 0
        self.made = {}  # of each snapshot: its number, and when its command began and ended
        self.running = []
        self.deaths = []  # when a daemon was killed

    def start(self, seconds, *files, words=lambda *argv: list(argv)):
        seed = self.test.random.randrange(1 << 32)
        process = self.lab.start(*words(CLIENT, "run", self.folder / "client", str(self.numbers), str(seed),
                                        str(round(1000 * seconds)), str(BLOCKS), str(WORKERS), *files))
        self.numbers += WORKERS * len(files)
        self.running.append(process)

    def wait(self):
        for process in self.running:
            output = process.communicate(timeout=90)[0]
            self.test.assertEqual((0, ""), (process.returncode, output))
        self.running = []

    def kill(self, pid):
        """A daemon: what is under way then may be carried out by it, and by the next one again."""
        self.deaths.append(time.monotonic_ns())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.deaths.append(time.monotonic_ns())

    def snapshot(self, vsnap, spec):
        """Makes one; again where nobody answered, which may make none or find the one that was made."""
        began = time.monotonic_ns()
        deadline = time.monotonic() + 60
        while (done := vsnap("snapshot", spec, code=None)).code != 0 and "exists" not in done.err:
            self.test.assertLess(time.monotonic(), deadline, done)
            time.sleep(0.05)
        self.snapshots += 1
        self.made[spec] = (self.snapshots, began, time.monotonic_ns())

    def look(self, spec, path):
        self.looks += 1
        number, began, ended = self.made[spec]
        self.lab.run(CLIENT, "look", self.folder / f"look.{self.looks}", str(number), str(began), str(ended),
                     str(BLOCKS), path)

    def judge(self):
        """How many reads were answered, and how many operations failed."""
        deaths = [word for death in self.deaths for word in ("--death", str(death))]
        found = self.lab.run(CLIENT, "check", *deaths, *sorted(self.folder.iterdir()), code=None)
        print(found.out[:4000], flush=True)
        if found.code != 0:
            self.keep()
        self.test.assertEqual(0, found.code, found.out[:4000] + found.err)
        return (int(re.search(rf"(\d+) {word}", found.out).group(1)) for word in ("reads", "failed"))

    def keep(self):
        if folder := os.environ.get("VSNAP_KEEP_HISTORIES"):
            self.lab.run("cp", "--sparse=always", "-r", self.folder, Path(folder) / self.test.id())


class OneHost(support.LabTest):
    def setUp(self):
        super().setUp()
        self.random = support.seeded()
        self.lab.pool()
        self.point = self.lab.mount("p")
        self.lab.vsnap("create", "p/v", "--size", str(BLOCKS * support.BLOCK))
        self.device = self.lab.map("p/v")
        self.clients = Clients(self)

    def use(self, fault, rounds, *files):
        """Snapshots and faults while all paths are used; the snapshots are looked at then, and in the end."""
        self.clients.start(rounds, *files)
        for number in range(rounds):
            time.sleep(self.random.uniform(0.1, 0.5))
            spec = f"p/v@s{number}"
            if number % 2:
                fault()
            self.clients.snapshot(self.lab.vsnap, spec)
            self.clients.look(spec, self.point / f"v@s{number}")
        self.clients.wait()
        for spec in self.clients.made:
            self.clients.look(spec, self.point / spec.split("/")[1])
        reads, failed = self.clients.judge()
        self.assertGreater(reads, 100 * rounds)
        self.assertEqual(0, failed)

    def kill(self):
        self.clients.kill(self.lab.daemon_pid())

    def past_the_cache(self):
        return f"direct:{self.point}/v", f"direct:{self.device}"

    def beside_the_cache(self):
        return f"direct:{self.point}/v", f"cached:{self.point}/v"

    def test_a_file_and_a_loop_device_show_one_volume(self):
        self.use(lambda: None, 3, *self.past_the_cache())

    def test_what_is_cached_is_what_the_volume_holds(self):
        self.use(lambda: None, 3, *self.beside_the_cache())

    def stale_after(self, path, writes=6000):
        """Which writes to the device had returned when the file still showed what was before."""
        reader = self.lab.start(sys.executable, "-c", READER, self.point / "v")
        device, file = os.open(path, os.O_RDWR | os.O_DIRECT), os.open(self.point / "v", os.O_RDONLY)
        stale = []
        with mmap.mmap(-1, support.BLOCK) as block:  # aligned, as O_DIRECT asks
            for number in range(1, writes):
                word = number.to_bytes(8, "little")
                block[:8] = word
                os.pwrite(device, block, 0)
                if os.pread(file, 8, 0) != word:
                    stale.append(number)
        os.close(file)
        os.close(device)
        reader.kill()
        reader.communicate()
        return stale

    def test_what_a_loop_device_has_written_is_in_the_file(self):
        self.assertEqual([], self.stale_after(self.device))
        other = self.lab.losetup(self.point / "v", "--direct-io=on")  # by a file that was not opened so
        self.assertEqual([], self.stale_after(other))
        self.lab.detach(other)

    def test_a_file_and_a_loop_device_when_the_daemon_is_killed(self):
        self.use(self.kill, 2 * (ROUNDS or 4), *self.past_the_cache())

    def test_what_is_cached_when_the_daemon_is_killed(self):
        self.use(self.kill, 2 * (ROUNDS or 4), *self.beside_the_cache())


class SharedVolume(HostsTest):
    """alpha coordinates the pool; beta has joined it, and reads and writes the same volume through alpha."""

    def setUp(self):
        super().setUp()
        self.random = support.seeded()
        self.far = self.lab.directory("mnt-beta")
        self.alpha.vsnap("create", "lab/v", "--size", str(BLOCKS * support.BLOCK))
        self.share()
        self.join(None, "--member", self.member)
        self.beta.vsnap("mount", "lab", self.far)
        self.clients = Clients(self)

    def use(self, fault, rounds, seconds):
        """Rounds of a fault each, in which both hosts use the volume for so many seconds, and one makes a
        snapshot. How many operations failed."""
        for number in range(ROUNDS or rounds):
            here, there = self.point / "v", self.far / "v"
            self.clients.start(seconds, f"direct:{here}", f"cached:{here}")
            self.clients.start(seconds, f"direct:{there}", f"{there}", words=self.beta.words)
            time.sleep(self.random.uniform(0.3, 0.8))
            fault()
            spec = f"lab/v@s{number}"
            self.clients.snapshot(self.random.choice((self.alpha, self.beta)).vsnap, spec)
            self.clients.wait()
            for point in (self.point, self.far):
                support.wait_until((point / f"v@s{number}").exists, 30, f"{spec} is shown")
                self.clients.look(spec, point / f"v@s{number}")
        for spec in self.clients.made:
            self.clients.look(spec, self.point / spec.split("/")[1])
        reads, failed = self.clients.judge()
        self.assertGreater(reads, 100)
        return failed

    def cut(self, seconds):
        self.switch.ip("link", "set", "beta", "down")
        time.sleep(seconds)
        self.switch.ip("link", "set", "beta", "up")

    def stop(self, pid, seconds):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)


class TwoHosts(SharedVolume):
    """All of it within the lease: it is longer than a daemon takes to come back on a busy machine."""

    lease_s = 10

    def test_two_hosts_show_one_volume(self):
        self.assertEqual(0, self.use(lambda: None, 3, 1))

    def test_the_coordinator_is_killed(self):
        self.assertEqual(0, self.use(lambda: self.clients.kill(self.lab.daemon_pid("lab")), 10, 1.5))


class TwoHostsAndALease(SharedVolume):
    lease_s = 1  # what outlasts it does not take long

    def test_the_joined_hosts_daemon_is_killed(self):
        self.use(lambda: self.clients.kill(self.beta.daemon_pid()), 12, 1)

    def test_the_joined_hosts_daemon_stands_still_beyond_its_lease(self):
        self.use(lambda: self.stop(self.beta.daemon_pid(), 1.5 * self.lease_s), 5, 3)

    def test_the_coordinator_stands_still(self):
        self.use(lambda: self.stop(self.lab.daemon_pid("lab"), 1.5 * self.lease_s), 5, 3)

    def test_the_cable_is_cut_for_a_moment(self):
        self.use(lambda: self.cut(0.3 * self.lease_s), 12, 1)

    def test_the_cable_is_cut_beyond_the_lease(self):
        self.use(lambda: self.cut(1.5 * self.lease_s), 6, 3.5)


if __name__ == "__main__":
    support.main()
