#!/usr/bin/env python3
"""Runs a real guest agent where it can reach one file system and no other: in a mount name space of its own,
on a root in memory that has only what it needs, with a file system of the test. Proves that first.

Usage: guest_room.py DIRECTORY DEVICE. Prints "ready" and becomes qemu-ga, listening at /agent in there.
"""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CLONE_NEWNS, MS_REC, MS_PRIVATE, MNT_DETACH, SYS_PIVOT_ROOT = 0x20000, 0x4000, 1 << 18, 2, 155
AGENT = "/usr/sbin/qemu-ga"
libc = ctypes.CDLL(None, use_errno=True)


def must(result, what):
    if result != 0:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(source, target, kind, flags=0):
    kind = kind.encode() if kind else None
    must(libc.mount(source.encode(), os.fsencode(target), kind, flags, None), f"mount {target}")


def copy_program(room):
    needed = re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", AGENT], capture_output=True, text=True).stdout)
    for path in [AGENT, *needed]:
        target = room / path[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def prove(device):
    """Of what is mounted here, one line has a device, and it is that of the test."""
    number = os.stat(device).st_rdev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    return lambda: _prove(wanted)


def _prove(wanted):
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        kind, source = fields[fields.index("-") + 1:][:2]
        if kind not in ("tmpfs", "proc") or source.startswith("/"):
            found.append((fields[2], fields[4], kind))
    if found != [(wanted, "/fs", "ext4")]:
        sys.exit(f"not alone: {found}")


def main():
    room, device = Path(sys.argv[1]), sys.argv[2]
    number = os.stat(device).st_rdev
    proof = prove(device)
    must(libc.unshare(CLONE_NEWNS), "unshare")
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    mount("room", room, "tmpfs")
    copy_program(room)
    for name in ("fs", "proc", "old", "run", "dev"):
        (room / name).mkdir()
    mount(device, room / "fs", "ext4")
    mount("proc", room / "proc", "proc")
    os.mknod(room / "dev/null", 0o20666, os.makedev(1, 3))
    must(libc.syscall(SYS_PIVOT_ROOT, os.fsencode(room), os.fsencode(room / "old")), "pivot_root")
    os.chdir("/")
    must(libc.umount2(b"/old", MNT_DETACH), "umount")
    # As a VM has its disk. The node is in the room's own memory.
    node = Path("/dev") / Path(device).name
    os.mknod(node, 0o60600, number)
    os.set_inheritable(os.open(node, os.O_RDONLY), True)
    proof()
    print("ready", flush=True)
    os.execv(AGENT, [AGENT, "-m", "unix-listen", "-p", "/agent", "-t", "/run", "-l", "/run/log"])


if __name__ == "__main__":
    main()
