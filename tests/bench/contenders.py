"""What compare runs against each other. Each contender serves one volume of a given size from files below its
own directory, and undoes everything in stop()."""

import os
import pathlib
import shutil
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MANY = 1000  # snapshots
ROOM = 5  # for volumes and snapshots, in sizes of a volume


class Missing(Exception):
    """Why a contender is left out."""


def run(*command, env=None):
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def program(name):
    """A program of this project, from the environment or the release build."""
    path = pathlib.Path(os.environ.get(f"VSNAP_BENCH_{name.upper()}", ROOT / "build/release/bin" / name))
    if not path.exists():
        raise Missing(f"{path} is not built (packaging/build release)")
    return path


def wait_for(path):
    for _ in range(200):
        if os.path.exists(path):
            return
        time.sleep(0.02)
    raise RuntimeError(f"{path} did not appear")


def reserve(path, size):
    """A file whose blocks are all there: in a tmpfs, a page that is written for the first time costs several
    times what the programs do that are compared."""
    run("dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={size >> 20}", "conv=fsync")


def fill(path, size):
    options = ["--rw=write", "--bs=1m", "--direct=1", f"--size={size}", "--end_fsync=1"]
    run("fio", "--name=fill", f"--filename={path}", *options)


def scatter(path, size):
    options = ["--rw=randwrite", "--bs=4k", "--direct=1", "--ioengine=libaio", "--iodepth=32"]
    run("fio", "--name=scatter", f"--filename={path}", f"--size={size}", *options)


class Contender:
    name = ""
    snapshots = False  # has snapshot() and remove()
    snapshot_is_live = False  # while the volume is in use

    def __init__(self, directory, size):
        self.directory = directory
        self.size = size
        self.processes = []
        self.mounts = []
        self.loops = []
        directory.mkdir()

    def start(self):
        raise NotImplementedError

    def enter(self, state):
        """The file to measure in that state, or None."""
        return self.volume if state == "written" else None

    def leave(self, state):
        pass

    def can_write(self, state):
        return True

    def stop(self):
        for loop in reversed(self.loops):
            subprocess.run(["losetup", "-d", loop], check=False, capture_output=True)
        for mount in reversed(self.mounts):
            subprocess.run(["umount", mount], check=False, capture_output=True)
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        for process in self.processes:
            process.terminate()
            process.wait(timeout=30)

    def serve(self, *command):
        self.processes.append(subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL))

    def loop(self, path, *options):
        device = run("losetup", "-f", "--show", *options, path).strip()
        self.loops.append(device)
        return device

    def drop_loop(self, device):
        run("losetup", "-d", device)
        self.loops.remove(device)


class Limit(Contender):
    name = "limit"

    def start(self):
        raw, mount = self.directory / "raw", self.directory / "mount"
        mount.mkdir()
        reserve(raw, self.size)
        self.serve(program("plain_fuse"), raw, mount)
        self.mounts.append(mount)
        self.volume = mount / "volume"
        wait_for(self.volume)
        fill(self.volume, self.size)
        self.device = None

    def enter(self, state):
        if state == "loop":
            self.device = self.loop(self.volume, "--direct-io=on")
            return self.device
        return self.volume  # whatever the others are in: this is what there is to reach

    def leave(self, state):
        if state == "loop":
            self.drop_loop(self.device)


class Raw(Contender):
    name = "raw"

    def start(self):
        self.volume = self.directory / "raw"
        fill(self.volume, self.size)


