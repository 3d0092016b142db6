#!/usr/bin/env python3
"""File systems on volumes through loop devices, and QEMU's programs on them."""

import json
import os
from pathlib import Path

from support import (
    BLOCK,
    KIB,
    MIB,
    LabTest,
    fio,
    fsync,
    main,
    read_at,
    same_content,
    used_bytes,
    write_at,
)

MKFS = {"ext4": ("mkfs.ext4", "-q", "-E", "nodiscard"), "xfs": ("mkfs.xfs", "-q", "-f")}
FSCK = {"ext4": ("fsck.ext4", "-n", "-f"), "xfs": ("xfs_repair", "-n")}
SNAPSHOT_OPTIONS = {"ext4": "ro", "xfs": "ro,norecovery,nouuid"}


class FileSystem(LabTest):
    def setUp(self):
        super().setUp()
        self.lab.pool(size="1G", members=2)
        self.point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "512M")

    def make(self, kind, sector_size=512, options=()):
        device = self.lab.map("p/v", "--sector-size", str(sector_size))
        queue = Path("/sys/block") / Path(device).name
        self.assertEqual(int((queue / "queue/logical_block_size").read_text()), sector_size)
        self.assertEqual(
            (queue / "loop/dio").read_text().strip(), "1", "the loop device does not use direct I/O"
        )
        self.lab.run(*MKFS[kind], device)
        return device, self.lab.mount_device(device, "fs", *options)

    def works(self, kind, sector_size):
        device, fs = self.make(kind, sector_size)
        self.lab.run(
            *fio(
                fs / "data",
                "--rw=randwrite",
                f"--bsrange={sector_size}-64k",
                f"--blockalign={sector_size}",
                "--direct=1",
                "--ioengine=libaio",
                "--iodepth=16",
                size="64M",
            ),
            timeout=120,
        )
        self.lab.run("cp", "-a", "/usr/share/doc/bash", "/usr/share/perl5", fs, code=None)
        self.frozen_snapshot(fs, "p/v@s")
        kept = self.lab.run(
            "find", ".", "-type", "f", "-size", "-1M", "-exec", "sha256sum", "{}", "+", cwd=fs
        ).out
        self.lab.run("find", fs, "-type", "f", "-name", "*.p[lm]", "-delete")
        self.lab.run(
            *fio(fs / "more", "--rw=write", "--bs=256k", "--fsync=8", size="64M", job="more"), timeout=120
        )
        snapshot = self.lab.map("p/v@s")
        old = self.lab.mount_device(snapshot, "old", "-o", SNAPSHOT_OPTIONS[kind])
        seen = self.lab.run(
            "find", ".", "-type", "f", "-size", "-1M", "-exec", "sha256sum", "{}", "+", cwd=old
        ).out
        self.assertEqual(sorted(seen.splitlines()), sorted(kept.splitlines()))
        self.lab.umount_device(old, snapshot)
        self.lab.umount_device(fs, device)
        self.lab.run(*FSCK[kind], device)
        for spec in ("p/v@s", "p/v"):
            self.lab.unmap(spec)
        self.lab.umount()
        self.lab.check()

    def frozen_snapshot(self, fs, *specs):
        self.lab.run("fsfreeze", "-f", fs)
        try:
            self.lab.vsnap("snapshot", *specs)
        finally:
            self.lab.run("fsfreeze", "-u", fs)

    def test_ext4_with_sectors_of_512_bytes(self):
        self.works("ext4", 512)

    def test_ext4_with_sectors_of_4096_bytes(self):
        self.works("ext4", 4096)

    def test_xfs_with_sectors_of_512_bytes(self):
        self.works("xfs", 512)

    def test_xfs_with_sectors_of_4096_bytes(self):
        self.works("xfs", 4096)

    def test_fstrim_gives_the_space_of_deleted_files_back(self):
        _, fs = self.make("ext4")
        self.lab.run("dd", "if=/dev/urandom", f"of={fs}/big", "bs=1M", "count=100", "conv=fsync")
        full = used_bytes(self.point / "v")
        os.unlink(fs / "big")
        self.lab.run("sync", "-f", fs)
        self.lab.run("fstrim", fs)
        self.assertLess(used_bytes(self.point / "v"), full - 90 * MIB)
        fsync(self.point / "v")  # what was freed counts from the next commit on
        self.assertEqual(self.lab.space()["data"], used_bytes(self.point / "v"))

    def test_a_snapshot_taken_live_is_what_a_power_cut_would_leave(self):
        """Without freezing: a journal replay on a clone of it gives a file system that is whole."""
        _, fs = self.make("ext4")
        load = self.lab.start("cp", "-a", "/usr/share/perl", "/usr/share/doc", fs)
        try:
            for index in range(3):
                self.lab.run("sleep", "0.2")
                self.lab.vsnap("snapshot", f"p/v@{index}")
        finally:
            load.kill()
            load.communicate()
        for index in range(3):
            self.lab.vsnap("clone", f"p/v@{index}", f"c{index}")
            device = self.lab.map(f"p/c{index}")
            self.lab.run("fsck.ext4", "-p", device, code=(0, 1))  # 1: the journal was replayed
            self.lab.run("fsck.ext4", "-n", "-f", device)

    def test_the_loop_device_of_a_snapshot_is_read_only(self):
        device = self.lab.map("p/v")
        self.lab.vsnap("snapshot", "p/v@s")
        snapshot = self.lab.map("p/v@s")
        self.assertEqual(self.lab.run("blockdev", "--getro", device, snapshot).out.split(), ["0", "1"])

    def test_map_refuses_a_second_writer(self):
        self.lab.map("p/v")
        self.lab.vsnap("map", "p/v", code=4)

    def test_unmap_says_so_when_nothing_is_mapped(self):
        self.mentions(self.lab.vsnap("unmap", "p/v", code=1).err, "p/v", "not mapped")


