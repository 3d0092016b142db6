#!/usr/bin/env python3
"""Volumes that one host alone has open: it reads and overwrites their blocks on the members itself, until
somebody else wants them; and what is left of a host that was lost with one.

alpha coordinates the pool; beta has joined it. Both see the member as a file; in LateWrites beta sees it
through slow_file, which can be stopped, as a disk that hangs: then writes of beta land at any time later.
"""

import contextlib
import errno
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import support
import test_histories
import test_sharing
from test_hosts import HostsTest
from test_sharing import Writer, number_at

SLOW_FILE = Path(os.environ.get("VSNAP_SLOW_FILE", support.ROOT / "build/release/bin/slow_file")).resolve()
BLOCK = support.BLOCK
MIB = 1 << 20


class Delegated:
    """What tests of any class of hosts ask."""

    on_disk = True  # what lies in memory has no direct I/O before Linux 6.6

    def rows(self, volume="v", host="beta"):
        return [row for row in self.alpha.json("lock", "ls", "lab")["locks"]
                if row["name"] == f"lab/{volume}" and row["host"] == host]

    def modes(self, volume="v"):
        return {row["mode"] for row in self.rows(volume)}

    def waits_until_delegated(self, volume="v", file=None):
        """A volume that is used, by the test if need be: by a file that is open."""

        def is_delegated():
            if file is not None:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                os.pread(file.fileno(), BLOCK, 0)
            return "delegated" in self.modes(volume)

        support.wait_until(is_delegated, 30, f"{volume} is delegated")

    def left(self, volume="v"):
        """The snapshots that keep what beta was lost with."""
        return sorted(row["left"] for row in self.rows(volume) if row["mode"] == "lost")

    def waits_until_nothing_is_left(self, volume="v"):
        support.wait_until(lambda: "lost" not in self.modes(volume), 60, "nothing is left of what was lost")

        support.wait_until(lambda: "@lost-" not in self.alpha.vsnap("ls", "lab").out, 30, "no snapshot")

    @contextlib.contextmanager
    def stopped(self, pid):
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


class Hammer:
    """A process that only writes, so that mostly a write is under way: a part of a file, again and again."""

    PARTS = 3  # fewer than the threads of a daemon

    def __init__(self, test, path, part):
        self.written = 0
        self.errors = set()
        self.process = test.started(sys.executable, "-B", __file__, "--hammer", path, str(part))
        self.thread = threading.Thread(target=test_sharing.Reader.follow, args=(self,), daemon=True)
        self.thread.start()

    writes_on = Writer.writes_on
    end = Writer.end


def hammer(path, part):
    """What the process of a Hammer does."""
    descriptor = os.open(path, os.O_WRONLY | os.O_DIRECT)
    blocks = os.fstat(descriptor).st_size // BLOCK // Hammer.PARTS
    buffer = mmap.mmap(-1, BLOCK)
    number = 0
    while True:
        buffer[:] = os.urandom(BLOCK)
        try:
            os.pwritev(descriptor, [buffer], (int(part) * blocks + number % blocks) * BLOCK)
        except OSError as error:
            print("error", error.errno, flush=True)
            time.sleep(0.05)
            continue
        number += 1
        print("written", number, flush=True)


