"""A pool that several hosts share, each a network namespace of this machine, and what looks at them.

alpha coordinates the pool; the others, host0 and so on, have joined it and mounted it. All see the members as
files. They are joined by veth pairs and a bridge in a namespace of its own, as in tests/live/test_hosts.py,
whose Host they are, in a Lab: leaving a SharedPool ends all of it, also when a measurement fails or is
killed.

Run as a program it is the process of a Writer.
"""

import ctypes
import json
import mmap
import os
import random
import socket
import struct
import sys
import threading
import time
from pathlib import Path

from contenders import fill, reserve

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "live"))
import support  # noqa: E402: it lies beside the live tests
from test_hosts import PORT, Host  # noqa: E402

MIB = 1 << 20
BLOCK = 4096
NET_NAMESPACE = 0x40000000  # CLONE_NEWNET
PACKET, PACKET_STATISTICS, ALL_PROTOCOLS = 263, 6, 3
RECEIVE_BUFFER_FORCED = 33  # SO_RCVBUFFORCE
TIMESTAMPS = 35  # SO_TIMESTAMPNS
FRAME_MARK = b"\x07MESSAGE"  # every frame under CURVE begins with it, outside of what is encrypted


class SharedPool:
    """with SharedPool(size, hosts) as pool: ... `size`: bytes of a volume; `hosts`: at most."""

    def __init__(self, size, hosts):
        self.size, self.most = size, hosts
        self.small = size // 4  # of the volume that each joined host has for itself
        self.processes = []
        self.joined = []

    def __enter__(self):
        self.lab = support.Lab()
        self.lab.__enter__()
        try:
            self.make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        try:
            for host in [*reversed(self.joined), *([self.alpha] if hasattr(self, "alpha") else [])]:
                host.vsnap("umount", "lab", code=None, timeout=60)
        finally:
            for process in self.processes:
                process.kill()
                process.wait(30)
                process.stdout.close()
            self.lab.__exit__()

    def make(self):
        self.switch = Host(self, "switch")
        self.switch.ip("link", "add", "br0", "type", "bridge")
        self.switch.ip("link", "set", "br0", "up")
        self.alpha = self.plugged_in(Host(self, "alpha", "10.77.0.1"))
        self.alpha.mount = self.lab.directory("mnt-alpha")
        self.member = self.lab.path / "member"
        # Two volumes, and room for one more; those of the joined hosts, with what their snapshots keep.
        reserve(self.member, 3 * self.size + 3 * self.most * self.small)
        self.alpha.vsnap("pool", "create", "lab", self.member, "--force")
        self.share()
        for name, size in [("v", self.size), ("r", self.size)]:
            self.make_volume(name, size)
        self.alpha.vsnap("snapshot", "lab/r@s")

    def make_volume(self, name, size):
        self.alpha.vsnap("create", f"lab/{name}", "--size", str(size))
        fill(self.alpha.mount / name, size)

    def started(self, *words, **options):
        """A process that ends with the pool."""
        process = self.lab.start(*words, **options)
        self.processes.append(process)
        return process

    def plugged_in(self, host):
        peer = ["type", "veth", "peer", "name", "eth0", "netns", str(host.holder.pid)]
        self.switch.ip("link", "add", host.name, *peer)
        self.switch.ip("link", "set", host.name, "master", "br0", "up")
        host.ip("addr", "add", f"{host.address}/24", "dev", "eth0")
        host.ip("link", "set", "eth0", "up")
        host.ip("link", "set", "lo", "up")
        return host

    def share(self, *options):
        listen = f"tcp://{self.alpha.address}:{PORT}"
        self.alpha.vsnap("mount", "lab", self.alpha.mount, "--listen", listen, *options)

    def share_again(self, *options):
        """With another lease; all hosts have it mounted afterwards."""
        for host in self.joined:
            host.vsnap("umount", "lab")
        self.alpha.vsnap("umount", "lab")
        self.share(*options)
        for host in self.joined:
            host.vsnap("mount", "lab", host.mount)

    def hosts(self, count):
        """So many that have joined, each with a volume of its own name; those that are missing are added."""
        while len(self.joined) < count:
            index = len(self.joined)
            host = self.plugged_in(Host(self, f"host{index}", f"10.77.0.{index + 2}"))
            host.mount = self.lab.directory(f"mnt-{host.name}")
            self.make_volume(host.name, self.small)
            token = self.alpha.vsnap("host", "invite", "lab").out.strip()
            host.vsnap("host", "join", token, "--name", host.name, "--member", self.member)
            host.vsnap("mount", "lab", host.mount)
            self.joined.append(host)
        return self.joined[:count]

    def state_of(self, host):
        listed = json.loads(self.alpha.vsnap("host", "list", "lab", "--json").out)["hosts"]
        return next((entry["state"] for entry in listed if entry["name"] == host.name), None)

    def mode_of(self, host):
        """How the host that joined uses its own volume, as `vsnap lock ls` has it; None: not at all."""
        locks = json.loads(self.alpha.vsnap("lock", "ls", "lab", "--json").out)["locks"]
        wanted = (f"lab/{host.name}", host.name)
        return next((lock["mode"] for lock in locks if (lock["name"], lock["host"]) == wanted), None)

    def left(self, host):
        """Snapshots that keep what the host was lost with."""
        return [name for name in os.listdir(self.alpha.mount) if f"@lost-{host.name}-" in name]


def direct_read(descriptor):
    """The first block."""
    with mmap.mmap(-1, BLOCK) as block:
        os.preadv(descriptor, [block], 0)


def daemon_of(host):
    return json.loads((host.runtime / "lab.json").read_text())["pid"]


