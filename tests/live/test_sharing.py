#!/usr/bin/env python3
"""Snapshots of a pool that another host has mounted: read from the members here, while that one writes.

alpha coordinates the pool and writes; beta has only its snapshots. Both see the members as files.
"""

import contextlib
import errno
import mmap
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import support
from test_hosts import LEASE_S, PORT, Host, HostsTest

MIB = 1 << 20


class Reader:
    """A process that reads a file again and again, each time all of it, and counts what is not as expected.

    Of its own: what is forked beside an open file closes it, and would wait for a daemon that stands still.
    """

    def __init__(self, test, path, expected):
        self.rounds = self.wrong = 0
        self.errors = set()
        copy = test.lab.file(f"expected-{Path(path).name}", len(expected), expected)
        self.process = test.started(sys.executable, "-B", __file__, "--read", path, copy)
        self.thread = threading.Thread(target=self.follow, daemon=True)
        self.thread.start()

    def follow(self):
        try:
            for line in self.process.stdout:
                word, number = line.split()
                if word == "error":
                    self.errors.add(int(number))
                else:
                    setattr(self, word, int(number))
        except ValueError:
            pass  # the test is over

    def reads_on(self, rounds=3):
        start = self.rounds
        support.wait_until(lambda: self.rounds >= start + rounds, 60, "the reader goes on")

    def end(self):
        self.process.terminate()
        self.process.wait(90)
        self.thread.join(10)
        return self


def read_again_and_again(path, copy):
    """What the process of a Reader does: says how often it has read all, and what went wrong."""
    expected = Path(copy).read_bytes()
    buffer = mmap.mmap(-1, MIB)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    rounds = wrong = 0
    while True:
        for at in range(0, len(expected), MIB):
            try:
                count = os.preadv(descriptor, [buffer], at)
            except OSError as error:
                print("error", error.errno, flush=True)
                time.sleep(0.05)
                continue
            if buffer[:count] != expected[at : at + MIB]:
                wrong += 1
                print("wrong", wrong, flush=True)
        rounds += 1
        print("rounds", rounds, flush=True)
        time.sleep(0.01)


class Writer:
    """A process that writes one block of a file after the other, again and again, each with the next number,
    reads it back, and has it made durable now and then. It goes on after an error, with the same file."""

    def __init__(self, test, path):
        self.written = self.wrong = 0
        self.errors = set()
        self.process = test.started(sys.executable, "-B", __file__, "--write", path)
        self.thread = threading.Thread(target=Reader.follow, args=(self,), daemon=True)
        self.thread.start()

    def writes_on(self, count=200, seconds=60):
        start = self.written
        support.wait_until(lambda: self.written >= start + count, seconds, "the writer goes on")

    end = Reader.end


def number_at(content, block):
    return int.from_bytes(content[block * 4096 : block * 4096 + 8], "little")


def write_again_and_again(path):
    """What the process of a Writer does."""
    buffer = mmap.mmap(-1, 4096)
    descriptor = os.open(path, os.O_RDWR | os.O_DIRECT)
    blocks = os.fstat(descriptor).st_size // 4096
    number = wrong = 0
    while True:
        number += 1
        at = number % blocks * 4096
        block = number.to_bytes(8, "little") * 512
        try:
            buffer[:] = block
            os.pwritev(descriptor, [buffer], at)
            buffer[:] = bytes(4096)
            os.preadv(descriptor, [buffer], at)
            if buffer[:] != block:
                wrong += 1
                print("wrong", wrong, flush=True)
            if number % 16 == 0:
                os.fsync(descriptor)
        except OSError as error:
            print("error", error.errno, flush=True)
            time.sleep(0.05)
            continue
        print("written", number, flush=True)


class SharingTest(HostsTest):
    size = 8 * MIB

    def setUp(self):
        super().setUp()
        self.random = support.seeded()
        self.far = self.lab.directory("mnt-beta")
        self.alpha.vsnap("create", "lab/v", "--size", str(self.size))
        self.share()
        self.join(None, "--member", self.member)
        self.content = self.random.randbytes(self.size)
        support.write_at(self.point / "v", 0, self.content)
        self.alpha.vsnap("snapshot", "lab/v@s")

    def mount_far(self, *options, **more):
        return self.beta.vsnap("mount", "lab", self.far, *options, **more)

    def overwrite(self):
        support.write_at(self.point / "v", 0, self.random.randbytes(self.size))
        support.fsync(self.point / "v")

    def wait_for_lease(self):
        time.sleep(LEASE_S * 1.2)


