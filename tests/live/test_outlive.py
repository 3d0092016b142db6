#!/usr/bin/env python3
"""The mount outlives its daemon: killed or replaced under load, and no program notices more than a pause.

VSNAP_KILLS: how many times each load goes through it (20).
"""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from support import (BLOCK, MIB, VSNAP, LabTest, is_running, keeper_of, main, read_all, seeded, wait_until)

KILLS = int(os.environ.get("VSNAP_KILLS") or 20)


def connections_to(socket):
    """Made and not closed by whoever listens there."""
    rows = Path("/proc/net/unix").read_text().splitlines()
    return sum(row.endswith(f" {socket}") for row in rows) - 1


class OutliveTest(LabTest):
    OPTIONS = ()

    def setUp(self):
        super().setUp()
        self.random = seeded()
        self.lab.pool(size="1G")
        self.point = self.lab.mount("p", *self.OPTIONS)

    def kill(self):
        """Kills the daemon; the time until another serves, in seconds."""
        pid = self.lab.daemon_pid()
        start = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        os.stat(self.point)  # waits for the successor
        took = time.monotonic() - start
        self.assertNotEqual(self.lab.daemon_pid(), pid)
        return took

    def kill_under(self, processes):
        """Kills while these run, and KILLS times at least; they are to end well."""
        took = []
        while len(took) < KILLS or any(process.poll() is None for process in processes):
            time.sleep(self.random.uniform(0.02, 0.6))
            took.append(self.kill())
        for process in processes:
            output = process.communicate(timeout=60)[0]
            self.assertEqual(process.returncode, 0, output)
            self.assertIn("err= 0", output)
        took.sort()
        print(f"{len(took)} kills, served again after {took[len(took) // 2] * 1000:.0f} ms (median), "
              f"{took[-1] * 1000:.0f} ms (longest)", flush=True)

    def fio(self, name, *options, seconds=10):
        job = (f"--name={name}", "--rw=randwrite", "--bs=4k-64k", "--verify=crc32c", "--verify_backlog=256",
               "--verify_fatal=1", "--time_based", f"--runtime={seconds}",
               f"--randseed={self.random.randrange(1 << 30)}")
        return self.lab.start("fio", *job, *options)

    def end(self):
        self.lab.umount()
        self.lab.check()


class Load(OutliveTest):
    def test_fio_on_the_file_itself(self):
        for name in ("d", "b"):
            self.lab.vsnap("create", f"p/{name}", "--size", "64M")
        deep = self.fio("direct", f"--filename={self.point}/d", "--size=64M", "--direct=1",
                        "--ioengine=libaio", "--iodepth=32")
        cached = self.fio("cached", f"--filename={self.point}/b", "--size=64M", "--fdatasync=32")
        self.kill_under([deep, cached])
        self.end()

    def test_fio_through_a_loop_device_with_ext4(self):
        self.lab.vsnap("create", "p/v", "--size", "256M")
        device = self.lab.map("p/v")
        self.lab.run("mkfs.ext4", "-q", device)
        files = self.lab.mount_device(device, "files")
        load = self.fio("loop", f"--directory={files}", "--size=64M", "--direct=1", "--ioengine=libaio",
                        "--iodepth=8", "--fdatasync=64")
        self.kill_under([load])
        self.lab.umount_device(files, device)
        self.lab.run("e2fsck", "-fn", device)
        self.lab.unmap(device)
        self.end()

    def test_fio_on_a_mapped_file(self):
        self.lab.vsnap("create", "p/v", "--size", "64M")
        mapped = self.fio("mapped", f"--filename={self.point}/v", "--size=32M", "--ioengine=mmap",
                          "--fdatasync=64")
        self.kill_under([mapped])
        self.end()