def timed(host, *words):
    """Milliseconds of a whole command there, with what it takes to enter the namespace and to start; and what
    it printed."""
    begin = time.monotonic()
    out = host.run(*words).out
    return (time.monotonic() - begin) * 1000, out


class Writer:
    """A process that writes blocks of 4 KiB at random to a file, one at a time, and notes when each began and
    ended.

    The notes lie in memory that both have, so that reading them costs the writer nothing."""

    LONGEST = 4_000_000  # writes; the file is sparse

    def __init__(self, pool, path, pause_s):
        self.name = path.parent.name
        log = pool.lab.file(f"writes-{self.name}", 8 * (1 + 2 * self.LONGEST))
        self.process = pool.started(sys.executable, "-B", __file__, path, log, str(pause_s))
        with open(log, "rb") as file:
            self.notes = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)).cast("d")

    def count(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"the writer on {self.name} has ended: {self.process.stdout.read().strip()}")
        return int(self.notes[0])

    def writes_on(self, more=50):
        start = self.count()
        support.wait_until(lambda: self.count() >= start + more, 90, f"the writer on {self.name} goes on")

    def longest(self, begin, end):
        """(seconds, when it ended) of the longest write that was under way at some time between these."""
        found = (0.0, begin)
        for index in range(self.count() - 1, -1, -1):
            started, ended = self.notes[1 + 2 * index], self.notes[2 + 2 * index]
            if ended < begin:
                break
            if started <= end:
                found = max(found, (ended - started, ended))
        return found

    def stop(self):
        self.process.kill()
        self.process.wait(30)


def write_on(path, log, pause_s):
    """What the process of a Writer does."""
    descriptor = os.open(path, os.O_RDWR | os.O_DIRECT)
    blocks = os.fstat(descriptor).st_size // BLOCK
    buffer = mmap.mmap(-1, BLOCK)
    buffer[:] = os.urandom(BLOCK)
    pick = random.Random(path)
    with open(log, "r+b") as file:
        notes = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")
    for count in range(Writer.LONGEST):
        at = pick.randrange(blocks) * BLOCK
        notes[1 + 2 * count] = time.monotonic()
        os.pwrite(descriptor, buffer, at)
        notes[2 + 2 * count] = time.monotonic()
        notes[0] = count + 1
        time.sleep(pause_s)


class Wire:
    """with Wire(host) as wire: ... What goes over the cable of a host meanwhile, both ways: `bytes` as the
    kernel counts them for its interface, and `messages`, each a frame on a connection of the link; None where
    some were not seen. `moments`: of each packet with some, in seconds since 1970."""

    def __init__(self, host):
        self.holder = host.holder.pid
        self.bytes, self.messages, self.moments = 0, 0, []
        self.tails = {}  # of each direction of each connection: a mark may lie across two packets

    def __enter__(self):
        self.socket = self.open_there()
        self.stop = False
        self.thread = threading.Thread(target=self.listen)
        self.thread.start()
        self.before = self.counted()
        return self

    def __exit__(self, *_):
        self.bytes = self.counted() - self.before
        time.sleep(0.05)  # what was seen last is still in the socket
        self.stop = True
        self.thread.join()
        lost = struct.unpack("II", self.socket.getsockopt(PACKET, PACKET_STATISTICS, 8))[1]
        self.socket.close()
        if lost:
            self.messages = None

    def counted(self):
        lines = Path(f"/proc/{self.holder}/net/dev").read_text().splitlines()
        fields = next(line.split(":")[1].split() for line in lines if line.strip().startswith("eth0:"))
        return int(fields[0]) + int(fields[8])  # received, sent

    def open_there(self):
        """A socket stays in the namespace in which it was made; only a thread of its own goes there."""
        found = []

        def go():
            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/proc/{self.holder}/ns/net", "rb") as namespace:
                if libc.setns(namespace.fileno(), NET_NAMESPACE) != 0:
                    found.append(OSError(ctypes.get_errno(), "setns"))
                    return
            heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
            heard.setsockopt(socket.SOL_SOCKET, RECEIVE_BUFFER_FORCED, 64 * MIB)
            heard.setsockopt(socket.SOL_SOCKET, TIMESTAMPS, 1)
            heard.bind(("eth0", 0))
            heard.settimeout(0.05)
            found.append(heard)

        thread = threading.Thread(target=go)
        thread.start()
        thread.join()
        if isinstance(found[0], OSError):
            raise found[0]
        return found[0]

    def listen(self):
        packet = bytearray(1 << 18)
        while True:
            try:
                length, about, _, _ = self.socket.recvmsg_into([packet], socket.CMSG_SPACE(16))
            except TimeoutError:
                if self.stop:
                    return
                continue
            seconds, nanoseconds = struct.unpack("qq", about[0][2])
            self.take(packet[:length], seconds + nanoseconds / 1e9)

    def take(self, packet, moment):
        if packet[12:14] != b"\x08\x00" or packet[23] != socket.IPPROTO_TCP:
            return
        tcp = 14 + (packet[14] & 15) * 4
        ports = bytes(packet[tcp : tcp + 4])
        if PORT not in struct.unpack("!HH", ports):
            return
        end = 14 + struct.unpack("!H", packet[16:18])[0]  # padding may follow
        said = self.tails.get(ports, b"") + packet[tcp + (packet[tcp + 12] >> 4) * 4 : end]
        found = said.count(FRAME_MARK)
        self.messages += found
        if found:
            self.moments.append(moment)
        self.tails[ports] = bytes(said[-(len(FRAME_MARK) - 1) :])


if __name__ == "__main__":
    write_on(sys.argv[1], sys.argv[2], float(sys.argv[3]))
