#!/usr/bin/env python3
"""Frozen snapshots on a real mount: file systems on loop devices that a program writes to all the time,
guests behind real and behind ill-behaved agents, and commands and daemons that are killed or stopped
meanwhile. And groups of snapshots: one moment for volumes of every form.

VSNAP_FREEZE_PAIRS: how many groups are taken beside the writer (50).
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import unittest
from pathlib import Path

from support import BLOCK, MIB, VSNAP, LabTest, is_running, main, read_at, wait_until, write_at

PAIRS = int(os.environ.get("VSNAP_FREEZE_PAIRS") or 50)
KEPT = 5000  # files of a writer: those of half a minute at least
FROZEN = "recvfrom"  # the call in which the command hears that all is frozen


class Writer(threading.Thread):
    """Makes files all the time, each of them synced before its number counts; errors end it."""

    def __init__(self, point):
        super().__init__(daemon=True)
        self.directory, self.synced, self.stop_asked = os.open(point, os.O_RDONLY), 0, False

    def run(self):
        while not self.stop_asked:
            number = self.synced + 1
            file = os.open(f"f{number}", os.O_WRONLY | os.O_CREAT, dir_fd=self.directory)
            os.write(file, content(number))
            os.fsync(file)
            os.close(file)
            os.fsync(self.directory)
            self.synced = number
            time.sleep(0.005)
            if number > KEPT:
                os.unlink(f"f{number - KEPT}", dir_fd=self.directory)
        os.close(self.directory)

    def stop(self):
        self.stop_asked = True
        self.join(30)
        if self.is_alive():
            raise AssertionError("the writer is stuck")


def still_there(synced, later):
    """Numbers of files that were synced then, and had not been removed when the writer was at `later`."""
    found = range(max(1, later - KEPT + 10), synced + 1)
    if not found:
        raise AssertionError(f"too slow to see a file again: {synced} {later}")
    return found


def content(number):
    return f"{number} ".encode() * 500


class FreezeTest(LabTest):
    members = 1

    def setUp(self):
        super().setUp()
        self.lab.pool(size="1G")
        self.point = self.lab.mount()
        self.writers = []
        self.addCleanup(self.stop_writers)

    def stop_writers(self):
        for writer in self.writers:
            writer.stop()

    def formatted(self, kind, name="v", size="320M"):
        """A file system on a volume: its device and where it is mounted."""
        self.lab.vsnap("create", f"p/{name}", "--size", size)
        device = self.lab.map(f"p/{name}")
        self.lab.run(f"mkfs.{kind}", "-q", *(["-f"] if kind != "ext4" else []), device)
        return device, self.mounted(device, f"fs-{name}")

    def mounted(self, device, name, *options):
        point = self.lab.mount_device(device, name, *options)
        self.addCleanup(self.lab.run, "fsfreeze", "-u", point, code=None)
        return point

    def busy(self, point):
        writer = Writer(point)
        writer.start()
        self.writers.append(writer)
        wait_until(lambda: writer.synced > 5, what="files are written")
        return writer

    def goes_on(self, writer):
        at = writer.synced
        wait_until(lambda: writer.synced > at + 3, what="the writer goes on")

    def stands_still(self, writer):
        """Once what is under way has ended."""
        at = -1
        while at != writer.synced:
            at = writer.synced
            time.sleep(0.3)

    def level(self, name):
        return self.lab.json("info", f"p/{name}")["view"]["level"]

    def freeze(self, *words, **options):
        words = (word if word.startswith("-") else f"p/{word}" for word in words)
        return self.lab.vsnap("snapshot", "--freeze", *words, **options)

    def holds(self, point, numbers):
        for number in numbers:
            self.assertEqual(content(number), (Path(point) / f"f{number}").read_bytes(), f"f{number}")

    def frozen_and_not(self, kind):
        """Devices of two snapshots beside a writer, frozen and not, and what was synced before the first."""
        _, point = self.formatted(kind)
        writer = self.busy(point)
        synced = writer.synced
        self.freeze("v@frozen")
        later = writer.synced
        self.goes_on(writer)
        late = writer.synced
        self.lab.vsnap("snapshot", "p/v@crash")
        self.synced_late = still_there(late, writer.synced)
        writer.stop()
        self.assertEqual("fs", self.level("v@frozen"))
        self.assertEqual("crash", self.level("v@crash"))
        files = still_there(synced, later)
        return self.lab.map("p/v@frozen"), self.lab.map("p/v@crash"), files


class FileSystems(FreezeTest):
    def needs_recovery(self, device):
        return "needs_recovery" in self.lab.run("dumpe2fs", "-h", device).out

    def test_an_ext4_of_a_frozen_snapshot_needs_no_recovery(self):
        frozen, crash, files = self.frozen_and_not("ext4")
        self.assertFalse(self.needs_recovery(frozen))
        self.assertTrue(self.needs_recovery(crash))
        self.lab.run("e2fsck", "-fn", frozen)
        self.holds(self.mounted(frozen, "old", "-o", "ro,noload"), files)

    def test_an_xfs_of_a_frozen_snapshot_shows_all_without_its_log(self):
        frozen, crash, files = self.frozen_and_not("xfs")
        # XFS leaves its log marked, and the counts of its superblock to the log; nothing else is in it.
        found = self.lab.run("xfs_repair", "-n", frozen, code=None)
        self.assertNotIn("would ", found.out + found.err)
        self.holds(self.mounted(frozen, "old", "-o", "ro,norecovery,nouuid"), files)
        self.lab.run("umount", self.lab.path / "old")
        late = self.mounted(crash, "late", "-o", "ro,norecovery,nouuid")
        with self.assertRaises((OSError, AssertionError)):
            self.holds(late, self.synced_late)

    def test_a_btrfs_of_a_frozen_snapshot_is_whole(self):
        device, point = self.formatted("btrfs")
        writer = self.busy(point)
        synced = writer.synced
        self.freeze("v@frozen")
        later = writer.synced
        self.goes_on(writer)
        writer.stop()
        self.assertEqual("fs", self.level("v@frozen"))
        self.lab.umount_device(point, device)  # two of one UUID are never mounted at once
        self.lab.unmap(device)
        frozen = self.lab.map("p/v@frozen")
        self.lab.run("btrfs", "check", "--readonly", frozen)
        self.assertIn("log_root\t\t0", self.lab.run("btrfs", "inspect-internal", "dump-super", frozen).out)
        self.holds(self.mounted(frozen, "old", "-o", "ro"), still_there(synced, later))

    def test_several_mounts_of_one_file_system_are_frozen_once(self):
        _, point = self.formatted("ext4")
        other = self.lab.directory("other")
        self.lab.run("mount", "--bind", point, other)
        writer = self.busy(other)
        self.freeze("v@a")
        self.goes_on(writer)
        self.assertEqual("fs", self.level("v@a"))

    def test_a_file_system_that_another_mount_hides_is_found(self):
        _, point = self.formatted("ext4")
        writer = self.busy(point)
        os.chdir("/")
        self.lab.run("mount", "-t", "tmpfs", "hides", point)
        try:
            result = self.freeze("v@a")
        finally:
            self.lab.run("umount", point)
        self.assertEqual("crash", self.level("v@a"))
        self.mentions(result.err, "p/v@a: level crash", f"mounted at {point}")
        self.goes_on(writer)

    def partitioned(self, name, *options):
        device = self.lab.losetup(self.point / name, "-P", "--direct-io=on", *options)
        if not os.path.exists(f"{device}p2"):  # a kernel that reads no partition tables itself
            self.lab.run("partx", "-a", device)
        wait_until(lambda: os.path.exists(f"{device}p2"), what="partitions")
        return device

    def test_partitions_of_a_volume_are_frozen_together(self):
        self.lab.vsnap("create", "p/disk", "--size", "300M")
        self.lab.run("sfdisk", "-q", self.point / "disk", stdin="label: gpt\nsize=140M\nsize=140M\n")
        device = self.partitioned("disk")
        writers = []
        for part in (1, 2):
            self.lab.run("mkfs.ext4", "-q", f"{device}p{part}")
            point = self.mounted(f"{device}p{part}", f"part{part}")
            self.addCleanup(self.lab.run, "umount", point, code=None)
            writers.append(self.busy(point))
        self.freeze("disk@a")
        for writer in writers:
            self.goes_on(writer)
            writer.stop()
        self.assertEqual("fs", self.level("disk@a"))
        old = self.partitioned("disk@a", "-r")
        for part in (1, 2):
            self.assertFalse(self.needs_recovery(f"{old}p{part}"), f"partition {part}")

    def test_two_volumes_are_frozen_at_once(self):
        writers = [self.busy(self.formatted(kind, name)[1]) for kind, name in (("ext4", "a"), ("xfs", "b"))]
        shown = self.lab.json("snapshot", "--freeze", "p/a@s", "p/b@s")
        self.assertEqual(["p/a@s", "p/b@s"], shown["snapshots"])
        self.assertEqual(["fs", "fs"], shown["levels"])
        for writer in writers:
            self.goes_on(writer)
        self.assertFalse(self.needs_recovery(self.lab.map("p/a@s")))

    def test_a_full_sized_snapshot_is_frozen_too(self):
        _, point = self.formatted("ext4")
        writer = self.busy(point)
        self.freeze("v@f", "--full", "--wait")
        self.goes_on(writer)
        self.assertEqual("fs", self.level("v@f"))
        self.assertFalse(self.needs_recovery(self.lab.map("p/v@f")))

    def test_a_file_system_in_another_mount_name_space_is_frozen(self):
        self.lab.vsnap("create", "p/v", "--size", "64M")
        device = self.lab.map("p/v")
        self.lab.run("mkfs.ext4", "-q", device)
        inside = self.lab.directory("inside")
        script = f"mount {device} {inside} && echo ready && sync -f {inside} && touch {inside}/x && read x"
        shell = self.lab.start("unshare", "-m", "sh", "-c", script, stdin=subprocess.PIPE)
        self.assertEqual("ready\n", shell.stdout.readline())
        wait_until(lambda: (Path(f"/proc/{shell.pid}/root") / str(inside)[1:] / "x").exists(), what="x")
        self.freeze("v@a")
        shell.communicate("\n", timeout=20)
        self.assertEqual("fs", self.level("v@a"))
        self.assertFalse(self.needs_recovery(self.lab.map("p/v@a")))


class AtRest(FreezeTest):
    """Volumes that no mounted file system uses."""

    def setUp(self):
        super().setUp()
        self.lab.vsnap("create", "p/v", "--size", "1M")
        write_at(self.point / "v", 0, b"x" * BLOCK)
        self.closed()

    def closed(self):
        wait_until(lambda: self.lab.json("info", "p/v")["view"]["open"] == 0, what="v closed")

    def test_what_nobody_has_open_is_at_rest(self):
        self.assertEqual("", self.freeze("v@a").err)
        self.assertEqual("fs", self.level("v@a"))

    def test_what_is_mapped_and_not_mounted_is_at_rest(self):
        device = self.lab.map("p/v")
        self.assertEqual("", self.freeze("v@a").err)
        self.assertEqual("fs", self.level("v@a"))
        with open(device, "r+b"):
            self.mentions(self.freeze("v@b").err, "p/v@b: level crash: in use by", f"(pid {os.getpid()})")
        self.assertEqual("crash", self.level("v@b"))

    def test_what_a_program_has_open_is_not(self):
        with open(self.point / "v", "r+b"):
            err = self.freeze("v@a").err
            self.mentions(err, "p/v@a: level crash: in use by", f"(pid {os.getpid()})", "--qga")
        self.assertEqual("crash", self.level("v@a"))
        with open(self.point / "v", "rb"):
            self.mentions(self.freeze("v@b").err, "p/v@b: level crash: in use by a program")

    def test_a_pool_that_is_not_mounted_is_at_rest(self):
        self.lab.umount()
        self.assertEqual(["fs"], self.lab.json("snapshot", "--freeze", "p/v@a")["levels"])
        self.assertEqual("fs", self.level("v@a"))
        self.mentions(self.freeze("v@b", "--qga", "/nowhere", code=1).err, "p: not mounted", "--qga")

    def test_swap_on_it_is_a_use_that_is_not_frozen(self):
        device = self.lab.map("p/v")
        self.lab.run("mkswap", device)
        try:
            self.lab.run("swapon", device)
        except AssertionError as error:
            self.skipTest(f"no swap here: {error}")
        try:
            self.mentions(self.freeze("v@a").err, "p/v@a: level crash: in use by", device)
        finally:
            self.lab.run("swapoff", device)

    def test_options_that_do_not_go_together_are_refused(self):
        for words in ("--freeze-limit 3", "--qga /x", *(f"--freeze --freeze-limit {text}"
                                                        for text in ("0", "1h", "61", "nan"))):
            self.mentions(self.lab.vsnap("snapshot", *words.split(), "p/v@a", code=2).err, "freeze")
        self.assertNotIn("v@a", self.lab.views())

    def test_names_that_cannot_be_are_refused_first(self):
        self.lab.vsnap("snapshot", "p/v@a")
        self.mentions(self.freeze("v@a", code=1).err, "p/v@a: exists already")
        self.mentions(self.freeze("w@a", code=3).err, "p/w: no such volume")


class Interrupted(FreezeTest):
    """Commands that are held up by strace when they have heard that all is frozen."""

    def held_up(self, seconds, *words):
        """The command, its process and its guard's, while all is frozen."""
        log = self.lab.path / "strace"
        command = self.lab.start(
            "strace", "-qq", "-o", log, "-e", f"trace={FROZEN}",
            "-e", f"inject={FROZEN}:delay_exit={int(seconds * 1e6)}:when=1",
            VSNAP, "snapshot", "--freeze", *words)
        self.addCleanup(command.communicate)
        self.addCleanup(command.kill)
        self.stands_still(self.writer)
        wait_until(lambda: len(children(children(command.pid)[0])) == 1, what="the command and its guard")
        process = children(command.pid)[0]
        return command, process, children(process)[0]

    def setUp(self):
        super().setUp()
        self.device, point = self.formatted("ext4")
        self.writer = self.busy(point)

    def stands_still(self, writer):
        def still():
            at = writer.synced
            time.sleep(0.5)
            return at == writer.synced

        wait_until(still, what="the writer stands still")

    def end(self, command, process, number):
        """The signal first: when strace lets go of the process it does nothing else any more."""
        os.kill(process, number)
        command.kill()

    def ends(self, command, code=0):
        out, _ = command.communicate(timeout=60)
        self.assertEqual(code, command.returncode, out)
        return out

    def test_a_command_that_is_killed_leaves_nothing_frozen(self):
        command, process, guard = self.held_up(50, "--freeze-limit", "60", "p/v@a")
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            os.kill(guard, number)
        self.stands_still(self.writer)
        self.end(command, process, signal.SIGKILL)
        self.goes_on(self.writer)  # long before the limit
        wait_until(lambda: not is_running(guard), what="the guard ended")
        self.assertNotIn("v@a", self.lab.views())

    def test_what_is_typed_to_end_the_command_thaws(self):
        command, process, guard = self.held_up(50, "--freeze-limit", "60", "p/v@a")
        self.end(command, process, signal.SIGINT)
        self.goes_on(self.writer)
        wait_until(lambda: not is_running(guard), what="the guard ended")

    def test_a_guard_that_is_killed_is_stood_in_for(self):
        command, _, guard = self.held_up(3, "--freeze-limit", "60", "p/v@a")
        os.kill(guard, signal.SIGKILL)
        self.mentions(self.ends(command), "p/v@a: level crash")
        self.goes_on(self.writer)
        self.assertEqual("crash", self.level("v@a"))

    def test_after_the_limit_all_goes_on_and_the_snapshot_is_kept_as_crash(self):
        command, _, _ = self.held_up(6, "--freeze-limit", "3", "p/v@a")
        self.goes_on(self.writer)
        self.assertNotIn("v@a", self.lab.views())
        self.mentions(self.ends(command), "p/v@a: level crash: thawed after 3 s", "--freeze-limit")
        self.assertEqual("crash", self.level("v@a"))

    def test_a_stopped_daemon_keeps_nothing_frozen_for_longer_than_itself(self):
        command, _, _ = self.held_up(2, "--freeze-limit", "3", "p/v@a")
        pid = self.lab.daemon_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(5)
            self.assertIsNone(command.poll())
        finally:
            os.kill(pid, signal.SIGCONT)
        self.mentions(self.ends(command), "p/v@a: level crash")
        self.goes_on(self.writer)
        self.assertEqual("crash", self.level("v@a"))

    def test_a_daemon_that_is_killed_and_followed_by_another_makes_no_difference(self):
        command, _, _ = self.held_up(3, "--freeze-limit", "30", "p/v@a")
        os.kill(self.lab.daemon_pid(), signal.SIGKILL)
        self.assertEqual("", self.ends(command))
        self.goes_on(self.writer)
        self.assertEqual("fs", self.level("v@a"))

    def test_one_who_thaws_meanwhile_is_noticed(self):
        command, _, _ = self.held_up(3, "--freeze-limit", "30", "p/v@a")
        self.lab.run("fsfreeze", "-u", self.lab.path / "fs-v")
        self.goes_on(self.writer)
        self.mentions(self.ends(command), "p/v@a: level crash", "thawed")
        self.assertEqual("crash", self.level("v@a"))

    def test_what_somebody_else_froze_stays_frozen(self):
        point = self.lab.path / "fs-v"
        self.lab.run("fsfreeze", "-f", point)
        self.mentions(self.freeze("v@a").err, "p/v@a: level crash", f"{point}: somebody else has frozen it")
        self.stands_still(self.writer)
        self.lab.run("fsfreeze", "-u", point)  # fails where it is not frozen
        self.goes_on(self.writer)


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Agent(threading.Thread):
    """What answers in the place of a guest agent: commands by functions of the test, else as it should."""

    def __init__(self, path, **answers):
        super().__init__(daemon=True)
        self.answers, self.frozen, self.asked = answers, False, []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1)

    def run(self):
        while True:
            connection, _ = self.listener.accept()
            with connection, connection.makefile("rb") as lines:
                try:
                    for line in lines:
                        self.answer(connection, json.loads(line.lstrip(b"\xff")))
                except (ConnectionError, OSError):
                    pass  # also to close it

    def answer(self, connection, command):
        name = command["execute"].removeprefix("guest-").replace("-", "_")
        self.asked.append(name)
        if name in self.answers:
            return self.answers[name](self, connection, command)
        reply = {"sync_delimited": lambda: command["arguments"]["id"], "fsfreeze_freeze": self.freeze,
                 "fsfreeze_status": lambda: "frozen" if self.frozen else "thawed",
                 "fsfreeze_thaw": self.thaw}[name]()
        mark = b"\xff" if name == "sync_delimited" else b""
        connection.sendall(mark + json.dumps({"return": reply}).encode() + b"\n")

    def freeze(self):
        self.frozen = True
        return 2

    def thaw(self):
        self.frozen = False
        return 2


