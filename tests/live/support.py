"""What the live tests share: a lab of its own for each test, with real pools, mounts and loop devices in it.

A Lab lies in one temporary directory, which also holds the registry of pools and the sockets, so that tests
see nothing of the machine's own pools. Leaving it ends all that was started in it: mounts, loop devices and
processes are found by that directory, never by name. A watcher process does it should the test be killed.
"""

import ctypes
import errno
import itertools
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
BLOCK = 4096
REGION = 32 * MIB
SKIPPED = 77  # ctest's SKIP_RETURN_CODE
PUNCH_HOLE, ZERO_RANGE, KEEP_SIZE = 0x02, 0x10, 0x01
DATA, HOLE = os.SEEK_DATA, os.SEEK_HOLE

ROOT = Path(__file__).resolve().parents[2]
VSNAP = Path(os.environ.get("VSNAP_BINARY", ROOT / "build/release/bin/vsnap")).resolve()

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate64.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(fd, mode, offset, length):
    if _libc.fallocate64(fd, mode, offset, length) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def seeded():
    """A generator whose seed is printed; VSNAP_TEST_SEED repeats a run."""
    seed = int(os.environ.get("VSNAP_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"VSNAP_TEST_SEED={seed}", flush=True)
    return random.Random(seed)


def wait_until(condition, seconds=20, what="condition"):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not so after {seconds} s")
        time.sleep(0.02)


def is_running(pid):
    """Not so for a process that ended and that its parent has not looked at yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def keeper_of(pid):
    """The process that would start a daemon's successor, or None where that was killed."""
    fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    parent = int(fields["PPid"])
    try:
        same = os.readlink(f"/proc/{parent}/exe") == os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None
    return parent if same else None


def kill_with_keeper(pid, number=signal.SIGKILL):
    """Ends a daemon such that nobody goes on with its mount."""
    keeper = keeper_of(pid)
    if keeper:
        os.kill(keeper, signal.SIGKILL)
        wait_until(lambda: not is_running(keeper), what=f"keeper {keeper} ended")
    os.kill(pid, number)
    wait_until(lambda: not is_running(pid), what=f"pid {pid} ended")


class Done:
    """A command that ended."""

    def __init__(self, argv, code, out, err):
        self.argv, self.code, self.out, self.err = argv, code, out, err

    def __str__(self):
        return f"{' '.join(map(str, self.argv))}\nexit {self.code}\n{self.out[-4000:]}{self.err[-4000:]}"


def _mounts_below(directory):
    """Mount points below a directory with their types, the innermost last."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        point = fields[4].encode().decode("unicode_escape")
        if point.startswith(directory + "/"):
            found.append((point, fields[fields.index("-") + 1]))
    return found


def _loops_over(directory):
    found = []
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if entry.read_text().startswith(directory + "/"):
                found.append("/dev/" + entry.parts[3])
        except OSError:
            pass  # detached in this moment
    return found


def _processes_of(directory):
    """Processes that were started in the lab: they have its runtime directory in their environment."""
    mark = f"VSNAP_RUNTIME_DIR={directory}/".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            pid = int(entry.name)
            if mark in (entry / "environ").read_bytes() and pid != os.getpid() and is_running(pid):
                found.append(pid)
        except OSError:
            pass  # it ended in this moment
    return found


def _quietly(*argv):
    try:
        return (
            subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=30).returncode
            == 0
        )
    except subprocess.TimeoutExpired:
        return False


def _signal_all(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def _shared_memory_of(directory):
    """Segments of the lab's pools: of daemons that were killed."""
    env = {**os.environ, "VSNAP_STATE_DIR": f"{directory}/state", "VSNAP_RUNTIME_DIR": f"{directory}/run"}
    try:
        command = [VSNAP, "pool", "list", "--json"]
        out = subprocess.run(command, env=env, capture_output=True, timeout=30).stdout
        uuids = [pool["uuid"] for pool in json.loads(out)["pools"]]
    except (subprocess.TimeoutExpired, ValueError, KeyError, OSError):
        return []
    kinds = ("vsnap-tail-{}", "vsnap-live-{}", "vsnap-granted-{}-*")
    return [path for uuid in uuids for kind in kinds for path in Path("/dev/shm").glob(kind.format(uuid))]


def clean_up(directory, loops=()):
    """Ends all that has to do with a lab. Says what it had to leave."""
    segments = _shared_memory_of(directory)
    _signal_all(_processes_of(directory), signal.SIGCONT)
    for point, kind in reversed(_mounts_below(directory)):
        if not kind.startswith("fuse"):
            _quietly("umount", point) or _quietly("umount", "-l", point)
    for device in sorted({*loops, *_loops_over(directory)}):
        _quietly("losetup", "-d", device)
    for point, _ in reversed(_mounts_below(directory)):
        _quietly("umount", point) or _quietly("umount", "-l", point)
    for number, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 10)):
        _signal_all(_processes_of(directory), number)
        deadline = time.monotonic() + seconds
        while (left := _processes_of(directory)) and time.monotonic() < deadline:
            if number == signal.SIGKILL:
                _signal_all(left, number)  # a keeper may have started another
            time.sleep(0.02)
    for device in _loops_over(directory):
        _quietly("losetup", "-d", device)
    for path in segments:
        path.unlink(missing_ok=True)
    left = [f"mount {point}" for point, _ in _mounts_below(directory)]
    left += [f"loop device {device}" for device in _loops_over(directory)]
    left += [f"process {pid}" for pid in _processes_of(directory)]
    if not left:
        shutil.rmtree(directory, ignore_errors=True)
    return left