class Names(OutliveTest):
    """Making, renaming and removing: each call succeeds, and has its effect once."""

    def turn(self, index, stop, failed, made):
        count = 0
        while not stop.is_set():
            first, second = (self.point / f"{kind}{index}-{count}" for kind in ("a", "b"))
            try:
                fd = os.open(first, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640)
                os.pwrite(fd, str(second).encode(), 0)
                os.close(fd)
                os.rename(first, second)
                if count % 4 == 0:
                    made.append(second)
                else:
                    os.unlink(second)
            except OSError as error:
                failed.append(f"{first.name}: {error}")
                return
            count += 1

    def test_under_kills(self):
        stop, failed, made = threading.Event(), [], []
        threads = [threading.Thread(target=self.turn, args=(i, stop, failed, made)) for i in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(KILLS):
            time.sleep(self.random.uniform(0.02, 0.2))
            self.kill()
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(failed, [])
        self.assertGreater(len(made), KILLS)
        self.assertEqual(sorted(os.listdir(self.point)), sorted(path.name for path in made))
        for path in made:
            self.assertEqual(read_all(path), str(path).encode())
            self.assertEqual(path.stat().st_mode & 0o777, 0o640)
        self.end()


class Open(OutliveTest):
    """What was open stays open."""

    def make(self, name="v", content=b"content"):
        path = self.point / name
        path.write_bytes(content)
        return path

    def test_a_removed_volume_lives_until_it_is_closed_and_no_longer(self):
        path = self.make("v", os.urandom(8 * MIB))
        content = read_all(path)
        free = self.lab.space()["available"]
        fd = os.open(path, os.O_RDWR)
        os.unlink(path)
        for _ in range(3):
            self.kill()
            self.assertEqual(os.pread(fd, 8 * MIB, 0), content)
            os.pwrite(fd, b"more", 0)
            self.assertEqual(os.pread(fd, 4, 0), b"more")
            content = b"more" + content[4:]
            self.assertEqual(os.fstat(fd).st_nlink, 0)
        os.close(fd)
        self.lab.settle()
        self.assertGreater(self.lab.space()["available"], free + 7 * MIB)
        self.end()

    def test_a_removed_volume_survives_an_upgrade_and_goes_when_it_is_closed(self):
        path = self.make("v", os.urandom(4 * MIB))
        content = read_all(path)
        fd = os.open(path, os.O_RDONLY)
        os.unlink(path)
        self.lab.vsnap("upgrade", "p")
        self.assertEqual(os.pread(fd, 4 * MIB, 0), content)
        os.close(fd)
        self.lab.settle()
        self.assertEqual(self.lab.views(), {})
        self.end()

    def test_handles_are_still_counted(self):
        path = self.make()
        fds = [os.open(path, os.O_RDONLY) for _ in range(3)]
        self.kill()
        self.assertEqual(self.lab.views()["v"]["open"], 3)
        for fd in fds:
            os.close(fd)
        wait_until(lambda: self.lab.views()["v"]["open"] == 0, what="closed")
        self.end()

    def test_a_snapshot_can_still_be_read_and_not_be_written(self):
        path = self.make()
        self.lab.vsnap("snapshot", "p/v@s")
        fd = os.open(self.point / "v@s", os.O_RDONLY)
        path.write_bytes(b"changed")
        self.kill()
        self.assertEqual(os.pread(fd, 20, 0), b"content")
        os.close(fd)
        self.fails_with(errno.EROFS, os.open, self.point / "v@s", os.O_RDWR)
        self.end()

    def test_a_listing_goes_on_where_it_was(self):
        names = {f"volume-with-a-rather-long-name-{i:04}" for i in range(600)}
        for name in names:
            self.make(name, b"")
        seen = []
        with os.scandir(self.point) as entries:
            for count, entry in enumerate(entries):
                seen.append(entry.name)
                if count == 10:
                    self.kill()
        self.assertEqual(sorted(seen), sorted(names))
        self.end()

    def test_what_the_kernel_had_cached_is_not_shown_after_a_rollback(self):
        path = self.make("v", b"old" * 4096)
        self.lab.vsnap("snapshot", "p/v@s")
        path.write_bytes(b"new" * 4096)
        with open(path, "rb") as held:
            self.assertEqual(held.read(3), b"new")
            self.kill()
            self.assertEqual(os.pread(held.fileno(), 3, 3000), b"new")
        self.lab.vsnap("rollback", "-y", "p/v@s")
        self.assertEqual(read_all(path)[:3], b"old")
        self.end()


class Processes(OutliveTest):
    def test_commands_wait_for_the_successor(self):
        self.lab.vsnap("create", "p/v", "--size", "1M")
        for turn in range(5):
            pid = self.lab.daemon_pid()
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not is_running(pid), what="killed")  # it would not answer any more
            self.lab.vsnap("snapshot", f"p/v@{turn}")
        self.assertEqual(len(self.lab.views()), 6)
        self.end()

    def test_each_command_is_carried_out_once_while_daemons_change(self):
        """Whatever a daemon had done of it when it was killed or replaced."""
        self.lab.vsnap("create", "p/v", "--size", "1M")
        stop, failed, turns = threading.Event(), [], [0, 0]

        def ask(*arguments):
            done = self.lab.vsnap(*arguments, code=None)
            if done.code != 0:
                failed.append(str(done))
                stop.set()

        def turn(index):
            while not stop.is_set():
                name = f"{index}-{turns[index]}"
                ask("snapshot", f"p/v@{name}")
                ask("clone", f"p/v@{name}", f"a{name}")
                ask("rename", f"p/a{name}", f"b{name}")
                ask("create", f"p/c{name}", "--size", "4K")
                ask("rm", "-y", f"p/b{name}", f"p/v@{name}")
                turns[index] += 1

        threads = [threading.Thread(target=turn, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        try:
            for count in range(2 * KILLS):
                if stop.wait(self.random.uniform(0, 0.3)):
                    break
                if count % 2:
                    ask("upgrade", "p")
                else:
                    self.kill()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        self.assertEqual(failed, [])
        expected = {f"c{index}-{turn}" for index in range(2) for turn in range(turns[index])}
        self.assertEqual(set(self.lab.views()), expected | {"v"})
        self.end()

    def test_what_was_asked_of_a_daemon_that_died_is_asked_of_the_next(self):
        self.lab.vsnap("create", "p/v", "--size", "1M")
        pid = self.lab.daemon_pid()
        os.kill(pid, signal.SIGSTOP)  # it takes the request, and does nothing any more
        waiting = self.lab.start(VSNAP, "snapshot", "p/v@s")
        # The first one only looks whether somebody listens.
        wait_until(lambda: connections_to(self.lab.path / "run/p.sock") > 1, what="asked")
        os.kill(pid, signal.SIGKILL)
        output = waiting.communicate(timeout=30)[0]
        self.assertEqual(waiting.returncode, 0, output)
        self.assertIn("v@s", self.lab.views())
        self.end()

    def test_what_is_open_is_so_for_commands_too_while_daemons_change(self):
        path = self.point / "v"
        path.write_bytes(b"content")
        (self.point / "gone").write_bytes(b"removed")
        held = os.open(path, os.O_RDONLY)
        removed = os.open(self.point / "gone", os.O_RDONLY)
        os.unlink(self.point / "gone")
        for turn in range(2 * KILLS):
            change = None
            if turn % 2:
                change = self.lab.start(VSNAP, "upgrade", "p")
                time.sleep(self.random.uniform(0, 0.03))
            else:
                os.kill(self.lab.daemon_pid(), signal.SIGKILL)
            self.lab.vsnap("rm", "-y", "p/v", code=4)
            self.assertEqual(os.pread(held, 20, 0), b"content")
            self.assertEqual(os.pread(removed, 20, 0), b"removed")
            if change:
                output = change.communicate(timeout=30)[0]
                self.assertEqual(change.returncode, 0, output)
            self.assertIn("v", self.lab.views())
        os.close(held)
        os.close(removed)
        self.lab.vsnap("rm", "-y", "p/v")
        self.end()

    def test_the_log_says_what_happened(self):
        pid = self.lab.daemon_pid()
        self.kill()
        log = (self.lab.path / "run/p.log").read_text()
        self.mentions(log, f"pid {pid}, was ended by signal 9", "served again")

    def test_nobody_else_gets_the_pool_between_two_daemons(self):
        """Nor what is removed and still open: a command that knows nothing of the mount would free it."""
        other = {"VSNAP_RUNTIME_DIR": f"{self.lab.path}/other"}
        self.lab.vsnap("create", "p/v", "--size", "1M")
        self.lab.vsnap("pool", "add", "p", self.lab.path / "added.img", "--size", "64M")
        (self.point / "gone").write_bytes(b"removed")
        # Another process has it open: each command that starts here would close it, and wait for a daemon.
        holder = self.lab.start("sh", "-c", 'exec 3<"$1" && echo open && read line && cat <&3', "sh",
                                self.point / "gone", stdin=subprocess.PIPE)
        self.assertEqual(holder.stdout.readline(), "open\n")
        os.unlink(self.point / "gone")
        for _ in range(3):
            pid = self.lab.daemon_pid()
            keeper = keeper_of(pid)
            os.kill(keeper, signal.SIGSTOP)  # nobody starts a successor yet
            try:
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: not is_running(pid), what="killed")
                for command in (("ls", "p"), ("snapshot", "p/v@s"), ("pool", "destroy", "-y", "p")):
                    self.mentions(self.lab.vsnap(*command, code=4, env=other).err, "in use")
            finally:
                os.kill(keeper, signal.SIGCONT)
        self.assertEqual(holder.communicate("go on\n", timeout=30)[0], "removed")
        self.assertEqual(set(self.lab.views()), {"v"})
        self.end()

    def test_the_keeper_ends_in_order_on_a_signal(self):
        (self.point / "v").write_bytes(b"content")
        pid = self.lab.daemon_pid()
        keeper = keeper_of(pid)
        os.kill(keeper, signal.SIGTERM)
        wait_until(lambda: not is_running(keeper) and not is_running(pid), what="ended")
        self.assertFalse(os.path.ismount(self.point))
        self.lab.check()

    def test_without_its_keeper_the_daemon_goes_on(self):
        (self.point / "v").write_bytes(b"content")
        keeper = keeper_of(self.lab.daemon_pid())
        os.kill(keeper, signal.SIGKILL)
        wait_until(lambda: not is_running(keeper), what="ended")
        self.assertEqual(read_all(self.point / "v"), b"content")
        self.mentions(self.lab.vsnap("upgrade", "p", code=1).err, "keeper was killed")
        self.assertEqual(read_all(self.point / "v"), b"content")
        self.end()

    def test_who_unmounts_while_the_daemon_hangs_and_is_killed_loses_nothing(self):
        (self.point / "v").write_bytes(b"content")
        pid = self.lab.daemon_pid()
        os.kill(pid, signal.SIGSTOP)
        waiting = self.lab.start(VSNAP, "umount", "p")
        time.sleep(0.3)
        self.assertIsNone(waiting.poll())
        os.kill(pid, signal.SIGKILL)
        output = waiting.communicate(timeout=30)[0]
        self.assertEqual(waiting.returncode, 0, output)
        self.lab.mount()
        self.assertEqual(read_all(self.point / "v"), b"content")
        self.end()


class Upgrade(OutliveTest):
    def test_under_load(self):
        self.lab.vsnap("create", "p/v", "--size", "64M")
        load = self.fio("load", f"--filename={self.point}/v", "--size=64M", "--direct=1", "--ioengine=libaio",
                        "--iodepth=16", seconds=6)
        new = self.lab.path / "vsnap-new"
        shutil.copy(VSNAP, new)
        while load.poll() is None:
            program = self.random.choice((new, VSNAP))
            done = json.loads(self.lab.run(program, "upgrade", "p", "--json").out)
            self.assertEqual((done["program"], done["pid"]), (str(program), self.lab.daemon_pid()))
            self.assertEqual(os.readlink(f"/proc/{done['pid']}/exe"), str(program))
            time.sleep(0.2)
        output = load.communicate()[0]
        self.assertEqual(load.returncode, 0, output)
        self.assertIn("err= 0", output)
        self.end()

    def test_a_dry_run_changes_nothing(self):
        pid = self.lab.daemon_pid()
        self.mentions(self.lab.vsnap("upgrade", "-n", "p").out, "would be served by", pid)
        self.assertEqual(self.lab.daemon_pid(), pid)

    def test_a_program_that_does_not_serve_is_given_up(self):
        """The dynamic linker runs vsnap, so it is what the command takes for its own program."""
        (self.point / "v").write_bytes(b"content")
        headers = subprocess.run(["readelf", "-l", VSNAP], capture_output=True, text=True, check=True).stdout
        linker = headers.split("interpreter: ")[1].split("]")[0]
        done = self.lab.run(linker, VSNAP, "upgrade", "p", code=1)
        self.mentions(done.err, "did not come to serve", "the one before goes on")
        self.assertEqual(read_all(self.point / "v"), b"content")
        self.lab.vsnap("upgrade", "p")
        self.end()

    def test_what_is_not_mounted(self):
        self.lab.umount()
        self.mentions(self.lab.vsnap("upgrade", "p", code=1).err, "not mounted")
        self.lab.vsnap("upgrade", "no-such-pool", code=3)


class WithoutRestart(OutliveTest):
    OPTIONS = ("-o", "restart=off")

    def test_the_mount_dies_with_its_daemon(self):
        path = self.point / "v"
        path.write_bytes(b"content")
        pid = self.lab.daemon_pid()
        self.mentions(self.lab.vsnap("upgrade", "p", code=1).err, "cannot be replaced")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_running(pid), what="killed")

        def is_dead():
            try:
                os.stat(path)
            except OSError as error:
                return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
            return False

        wait_until(is_dead, what="the mount is dead")
        self.lab.run("umount", "-l", self.point)
        self.lab.mount()
        self.assertEqual(read_all(path), b"content")
        self.end()