class Guests(FreezeTest):
    def setUp(self):
        super().setUp()
        self.lab.vsnap("create", "p/v", "--size", "1M")
        self.disk = open(self.point / "v", "r+b")  # as QEMU has it, which listens at the socket
        self.addCleanup(self.disk.close)
        self.socket = self.lab.path / "agent"

    def agent(self, **answers):
        agent = Agent(self.socket, **answers)
        agent.start()
        return agent

    def snap(self, *words, **options):
        return self.freeze("--qga", self.socket.as_posix(), *words, **options)

    def freeze(self, *words, **options):
        words = (f"p/{word}" if "@" in word else word for word in words)
        return self.lab.vsnap("snapshot", "--freeze", *words, **options)

    def refused(self, *words, **options):
        """Nothing is taken, and nothing is frozen."""
        result = self.snap(*words, code=1, **options)
        self.assertNotIn("v@a", self.lab.views())
        return result.err

    def test_a_guest_that_was_frozen_all_the_time_gives_the_level_app(self):
        agent = self.agent()
        self.assertEqual("", self.snap("v@a").err)
        self.assertEqual("app", self.level("v@a"))
        self.assertFalse(agent.frozen)
        order = [name for name in agent.asked if name != "sync_delimited"]
        self.assertEqual(["fsfreeze_freeze", "fsfreeze_status", "fsfreeze_thaw"], order)

    def test_disks_of_another_vm_are_not_covered(self):
        self.agent()
        self.lab.vsnap("create", "p/w", "--size", "1M")
        code = "import sys; f = open(sys.argv[1], 'r+b'); print('ready', flush=True); sys.stdin.read()"
        other = self.lab.start("python3", "-c", code, self.point / "w", stdin=subprocess.PIPE)
        self.assertEqual("ready\n", other.stdout.readline())
        self.mentions(self.snap("v@a", "w@a").err, "p/w@a: level crash: in use by python3")
        other.communicate(timeout=20)
        self.assertEqual(["app", "crash"], [self.level("v@a"), self.level("w@a")])

    def other(self, code, *words):
        """A program beside the test, once it is ready; it ends with its input."""
        process = self.lab.start("python3", "-c", code, *words, stdin=subprocess.PIPE)
        self.addCleanup(process.communicate)
        self.assertEqual("ready\n", process.stdout.readline())
        return process

    USER = "import sys; f = open(sys.argv[1], 'r+b'); print('ready', flush=True); sys.stdin.read()"

    def test_an_agent_of_a_vm_that_has_other_disks_covers_no_volume(self):
        self.disk.close()
        disk = open(self.lab.file("disk", MIB), "r+b")  # the VM's, outside the pool
        self.addCleanup(disk.close)
        self.agent()
        user = self.other(self.USER, self.point / "v")
        self.mentions(self.snap("v@a").err, "p/v@a: level crash: in use by python3")
        user.communicate(timeout=20)
        self.assertEqual("crash", self.level("v@a"))

    RELAY = """if True:
        import json, socket, sys
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(sys.argv[1])
        listener.listen(1)
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            for line in connection.makefile("rb"):
                command = json.loads(line.lstrip(b"\\xff"))
                sync, status = ("guest-" + name == command["execute"]
                                for name in ("sync-delimited", "fsfreeze-status"))
                reply = command["arguments"]["id"] if sync else "frozen" if status else 1
                connection.sendall(b"\\xff" * sync + json.dumps({"return": reply}).encode() + b"\\n")
    """

    def test_an_agent_of_which_nothing_is_known_covers_nothing_that_is_mounted_here(self):
        self.disk.close()
        relay = self.lab.start("python3", "-c", self.RELAY, self.socket)
        self.addCleanup(relay.communicate)
        self.addCleanup(relay.kill)
        self.assertEqual("ready\n", relay.stdout.readline())
        user = self.other(self.USER, self.point / "v")
        _, point = self.formatted("ext4", "w")
        self.lab.run("fsfreeze", "-f", point)
        try:
            self.mentions(self.snap("v@a", "w@a").err, "p/w@a: level crash", "somebody else has frozen it")
        finally:
            self.lab.run("fsfreeze", "-u", point)
        user.communicate(timeout=20)
        self.assertEqual(["app", "crash"], [self.level("v@a"), self.level("w@a")])

    def test_a_socket_where_nobody_listens_is_an_error_at_once(self):
        self.mentions(self.refused("v@a"), f"{self.socket}: the guest agent: No such file")

    def test_an_agent_that_says_nothing_is_an_error_before_anything_is_frozen(self):
        agent = self.agent(sync_delimited=lambda *_: None)
        self.mentions(self.refused("v@a"), f"{self.socket}: no answer from a guest agent")
        self.assertEqual({"sync_delimited"}, set(agent.asked))

    def test_noise_is_an_error_before_anything_is_frozen(self):
        def noise(_, connection, __):
            while True:
                connection.sendall(os.urandom(4096).replace(b"\n", b""))

        agent = self.agent(sync_delimited=noise)
        self.mentions(self.refused("v@a"), str(self.socket))
        self.assertEqual({"sync_delimited"}, set(agent.asked))

    def test_an_old_answer_is_not_taken_for_a_new_one(self):
        def stale(agent, connection, command):
            connection.sendall(b'{"return": 7}\n\xff{"return": 1}\n')
            del agent.answers["sync_delimited"]
            agent.answer(connection, command)

        self.agent(sync_delimited=stale)
        self.assertEqual("", self.snap("v@a").err)
        self.assertEqual("app", self.level("v@a"))

    def test_a_guest_that_cannot_be_frozen_is_an_error_and_thawed(self):
        def refuse(agent, connection, _):
            agent.frozen = True  # half of it
            connection.sendall(b'{"error": {"class": "GenericError", "desc": "failed to freeze /home"}}\n')

        agent = self.agent(fsfreeze_freeze=refuse)
        self.mentions(self.refused("v@a"), "refuses guest-fsfreeze-freeze", "failed to freeze /home")
        self.assertFalse(agent.frozen)

    def test_a_guest_that_takes_longer_than_the_limit_is_thawed(self):
        def slow(agent, connection, _):
            time.sleep(2)
            connection.sendall(json.dumps({"return": agent.freeze()}).encode() + b"\n")

        agent = self.agent(fsfreeze_freeze=slow)
        self.mentions(self.refused("--freeze-limit", "1", "v@a"), "1 s (--freeze-limit)")
        wait_until(lambda: "fsfreeze_thaw" in agent.asked and not agent.frozen, what="thawed")

    def test_a_connection_that_ends_half_way_is_made_again_to_thaw(self):
        def leave(agent, connection, _):
            agent.freeze()
            connection.sendall(b'{"retu')
            raise ConnectionError

        agent = self.agent(fsfreeze_freeze=leave)
        self.refused("v@a")
        wait_until(lambda: not agent.frozen, what="thawed")

    def test_a_thaw_that_fails_is_tried_again(self):
        def fail_once(agent, connection, _):
            del agent.answers["fsfreeze_thaw"]
            connection.sendall(b'{"error": {"class": "GenericError", "desc": "not now"}}\n')

        agent = self.agent(fsfreeze_thaw=fail_once)
        self.assertEqual("", self.snap("v@a").err)
        self.assertEqual("app", self.level("v@a"))
        self.assertFalse(agent.frozen)

    def test_a_guest_that_is_never_thawed_is_told_of(self):
        def fail(_, connection, __):
            connection.sendall(b'{"error": {"class": "GenericError", "desc": "never"}}\n')

        self.agent(fsfreeze_thaw=fail)
        self.mentions(self.snap("v@a", code=1).err, "the snapshots are taken", "may be frozen still", "never")
        self.assertEqual("app", self.level("v@a"))

    def test_a_guest_that_thaws_by_itself_gives_the_level_crash(self):
        self.agent(fsfreeze_status=lambda _, connection, __: connection.sendall(b'{"return": "thawed"}\n'))
        self.mentions(self.snap("v@a").err, "p/v@a: level crash", "did not stay frozen")
        self.assertEqual("crash", self.level("v@a"))

    def test_a_guest_without_file_systems_gives_the_level_crash(self):
        self.agent(fsfreeze_freeze=lambda _, connection, __: connection.sendall(b'{"return": 0}\n'))
        self.mentions(self.snap("v@a").err, "p/v@a: level crash", "froze no file system")

    def test_a_guest_and_a_file_system_here_have_each_their_level(self):
        self.agent()
        _, point = self.formatted("ext4", "w")
        writer = self.busy(point)
        self.assertEqual("", self.snap("v@a", "w@a").err)
        self.goes_on(writer)
        self.assertEqual(["app", "fs"], [self.level("v@a"), self.level("w@a")])