class Qemu(LabTest):
    def setUp(self):
        super().setUp()
        self.lab.pool(size="512M")
        self.point = self.lab.mount()

    def image(self):
        raw = self.lab.file("disk.raw", 48 * MIB)
        for offset in (0, 5 * MIB, 33 * MIB):
            write_at(raw, offset, os.urandom(2 * MIB))
        return raw

    def test_an_image_is_imported_and_exported_without_its_holes(self):
        raw = self.image()
        qcow2 = self.lab.path / "disk.qcow2"
        self.lab.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2)
        self.lab.run("qemu-img", "convert", "-O", "raw", qcow2, self.point / "vm")
        self.assertTrue(same_content(raw, self.point / "vm"))
        self.assertLessEqual(used_bytes(self.point / "vm"), 6 * MIB + 256 * KIB)
        self.lab.vsnap("snapshot", "p/vm@s")
        back = self.lab.path / "back.qcow2"
        self.lab.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.point / "vm@s", back)
        self.lab.run("qemu-img", "check", back)
        self.mentions(self.lab.run("qemu-img", "compare", raw, back).out, "identical")

    def test_qemu_img_map_tells_the_same_holes_as_the_map(self):
        self.lab.run("cp", "--sparse=always", self.image(), self.point / "vm")
        found = json.loads(
            self.lab.run("qemu-img", "map", "--output=json", "-f", "raw", self.point / "vm").out
        )
        data = [(entry["start"], entry["length"]) for entry in found if entry["data"]]
        self.assertEqual(data, [(0, 2 * MIB), (5 * MIB, 2 * MIB), (33 * MIB, 2 * MIB)])

    def test_qemu_io_writes_reads_discards_and_flushes(self):
        self.lab.vsnap("create", "p/vm", "--size", "48M")
        for cache in ("none", "writethrough", "writeback"):
            self.lab.run(
                "qemu-io",
                "-f",
                "raw",
                "-t",
                cache,
                "-d",
                "unmap",
                self.point / "vm",
                "-c",
                "write -P 0x11 0 1M",
                "-c",
                "write -P 0x22 1000k 64k",
                "-c",
                "read -P 0x11 0 1000k",
                "-c",
                "read -P 0x22 1000k 64k",
                "-c",
                "discard 0 512k",
                "-c",
                "read -P 0 0 512k",
                "-c",
                "write -z 600k 100k",
                "-c",
                "read -P 0 600k 100k",
                "-c",
                "flush",
            )
            self.assertEqual(read_at(self.point / "vm", 1000 * KIB, 4), b"\x22" * 4)
            self.assertEqual(read_at(self.point / "vm", 0, BLOCK), bytes(BLOCK))

    def test_a_volume_backs_an_overlay(self):
        self.lab.run("cp", "--sparse=always", self.image(), self.point / "vm")
        self.lab.vsnap("snapshot", "p/vm@base")
        overlay = self.lab.path / "overlay.qcow2"
        self.lab.run(
            "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self.point / "vm@base", overlay
        )
        self.lab.run("qemu-io", overlay, "-c", "write -P 0x33 5M 64k", "-c", "read -P 0x33 5M 64k")
        self.assertTrue(same_content(self.lab.path / "disk.raw", self.point / "vm@base"))


if __name__ == "__main__":
    main()