class Lab:
    """with Lab() as lab: ... Backing files lie in memory unless on_disk is asked for."""

    def __init__(self, on_disk=False):
        self.on_disk = on_disk
        self.loops = set()
        self._watch = -1

    def __enter__(self):
        base = os.environ.get("VSNAP_TEST_DIR")
        if not base:
            base = "/var/tmp" if self.on_disk or not _roomy_memory() else "/dev/shm"
        self.path = Path(tempfile.mkdtemp(prefix="vsnap-lab-", dir=base))
        self.path.chmod(0o755)
        self.env = {
            **os.environ,
            "VSNAP_STATE_DIR": str(self.path / "state"),
            "VSNAP_RUNTIME_DIR": str(self.path / "run"),
            "LC_ALL": "C",
        }
        self._start_watcher()
        return self

    def __exit__(self, *_):
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second ^C must not stop the cleaning
        try:
            left = clean_up(str(self.path), self.loops)
            os.write(self._watch, b"done")
            os.close(self._watch)
        finally:
            signal.signal(signal.SIGINT, previous)
        if left:
            raise AssertionError(f"left behind: {', '.join(left)}")

    def _start_watcher(self):
        read, self._watch = os.pipe()
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            os.close(read)
            return
        os.setsid()
        if os.fork():
            os._exit(0)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.dup2(read, 3)
        os.closerange(4, 4096)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if os.read(3, 1) == b"":  # the test is gone, and did not clean up
            clean_up(str(self.path))
        os._exit(0)

    # Commands

    def run(self, *argv, code=0, timeout=60, env=None, stdin=None, **options):
        """Runs a command; its exit code must be `code` (or one of them; None: any)."""
        argv = [os.fspath(word) for word in argv]
        done = subprocess.run(
            argv,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**self.env, **(env or {})},
            **{"cwd": self.path, **options},
        )
        result = Done(argv, done.returncode, done.stdout, done.stderr)
        expected = code if isinstance(code, (tuple, set, list)) or code is None else (code,)
        if expected is not None and done.returncode not in expected:
            raise AssertionError(f"expected exit code {code}\n{result}")
        return result

    def start(self, *argv, **options):
        """Starts a command and leaves it running."""
        return subprocess.Popen(
            [os.fspath(word) for word in argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.env,
            **{"stdin": subprocess.DEVNULL, "cwd": self.path, **options},
        )

    def vsnap(self, *arguments, **options):
        return self.run(VSNAP, *arguments, **options)

    def on_terminal(self, *arguments, answer, code=0):
        """Runs vsnap on a terminal and types the answer; what it printed there and to standard output."""
        mine, terminal = os.openpty()
        try:
            os.write(mine, answer.encode() + b"\n")
            argv = [os.fspath(word) for word in (VSNAP, *arguments)]
            done = subprocess.run(argv, stdin=terminal, stdout=subprocess.PIPE, stderr=terminal, text=True,
                                  timeout=60, env=self.env, cwd=self.path)
            os.set_blocking(mine, False)
            shown = b""
            try:
                while True:
                    shown += os.read(mine, 1 << 16)
            except BlockingIOError:
                pass  # that was all
            result = Done(argv, done.returncode, done.stdout, shown.decode())
        finally:
            os.close(mine)
            os.close(terminal)
        if done.returncode != code:
            raise AssertionError(f"expected exit code {code}\n{result}")
        return result

    def json(self, *arguments, **options):
        out = json.loads(self.vsnap(*arguments, "--json", **options).out)
        if out["schema"] != 1:
            raise AssertionError(f"schema {out['schema']}")
        return out

    # Files and devices

    def file(self, name, size, content=b""):
        path = self.path / name
        with open(path, "wb") as file:
            file.write(content)
            file.truncate(size)
        return path

    def directory(self, name):
        path = self.path / name
        path.mkdir(exist_ok=True)
        return path

    def losetup(self, path, *options):
        device = self.run("losetup", "--find", "--show", *options, path).out.strip()
        self.loops.add(device)
        return device

    def detach(self, device):
        self.run("losetup", "-d", device)
        self.loops.discard(device)
        # The kernel lets go of the device a little later, when the last one who looked at it has closed it.
        backing = Path("/sys/block") / Path(device).name / "loop/backing_file"
        wait_until(lambda: not backing.exists(), what=f"{device} detached")

    # Pools

    def pool(self, name="p", size="256M", members=1):
        """Makes a pool of image files and mounts nothing; the paths of the members."""
        paths = [self.path / f"{name}-{index}.img" for index in range(members)]
        self.vsnap("pool", "create", name, *paths, "--size", size)
        return paths

    def mount(self, pool="p", *options):
        point = self.directory(f"mnt-{pool}")
        self.vsnap("mount", pool, point, *options)
        if not os.path.ismount(point):
            raise AssertionError(f"vsnap mount said that it worked, but {point} is no mount")
        return point

    def umount(self, pool="p"):
        self.vsnap("umount", pool)

    def daemon_pid(self, pool="p"):
        return self.status(pool)["pid"]

    def kill_daemon(self, pool="p", number=signal.SIGKILL, pid=None):
        """Ends the daemon and its keeper the hard way, and what is left of the mount."""
        kill_with_keeper(pid or self.daemon_pid(pool), number)
        self.run("umount", "-l", self.path / f"mnt-{pool}", code=None)

    def map(self, spec, *options):
        device = self.vsnap("map", spec, *options).out.strip()
        self.loops.add(device)
        return device

    def unmap(self, target):
        self.vsnap("unmap", target)

    def mount_device(self, device, name, *options):
        point = self.directory(name)
        self.run("mount", *options, device, point)
        return point

    def umount_device(self, point, device):
        """Returns when the kernel has let go of the device, too."""
        self.run("umount", point)

        def is_free():
            try:
                os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
                return True
            except OSError:
                return False

        wait_until(is_free, what=f"{device} free")

    # What the program says

    def status(self, pool="p"):
        return self.json("pool", "status", pool)["pool"]

    def space(self, pool="p"):
        return self.status(pool)["space"]

    def views(self, pool="p"):
        """Of every volume and snapshot by its name without the pool."""
        return {_without_pool(view["name"]): view for view in self.json("ls", pool)["views"]}

    def frees(self, pool="p"):
        """What removing each view would free, by its name without the pool."""
        found = self.json("df", pool)["pools"][0]
        return {_without_pool(view["name"]): view["frees"] for view in found["views"]}

    def diff(self, *specs):
        return self.json("diff", *specs)["ranges"]

    def settle(self, pool="p"):
        """Waits until nothing is being freed in the background."""
        wait_until(lambda: not self.status(pool)["removal_pending"], seconds=60, what="removals done")

    def check(self, pool="p"):
        self.vsnap("check", pool, timeout=120)


def _without_pool(name):
    return name.split("/", 1)[1]


def _roomy_memory():
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return False
    return found.f_bavail * found.f_frsize >= 4 * GIB


# Content


def read_all(path):
    return Path(path).read_bytes()


def write_at(path, offset, data):
    fd = os.open(path, os.O_WRONLY)
    try:
        while data:
            written = os.pwrite(fd, data, offset)
            data, offset = data[written:], offset + written
    finally:
        os.close(fd)


def read_at(path, offset, length):
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def punch(path, offset, length):
    fd = os.open(path, os.O_WRONLY)
    try:
        fallocate(fd, PUNCH_HOLE | KEEP_SIZE, offset, length)
    finally:
        os.close(fd)


def fsync(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def data_ranges(path):
    """[(start, end)] of the data of a file, as SEEK_DATA and SEEK_HOLE tell."""
    found = []
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        at = 0
        while at < size:
            try:
                start = os.lseek(fd, at, DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise
            at = os.lseek(fd, start, HOLE)
            found.append((start, at))
    finally:
        os.close(fd)
    return found


def used_bytes(path):
    return os.stat(path).st_blocks * 512


def same_content(one, other):
    with open(one, "rb") as a, open(other, "rb") as b:
        while True:
            x, y = a.read(MIB), b.read(MIB)
            if x != y:
                return False
            if not x:
                return True


def fio(target, *options, size="32M", job="verify"):
    """The command line of fio for a verifying job on a file or device."""
    return [
        "fio",
        f"--name={job}",
        f"--filename={target}",
        f"--size={size}",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--randrepeat=1",
        "--output-format=normal",
        *options,
    ]


class LabTest(unittest.TestCase):
    """A test with a lab of its own, which is gone when the test ends."""

    on_disk = False

    def run(self, result=None):
        self.result = result
        return super().run(result)

    def setUp(self):
        self.lab = self.enterContext(Lab(on_disk=self.on_disk))
        self.addCleanup(self.show_logs)

    def show_logs(self):
        """What the daemons of a test that failed had to say."""
        results = [] if self.result is None else self.result.failures + self.result.errors
        if any(self.id() in test.id() for test, _ in results):
            for log in sorted(self.lab.path.glob("run*/**/*.log")):
                lines = [line for line, _ in itertools.groupby(log.read_text(errors="replace").splitlines())]
                print(f"--- {log}", *lines[:40], *lines[40:][-40:], "---", sep="\n", flush=True)

    def fails_with(self, number, function, *arguments):
        with self.assertRaises(OSError) as raised:
            function(*arguments)
        self.assertEqual(
            errno.errorcode[raised.exception.errno], errno.errorcode[number], f"{function} {arguments}"
        )

    def mentions(self, text, *words):
        for word in words:
            self.assertIn(str(word), text)


def _missing():
    """What this machine lacks for any live test, or None."""
    if not os.path.exists("/dev/fuse") or not stat.S_ISCHR(os.stat("/dev/fuse").st_mode):
        return "/dev/fuse"
    if os.geteuid() != 0:
        return "the right to use loop devices (root)"
    try:
        os.close(os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return "loop devices (/dev/loop-control)"
    return None


def main():
    lacking = _missing()
    if lacking:
        print(f"skipped: this machine lacks {lacking}")
        sys.exit(SKIPPED)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends all of it, as ^C does
    unittest.main(module="__main__", verbosity=2)