class RealAgent(FreezeTest):
    @unittest.skipUnless(shutil.which("qemu-ga"), "no qemu-ga")
    def test_a_real_guest_agent_freezes_what_it_has_mounted(self):
        self.lab.vsnap("create", "p/v", "--size", "128M")
        device = self.lab.map("p/v")
        self.lab.run("mkfs.ext4", "-q", device)
        room = self.lab.directory("room")
        script = Path(__file__).parent / "guest_room.py"
        agent = self.lab.start("python3", "-B", script, room, device)
        self.addCleanup(agent.communicate)
        self.addCleanup(agent.kill)
        self.assertEqual("ready\n", agent.stdout.readline())
        inside = Path(f"/proc/{agent.pid}/root")
        wait_until((inside / "agent").exists, what="qemu-ga listens")
        writer = self.busy(inside / "fs")
        synced = writer.synced
        self.assertEqual("", self.lab.vsnap("snapshot", "--freeze", "--qga", inside / "agent", "p/v@a").err)
        later = writer.synced
        self.goes_on(writer)
        writer.stop()
        self.assertEqual("app", self.level("v@a"))
        frozen = self.lab.map("p/v@a")
        self.assertNotIn("needs_recovery", self.lab.run("dumpe2fs", "-h", frozen).out)
        self.holds(self.mounted(frozen, "old", "-o", "ro,noload"), still_there(synced, later))