class Reading(SharingTest):
    def test_a_snapshot_is_read_on_one_host_while_the_other_overwrites_the_volume(self):
        self.mount_far("--only", "v@s")
        self.assertEqual(["v@s"], os.listdir(self.far))
        reader = Reader(self, self.far / "v@s", self.content)
        for number in range(8):
            self.overwrite()
            self.alpha.vsnap("snapshot", f"lab/v@n{number}")
            if number > 2:
                self.alpha.vsnap("rm", "--wait", f"lab/v@n{number - 2}")
        reader.reads_on()
        reader.end()
        self.assertEqual((0, set()), (reader.wrong, reader.errors))
        self.assertEqual(self.content, support.read_all(self.far / "v@s"))

    def test_it_is_read_only_and_shows_what_comes_and_goes(self):
        self.mount_far("--only", "v")
        self.fails_with(errno.EROFS, (self.far / "new").write_bytes, b"x")
        self.fails_with(errno.EROFS, os.unlink, self.far / "v@s")
        self.alpha.vsnap("snapshot", "lab/v@t")
        support.wait_until(lambda: sorted(os.listdir(self.far)) == ["v@s", "v@t"], what="the new snapshot")
        self.assertEqual(self.content, support.read_all(self.far / "v@t"))
        self.alpha.vsnap("rename", "lab/v@t", "u")
        support.wait_until(lambda: sorted(os.listdir(self.far)) == ["v@s", "v@u"], what="its new name")
        self.alpha.vsnap("rm", "lab/v@u")
        support.wait_until(lambda: os.listdir(self.far) == ["v@s"], what="its end")
        self.fails_with(errno.ENOENT, os.stat, self.far / "v@u")
        support.wait_until(lambda: self.hosts()["beta"]["lag"] == 0, what="that beta works by what there is")

    def test_only_what_was_named_is_shown(self):
        self.alpha.vsnap("snapshot", "lab/v@t")
        self.mount_far("--only", "v@t")
        self.assertEqual(["v@t"], os.listdir(self.far))
        self.beta.vsnap("umount", "lab")
        self.mentions(self.alpha.vsnap("mount", "other", self.far, "--only", "v", code=2).err, "--only")

    def test_what_is_open_there_is_in_use_here(self):
        self.mount_far()
        with open(self.far / "v@s", "rb"):
            self.mentions(self.alpha.vsnap("rm", "lab/v@s", code=4).err, "in use")
        support.wait_until(lambda: self.alpha.json("info", "lab/v@s")["view"]["open"] == 0, what="closed")
        self.alpha.vsnap("rm", "lab/v@s")

    def test_commands_there_are_carried_out_here(self):
        self.mount_far()
        self.beta.vsnap("snapshot", "lab/v@far")
        self.assertIn("lab/v@far", self.alpha.vsnap("ls", "lab").out)
        self.assertEqual(self.beta.json("info", "lab/v@far"), self.alpha.json("info", "lab/v@far"))
        self.beta.vsnap("clone", "lab/v@far", "c")
        self.mentions(self.beta.vsnap("rm", "lab/none", code=3).err, "lab/none")
        self.beta.vsnap("rm", "lab/c")
        self.beta.vsnap("rm", "lab/v@far")
        self.assertEqual(self.beta.vsnap("df", "lab", "-H").out, self.alpha.vsnap("df", "lab", "-H").out)
        self.beta.vsnap("umount", "lab")
        self.mentions(self.beta.vsnap("ls", "lab", code=4).err, "guest")

    def test_a_member_that_is_not_there_is_named(self):
        (self.beta.state / "shared/lab.json").unlink()
        elsewhere = self.lab.path / "moved.img"
        self.join(None, "--member", self.member)
        self.alpha.vsnap("pool", "add", "lab", elsewhere, "--size", "64M")
        self.mentions(self.mount_far(code=3).err, str(elsewhere), "--member")
        self.join(None, "--member", self.member, "--member", elsewhere)
        self.mount_far()
        self.assertEqual(self.content, support.read_all(self.far / "v@s"))

    def join_with(self, *members):
        (self.beta.state / "shared/lab.json").unlink()
        self.join(None, *(word for member in members for word in ("--member", member)))

    def test_a_copy_of_a_member_is_refused_and_named(self):
        copy = self.lab.path / "copy.img"
        shutil.copyfile(self.member, copy)
        self.overwrite()
        self.alpha.vsnap("snapshot", "lab/v@t")
        self.join_with(copy)
        self.mentions(self.mount_far(code=3).err, f"{copy} is a copy of it", "--member", str(self.member))
        shutil.copyfile(self.member, copy)  # with what is in it by now
        self.mentions(self.mount_far(code=3).err, f"{copy} is a copy of it")
        self.join_with(self.member)
        self.mount_far()
        self.assertEqual(self.content, support.read_all(self.far / "v@s"))

    def test_a_member_that_is_exchanged_while_its_host_is_away_is_read_where_it_is_now(self):
        self.mount_far()
        reader = Reader(self, self.far / "v@s", self.content)
        reader.reads_on()
        self.alpha.vsnap("umount", "lab")
        moved = self.lab.path / "moved.img"
        shutil.copyfile(self.member, moved)
        moved.rename(self.member)
        self.share()
        content = self.random.randbytes(self.size)
        support.write_at(self.point / "v", 0, content)
        self.alpha.vsnap("snapshot", "lab/v@t")
        reader.reads_on()
        self.assertEqual((0, set()), (reader.end().wrong, reader.errors))
        support.wait_until(lambda: "v@t" in os.listdir(self.far), what="the new snapshot")
        self.assertEqual(content, support.read_all(self.far / "v@t"))
        self.assertEqual([str(self.member)], self.members_read())

    def members_read(self):
        """Members that beta's daemon has open."""
        pid = self.beta.daemon_pid()
        found = set()
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found.add(os.readlink(entry))
        return sorted(path for path in found if path.startswith("/dev/loop") or ".img" in path)

    def test_a_member_that_was_added_is_found_and_read_here(self):
        self.mount_far()
        device = self.lab.losetup(self.lab.file("more", 64 * MIB))
        self.alpha.vsnap("pool", "add", "lab", device)
        content = self.random.randbytes(72 * MIB)
        self.alpha.vsnap("create", "lab/w", "--size", str(len(content)))
        support.write_at(self.point / "w", 0, content)
        self.alpha.vsnap("snapshot", "lab/w@s")
        reader = Reader(self, self.far / "w@s", content)
        support.wait_until(lambda: self.members_read() == [device, str(self.member)], 60, "that it is found")
        reader.reads_on(1)
        self.assertEqual((0, set()), (reader.end().wrong, reader.errors))

    def test_what_cannot_be_read_past_the_page_cache_is_read_through_the_coordinator(self):
        cached = self.lab.directory("ramfs")  # which refuses O_DIRECT
        self.lab.run("mount", "-t", "ramfs", "none", cached)
        self.alpha.vsnap("pool", "add", "lab", cached / "more.img", "--size", "64M")
        content = self.random.randbytes(72 * MIB)
        self.alpha.vsnap("create", "lab/w", "--size", str(len(content)))
        support.write_at(self.point / "w", 0, content)
        self.alpha.vsnap("snapshot", "lab/w@s")
        self.join_with(self.member, cached / "more.img")
        mounted = self.mount_far()
        said = mounted.err + (self.beta.runtime / "lab.log").read_text()
        self.mentions(said, cached / "more.img", "cannot be read past this host's page cache")
        self.assertEqual(content, support.read_all(self.far / "w@s"))
        self.assertEqual([str(self.member)], self.members_read())

    def test_every_form_of_snapshot_can_be_read(self):
        image = self.lab.file("raw.img", 4 * MIB, self.random.randbytes(4 * MIB))
        before = image.read_bytes()
        self.alpha.vsnap("adopt", image, "lab/raw")
        self.alpha.vsnap("snapshot", "lab/raw@s")
        self.alpha.vsnap("snapshot", "--full", "--bwlimit", "1M", "lab/v@full")
        self.mount_far()
        readers = [Reader(self, self.far / "raw@s", before), Reader(self, self.far / "v@full", self.content)]
        for at in range(0, 4 * MIB, MIB):
            support.write_at(self.point / "raw", at, self.random.randbytes(MIB))
            self.overwrite()
        self.alpha.vsnap("copy", "limit", "lab/v@full", "1G")
        self.alpha.vsnap("wait", "lab/v@full")
        for reader in readers:
            reader.reads_on()
            self.assertEqual((0, set()), (reader.end().wrong, reader.errors))


