#!/usr/bin/env python3
"""The daemon behind a mount: how it starts, stops, dies, and what is there afterwards."""

import os
import pwd
import shutil
import signal
import threading
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random

from support import (
    BLOCK,
    VSNAP,
    LabTest,
    fsync,
    is_running,
    keeper_of,
    kill_with_keeper,
    main,
    read_all,
    read_at,
    seeded,
    wait_until,
    write_at,
)


def is_mounted(point):
    return any(
        line.split()[4] == str(point) for line in Path("/proc/self/mountinfo").read_text().splitlines()
    )


class Starting(LabTest):
    def setUp(self):
        super().setUp()
        self.lab.pool()

    def test_in_the_background_it_returns_when_the_mount_works(self):
        point = self.lab.directory("m")
        for _ in range(5):
            self.lab.vsnap("mount", "p", point)
            (point / "new").write_bytes(b"at once")  # not a moment later
            self.assertTrue(is_mounted(point))
            self.lab.vsnap("umount", point)
            self.assertFalse(is_mounted(point))

    def test_in_the_background_it_keeps_neither_the_pipes_nor_the_directory_of_its_caller(self):
        """A shell that waits for the end of our output must get it; run() would time out."""
        directory = self.lab.directory("cwd")
        self.lab.vsnap("mount", "p", self.lab.directory("m"), cwd=directory, timeout=20)
        pid = self.lab.daemon_pid()
        self.assertEqual(os.readlink(f"/proc/{pid}/cwd"), "/")
        self.assertNotEqual(os.getsid(pid), os.getsid(0))

    def test_each_line_of_its_log_has_the_time(self):
        point = self.lab.mount("p")
        began = datetime.now(timezone.utc) - timedelta(seconds=1)
        for _ in range(2):  # what a successor says, too, also before it serves
            pid = self.lab.daemon_pid()
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: self.lab.daemon_pid() != pid, what="a successor")
        (point / "v").write_bytes(b"served")
        lines = (self.lab.path / "run/p.log").read_text().splitlines()
        self.assertGreater(len(lines), 2, lines)
        for line in lines:
            when, program, _ = line.split(" ", 2)
            self.assertEqual(program, "vsnap:", line)
            self.assertLess(began, datetime.fromisoformat(when), line)

    def test_in_the_foreground_it_stays_until_it_is_told_to_stop(self):
        point = self.lab.directory("m")
        process = self.lab.start(VSNAP, "mount", "p", point, "-f")
        wait_until(lambda: is_mounted(point), what="mounted")
        self.lab.vsnap("create", "p/v", "--size", "1M")
        self.assertEqual(keeper_of(self.lab.daemon_pid()), process.pid)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=20)[0]
        self.assertEqual(process.returncode, 0, output)
        self.assertFalse(is_mounted(point))
        self.assertEqual(list(self.lab.views()), ["v"])

    def test_what_keeps_it_from_mounting_is_said_with_the_exit_code(self):
        used = self.lab.directory("used")
        (used / "file").write_text("in the way")
        for arguments, code, word in (
            (("p", self.lab.path / "none"), 1, "none"),
            (("p", used), 1, "not empty"),
            (("p", used / "file"), 1, "not a directory"),
            (("q", used), 3, "no such pool"),
            (("p", self.lab.directory("m"), "-o", "nonsense"), 2, "nonsense"),
        ):
            with self.subTest(arguments=arguments):
                done = self.lab.vsnap("mount", *arguments, code=code)
                self.mentions(done.err, word)
                self.assertEqual(done.err.count("\n"), 1)
        self.assertEqual(self.lab.status()["mount_point"], None)

    def test_without_fuse_it_says_so_and_leaves_the_pool_free(self):
        """In a mount name space of its own, where /dev/fuse belongs to no driver."""
        point = self.lab.directory("m")
        script = (
            'mount -t tmpfs none "$1" && mknod "$1/none" c 240 250 && mount --bind "$1/none" /dev/fuse'
            ' && umount -l "$1" && exec "$0" mount p "$1"'
        )
        done = self.lab.run("unshare", "-m", "sh", "-c", script, VSNAP, point, code=1)
        self.mentions(done.err.lower(), "fuse")
        self.lab.vsnap("create", "p/v", "--size", "1M")