class Vsnap(Contender):
    name = "vsnap"
    snapshots = True
    snapshot_is_live = True

    def vsnap(self, *arguments):
        return run(program("vsnap"), *arguments, env=self.env)

    def start(self):
        program("vsnap")
        mount = self.directory / "mount"
        mount.mkdir()
        places = {"VSNAP_STATE_DIR": self.directory / "state", "VSNAP_RUNTIME_DIR": self.directory / "run"}
        self.env = dict(os.environ, **{name: str(path) for name, path in places.items()})
        # Sparse: room for every state besides the first.
        reserve(self.directory / "pool", self.size * ROOM)
        self.vsnap("pool", "create", "bench", self.directory / "pool", "--force")
        self.vsnap("mount", "bench", mount)
        self.mounts.append(mount)
        self.mount = mount
        self.volume = mount / "volume"
        self.vsnap("create", "bench/volume", "--size", str(self.size))
        fill(self.volume, self.size)
        self.device = None

    def enter(self, state):
        if state == "loop":
            self.device = self.loop(self.volume, "--direct-io=on")
            return self.device
        if state == "fragmented":
            self.vsnap("create", "bench/scattered", "--size", str(self.size))
            scatter(self.mount / "scattered", self.size)
            return self.mount / "scattered"
        if state == "snapshots":
            self.make_snapshots()
        if state == "oldest":
            return self.mount / "volume@s0"
        if state == "clone":
            return self.mount / "second"
        return self.volume

    def make_snapshots(self):
        """Many of them, with a few blocks written between, and a clone of a clone of the first."""
        with open(self.volume, "r+b", buffering=0) as file:
            for index in range(MANY):
                self.vsnap("snapshot", f"bench/volume@s{index}")
                for block in range(16):
                    os.pwrite(file.fileno(), b"x" * 4096, (index * 16 + block) * 7919 * 4096 % self.size)
        self.vsnap("clone", "bench/volume@s0", "first")
        self.vsnap("snapshot", "bench/first@s")
        self.vsnap("clone", "bench/first@s", "second")

    def leave(self, state):
        if state == "loop":
            self.drop_loop(self.device)
        if state == "fragmented":
            self.vsnap("rm", "-y", "bench/scattered", "--wait")
        if state == "clone":
            self.vsnap("rm", "-y", "-r", "bench/second", "bench/first")
            self.vsnap("rm", "-y", "--wait", *[f"bench/volume@s{index}" for index in range(MANY)])

    def can_write(self, state):
        return state not in ("oldest",)

    def snapshot(self, name):
        self.vsnap("snapshot", f"bench/volume@{name}")

    def remove(self, name):
        self.vsnap("rm", "-y", f"bench/volume@{name}", "--wait")

    def stop(self):
        subprocess.run([program("vsnap"), "umount", "bench"], env=self.env, capture_output=True, check=False)
        super().stop()


class Qcow2(Contender):
    """qemu-storage-daemon, a qcow2 file over FUSE; a snapshot is an overlay, and needs the export anew."""

    name = "qcow2"
    snapshots = True

    def start(self):
        if not shutil.which("qemu-storage-daemon"):
            raise Missing("no qemu-storage-daemon")
        if "fuse" not in run("qemu-storage-daemon", "--help"):
            raise Missing("this qemu-storage-daemon has no FUSE exports")
        self.image = self.directory / "base.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", self.image, self.size)
        self.volume = self.directory / "volume"
        self.volume.touch()
        self.export()
        fill(self.volume, self.size)

    def export(self):
        self.serve(
            "qemu-storage-daemon",
            "--blockdev",
            f"driver=file,node-name=file,filename={self.image},cache.direct=off",
            "--blockdev",
            "driver=qcow2,node-name=image,file=file,cache-size=16777216",
            "--export",
            f"type=fuse,id=export,node-name=image,mountpoint={self.volume},writable=on",
        )
        for _ in range(200):
            if self.volume.stat().st_size == self.size:
                return
            time.sleep(0.02)
        raise Missing("the export did not appear")

    def unexport(self):
        process = self.processes.pop()
        process.terminate()
        process.wait(timeout=30)

    def snapshot(self, name):
        self.unexport()
        overlay = self.directory / f"{name}.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", self.image, overlay)
        self.base, self.image = self.image, overlay
        self.export()

    def remove(self, name):
        self.unexport()
        run("qemu-img", "commit", "-q", self.image)
        self.image.unlink()
        self.image = self.base
        self.export()


class KernelFileSystem(Contender):
    """A raw file on a file system with reflinks, on a loop device; a snapshot is a reflink copy."""

    snapshots = True
    make = ()

    def start(self):
        if not shutil.which(self.make[0]):
            raise Missing(f"no {self.make[0]}")
        disk, mount = self.directory / "disk", self.directory / "mount"
        mount.mkdir()
        reserve(disk, self.size * ROOM)
        device = self.loop(disk)
        run(*self.make, device)
        try:
            run("mount", device, mount)
        except RuntimeError as why:
            raise Missing(str(why)) from None
        self.mounts.append(mount)
        self.mount = mount
        self.volume = mount / "volume"
        fill(self.volume, self.size)

    def snapshot(self, name):
        run("cp", "--reflink=always", self.volume, self.mount / name)

    def remove(self, name):
        (self.mount / name).unlink()

    def stop(self):
        # The file system before its loop device.
        for mount in reversed(self.mounts):
            subprocess.run(["umount", mount], check=False, capture_output=True)
        self.mounts = []
        super().stop()


class Xfs(KernelFileSystem):
    name = "xfs"
    make = ("mkfs.xfs", "-q", "-m", "reflink=1")


class Btrfs(KernelFileSystem):
    name = "btrfs"
    make = ("mkfs.btrfs", "-q")


CONTENDERS = [Limit, Vsnap, Qcow2, Xfs, Btrfs, Raw]