class Writing(SharingTest):
    """Volumes of the pool, read and written on both hosts."""

    def setUp(self):
        super().setUp()
        self.mount_far()

    def test_each_host_sees_what_the_other_has_written(self):
        here, there = self.point / "v", self.far / "v"
        self.assertEqual(self.content, support.read_all(there))
        self.assertEqual(self.content, support.read_all(here))  # and into the cache of this host
        for number in range(20):
            at = self.random.randrange(self.size // 4096 - 4) * 4096 + self.random.randrange(4096)
            block = self.random.randbytes(8192)
            support.write_at(there, at, block)
            self.assertEqual(block, support.read_at(here, at, len(block)), number)
            block = self.random.randbytes(8192)
            support.write_at(here, at, block)
            self.assertEqual(block, support.read_at(there, at, len(block)), number)
        support.fsync(there)

    def test_files_are_made_grown_renamed_and_removed_there(self):
        (self.far / "new").write_bytes(b"x" * 100_000)
        self.assertEqual(b"x" * 100_000, (self.point / "new").read_bytes())
        os.truncate(self.far / "new", 50)
        self.assertEqual(50, os.stat(self.point / "new").st_size)
        os.truncate(self.point / "new", 70)
        self.assertEqual(70, os.stat(self.far / "new").st_size)
        self.assertEqual(b"x" * 50 + bytes(20), (self.far / "new").read_bytes())
        os.rename(self.far / "new", self.far / "newer")
        self.assertEqual(["newer", "v", "v@s"], sorted(os.listdir(self.point)))
        self.assertEqual(["newer", "v", "v@s"], sorted(os.listdir(self.far)))
        os.chmod(self.far / "newer", 0o640)
        self.assertEqual(0o640, os.stat(self.point / "newer").st_mode & 0o777)
        os.unlink(self.far / "newer")
        self.assertEqual(["v", "v@s"], sorted(os.listdir(self.point)))
        self.fails_with(errno.ENOENT, os.stat, self.far / "newer")
        self.fails_with(errno.EROFS, support.write_at, self.far / "v@s", 0, b"x")

    def test_a_file_system_on_a_loop_device_there(self):
        device = self.lab.losetup(self.far / "v")
        self.lab.run("mkfs.ext4", "-q", "-F", device)
        point = self.lab.mount_device(device, "fs")
        (point / "file").write_bytes(self.content[:MIB])
        self.lab.umount_device(point, device)
        device = self.lab.losetup(self.point / "v")
        self.lab.run("fsck.ext4", "-fn", device)
        self.lab.detach(device)

    def locks(self):
        rows = self.alpha.json("lock", "ls", "lab")["locks"]
        return sorted((row["name"], row["host"] or "", row["mode"], row["open"]) for row in rows
                      if row["state"] == "open")

    def test_who_has_what_open_is_listed_and_a_volume_is_taken_from_a_host(self):
        snapshot = self.far / "v@s"
        with open(self.point / "v", "rb"), open(self.far / "v", "r+b", 0) as there, open(snapshot, "rb"):
            there.write(b"x")
            expected = [("lab/v", "", "write", 1), ("lab/v", "beta", "write", 1),
                        ("lab/v@s", "beta", "read", 1)]
            self.assertEqual(expected, self.locks())
            self.assertEqual(self.alpha.json("lock", "ls", "lab")["locks"][1]["host"],
                             self.beta.json("lock", "ls", "lab")["locks"][1]["host"])
            plan = self.alpha.vsnap("lock", "break", "-n", "lab/v", "beta").out
            self.mentions(plan, "would take lab/v from beta")
            there.write(b"x")
            self.mentions(self.alpha.vsnap("lock", "break", "lab/v@s", "beta", code=2).err, "name a volume")
            refused = self.alpha.vsnap("lock", "break", "lab/v", "gamma", code=3).err
            self.mentions(refused, "does not have it open")
            refused = self.alpha.vsnap("lock", "break", "--fenced", "lab/v", "gamma", code=3).err
            self.mentions(refused, "gamma has nothing of it to return")
            self.alpha.vsnap("lock", "break", "lab/v", "beta")
            self.fails_with(errno.EIO, there.write, b"y")
            self.fails_with(errno.EIO, os.fsync, there.fileno())
            support.write_at(self.far / "v", 0, b"z")  # opened anew
            self.assertEqual(b"zx", support.read_at(self.point / "v", 0, 2))

    def test_a_snapshot_holds_what_was_answered_there_before_it(self):
        for number in range(5):
            block = self.random.randbytes(1 << 16)
            support.write_at(self.far / "v", number * len(block), block)
            self.beta.vsnap("snapshot", f"lab/v@w{number}")
            support.write_at(self.far / "v", number * len(block), bytes(1 << 16))
            snapshot = self.point / f"v@w{number}"
            self.assertEqual(block, support.read_at(snapshot, number * len(block), len(block)))


class Faults(SharingTest):
    def test_the_coordinator_dies_and_reads_only_wait(self):
        self.mount_far()
        reader = Reader(self, self.far / "v@s", self.content)
        for _ in range(3):
            reader.reads_on()
            session = self.hosts()["beta"]["session"]
            os.kill(self.lab.daemon_pid("lab"), signal.SIGKILL)
            self.overwrite()
            support.wait_until(lambda: self.hosts().get("beta", {}).get("state") == "live", 60,
                               f"a session after {session}")
        reader.reads_on()
        self.assertEqual((0, set()), (reader.end().wrong, reader.errors))

    def test_its_own_daemon_dies_and_reads_only_wait(self):
        self.mount_far()
        reader = Reader(self, self.far / "v@s", self.content)
        reader.reads_on()
        pid = self.beta.daemon_pid()
        os.kill(pid, signal.SIGKILL)
        self.overwrite()
        reader.reads_on()
        self.assertEqual((0, set()), (reader.end().wrong, reader.errors))

    def test_a_host_that_is_revoked_reads_nothing_more(self):
        self.mount_far()
        reader = Reader(self, self.far / "v@s", self.content)
        reader.reads_on()
        self.alpha.vsnap("host", "revoke", "-y", "lab", "beta")
        support.wait_until(lambda: reader.errors, what="an error")
        self.assertEqual({errno.EIO}, reader.end().errors)
        self.assertEqual(0, reader.wrong)

    def test_a_copy_of_a_machine_is_refused_as_long_as_the_machine_has_its_session(self):
        self.mount_far()
        reader = Reader(self, self.far / "v@s", self.content)
        reader.reads_on()
        copy = Host(self, "copy", beside=self.beta)
        shutil.copytree(self.beta.state, copy.state)
        boot_id = self.lab.path / "boot_id"
        boot_id.write_text("5c9d8c1e-0b6f-4a53-9d0e-2f1a6c3b7e44\n")
        script = 'mount --bind "$1" /proc/sys/kernel/random/boot_id; shift; exec "$@"'
        mount = [support.VSNAP, "mount", "lab", self.lab.directory("mnt-copy")]
        started_anew = ["unshare", "-m", "sh", "-c", script, "sh", boot_id]
        refused = copy.run(*started_anew, *mount, code=4, timeout=90)
        self.assertIn("another machine has a session under this host's key", refused.err)
        reader.reads_on()
        self.assertEqual((0, set()), (reader.end().wrong, reader.errors))
        self.beta.vsnap("umount", "lab")
        copy.run(*started_anew, *mount, timeout=90)
        self.end_daemon_of(copy)

        self.mount_far()
        (copy.state / "host.key").unlink()
        self.join(copy, "--member", self.member)
        copy.run(*started_anew, *mount, timeout=90)
        self.assertEqual(["live", "live"], [self.state_of(name) for name in ("beta", "copy")])
        self.end_daemon_of(copy)

    def end_daemon_of(self, host):
        """That of a mount in a namespace of its own, which goes with it."""
        pid = host.daemon_pid()
        os.kill(pid, signal.SIGTERM)
        support.wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="the end of the daemon")

    def reuse_its_places(self):
        """What the snapshot had is given to others, as soon as that may be."""
        self.alpha.vsnap("rm", "lab/v@s")
        self.alpha.vsnap("create", "lab/w", "--size", str(3 * self.size))
        for _ in range(2):
            support.write_at(self.point / "w", 0, self.random.randbytes(3 * self.size))
            self.overwrite()
            support.fsync(self.point / "w")

    def test_a_host_that_stood_still_shows_nothing_of_others(self):
        self.mount_far()
        reader = Reader(self, self.far / "v@s", self.content)
        reader.reads_on()
        pid = self.beta.daemon_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            self.wait_for_lease()
            self.reuse_its_places()
        finally:
            os.kill(pid, signal.SIGCONT)
        support.wait_until(lambda: reader.errors, 90, "an error")
        self.assertEqual((0, {errno.ESTALE}), (reader.end().wrong, reader.errors))

    def test_a_host_that_is_cut_off_goes_on_once_the_network_is_there_again(self):
        self.mount_far()
        reader = Reader(self, self.far / "v@s", self.content)
        reader.reads_on()
        self.switch.ip("link", "set", "beta", "down")
        support.wait_until(lambda: self.state_of("beta") == "lost", 30, "that alpha notices")
        self.overwrite()
        rounds = reader.rounds
        time.sleep(0.5)
        self.assertLessEqual(reader.rounds, rounds + 1)
        self.switch.ip("link", "set", "beta", "up")
        reader.reads_on()
        self.assertEqual((0, set()), (reader.end().wrong, reader.errors))

    def test_places_are_kept_for_a_host_whose_coordinator_died(self):
        self.mount_far()
        reader = Reader(self, self.far / "v@s", self.content)
        reader.reads_on()
        support.kill_with_keeper(self.lab.daemon_pid("lab"))
        # These open the pool by themselves, while beta still has its lease.
        self.mentions(self.alpha.vsnap("rm", "lab/v@s", code=4).err, "may still read it")
        self.alpha.vsnap("create", "lab/w", "--size", str(3 * self.size))
        self.share()
        support.write_at(self.point / "w", 0, self.random.randbytes(3 * self.size))
        self.overwrite()
        reader.reads_on()
        self.assertEqual((0, set()), (reader.end().wrong, reader.errors))