class DelegationTest(Delegated, HostsTest):
    size = MIB

    def setUp(self):
        super().setUp()
        self.random = support.seeded()
        self.far = self.lab.directory("mnt-beta")
        self.share(*self.mount_options())
        self.join(None, "--member", self.member_of_beta())
        self.alpha.vsnap("create", "lab/v", "--size", str(self.size))
        self.content = self.random.randbytes(self.size)
        support.write_at(self.point / "v", 0, self.content)
        self.beta.vsnap("mount", "lab", self.far)

    def mount_options(self):
        return ()

    def member_of_beta(self):
        return self.member

    def written(self, volume="v"):
        """A Writer on beta that overwrites blocks which nothing shares, of a volume that is delegated."""
        writer = Writer(self, self.far / volume)
        self.waits_until_delegated(volume)
        writer.writes_on()
        return writer

    def ends_well(self, writer, volume="v"):
        """All that was answered is there."""
        writer.writes_on()
        self.assertEqual((0, set()), (writer.end().wrong, writer.errors))
        blocks = os.stat(self.point / volume).st_size // BLOCK
        here = support.read_all(self.point / volume)
        self.assertEqual(here, support.read_all(self.far / volume))
        held = {number_at(here, block) for block in range(blocks)}
        missing = [number for number in range(max(1, writer.written - self.size // BLOCK + 2), writer.written)
                   if number not in held]
        self.assertEqual([], missing)


class OneHost(DelegationTest):
    """Longer leases: how long a delegation may be used without a word from the coordinator."""

    lease_s = 20

    def test_overwrites_need_no_coordinator(self):
        writer = self.written()
        writer.writes_on(self.size // BLOCK)  # each block is the volume's own by now
        with self.stopped(self.lab.daemon_pid("lab")):
            writer.writes_on(self.size // BLOCK, seconds=self.lease_s / 3)
        self.ends_well(writer)

    def test_the_cable_is_cut_for_a_moment(self):
        writer = self.written()
        for _ in range(3):
            self.switch.ip("link", "set", "beta", "down")
            time.sleep(1)
            self.switch.ip("link", "set", "beta", "up")
            writer.writes_on()
        self.ends_well(writer)

    def test_reads_need_no_coordinator(self):
        with open(self.far / "v", "rb", 0) as file:
            self.waits_until_delegated(file=file)
            self.assertEqual(self.content, file.read(self.size))
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            with self.stopped(self.lab.daemon_pid("lab")):
                self.assertEqual(self.content, file.read(self.size))


class FirstWrites(DelegationTest):
    """Blocks that nothing has written before, to space that beta was granted."""

    lease_s = 20

    def setUp(self):
        super().setUp()
        self.alpha.vsnap("create", "lab/w", "--size", str(32 * MIB))
        self.buffer = mmap.mmap(-1, BLOCK)
        self.stored = {}

    def write(self, descriptor, block):
        self.stored[block] = self.buffer[:] = self.random.randbytes(BLOCK)
        os.pwritev(descriptor, [self.buffer], block * BLOCK)

    @contextlib.contextmanager
    def granted(self):
        """The volume, open for direct I/O, once first writes need nobody: some are tried."""
        with contextlib.ExitStack() as stack:
            descriptor = os.open(self.far / "w", os.O_RDWR | os.O_DIRECT)
            stack.callback(os.close, descriptor)
            for block in range(100):
                self.write(descriptor, block)
                time.sleep(0.01)
            self.waits_until_delegated("w")
            for block in range(100, 200):
                self.write(descriptor, block)
                time.sleep(0.01)
            yield descriptor

    def is_there(self, path):
        here = support.read_all(path)
        wrong = [block for block, data in self.stored.items()
                 if here[block * BLOCK:(block + 1) * BLOCK] != data]
        self.assertEqual([], wrong)

    def write_alone(self, descriptor, blocks):
        with self.stopped(self.lab.daemon_pid("lab")):
            began = time.monotonic()
            for block in blocks:
                self.write(descriptor, block)
            self.assertLess(time.monotonic() - began, self.lease_s / 2)

    def test_first_writes_need_no_coordinator(self):
        with self.granted() as descriptor:
            self.write_alone(descriptor, range(300, 600))
            self.is_there(self.far / "w")
            os.fsync(descriptor)
        self.is_there(self.point / "w")
        self.alpha.vsnap("check", "lab")

    def test_what_was_answered_is_there_after_the_hosts_daemon_was_killed(self):
        """Nobody can have handed over anything: the coordinator stands still."""
        with self.granted() as descriptor:
            with self.stopped(self.lab.daemon_pid("lab")):
                for block in range(300, 600):
                    self.write(descriptor, block)
                os.kill(self.beta.daemon_pid(), signal.SIGKILL)
            self.write(descriptor, 700)
            self.is_there(self.far / "w")
        self.is_there(self.point / "w")
        self.alpha.vsnap("check", "lab")

    def test_what_was_answered_is_there_after_the_coordinator_was_killed(self):
        with self.granted() as descriptor:
            for block in range(300, 600):
                self.write(descriptor, block)
            os.kill(self.lab.daemon_pid("lab"), signal.SIGKILL)
            for block in range(600, 700):
                self.write(descriptor, block)
            os.fsync(descriptor)
        self.is_there(self.point / "w")
        self.alpha.vsnap("check", "lab")

    def test_a_snapshot_has_what_was_written_before_it(self):
        with self.granted() as descriptor:
            for block in range(300, 600):
                self.write(descriptor, block)
            self.alpha.vsnap("snapshot", "lab/w@s")
            before = dict(self.stored)
            for block in range(250, 650):
                self.write(descriptor, block)
            self.is_there(self.far / "w")
        self.is_there(self.point / "w")
        self.stored = before
        self.is_there(self.point / "w@s")


class OtherHosts(DelegationTest):
    def test_whoever_opens_it_elsewhere_sees_the_last_write(self):
        with open(self.far / "v", "r+b", 0) as there:
            for number in range(8):
                self.waits_until_delegated(file=there)
                at = self.random.randrange(self.size // BLOCK - 2) * BLOCK + self.random.choice((0, 0, 512))
                block = self.random.randbytes(BLOCK)
                self.assertEqual(BLOCK, os.pwrite(there.fileno(), block, at))
                with open(self.point / "v", "r+b", 0) as here:
                    self.assertEqual(block, os.pread(here.fileno(), BLOCK, at), number)
                    self.assertEqual({"write"}, self.modes())
                    block = self.random.randbytes(BLOCK)
                    os.pwrite(here.fileno(), block, at)
                    self.assertEqual(block, os.pread(there.fileno(), BLOCK, at), number)
                    os.pwrite(there.fileno(), block[::-1], at)
                    self.assertEqual(block[::-1], os.pread(here.fileno(), BLOCK, at), number)

    def test_what_the_coordinators_kernel_kept_is_not_shown_afterwards(self):
        self.assertEqual(self.content, support.read_all(self.point / "v"))  # and into its cache
        content = self.random.randbytes(self.size)
        with open(self.far / "v", "r+b", 0) as there:
            self.waits_until_delegated(file=there)
            there.write(content)
        self.assertEqual(content, support.read_all(self.point / "v"))

    def test_a_volume_that_is_open_on_both_is_delegated_to_nobody(self):
        with open(self.point / "v", "rb"), open(self.far / "v", "r+b", 0) as there:
            there.write(b"x" * BLOCK)
            self.assertEqual({"write"}, self.modes())
        with open(self.far / "v", "rb", 0) as there:
            self.waits_until_delegated(file=there)

    def test_a_writer_only_waits_while_another_host_opens_it_again_and_again(self):
        writer = self.written()
        for _ in range(6):
            support.read_at(self.point / "v", 0, BLOCK)
            writer.writes_on(50)
        self.waits_until_delegated()
        self.ends_well(writer)


    def test_what_was_answered_is_there_after_all_daemons_were_killed(self):
        content = self.random.randbytes(self.size)
        there = open(self.far / "v", "r+b", 0)
        self.waits_until_delegated(file=there)
        self.assertEqual(self.size, there.write(content))
        os.fsync(there.fileno())
        support.kill_with_keeper(self.beta.daemon_pid())
        support.kill_with_keeper(self.lab.daemon_pid("lab"))
        with contextlib.suppress(OSError):
            there.close()
        for point in (self.point, self.far):
            self.lab.run("umount", "-l", point, code=None)
        self.share()
        self.assertEqual(content, support.read_all(self.point / "v"))  # once the lease is over
        self.assertEqual(1, len(self.left()))


class NotDelegated(DelegationTest):
    def mount_options(self):
        return ("-o", "direct=off")

    def test_where_the_coordinator_uses_the_page_cache_volumes_are_not_delegated(self):
        writer = Writer(self, self.far / "v")
        writer.writes_on(self.size // BLOCK)
        self.assertEqual({"write"}, self.modes())
        self.ends_well(writer)


class Images(DelegationTest):
    def test_an_adopted_volume_is_not_delegated(self):
        image = self.lab.file("raw.img", MIB, self.content)
        self.alpha.vsnap("adopt", image, "lab/raw")
        writer = Writer(self, self.far / "raw")
        writer.writes_on(self.size // BLOCK)
        self.assertEqual({"write"}, self.modes("raw"))
        self.ends_well(writer, "raw")


class Commands(DelegationTest):
    """What needs the volume as a whole, while beta writes it."""

    def setUp(self):
        super().setUp()
        self.writer = self.written()

    def goes_on(self, command, *arguments, **options):
        """The command is carried out, and the volume is beta's again."""
        done = self.alpha.vsnap(command, *arguments, **options)
        self.waits_until_delegated()
        self.writer.writes_on(self.size // BLOCK)
        return done

    def test_a_snapshot_holds_each_write_that_was_answered_and_none_later(self):
        for number in range(6):
            before = self.writer.written
            self.goes_on("snapshot", f"lab/v@s{number}")
            after = self.writer.written
            held = support.read_all(self.point / f"v@s{number}")
            numbers = sorted(number_at(held, block) for block in range(self.size // BLOCK))
            # One more may have been answered that is not said yet.
            self.assertGreaterEqual(numbers[-1], before)
            self.assertLess(numbers[-1], after)
            self.assertEqual(list(range(numbers[-1] - len(numbers) + 1, numbers[-1] + 1)), numbers)
        self.ends_well(self.writer)

    def test_a_command_says_for_how_long_it_held_writes(self):
        held = self.alpha.vsnap("snapshot", "-v", "lab/v@s").out
        self.assertRegex(held, r"(?m)^lab/v@s: I/O paused for [0-9.]+ m?s \(2 hosts\)$")
        self.waits_until_delegated()
        for number, host in enumerate((self.alpha, self.beta)):
            self.waits_until_delegated()
            taken = host.json("snapshot", f"lab/v@{number}")
            self.assertEqual(2, taken["hosts"])
            self.assertGreater(taken["pause_ns"], 0)
        self.waits_until_delegated()
        resized = self.beta.json("resize", "lab/v", str(2 * self.size))
        self.assertEqual(1, resized["hosts"])  # nothing is held here
        self.assertGreater(resized["pause_ns"], 0)
        self.waits_until_delegated()
        self.ends_well(self.writer)

    def test_the_list_of_hosts_says_what_each_holds(self):
        host = self.alpha.json("host", "list", "lab")["hosts"][0]
        self.assertEqual((1, 1, 0), (host["open"], host["delegated"], host["lost"]))
        self.mentions(self.alpha.vsnap("host", "list", "lab").out, "HOLDS", "1 open, 1 delegated")
        self.assertEqual("1 open, 1 delegated", self.beta.json("host", "list", "lab")["hosts"][0]["holds"])
        self.ends_well(self.writer)
        support.wait_until(lambda: self.alpha.json("host", "list", "lab")["hosts"][0]["holds"] is None,
                           what="that it holds nothing")

    def test_it_is_resized(self):
        self.goes_on("resize", "lab/v", str(2 * self.size))
        self.assertEqual(2 * self.size, os.stat(self.far / "v").st_size)
        self.ends_well(self.writer)

    def test_it_is_cloned_and_flattened(self):
        self.goes_on("snapshot", "lab/v@s")
        self.goes_on("clone", "lab/v@s", "c")
        cloned = self.written("c")
        self.alpha.vsnap("flatten", "lab/c")
        self.waits_until_delegated("c")
        self.ends_well(cloned, "c")
        self.ends_well(self.writer)

    def test_a_full_sized_snapshot_is_made_and_refreshed(self):
        self.goes_on("snapshot", "--full", "lab/v@f")
        self.alpha.vsnap("wait", "lab/v@f")
        self.goes_on("refresh", "lab/v@f")
        self.alpha.vsnap("wait", "lab/v@f")
        self.ends_well(self.writer)

    def test_it_is_renamed(self):
        self.goes_on("snapshot", "lab/v@s")
        self.alpha.vsnap("rename", "lab/v", "w")
        self.waits_until_delegated("w")
        self.writer.writes_on()
        support.wait_until(lambda: (self.far / "w").exists(), what="its new name")
        self.ends_well(self.writer, "w")

    def test_what_is_refused_while_it_is_open_changes_nothing(self):
        self.goes_on("snapshot", "lab/v@s")
        self.goes_on("rollback", "lab/v@s", code=4)
        self.goes_on("rm", "-r", "-y", "lab/v", code=4)
        self.ends_well(self.writer)

    def test_it_is_rolled_back_once_it_is_closed(self):
        self.goes_on("snapshot", "lab/v@s")
        held = support.read_all(self.point / "v@s")
        self.writer.writes_on()
        self.writer.end()
        support.wait_until(lambda: not self.modes(), what="closed")
        self.alpha.vsnap("rollback", "--discard", "-y", "lab/v@s")
        for point in (self.point, self.far):
            self.assertEqual(held, support.read_all(point / "v"))

    def test_its_file_is_removed_and_replaced(self):
        (self.point / "other").write_bytes(b"y" * self.size)
        os.rename(self.point / "other", self.point / "v")
        self.writer.writes_on()  # on what has no name any more
        self.assertEqual(b"y" * self.size, support.read_all(self.far / "v"))
        with open(self.far / "v", "r+b", 0) as file:
            self.waits_until_delegated(file=file)
            os.unlink(self.point / "v")
            file.write(b"z" * self.size)
            self.assertEqual(b"z" * BLOCK, os.pread(file.fileno(), BLOCK, 0))
        self.writer.writes_on()
        self.assertEqual((0, set()), (self.writer.end().wrong, self.writer.errors))
        self.alpha.vsnap("check", "lab")


class Faults(Delegated, test_sharing.WritingFaults):
    """All faults of a host that writes, of one that writes by itself."""

    size = MIB

    def setUp(self):
        super().setUp()
        self.waits_until_delegated()
        self.writer.writes_on(self.size // BLOCK)

    def takes_over(self):
        """Also places: what beta may still write to is not given to others."""
        blocks = super().takes_over()
        snapshots = self.left()
        self.assertEqual(1, len(snapshots))
        self.assertRegex(snapshots[0], r"^lab/v@lost-beta-\d+$")
        self.assertEqual(["lost"], [hold["tag"] for hold in
                                    self.alpha.json("info", snapshots[0])["view"]["holds"]])
        refused = self.alpha.vsnap("snapshot", "lab/v@while-lost", code=4).err
        self.mentions(refused, "host beta was lost", "lock break --fenced lab/v beta")
        self.others = self.random.randbytes(16 * MIB)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.point / "others")
        (self.point / "others").write_bytes(self.others)
        support.fsync(self.point / "others")
        return blocks

    def gets_errors_until_it_opens_again(self, blocks):
        super().gets_errors_until_it_opens_again(blocks)
        self.waits_until_nothing_is_left()
        self.assertEqual(self.others, support.read_all(self.point / "others"))
        self.alpha.vsnap("snapshot", f"lab/v@after-{time.monotonic_ns()}")
        self.alpha.vsnap("check", "lab")

    def before_a_cut(self):
        self.waits_until_delegated()

    def test_both_daemons_die(self):
        for _ in range(3):
            for pid in (self.beta.daemon_pid(), self.lab.daemon_pid("lab")):
                os.kill(pid, signal.SIGKILL)
            self.writer.writes_on()
        self.ends_without_an_error()

    def test_a_coordinator_that_comes_back_waits_for_what_it_had_delegated(self):
        """Whoever opens the volume in the new process sees all that beta was answered."""
        for _ in range(3):
            before = self.writer.written
            os.kill(self.lab.daemon_pid("lab"), signal.SIGKILL)
            here = support.read_all(self.point / "v")
            last = max(number_at(here, block) for block in range(self.size // BLOCK))
            self.assertGreaterEqual(last, before)
            self.writer.writes_on()
        self.ends_without_an_error()


@support.unittest.skipUnless(SLOW_FILE.exists(), f"{SLOW_FILE} is not built")
class LateWrites(DelegationTest):
    """Beta's disk hangs with writes under way, which land when it goes on, whatever has happened by then."""

    def member_of_beta(self):
        below = self.lab.directory("below")
        size_mib = os.stat(self.member).st_size // MIB
        self.disk = self.started(SLOW_FILE, str(size_mib), "0", below, self.member)
        support.wait_until(lambda: os.path.ismount(below), what="beta's way to the member")
        return below / "disk"

    def setUp(self):
        super().setUp()
        self.writers = [Hammer(self, self.far / "v", part) for part in range(Hammer.PARTS)]
        self.waits_until_delegated()
        for writer in self.writers:
            writer.writes_on(self.size // BLOCK)

    def hangs(self):
        self.disk.send_signal(signal.SIGSTOP)
        before = None
        while before != (now := [writer.written for writer in self.writers]):
            before = now
            time.sleep(0.5)  # until nobody gets any further: now all of them have a write under way

    def lands(self):
        self.disk.send_signal(signal.SIGCONT)

    def all_that_is_free(self):
        """Blocks for another volume, as many as there are: those of the lost host would be among them."""
        free = self.lab.space("lab")["available"] // MIB * MIB - 4 * MIB
        content = self.random.randbytes(MIB)
        with open(self.point / "others", "wb") as file:
            for _ in range(free // MIB):
                file.write(content)
            os.fsync(file.fileno())
        return content

    def nothing_of_others_is_harmed(self, blocks, content):
        self.assertEqual(blocks, support.read_all(self.point / "v"))
        others = support.read_all(self.point / "others")
        self.assertEqual(content * (len(others) // MIB), others)

    def comes_back(self, blocks, content):
        support.wait_until(lambda: all(one.errors for one in self.writers), 90, "errors")
        support.wait_until(lambda: self.state_of("beta") == "live", 60, "that beta is back")
        for writer in self.writers:
            self.assertEqual({errno.EIO}, writer.end().errors)
        self.waits_until_nothing_is_left()
        self.nothing_of_others_is_harmed(blocks, content)
        self.assertEqual(blocks, support.read_all(self.far / "v"))
        self.alpha.vsnap("check", "lab")

    def takes_over(self):
        blocks = self.random.randbytes(self.size)
        support.write_at(self.point / "v", 0, blocks)
        support.fsync(self.point / "v")
        self.assertEqual(1, len(self.left()))
        return blocks, self.all_that_is_free()

    def kept_for_it(self):
        """What the snapshot shows that keeps what may still be written; nobody else can be sure of that."""
        path = self.point / self.left()[0].split("/")[1]
        with open(path, "rb", 0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return file.read(self.size)

    def lands_there(self):
        before = self.kept_for_it()
        self.lands()
        support.wait_until(lambda: self.kept_for_it() != before, 30, "a late write lands")

    def test_writes_of_a_host_that_stood_still_land_where_nobody_looks(self):
        pid = self.beta.daemon_pid()
        self.hangs()
        with self.stopped(pid):
            support.wait_until(lambda: self.state_of("beta") == "lost", 30, "that alpha notices")
            taken = self.takes_over()
            self.lands_there()
            self.nothing_of_others_is_harmed(*taken)
        self.comes_back(*taken)

    def test_writes_of_a_host_that_was_cut_off_land_where_nobody_looks(self):
        self.hangs()
        self.switch.ip("link", "set", "beta", "down")
        support.wait_until(lambda: self.state_of("beta") == "lost", 30, "that alpha notices")
        taken = self.takes_over()
        self.lands_there()
        self.nothing_of_others_is_harmed(*taken)
        self.switch.ip("link", "set", "beta", "up")
        self.comes_back(*taken)

    def test_a_host_with_writes_under_way_returns_nothing_before_they_have_landed(self):
        """It is heard, but does not answer in time: then it has no session any more."""
        self.hangs()
        taken = self.takes_over()  # waits for the volume, and then for the lease
        self.assertEqual(1, len(self.left()))
        self.lands()
        self.comes_back(*taken)

    def test_a_disk_that_hangs_for_a_moment_is_waited_for(self):
        self.hangs()
        reader = subprocess.Popen(["dd", f"if={self.point}/v", "of=/dev/null", "status=none"])
        self.addCleanup(reader.wait, 60)
        time.sleep(0.3 * self.lease_s)
        self.lands()
        self.assertEqual(0, reader.wait(60))
        for writer in self.writers:
            writer.writes_on()
            self.assertEqual(set(), writer.end().errors)
        self.assertEqual([], self.left())


class Breaking(DelegationTest):
    def test_a_volume_is_taken_from_a_host_that_has_it_delegated(self):
        with open(self.far / "v", "r+b", 0) as there:
            self.waits_until_delegated(file=there)
            there.write(b"x" * BLOCK)
            self.alpha.vsnap("lock", "break", "lab/v", "beta")
            support.write_at(self.point / "v", 0, b"y" * self.size)
            self.fails_with(errno.EIO, there.write, b"z" * BLOCK)
            self.fails_with(errno.EIO, os.fsync, there.fileno())
        self.assertEqual(b"y" * self.size, support.read_all(self.point / "v"))

    def test_what_a_host_was_lost_with_ends_when_it_is_said_to_be_off(self):
        writer = self.written()
        refused = self.alpha.vsnap("lock", "break", "--fenced", "-y", "lab/v", "beta", code=4).err
        self.mentions(refused, "beta has a session")
        support.kill_with_keeper(self.beta.daemon_pid())
        self.lab.run("umount", "-l", self.far, code=None)
        support.wait_until(lambda: self.state_of("beta") == "lost", 30, "that alpha notices")
        support.write_at(self.point / "v", 0, b"y" * self.size)
        self.assertEqual(["lab/v@lost-beta-1"], self.left())
        self.assertEqual(0, self.rows()[-1]["open"])
        self.mentions(self.alpha.vsnap("rm", "lab/v@lost-beta-1", code=4).err, "lost")
        plan = self.alpha.vsnap("lock", "break", "--fenced", "-n", "lab/v", "beta").out
        self.mentions(plan, "beta", "remove lab/v@lost-beta-1")
        self.assertEqual(["lab/v@lost-beta-1"], self.left())
        said = self.alpha.json("lock", "break", "--fenced", "-y", "lab/v", "beta")
        self.assertEqual((["lab/v@lost-beta-1"], False), (said["left"], said["dry_run"]))
        self.waits_until_nothing_is_left()
        self.alpha.vsnap("lock", "break", "--fenced", "-y", "lab/v", "beta", code=3)
        self.alpha.vsnap("snapshot", "lab/v@s")
        self.assertEqual(b"y" * self.size, support.read_all(self.point / "v@s"))
        writer.end()

    def test_a_host_that_is_mounted_anew_gives_up_what_it_was_lost_with(self):
        writer = self.written()
        support.kill_with_keeper(self.beta.daemon_pid())
        self.lab.run("umount", "-l", self.far, code=None)
        support.wait_until(lambda: self.state_of("beta") == "lost", 30, "that alpha notices")
        support.write_at(self.point / "v", 0, b"y" * self.size)
        self.assertEqual(["lab/v@lost-beta-1"], self.left())
        self.beta.vsnap("mount", "lab", self.far)
        self.waits_until_nothing_is_left()
        self.assertEqual(b"y" * self.size, support.read_all(self.far / "v"))
        writer.end()


class FenceTest(DelegationTest):
    """The coordinator has a command that ends beta's processes, as others switch a machine off."""

    works = True

    def mount_options(self):
        script = self.lab.path / "fence"
        script.write_text(f"""#!/bin/sh
echo "$1 $2 $VSNAP_POOL $VSNAP_HOST" >> {self.lab.path}/fenced
{'' if self.works else 'exit 1'}
read -r processes < {self.lab.path}/processes
kill -KILL $processes
for process in $processes; do
  while grep -q '^State:[[:space:]]*[^Z]' /proc/$process/status 2>/dev/null; do sleep 0.1; done
done
""")
        script.chmod(0o755)
        return ("--fence", f'{script} "$@"')

    def fenced(self):
        """What the command was asked for, line by line."""
        path = self.lab.path / "fenced"
        return path.read_text().splitlines() if path.exists() else []

    @contextlib.contextmanager
    def stands_still(self):
        pid = self.beta.daemon_pid()
        processes = [support.keeper_of(pid), pid]
        (self.lab.path / "processes").write_text(" ".join(map(str, processes)) + "\n")
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def is_written_elsewhere(self):
        blocks = self.random.randbytes(self.size)
        support.write_at(self.point / "v", 0, blocks)
        support.fsync(self.point / "v")
        return blocks

    def mounts_anew(self):
        self.lab.run("umount", "-l", self.far, code=None)
        self.beta.vsnap("mount", "lab", self.far)


class Fenced(FenceTest):
    def test_nothing_is_kept_for_a_host_that_was_fenced(self):
        writer = self.written()
        os.kill(self.lab.daemon_pid("lab"), signal.SIGKILL)  # the successor has the command, too
        writer.writes_on()
        self.waits_until_delegated()
        with self.stands_still():
            blocks = self.is_written_elsewhere()  # waits for the lease, and for the command
        writer.end()
        self.assertEqual(["lab beta lab beta"], self.fenced())
        self.assertEqual([], self.left())
        self.assertNotIn("@lost-", self.alpha.vsnap("ls", "lab").out)
        self.alpha.vsnap("snapshot", "lab/v@s")
        self.mounts_anew()
        for name in ("v", "v@s"):
            self.assertEqual(blocks, support.read_all(self.far / name))
        self.alpha.vsnap("check", "lab")

    def test_a_host_that_is_lost_while_the_coordinator_is_away_is_fenced_as_well(self):
        writer = self.written()
        with self.stands_still():
            os.kill(self.lab.daemon_pid("lab"), signal.SIGKILL)
            blocks = self.is_written_elsewhere()
            self.waits_until_nothing_is_left()
        writer.end()
        self.assertEqual(["lab beta lab beta"], self.fenced())
        self.assertEqual(blocks, support.read_all(self.point / "v"))

    def test_a_host_with_nothing_delegated_is_not_fenced(self):
        with self.stands_still():
            support.wait_until(lambda: self.state_of("beta") == "lost", 30, "that alpha notices")
            blocks = self.is_written_elsewhere()
        support.wait_until(lambda: self.state_of("beta") == "live", 60, "that beta is back")
        self.assertEqual(blocks, support.read_all(self.far / "v"))
        self.assertEqual([], self.fenced())


class NotFenced(FenceTest):
    works = False

    def test_what_a_host_may_write_that_could_not_be_fenced_is_kept(self):
        writer = self.written()
        with self.stands_still():
            blocks = self.is_written_elsewhere()
            self.assertEqual(["lab/v@lost-beta-1"], self.left())
        self.assertEqual(["lab beta lab beta"], self.fenced())
        self.mentions((self.alpha.runtime / "lab.log").read_text(),
                      "fence command for host beta ended with code 1", "host beta is not fenced")
        self.waits_until_nothing_is_left()  # it is back
        writer.end()
        self.assertEqual(blocks, support.read_all(self.point / "v"))


class FencedForLong(DelegationTest):
    def mount_options(self):
        return ("--fence", f"echo $$ > {self.lab.path}/fence.pid; exec sleep 1000")

    def test_a_mount_that_ends_waits_for_no_fence(self):
        writer = self.written()
        started = self.lab.path / "fence.pid"
        with self.stopped(self.beta.daemon_pid()):
            support.wait_until(lambda: started.exists() and started.read_text().endswith("\n"), 30, "a fence")
            self.alpha.vsnap("umount", "lab")
        self.assertFalse(support.is_running(int(started.read_text())))
        self.mentions((self.alpha.runtime / "lab.log").read_text(), "was killed: the daemon ends")
        writer.end()


class Histories(Delegated, test_histories.TwoHosts):
    """Programs of beta alone, in two ways, while alpha makes snapshots; and now and then alpha's as well."""

    def use(self, fault, seconds, others=False):
        for number in range(test_histories.ROUNDS or 2):
            there = self.far / "v"
            self.clients.start(seconds + 4, f"direct:{there}", f"{there}", words=self.beta.words)
            self.waits_until_delegated()
            fault()
            for part in range(3):
                spec = f"lab/v@s{number}.{part}"
                self.clients.snapshot(self.alpha.vsnap, spec)
                self.clients.look(spec, self.point / spec.split("/")[1])
                if others:
                    self.clients.start(1, f"direct:{self.point / 'v'}")
                time.sleep(self.random.uniform(0.1, 0.4))
            self.clients.wait()
        for spec in self.clients.made:
            self.clients.look(spec, self.point / spec.split("/")[1])
        reads, failed = self.clients.judge()
        self.assertGreater(reads, 100)
        return failed

    def test_alpha_uses_it_now_and_then(self):
        self.assertEqual(0, self.use(lambda: None, 4, others=True))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--hammer"]:
        hammer(*sys.argv[2:])
    support.main()