INSIDE = "VSNAP_TEST_SMALL_MEMORY"  # set where /dev/shm is one of our own, with room for one tail


class WithoutMemory(LabTest):
    def test_a_successor_that_has_no_room_for_its_tail_serves_and_is_the_last(self):
        if INSIDE not in os.environ:
            test = self.id().removeprefix("__main__.")
            script = f"mount -t tmpfs -o size=45M none /dev/shm && exec {sys.executable} -B {__file__} {test}"
            env = {INSIDE: "1", "VSNAP_TEST_DIR": "/var/tmp"}
            self.lab.run("unshare", "-m", "--propagation", "private", "sh", "-c", script, env=env)
            return
        self.lab.pool()
        point = self.lab.mount()
        (point / "v").write_bytes(b"content")
        pid = self.lab.daemon_pid()
        keeper = keeper_of(pid)
        os.kill(keeper, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_running(pid), what="killed")
        for tail in Path("/dev/shm").glob("vsnap-tail-*"):
            tail.unlink()
        for turn in range(5):  # what the killed one had may come free a little later
            with contextlib.suppress(OSError), open(f"/dev/shm/filler{turn}", "wb", buffering=0) as filler:
                while True:
                    filler.write(bytes(65536))
            time.sleep(0.1)
        os.kill(keeper, signal.SIGCONT)
        self.assertEqual(os.listdir(point), ["v"])
        log = self.lab.path / "run/p.log"
        wait_until(lambda: "the mount dies with it" in log.read_text(), what="said in the log")
        self.lab.umount()
        wait_until(lambda: not is_running(keeper), what="the keeper ended")


if __name__ == "__main__":
    main()