class WritingFaults(SharingTest):
    def setUp(self):
        super().setUp()
        self.mount_far()
        self.writer = Writer(self, self.far / "v")
        self.writer.writes_on()

    def ends_without_an_error(self):
        self.writer.writes_on()
        self.assertEqual((0, set()), (self.writer.end().wrong, self.writer.errors))
        here, there = support.read_all(self.point / "v"), support.read_all(self.far / "v")
        self.assertEqual(here, there)
        last = self.writer.written
        for number in range(max(1, last - self.size // 4096 + 2), last + 1):  # one more may be under way
            self.assertEqual(number, number_at(here, number % (self.size // 4096)))

    def test_the_coordinator_dies_and_writes_only_wait(self):
        for _ in range(4):
            os.kill(self.lab.daemon_pid("lab"), signal.SIGKILL)
            self.writer.writes_on()
        self.ends_without_an_error()

    def test_the_coordinator_is_upgraded_and_writes_only_wait(self):
        for _ in range(2):
            self.alpha.vsnap("upgrade", "lab")
            self.writer.writes_on()
        self.ends_without_an_error()

    def test_its_own_daemon_dies_and_writes_only_wait(self):
        for _ in range(4):
            os.kill(self.beta.daemon_pid(), signal.SIGKILL)
            self.writer.writes_on()
        self.ends_without_an_error()

    def takes_over(self):
        """What alpha writes after beta was lost, beta does not overwrite, whatever it had under way."""
        blocks = self.random.randbytes(self.size)
        support.write_at(self.point / "v", 0, blocks)
        return blocks

    def gets_errors_until_it_opens_again(self, blocks):
        support.wait_until(lambda: self.writer.errors, 90, "an error")
        support.wait_until(lambda: self.state_of("beta") == "live", 60, "that beta is back")
        time.sleep(0.5)
        self.assertEqual((0, {errno.EIO}), (self.writer.end().wrong, self.writer.errors))
        self.assertEqual(blocks, support.read_all(self.point / "v"))
        self.assertEqual(blocks, support.read_all(self.far / "v"))
        self.writer = Writer(self, self.far / "v")
        self.ends_without_an_error()

    def test_a_host_that_stood_still_overwrites_nothing(self):
        pid = self.beta.daemon_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            support.wait_until(lambda: self.state_of("beta") == "lost", 30, "that alpha notices")
            blocks = self.takes_over()
        finally:
            os.kill(pid, signal.SIGCONT)
        self.gets_errors_until_it_opens_again(blocks)

    def test_a_host_whose_daemon_dies_after_its_lease_overwrites_nothing(self):
        """What the kernel asks its successor again for is not carried out, nor is anything after it."""
        pid = self.beta.daemon_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            support.wait_until(lambda: self.state_of("beta") == "lost", 30, "that alpha notices")
            blocks = self.takes_over()
        finally:
            os.kill(pid, signal.SIGKILL)
        self.gets_errors_until_it_opens_again(blocks)

    def test_a_host_that_is_cut_off_overwrites_nothing(self):
        self.switch.ip("link", "set", "beta", "down")
        support.wait_until(lambda: self.state_of("beta") == "lost", 30, "that alpha notices")
        blocks = self.takes_over()
        self.switch.ip("link", "set", "beta", "up")
        self.gets_errors_until_it_opens_again(blocks)

    def before_a_cut(self):
        """What is to be so when the host is cut off."""

    def test_a_host_that_only_hears_overwrites_nothing(self):
        """One direction of the cable: what beta says is lost, what it is told arrives; and the other way."""
        for hook in ("output", "input"):
            with self.subTest(hook):
                self.before_a_cut()
                self.beta.run("nft", "add table inet cut; add chain inet cut c { type filter hook "
                              f"{hook} priority 0; policy drop; }}")
                support.wait_until(lambda: self.state_of("beta") == "lost", 30, "that alpha notices")
                blocks = self.takes_over()
                self.beta.run("nft", "delete table inet cut")
                self.gets_errors_until_it_opens_again(blocks)
                self.writer = Writer(self, self.far / "v")
                self.writer.writes_on()


class WaitingForRoom(SharingTest):
    """A write of beta waits on alpha until there is room for what snapshots keep."""

    def setUp(self):
        super().setUp()
        self.mount_far()
        self.alpha.vsnap("set", "lab/v", "snapshot-limit=64K", "on-full=pause")
        self.addCleanup(lambda: self.alpha.vsnap("set", "lab/v", "on-full=error"))  # or its writer stays
        self.writer = Writer(self, self.far / "v")
        support.wait_until(lambda: self.writer.written >= 16, what="the limit")
        support.wait_until(lambda: "writes wait" in self.log(), what="that it waits")

    def log(self):
        return (self.alpha.runtime / "lab.log").read_text()

    def goes_on(self):
        self.assertLess(self.writer.written, 32)
        self.alpha.vsnap("set", "lab/v", "snapshot-limit=none")
        self.writer.writes_on()
        self.assertEqual((0, set()), (self.writer.end().wrong, self.writer.errors))

    def test_the_coordinator_is_upgraded(self):
        self.alpha.vsnap("upgrade", "lab")
        self.goes_on()

    def test_its_own_daemon_is_upgraded(self):
        self.beta.vsnap("upgrade", "lab")
        self.goes_on()

    def test_its_own_daemon_dies(self):
        os.kill(self.beta.daemon_pid(), signal.SIGKILL)
        self.goes_on()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        write_again_and_again(*sys.argv[2:])
    if sys.argv[1:2] == ["--read"]:
        read_again_and_again(*sys.argv[2:])
    support.main()
