"""Pools of a given size, made by `generate`, and what commands take for them: for scale and compare."""

import json
import os
import random
import statistics
import subprocess
import time

from contenders import program, run

BLOCK = 4096
REGION = 32 << 20
TIB = 1 << 40


class GeneratedPool:
    """A pool below `directory`, with a registry and a runtime directory of its own, and its mount.

    `pieces`: blocks of an extent; then extents lie side by side in random order, with no holes between."""

    def __init__(self, directory, extents, volumes=1, snapshots=0, pieces=None):
        self.directory = directory
        self.extents = extents
        self.volumes = volumes
        self.mount_point = directory / "mount"
        self.mount_point.mkdir(parents=True)
        places = {"VSNAP_STATE_DIR": directory / "state", "VSNAP_RUNTIME_DIR": directory / "run"}
        self.env = dict(os.environ, **{name: str(path) for name, path in places.items()})
        member = directory / "member"
        size = max(2 << 30, extents * (pieces or 1) * BLOCK * 3 // 2)  # sparse
        self.vsnap("pool", "create", "scale", member, "--size", str(size))
        arguments = [extents, volumes, snapshots] + ([pieces] if pieces else [])
        begin = time.monotonic()
        run(program("generate"), member, *arguments)
        self.made_in = time.monotonic() - begin

    def vsnap(self, *arguments):
        return run(program("vsnap"), *arguments, env=self.env)

    def timed(self, *arguments):
        """In milliseconds."""
        begin = time.monotonic()
        self.vsnap(*arguments)
        return (time.monotonic() - begin) * 1000

    def mount(self, *options):
        return self.timed("mount", "scale", self.mount_point, *options)

    def umount(self):
        self.vsnap("umount", "scale")

    def status(self):
        return json.loads(self.vsnap("pool", "status", "scale", "--json"))["pool"]

    def resident_bytes(self):
        with open(f"/proc/{self.status()['pid']}/status", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))

    def first_reads(self, count, view="v0"):
        """The times of reads of 4 KiB, in milliseconds, each of another region, in random order."""
        path = self.mount_point / view
        regions = list(range((path.stat().st_size + REGION - 1) // REGION))
        random.Random(1).shuffle(regions)
        times = []
        fd = os.open(path, os.O_RDONLY)
        try:
            for region in regions[:count]:
                begin = time.monotonic()
                os.pread(fd, BLOCK, region * REGION)
                times.append((time.monotonic() - begin) * 1000)
        finally:
            os.close(fd)
        return times

    def remove_all(self):
        """Milliseconds until the command returns, and until the space is free."""
        begin = time.monotonic()
        self.vsnap("rm", "-y", "-r", *[f"scale/v{index}" for index in range(self.volumes)])
        returned = time.monotonic()
        while self.status()["removal_pending"]:
            time.sleep(0.005)
        return (returned - begin) * 1000, (time.monotonic() - begin) * 1000

    def stop(self):
        subprocess.run([program("vsnap"), "umount", "scale"], env=self.env, capture_output=True, check=False)
        subprocess.run(["umount", "-l", self.mount_point], capture_output=True, check=False)
        (self.directory / "member").unlink(missing_ok=True)


def mount_figures(pool, rounds):
    """Leaves the pool mounted."""
    figures = {"mount, ms": [], "memory after mount, MiB": []}
    for at in range(rounds):
        if at > 0:
            pool.umount()
        figures["mount, ms"].append(pool.mount())
        figures["memory after mount, MiB"].append(pool.resident_bytes() / (1 << 20))
    return figures


def command_figures(pool, rounds):
    """What each command takes on the mounted pool; at the end it is empty."""
    figures = {"first read of a region, ms": pool.first_reads(64)}
    for name, arguments in (("ls", ["ls"]), ("df", ["df"]), ("pool status", ["pool", "status"])):
        figures[f"{name}, ms"] = [pool.timed(*arguments, "scale") for _ in range(rounds)]
    figures["snapshot, ms"] = []
    for at in range(rounds):
        with open(pool.mount_point / "v0", "r+b", buffering=0) as volume:
            os.pwrite(volume.fileno(), bytes(BLOCK), 0)
        figures["snapshot, ms"].append(pool.timed("snapshot", f"scale/v0@new{at}"))
    names = [f"scale/v0@new{at}" for at in range(rounds)]
    figures["removal of a snapshot, ms"] = [pool.timed("rm", "-y", name) for name in names]
    returned, freed = pool.remove_all()
    figures["removal of all, ms"] = [returned]
    figures["removal of all, space free, ms"] = [freed]
    return figures


def map_bytes_per_tib(pool):
    """What the maps of a mounted pool of one volume take in memory when all of it has been read.

    Those of a snapshot, after the volume's: then the pages of the catalog, which have a limit of their own,
    are in memory before."""
    pool.vsnap("snapshot", "scale/v0@s")
    pool.first_reads(None)
    before = pool.resident_bytes()
    pool.first_reads(None, "v0@s")
    return (pool.resident_bytes() - before) * TIB / (pool.mount_point / "v0").stat().st_size


def medians(figures):
    return {name: statistics.median(values) for name, values in figures.items()}