class Stopping(LabTest):
    def setUp(self):
        super().setUp()
        self.lab.pool()
        self.point = self.lab.mount()
        (self.point / "v").write_bytes(b"kept" * 1000)
        self.pid = self.lab.daemon_pid()

    def ended(self):
        wait_until(lambda: not is_running(self.pid), what="daemon ended")
        self.assertFalse(is_mounted(self.point))

    def still_there(self):
        self.lab.check()
        self.lab.mount()
        self.assertEqual(read_all(self.point / "v"), b"kept" * 1000)

    def test_sigterm_ends_it_in_order(self):
        os.kill(self.pid, signal.SIGTERM)
        self.ended()
        self.still_there()

    def test_umount_of_the_system_ends_it_in_order(self):
        self.lab.run("umount", self.point)
        self.ended()
        self.still_there()

    def test_umount_by_pool_and_by_directory_returns_when_it_has_ended(self):
        self.lab.vsnap("umount", "p")
        self.assertFalse(is_running(self.pid))
        self.still_there()
        pid = self.lab.daemon_pid()
        self.lab.vsnap("umount", self.point)
        self.assertFalse(is_running(pid))

    def test_umount_of_a_mount_in_use_says_by_whom_and_leaves_it(self):
        with open(self.point / "v", "rb"):
            done = self.lab.vsnap("umount", "p", code=4)
            self.mentions(done.err, "in use", f"pid {os.getpid()}")
            self.assertEqual(read_all(self.point / "v"), b"kept" * 1000)
        self.lab.vsnap("umount", "p")
        self.ended()

    def test_umount_names_the_loop_device_that_uses_it(self):
        device = self.lab.map("p/v")
        self.mentions(self.lab.vsnap("umount", "p", code=4).err, device)
        self.lab.unmap(device)
        self.lab.vsnap("umount", "p")

    def test_umount_of_what_is_not_mounted_is_an_error(self):
        self.lab.vsnap("umount", "p")
        self.mentions(self.lab.vsnap("umount", "p", code=1).err, "not mounted")
        self.lab.vsnap("umount", "none", code=3)


class Killed(LabTest):
    def setUp(self):
        super().setUp()
        self.random = seeded()
        self.lab.pool(size="512M", members=2)
        self.point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "64M")

    def test_what_fsync_confirmed_is_there_after_a_kill(self):
        for turn in range(6):
            at = self.random.randrange(8000) * BLOCK
            data = self.random.randbytes(self.random.randrange(1, 100) * BLOCK)
            write_at(self.point / "v", at, data)
            if turn % 2:
                self.lab.vsnap("snapshot", f"p/v@{turn}")
            fsync(self.point / "v")
            self.lab.kill_daemon()
            self.lab.mount()
            self.assertEqual(read_at(self.point / "v", at, len(data)), data)
            if turn % 2:
                self.assertEqual(read_at(self.point / f"v@{turn}", at, len(data)), data)
        self.lab.umount()
        self.lab.check()

    def test_what_o_dsync_confirmed_is_there_after_each_of_20_kills_under_load(self):
        """Each block gets a counter; those of which the write returned are there, or a later one."""
        confirmed = {}
        for turn in range(1, 21):
            self.load_until_killed(turn * 1_000_000, confirmed)
            self.lab.mount()
            content = read_all(self.point / "v")
            for block, count in confirmed.items():
                found = content[block * BLOCK : (block + 1) * BLOCK]
                self.assertEqual(found, found[:8] * 512, f"kill {turn}: block {block} is a mix")
                latest = int.from_bytes(found[:8], "little")
                self.assertGreaterEqual(latest, count, f"kill {turn}: block {block}")
        self.assertGreater(len(confirmed), 100)
        self.lab.umount()
        self.lab.check()

    def load_until_killed(self, count, confirmed):
        def load(worker):
            random = Random(count + worker)
            number = count
            fd = os.open(self.point / "v", os.O_WRONLY | os.O_DSYNC)
            with suppress(OSError):  # of the kill
                while True:
                    number += 1
                    block = random.randrange(1000) * 4 + worker
                    os.pwrite(fd, number.to_bytes(8, "little") * 512, block * BLOCK)
                    confirmed[block] = number
            with suppress(OSError):
                os.close(fd)

        workers = [threading.Thread(target=load, args=(index,)) for index in range(4)]
        for worker in workers:
            worker.start()
        time.sleep(self.random.uniform(0.05, 0.4))
        self.lab.kill_daemon()
        for worker in workers:
            worker.join()

    def test_after_a_kill_commands_work_without_the_daemon(self):
        self.lab.vsnap("snapshot", "p/v@s")
        kill_with_keeper(self.lab.daemon_pid())
        wait_until(lambda: self.lab.vsnap("ls", "p", code=None).code == 0, what="ls works")
        self.assertEqual(sorted(self.lab.views()), ["v", "v@s"])
        self.mentions(self.lab.vsnap("umount", "p", code=1).err, "did not end in order", "p.log")
        self.assertFalse(is_mounted(self.point))  # what was left of it
        self.mentions(self.lab.vsnap("umount", "p", code=1).err, "not mounted")
        self.lab.check()

    def test_umount_says_that_the_daemon_was_killed_while_it_was_waited_for(self):
        pid = self.lab.daemon_pid()
        os.kill(pid, signal.SIGSTOP)
        waiting = self.lab.start(VSNAP, "umount", "p")
        time.sleep(0.3)
        ended_early = waiting.poll()
        kill_with_keeper(pid)
        self.assertIsNone(ended_early, "it does not wait for the daemon")
        self.mentions(waiting.communicate(timeout=20)[0], "did not end in order")
        self.assertEqual(waiting.returncode, 1)
        self.lab.mount()
        self.lab.umount()
        self.lab.check()

    def test_a_daemon_that_hangs_gets_exit_code_7_and_not_an_endless_wait(self):
        pid = self.lab.daemon_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            done = self.lab.vsnap("snapshot", "p/v@s", code=7, timeout=40)
            self.mentions(done.err, "not known")
        finally:
            os.kill(pid, signal.SIGCONT)