class Groups(FreezeTest):
    def test_a_group_is_one_moment_across_forms(self):
        image = self.lab.file("image", 8 * MIB)
        self.lab.vsnap("adopt", image, "p/a")
        self.lab.vsnap("create", "p/b", "--size", "64M")
        write_at(self.point / "b", MIB, os.urandom(48 * MIB))
        self.lab.vsnap("snapshot", "p/b@origin")
        self.lab.vsnap("clone", "p/b@origin", "c")
        self.lab.vsnap("snapshot", "--full", "--bwlimit", "2M", "p/b@copy")
        stop = threading.Event()
        writer = threading.Thread(target=self.count, args=(stop,))
        writer.start()
        flatten = self.lab.start(VSNAP, "flatten", "p/c")
        try:
            for pair in range(PAIRS):
                self.lab.vsnap("snapshot", *(f"p/{name}@{pair}" for name in "abc"))
        finally:
            stop.set()
            writer.join()
        out, _ = flatten.communicate(timeout=60)
        self.assertEqual(0, flatten.returncode, out)
        self.assertRegex(self.lab.views()["b@copy"]["state"] or "complete", "copying|complete")
        for pair in range(PAIRS):
            a, b, c = (self.number(f"{name}@{pair}") for name in "abc")
            self.assertIn(a - b, (0, 1), f"group {pair}: {a} {b} {c}")
            self.assertIn(b - c, (0, 1), f"group {pair}: {a} {b} {c}")
            self.assertIn(a - c, (0, 1), f"group {pair}: {a} {b} {c}")
        self.assertGreater(self.number(f"c@{PAIRS - 1}"), self.number("c@0"))

    def count(self, stop):
        """A number that grows to a, then b, then c; each write waits for the one before."""
        files = [os.open(self.point / name, os.O_WRONLY) for name in "abc"]
        number = 0
        while not stop.is_set():
            number += 1
            for file in files:
                os.pwrite(file, number.to_bytes(8, "little"), 0)
        for file in files:
            os.close(file)

    def number(self, name):
        return int.from_bytes(read_at(self.point / name, 0, 8), "little")


if __name__ == "__main__":
    main()
