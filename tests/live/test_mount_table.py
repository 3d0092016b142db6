#!/usr/bin/env python3
"""The table of the mount: what a user may do with the files, each row of it."""

import errno
import mmap
import os

from support import (
    BLOCK,
    DATA,
    HOLE,
    KEEP_SIZE,
    KIB,
    MIB,
    PUNCH_HOLE,
    ZERO_RANGE,
    LabTest,
    data_ranges,
    fallocate,
    fsync,
    main,
    punch,
    read_all,
    read_at,
    used_bytes,
    write_at,
)


class MountTest(LabTest):
    def setUp(self):
        super().setUp()
        self.lab.pool()
        self.point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "16M")
        self.v = self.point / "v"

    def open(self, path, flags):
        fd = os.open(path, flags)
        self.addCleanup(os.close, fd)
        return fd

    def snapshot(self, spec):
        self.lab.vsnap("snapshot", f"p/{spec}")
        return self.point / spec


class Reading(MountTest):
    def test_a_new_volume_reads_as_zeros_and_takes_no_space(self):
        self.assertEqual(self.v.stat().st_size, 16 * MIB)
        self.assertEqual(used_bytes(self.v), 0)
        self.assertEqual(read_all(self.v), bytes(16 * MIB))

    def test_reads_end_at_the_end_of_the_volume(self):
        self.assertEqual(len(read_at(self.v, 16 * MIB - 100, 4096)), 100)
        self.assertEqual(read_at(self.v, 16 * MIB, 4096), b"")

    def test_direct_reads_and_writes_see_what_cached_ones_wrote_and_the_reverse(self):
        buffer = mmap.mmap(-1, BLOCK)
        direct = self.open(self.v, os.O_RDWR | os.O_DIRECT)
        cached = self.open(self.v, os.O_RDWR)
        self.assertEqual(os.pread(cached, BLOCK, 0), bytes(BLOCK))
        buffer[:] = b"d" * BLOCK
        self.assertEqual(os.pwritev(direct, [buffer], 0), BLOCK)
        self.assertEqual(os.pread(cached, BLOCK, 0), b"d" * BLOCK)
        os.pwrite(cached, b"c" * BLOCK, 0)
        self.assertEqual(os.preadv(direct, [buffer], 0), BLOCK)
        self.assertEqual(buffer[:], b"c" * BLOCK)

    def test_synchronous_writes_and_the_sync_calls_succeed(self):
        for flag in (os.O_SYNC, os.O_DSYNC):
            fd = self.open(self.v, os.O_RDWR | flag)
            self.assertEqual(os.pwrite(fd, b"synchronous", 5), 11)
        os.fsync(fd)
        os.fdatasync(fd)
        os.sync()
        self.assertEqual(read_at(self.v, 5, 11), b"synchronous")

    def test_a_volume_can_be_mapped_for_reading(self):
        write_at(self.v, MIB, b"mapped")
        fd = self.open(self.v, os.O_RDONLY)
        with mmap.mmap(fd, 2 * MIB, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as view:
            self.assertEqual(view[MIB : MIB + 6], b"mapped")

    def test_the_mount_is_flat_and_lists_volumes_and_snapshots(self):
        self.snapshot("v@s")
        self.assertEqual(sorted(os.listdir(self.point)), ["v", "v@s"])
        self.lab.vsnap("create", "p/w", "--size", "1M")
        self.assertEqual(sorted(os.listdir(self.point)), ["v", "v@s", "w"])

    def test_free_space_of_the_mount_is_that_of_the_pool(self):
        found = os.statvfs(self.point)
        self.assertEqual(found.f_bavail * found.f_frsize, self.lab.space()["available"])


class Space(MountTest):
    def test_punching_a_hole_gives_space_back_and_reads_zeros(self):
        write_at(self.v, 0, b"x" * MIB)
        before = self.lab.space()["data"]
        punch(self.v, 64 * KIB, 128 * KIB)
        self.assertEqual(used_bytes(self.v), MIB - 128 * KIB)
        self.assertEqual(
            read_at(self.v, 0, MIB), b"x" * 64 * KIB + bytes(128 * KIB) + b"x" * (MIB - 192 * KIB)
        )
        fsync(self.v)  # what was freed counts from the next commit on
        self.assertEqual(self.lab.space()["data"], before - 128 * KIB)
        self.assertEqual(self.v.stat().st_size, 16 * MIB)

    def test_a_hole_that_is_no_whole_block_zeroes_just_its_bytes(self):
        write_at(self.v, 0, b"x" * 3 * BLOCK)
        punch(self.v, 100, 2 * BLOCK)
        self.assertEqual(
            read_at(self.v, 0, 3 * BLOCK), b"x" * 100 + bytes(2 * BLOCK) + b"x" * (BLOCK - 100)
        )

    def test_zeroing_a_range_reads_zeros(self):
        write_at(self.v, 0, b"x" * MIB)
        fd = self.open(self.v, os.O_RDWR)
        fallocate(fd, ZERO_RANGE | KEEP_SIZE, 1000, 500 * KIB)
        self.assertEqual(
            read_at(self.v, 0, MIB), b"x" * 1000 + bytes(500 * KIB) + b"x" * (MIB - 1000 - 500 * KIB)
        )

    def test_reserved_space_reads_zeros_is_counted_and_cannot_run_out(self):
        fd = self.open(self.v, os.O_RDWR)
        fallocate(fd, KEEP_SIZE, 0, 8 * MIB)
        self.assertEqual(used_bytes(self.v), 8 * MIB)
        self.assertEqual(os.pread(fd, 8 * MIB, 0), bytes(8 * MIB))
        self.assertEqual(self.v.stat().st_size, 16 * MIB)
        fallocate(fd, 0, 16 * MIB, MIB)  # without KEEP_SIZE past the end: longer
        self.assertEqual(self.v.stat().st_size, 17 * MIB)

    def test_seeking_follows_the_map_to_the_block(self):
        for start in (0, 5 * BLOCK, 40 * BLOCK):
            write_at(self.v, start, b"x" * 2 * BLOCK)
        fd = self.open(self.v, os.O_RDONLY)
        self.assertEqual(
            data_ranges(self.v), [(start, start + 2 * BLOCK) for start in (0, 5 * BLOCK, 40 * BLOCK)]
        )
        self.assertEqual(os.lseek(fd, 3 * BLOCK, DATA), 5 * BLOCK)
        self.assertEqual(os.lseek(fd, 5 * BLOCK + 1, DATA), 5 * BLOCK + 1)
        self.assertEqual(os.lseek(fd, 3 * BLOCK, HOLE), 3 * BLOCK)
        self.fails_with(errno.ENXIO, os.lseek, fd, 50 * BLOCK, DATA)

    def test_sparse_copies_out_stay_sparse(self):
        write_at(self.v, 5 * MIB, b"x" * MIB)
        copy = self.lab.path / "copy"
        self.lab.run("cp", "--sparse=auto", self.v, copy)
        self.assertEqual(read_all(copy), read_all(self.v))
        self.assertLess(copy.stat().st_blocks * 512, 2 * MIB)


class Making(MountTest):
    def test_creating_a_file_and_writing_past_its_end_makes_a_volume_and_grows_it(self):
        with open(self.point / "new", "xb") as file:
            self.assertEqual(self.lab.views()["new"]["size"], 0)
            file.write(b"a" * 5000)
            file.flush()
            os.pwrite(file.fileno(), b"z", 3 * MIB)
        self.assertEqual((self.point / "new").stat().st_size, 3 * MIB + 1)
        self.assertEqual(self.lab.views()["new"]["size"], 3 * MIB + 1)

    def test_touch_makes_an_empty_volume(self):
        self.lab.run("touch", self.point / "empty")
        self.assertEqual(self.lab.views()["empty"]["size"], 0)

    def test_copying_an_image_in_imports_it_to_the_byte(self):
        image = self.lab.file("disk.img", 3 * MIB + 777, os.urandom(MIB))
        self.lab.run("cp", image, self.point)
        self.assertEqual(read_all(self.point / "disk.img"), read_all(image))

    def test_the_rest_of_the_last_block_is_zeros_when_an_odd_sized_volume_grows(self):
        path = self.point / "odd"
        path.write_bytes(b"x" * 5000)
        os.truncate(path, 4500)
        os.truncate(path, 9000)
        self.assertEqual(read_all(path), b"x" * 4500 + bytes(4500))

    def test_opening_with_truncation_empties_the_volume(self):
        write_at(self.v, 0, b"x" * MIB)
        with open(self.v, "wb"):
            pass
        self.assertEqual(self.v.stat().st_size, 0)
        self.assertEqual(used_bytes(self.v), 0)

    def test_creating_what_exists_exclusively_is_refused(self):
        self.fails_with(errno.EEXIST, os.open, self.v, os.O_CREAT | os.O_EXCL | os.O_WRONLY)


class Truncating(MountTest):
    def test_a_larger_size_grows_and_reads_zeros(self):
        write_at(self.v, 16 * MIB - 3, b"end")
        os.truncate(self.v, 20 * MIB)
        self.assertEqual(self.v.stat().st_size, 20 * MIB)
        self.assertEqual(read_at(self.v, 16 * MIB - 3, 100), b"end" + bytes(97))
        self.assertEqual(self.lab.views()["v"]["size"], 20 * MIB)

    def test_a_smaller_size_shrinks_and_what_was_behind_it_does_not_come_back(self):
        write_at(self.v, 0, b"x" * 4 * MIB)
        os.truncate(self.v, MIB + 10)
        self.assertEqual(self.v.stat().st_size, MIB + 10)
        os.truncate(self.v, 4 * MIB)
        self.assertEqual(read_all(self.v), b"x" * (MIB + 10) + bytes(3 * MIB - 10))

    def test_a_snapshot_keeps_what_a_smaller_size_cut_off(self):
        write_at(self.v, 0, b"x" * 4 * MIB)
        snapshot = self.snapshot("v@s")
        os.truncate(self.v, MIB)
        self.assertEqual(read_all(snapshot)[: 4 * MIB], b"x" * 4 * MIB)
        self.assertEqual(snapshot.stat().st_size, 16 * MIB)


class Renaming(MountTest):
    def test_a_renamed_volume_keeps_its_snapshots_and_open_handles(self):
        write_at(self.v, 0, b"content")
        self.snapshot("v@s")
        fd = self.open(self.v, os.O_RDWR)
        os.rename(self.v, self.point / "w")
        self.assertEqual(sorted(os.listdir(self.point)), ["w", "w@s"])
        os.pwrite(fd, b"C", 0)
        self.assertEqual(read_at(self.point / "w", 0, 7), b"Content")
        self.assertEqual(read_at(self.point / "w@s", 0, 7), b"content")

    def test_a_snapshot_can_be_renamed_within_its_volume(self):
        self.snapshot("v@s")
        os.rename(self.point / "v@s", self.point / "v@t")
        self.assertEqual(sorted(os.listdir(self.point)), ["v", "v@t"])
        self.lab.vsnap("create", "p/w", "--size", "1M")
        self.fails_with(errno.EPERM, os.rename, self.point / "v@t", self.point / "w@t")
        self.fails_with(errno.EPERM, os.rename, self.point / "v@t", self.point / "x")


class Removing(MountTest):
    def test_a_snapshot_is_removed(self):
        os.unlink(self.snapshot("v@s"))
        self.assertEqual(os.listdir(self.point), ["v"])
        self.assertEqual(list(self.lab.views()), ["v"])

    def test_a_volume_with_snapshots_is_refused(self):
        self.snapshot("v@s")
        self.fails_with(errno.EBUSY, os.unlink, self.v)
        os.unlink(self.point / "v@s")
        os.unlink(self.v)
        self.assertEqual(self.lab.views(), {})

    def test_an_open_file_stays_usable_after_its_removal(self):
        write_at(self.v, 0, b"still here")
        fd = self.open(self.v, os.O_RDWR)
        os.unlink(self.v)
        self.assertFalse(self.v.exists())
        self.assertEqual(os.pread(fd, 10, 0), b"still here")
        os.pwrite(fd, b"more", 8192)
        self.assertEqual(os.pread(fd, 4, 8192), b"more")


class Sharing(MountTest):
    def test_copying_a_whole_view_shares_its_blocks(self):
        write_at(self.v, 0, os.urandom(4 * MIB))
        snapshot = self.snapshot("v@s")
        before = self.lab.space()["data"]
        source = self.open(snapshot, os.O_RDONLY)
        target = self.open(self.point / "c", os.O_CREAT | os.O_RDWR)
        done = 0
        while done < 16 * MIB:
            copied = os.copy_file_range(source, target, 16 * MIB - done, done, done)
            self.assertGreater(copied, 0)
            done += copied
        os.fsync(target)
        self.assertEqual(read_all(self.point / "c"), read_all(snapshot))
        self.assertLess(self.lab.space()["data"] - before, MIB, "the blocks were copied, not shared")
        write_at(self.point / "c", 0, b"own")
        self.assertNotEqual(read_at(snapshot, 0, 3), b"own")


class Refusing(MountTest):
    def test_a_snapshot_takes_no_write_of_any_kind(self):
        write_at(self.v, 0, b"fixed")
        snapshot = self.snapshot("v@s")
        self.assertEqual(snapshot.stat().st_mode & 0o222, 0)
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            self.fails_with(errno.EROFS, os.open, snapshot, flags)
        self.fails_with(errno.EROFS, os.truncate, snapshot, 0)
        with self.assertRaises(OSError):
            os.chmod(snapshot, 0o666)
        self.assertEqual(snapshot.stat().st_mode & 0o222, 0)
        self.assertEqual(read_at(snapshot, 0, 5), b"fixed")

    def test_there_are_no_directories_links_or_special_files(self):
        self.fails_with(errno.EPERM, os.mkdir, self.point / "d")
        self.fails_with(errno.EPERM, os.link, self.v, self.point / "l")
        self.fails_with(errno.EPERM, os.symlink, "v", self.point / "l")
        self.fails_with(errno.EPERM, os.mkfifo, self.point / "f")
        self.assertEqual(os.listdir(self.point), ["v"])

    def test_bad_names_are_refused(self):
        for name in (
            ".hidden",
            "-dash",
            "with blank",
            "new\nline",
            "a*",
            "v@s",
            "café",
            "@",
            "a@",
            "a@b@c",
        ):
            with self.subTest(name=name):
                self.fails_with(errno.EINVAL, os.open, self.point / name, os.O_CREAT | os.O_WRONLY)
        for length in (64, 200, 255):
            self.fails_with(
                errno.ENAMETOOLONG, os.open, self.point / ("n" * length), os.O_CREAT | os.O_WRONLY
            )
        os.close(os.open(self.point / ("n" * 63), os.O_CREAT | os.O_WRONLY))
        self.assertEqual(sorted(os.listdir(self.point)), ["n" * 63, "v"])

    def test_sizes_that_cannot_be_are_refused(self):
        self.fails_with(errno.EINVAL, os.truncate, self.v, -1)
        fd = self.open(self.v, os.O_RDWR)
        with self.assertRaises(OSError) as raised:
            os.pwrite(fd, b"xx", (1 << 63) - 1)
        self.assertIn(raised.exception.errno, (errno.EFBIG, errno.EINVAL))
        self.assertEqual(self.v.stat().st_size, 16 * MIB)
        with self.assertRaises(OSError):
            fallocate(fd, PUNCH_HOLE | KEEP_SIZE, -4096, 8192)

    def test_modes_and_owners_are_kept_across_mounts(self):
        os.chmod(self.v, 0o640)
        os.chown(self.v, 1234, 4321)
        self.lab.umount()
        self.lab.mount()
        found = self.v.stat()
        self.assertEqual((found.st_mode & 0o777, found.st_uid, found.st_gid), (0o640, 1234, 4321))


if __name__ == "__main__":
    main()