class Limits(LabTest):
    def test_too_few_open_files_are_an_error_and_the_daemon_takes_what_it_may_have(self):
        self.lab.pool()
        point = self.lab.directory("m")
        for limits, code in (("40:40", 1), ("20:1000", 0), ("64:64", 0)):
            for command in (("ls", "p"), ("mount", "p", point)):
                with self.subTest(limits=limits, command=command):
                    done = self.lab.run("prlimit", f"--nofile={limits}", VSNAP, *command, code=code)
                    if code:
                        self.mentions(done.err, "files", "ulimit")
            if code == 0:
                limit = Path(f"/proc/{self.lab.daemon_pid()}/limits").read_text()
                soft, hard = next(l for l in limit.splitlines() if "open files" in l).split()[3:5]
                self.assertEqual(soft, hard)
                self.lab.vsnap("create", f"p/v{soft}", "--size", "1M")
                self.lab.vsnap("ls", "p")
                self.lab.umount()


class OrdinaryUser(LabTest):
    """Somebody without rights, with his own home, on an image file: through fusermount3."""

    def setUp(self):
        super().setUp()
        self.user = pwd.getpwnam("nobody")
        self.home = self.lab.directory("home")
        (self.lab.path / "run").mkdir(exist_ok=True)
        for name in ("home", "run"):
            os.chown(self.lab.path / name, self.user.pw_uid, self.user.pw_gid)
        binary = self.lab.path / "vsnap"  # where he can read it
        shutil.copy(VSNAP, binary)
        self.binary = binary
        # /dev/fuse as every distribution has it, 0666: in a name space of its own.
        script = (
            'mount -t tmpfs none "$0" && mknod -m 0666 "$0/fuse" c 10 229 && mount --bind "$0/fuse" /dev/fuse'
            ' && umount -l "$0" && echo ready && exec sleep 300'
        )
        self.space = self.lab.start("unshare", "-m", "sh", "-c", script, self.lab.directory("dev"))
        self.addCleanup(self.space.communicate)
        self.addCleanup(self.space.kill)
        self.assertEqual(self.space.stdout.readline(), "ready\n")

    def as_user(self, *argv, **options):
        env = {
            "HOME": str(self.home),
            "XDG_STATE_HOME": f"{self.home}/state",
            "XDG_RUNTIME_DIR": f"{self.lab.path}/run",
            "VSNAP_STATE_DIR": "",
        }
        argv = [
            "nsenter",
            "-t",
            str(self.space.pid),
            "-m",
            "setpriv",
            f"--reuid={self.user.pw_uid}",
            f"--regid={self.user.pw_gid}",
            "--clear-groups",
            *argv,
        ]
        return self.lab.run(*argv, env=env, cwd=self.home, **options)

    def test_mounts_uses_and_unmounts_a_pool_of_his_own(self):
        self.lab.env["VSNAP_RUNTIME_DIR"] = f"{self.lab.path}/run/vsnap"
        self.as_user(self.binary, "pool", "create", "mine", self.home / "mine.img", "--size", "128M")
        self.assertTrue((self.home / "state/vsnap/pools/mine.json").exists())
        point = self.home / "m"
        self.as_user("mkdir", point)
        self.as_user(self.binary, "mount", "mine", point)
        self.as_user(self.binary, "create", "mine/v", "--size", "32M")
        self.as_user("sh", "-c", f"echo hello > {point}/new && sync {point}/new")
        self.as_user(self.binary, "snapshot", "mine/new@s")
        self.as_user("sh", "-c", f"echo changed > {point}/new")
        self.assertEqual(self.as_user("cat", point / "new@s").out, "hello\n")
        owner = self.as_user("stat", "-c", "%u %g", point / "new").out.split()
        self.assertEqual(owner, [str(self.user.pw_uid), str(self.user.pw_gid)])
        self.as_user(self.binary, "umount", "mine")
        self.as_user(self.binary, "check", "mine")

    def test_cannot_touch_a_pool_that_he_may_not_read(self):
        image = self.lab.path / "root.img"
        self.lab.vsnap("pool", "create", "p", image, "--size", "64M")
        self.lab.env["VSNAP_RUNTIME_DIR"] = f"{self.lab.path}/run/vsnap"
        done = self.as_user(self.binary, "pool", "attach", image, code=1)
        self.mentions(done.err, image, "ermission")


if __name__ == "__main__":
    main()
