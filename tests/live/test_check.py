#!/usr/bin/env python3
"""vsnap check: what it finds, what it mends, and what is refused instead of giving wrong data."""

import os
import sqlite3

from support import BLOCK, KIB, MIB, LabTest, fsync, main, read_all, write_at

COPIES = (0, 64 * KIB)  # where the two copies of the superblock lie; 32 KiB each


class CheckTest(LabTest):
    def setUp(self):
        super().setUp()
        self.members = self.lab.pool(members=2, size="64M")
        self.point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "32M")
        write_at(self.point / "v", 0, os.urandom(4 * MIB))
        self.lab.vsnap("snapshot", "p/v@s")
        write_at(self.point / "v", MIB, os.urandom(MIB))
        fsync(self.point / "v")
        self.expected = {name: read_all(self.point / name) for name in ("v", "v@s")}
        self.lab.umount()

    def overwrite(self, member, offset, data):
        with open(self.members[member], "r+b") as file:
            file.seek(offset)
            file.write(data)

    def flip(self, member, offset):
        with open(self.members[member], "r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 0xFF]))

    def unharmed(self):
        self.lab.mount()
        for name, content in self.expected.items():
            self.assertTrue(read_all(self.point / name) == content, name)
        self.lab.umount()

    def findings(self):
        done = self.lab.vsnap("check", "p", code=(0, 6))
        return done.code, done.out


class Whole(CheckTest):
    def test_a_pool_without_damage_is_found_ok(self):
        self.assertEqual(self.findings()[0], 0)
        self.mentions(self.findings()[1], "ok")
        self.assertEqual(self.lab.json("check", "p")["findings"], [])

    def test_a_mounted_pool_can_be_checked_too(self):
        self.lab.mount()
        self.assertEqual(self.findings()[0], 0)

    def test_the_catalog_dump_is_a_plain_sqlite_file_with_the_index(self):
        path = self.lab.path / "catalog.db"
        self.lab.vsnap("catalog", "dump", "p", path)
        with sqlite3.connect(path) as database:
            self.assertEqual(database.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
            volumes = dict(database.execute("SELECT name, size FROM volume"))
            self.assertEqual(volumes, {"v": 32 * MIB})
            self.assertEqual(database.execute("SELECT name FROM snapshot").fetchall(), [("s",)])
            mapped = database.execute("SELECT sum(count) FROM extent WHERE kind = 1").fetchone()[0]
        self.assertEqual(mapped * BLOCK, 5 * MIB)
        self.lab.vsnap("catalog", "dump", "p", path, code=1)  # never over a file that is there

    def test_the_dump_of_a_mounted_pool_is_as_good(self):
        self.lab.mount()
        path = self.lab.path / "catalog.db"
        self.lab.vsnap("catalog", "dump", "p", path)
        with sqlite3.connect(path) as database:
            self.assertEqual(database.execute("PRAGMA integrity_check").fetchall(), [("ok",)])


class Superblocks(CheckTest):
    def test_one_damaged_copy_is_found_mended_and_does_no_harm(self):
        for member in (0, 1):
            for copy, offset in enumerate(COPIES):
                for at in (
                    0,
                    8,
                    40,
                    200,
                    32 * KIB - 1,
                ):  # magic, checksum, sequence, members, the last byte
                    with self.subTest(member=member, copy=copy, at=at):
                        self.flip(member, offset + at)
                        code, text = self.findings()
                        self.assertEqual(code, 6)
                        self.mentions(text, "superblock", self.members[member])
                        self.lab.vsnap("ls", "p")
                        self.lab.vsnap("check", "p", "--repair")
                        self.assertEqual(self.findings()[0], 0)
        self.unharmed()

    def test_both_copies_damaged_are_refused_and_named(self):
        for offset in COPIES:
            self.flip(1, offset + 100)
        for command in (("ls", "p"), ("mount", "p", self.point), ("check", "p")):
            self.mentions(self.lab.vsnap(*command, code=6).err, self.members[1], "superblock")
        for offset in COPIES:
            self.flip(1, offset + 100)
        self.unharmed()

    def test_a_wiped_member_is_refused(self):
        self.overwrite(0, 0, bytes(MIB))
        self.mentions(self.lab.vsnap("ls", "p", code=6).err, self.members[0])


class Truncated(CheckTest):
    def test_a_truncated_member_is_refused_at_every_length(self):
        size = self.members[1].stat().st_size
        backup = self.members[1].read_bytes()
        for length in (0, 1, 4 * KIB, 32 * KIB, 96 * KIB, MIB, size // 2, size - BLOCK, size - 1):
            with self.subTest(length=length):
                try:
                    os.truncate(self.members[1], length)
                    self.mentions(self.lab.vsnap("ls", "p", code=6).err, self.members[1])
                    self.lab.vsnap("check", "p", code=6)
                finally:
                    self.members[1].write_bytes(backup)
        self.unharmed()


class Catalog(CheckTest):
    def segments(self):
        """(member, offset, length) of the metadata segments, as vsnap-pool-format(5) has them."""
        raw = self.members[0].read_bytes()[:MIB]
        copies = [raw[offset : offset + 32 * KIB] for offset in COPIES]
        newest = max(copies, key=lambda copy: int.from_bytes(copy[40:48], "little"))
        members, segments = (int.from_bytes(newest[at : at + 4], "little") for at in (136, 140))
        found = []
        for index in range(segments):
            entry = newest[144 + 24 * members + 24 * index :][:24]
            fields = [int.from_bytes(entry[a:b], "little") for a, b in ((4, 8), (8, 16), (16, 24))]
            found.append((fields[0], fields[1] * BLOCK, fields[2] * BLOCK))
        return found

    def test_a_flipped_byte_in_it_is_found_or_harmless_and_never_gives_wrong_data(self):
        """In every page that is in use: refused, found by check, or all data is still right."""
        found = harmless = 0
        for member, start, length in self.segments():
            for offset in range(start, start + length, BLOCK):
                with open(self.members[member], "rb") as file:
                    file.seek(offset)
                    page = file.read(BLOCK)
                used = [index for index, byte in enumerate(page) if byte]
                if not used or found + harmless >= 60:
                    continue
                at = offset + used[len(used) // 2]
                self.flip(member, at)
                with self.subTest(member=member, at=at):
                    done = self.lab.vsnap("check", "p", code=(0, 6))
                    if done.code == 6:
                        found += 1
                    else:
                        harmless += 1
                        self.same_content_or_refused()
                self.flip(member, at)
        print(f"{found} found, {harmless} harmless", flush=True)
        self.assertGreater(found, 0)
        self.unharmed()

    def same_content_or_refused(self):
        done = self.lab.vsnap("mount", "p", self.point, code=(0, 6))
        if done.code == 0:
            for name, content in self.expected.items():
                self.assertTrue(read_all(self.point / name) == content, f"{name}: wrong data")
            self.lab.umount()


if __name__ == "__main__":
    main()
