#!/usr/bin/env python3
"""Snapshots, clones, rollback, flatten, diff and removal, against what a plain copy of the bytes would be."""

import hashlib
import os
import threading

from support import (
    BLOCK,
    MIB,
    LabTest,
    data_ranges,
    main,
    punch,
    read_all,
    read_at,
    seeded,
    used_bytes,
    wait_until,
    write_at,
)


class ViewTest(LabTest):
    size = 8 * MIB

    def setUp(self):
        super().setUp()
        self.random = seeded()
        self.lab.pool(size="512M")
        self.point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", str(self.size))
        self.expected = {"v": bytearray(self.size)}

    def write(self, name, offset, data):
        write_at(self.point / name, offset, data)
        self.expected[name][offset : offset + len(data)] = data

    def scribble(self, name, count=20, blocks=16):
        """Writes to random blocks of a volume; the blocks."""
        touched = set()
        for _ in range(count):
            length = self.random.randrange(1, blocks)
            first = self.random.randrange(self.size // BLOCK - length)
            self.write(name, first * BLOCK, self.random.randbytes(length * BLOCK))
            touched.update(range(first, first + length))
        return touched

    def snapshot(self, *names):
        self.lab.vsnap("snapshot", *(f"p/{name}" for name in names))
        for name in names:
            self.expected[name] = bytes(self.expected[name.split("@")[0]])

    def clone(self, source, name):
        self.lab.vsnap("clone", f"p/{source}", name)
        self.expected[name] = bytearray(self.expected[source])

    def remove(self, *names, wait=True):
        self.lab.vsnap("rm", *(f"p/{name}" for name in names), *(["--wait"] if wait else []))
        for name in names:
            del self.expected[name]

    def verify(self):
        self.assertEqual(sorted(os.listdir(self.point)), sorted(self.expected))
        for name, content in self.expected.items():
            self.assertTrue(
                read_all(self.point / name) == content, f"{name} differs from what was written to it"
            )


class Snapshots(ViewTest):
    def test_each_keeps_the_moment_it_was_taken(self):
        for index in range(6):
            self.scribble("v")
            self.snapshot(f"v@s{index}")
        self.scribble("v")
        self.verify()
        self.lab.umount()
        self.lab.check()
        self.lab.mount()
        self.verify()

    def test_of_several_volumes_are_of_one_moment(self):
        """A writer counts up in one volume, then in the other: b is never ahead, nor more than one behind."""
        for name in ("a", "b"):
            self.lab.vsnap("create", f"p/{name}", "--size", "1M")
        stop = threading.Event()

        def count_up():
            number = 0
            files = [os.open(self.point / name, os.O_WRONLY) for name in ("a", "b")]
            while not stop.is_set():
                number += 1
                for fd in files:
                    os.pwrite(fd, number.to_bytes(8, "little"), 0)
            for fd in files:
                os.close(fd)

        writer = threading.Thread(target=count_up)
        writer.start()
        try:
            for index in range(20):
                self.lab.vsnap("snapshot", f"p/a@{index}", f"p/b@{index}")
        finally:
            stop.set()
            writer.join()
        seen = set()
        for index in range(20):
            a, b = (
                int.from_bytes(read_at(self.point / f"{name}@{index}", 0, 8), "little")
                for name in ("a", "b")
            )
            self.assertIn(a - b, (0, 1), f"snapshot {index}")
            seen.add(a)
        self.assertGreater(len(seen), 10, "the writer did not run beside the snapshots")

    def test_of_several_are_all_or_none(self):
        self.lab.vsnap("create", "p/w", "--size", "1M")
        self.lab.vsnap("snapshot", "p/w@taken")
        before = self.lab.status()["generation"]
        self.lab.vsnap("snapshot", "p/v@taken", "p/w@taken", code=1)
        self.lab.vsnap("snapshot", "p/v@new", "p/none@new", code=3)
        self.assertEqual(sorted(self.lab.views()), ["v", "w", "w@taken"])
        self.assertEqual(self.lab.status()["generation"], before)

    def test_hold_the_writes_that_returned_before_and_none_that_began_after(self):
        fd = os.open(self.point / "v", os.O_RDWR)
        for index in range(50):
            os.pwrite(fd, bytes([index]) * BLOCK, 0)
            self.lab.vsnap("snapshot", f"p/v@{index}")
        os.close(fd)
        for index in range(50):
            self.assertEqual(read_at(self.point / f"v@{index}", 0, BLOCK), bytes([index]) * BLOCK)


class Clones(ViewTest):
    def test_of_snapshots_of_clones_each_go_their_own_way(self):
        source = "v"
        for depth in range(5):
            self.scribble(source)
            self.snapshot(f"{source}@s")
            self.scribble(source, 5)
            self.clone(f"{source}@s", f"c{depth}")
            source = f"c{depth}"
        self.scribble(source)
        punch(self.point / source, 0, MIB)
        self.expected[source][:MIB] = bytes(MIB)
        self.verify()
        self.assertEqual(self.lab.views()["c4"]["origin"], "p/c3@s")

    def test_take_no_space_until_written(self):
        self.scribble("v")
        self.snapshot("v@s")
        before = self.lab.space()["data"]
        self.clone("v@s", "c")
        self.assertEqual(self.lab.space()["data"], before)
        self.write("c", 0, b"x" * BLOCK)
        self.assertEqual(self.lab.space()["data"], before + BLOCK)

    def test_outlive_the_snapshot_and_the_volume_they_came_from(self):
        self.scribble("v")
        self.snapshot("v@s")
        self.clone("v@s", "c")
        self.remove("v@s")
        self.remove("v")
        self.verify()
        self.scribble("c")
        self.verify()
        self.remove("c")
        self.assertEqual(self.lab.space()["data"], 0)


class Rollback(ViewTest):
    def test_keeps_newer_snapshots_and_the_state_before(self):
        self.scribble("v")
        self.snapshot("v@old")
        self.scribble("v")
        self.snapshot("v@new")
        self.scribble("v")
        result = self.lab.json("rollback", "p/v@old")
        self.assertEqual(result["kept"], "p/v@before-rollback-1")
        self.expected["v@before-rollback-1"] = bytes(self.expected["v"])
        self.expected["v"] = bytearray(self.expected["v@old"])
        self.verify()
        self.scribble("v")
        self.verify()
        self.lab.vsnap("rollback", "p/v@new")
        self.expected["v@before-rollback-2"] = bytes(self.expected["v"])
        self.expected["v"] = bytearray(self.expected["v@new"])
        self.verify()

    def test_restores_the_size_too(self):
        self.scribble("v")
        self.snapshot("v@s")
        self.lab.vsnap("resize", "p/v", str(2 * self.size))
        self.lab.vsnap("rollback", "p/v@s", "--discard")
        self.verify()
        self.assertEqual((self.point / "v").stat().st_size, self.size)

    def test_with_discard_keeps_nothing_and_frees_what_only_that_state_had(self):
        self.write("v", 0, b"a" * MIB)
        self.snapshot("v@s")
        before = self.lab.space()["data"]
        self.write("v", MIB, b"b" * MIB)
        self.lab.vsnap("rollback", "p/v@s", "--discard")
        self.expected["v"] = bytearray(self.expected["v@s"])
        self.verify()
        self.lab.settle()
        self.assertEqual(self.lab.space()["data"], before)

    def test_a_dry_run_changes_nothing(self):
        self.scribble("v")
        self.snapshot("v@s")
        self.scribble("v")
        result = self.lab.json("rollback", "-n", "p/v@s")
        self.assertEqual((result["dry_run"], result["kept"]), (True, "p/v@before-rollback-1"))
        self.verify()

    def test_is_seen_by_the_first_read_after_it_while_files_come_and_go(self):
        stop = threading.Event()

        def churn(worker):
            while not stop.is_set():
                path = self.point / f"churn{worker}"
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
                os.unlink(path)

        old, new = b"old!" * 1024, b"new!" * 1024
        write_at(self.point / "v", MIB, old)
        self.snapshot("v@s")
        workers = [threading.Thread(target=churn, args=(index,)) for index in range(6)]
        for worker in workers:
            worker.start()
        stale = 0
        try:
            for _ in range(30):
                write_at(self.point / "v", MIB, new)
                self.assertEqual(read_at(self.point / "v", MIB, BLOCK), new)
                self.lab.vsnap("rollback", "p/v@s", "--discard")
                stale += read_at(self.point / "v", MIB, BLOCK) != old
                self.lab.vsnap("resize", "-y", "--shrink", "p/v", str(MIB))
                self.lab.vsnap("resize", "p/v", str(self.size))
                stale += read_at(self.point / "v", MIB, BLOCK) != bytes(BLOCK)
        finally:
            stop.set()
            for worker in workers:
                worker.join()
        self.assertEqual(stale, 0, "reads of what was there before")

    def test_of_an_open_volume_is_refused_and_right_after_its_close_works(self):
        self.write("v", 0, b"old!")
        self.snapshot("v@s")
        for _ in range(30):
            fd = os.open(self.point / "v", os.O_RDWR)
            os.pwrite(fd, b"new!", 0)
            self.lab.vsnap("rollback", "p/v@s", "--discard", code=4)
            self.assertEqual(os.pread(fd, 4, 0), b"new!")
            os.close(fd)
            self.lab.vsnap("rollback", "p/v@s", "--discard")
            self.assertEqual(read_at(self.point / "v", 0, 4), b"old!")


class Flatten(ViewTest):
    def test_a_flattened_clone_has_its_own_blocks_and_no_origin(self):
        self.write("v", 0, self.random.randbytes(2 * MIB))
        self.snapshot("v@s")
        self.clone("v@s", "c")
        self.write("c", MIB, b"own" * 1000)
        self.lab.vsnap("flatten", "p/c")
        self.verify()
        self.assertIsNone(self.lab.views()["c"]["origin"])
        self.remove("v@s")
        self.remove("v")
        self.verify()
        self.assertEqual(self.lab.space()["data"], used_bytes(self.point / "c"))


class Diff(ViewTest):
    def changed(self, *specs):
        """(blocks of data, blocks of holes) as the diff tells them, which is in order and without overlap."""
        found = {"data": set(), "hole": set()}
        at = 0
        for entry in self.lab.diff(*specs):
            self.assertGreaterEqual(entry["offset"], at)
            at = entry["offset"] + entry["length"]
            self.assertEqual((entry["offset"] % BLOCK, entry["length"] % BLOCK), (0, 0))
            found[entry["state"]].update(range(entry["offset"] // BLOCK, at // BLOCK))
        return found["data"], found["hole"]

    def test_tells_exactly_the_blocks_written_and_discarded_between_two_views(self):
        self.scribble("v")
        self.snapshot("v@a")
        first = self.scribble("v")
        self.snapshot("v@b")
        second = self.scribble("v")
        holes = set(range(100, 130))
        punch(self.point / "v", 100 * BLOCK, 30 * BLOCK)
        mapped_before = self.mapped("v@b")
        self.assertEqual(self.changed("p/v@a", "p/v@b"), (first, set()))
        data, hole = self.changed("p/v@b")
        self.assertEqual(data, second - holes)
        # Where nothing was before, a hole is no change.
        self.assertEqual(hole & mapped_before, holes & mapped_before)
        self.assertLessEqual(hole, holes)
        data, hole = self.changed("p/v@a", "p/v")
        self.assertEqual(data, (first | second) - holes)
        self.assertEqual(self.changed("p/v@b", "p/v@b"), (set(), set()))

    def mapped(self, name):
        return {
            block
            for start, end in data_ranges(self.point / name)
            for block in range(start // BLOCK, end // BLOCK)
        }

    def test_applied_to_the_first_view_gives_the_second(self):
        self.scribble("v")
        self.snapshot("v@a")
        self.clone("v@a", "c")
        self.scribble("c")
        punch(self.point / "c", 2 * MIB, MIB)
        self.expected["c"][2 * MIB : 3 * MIB] = bytes(MIB)
        self.snapshot("c@b")
        patched = bytearray(self.expected["v@a"])
        for entry in self.lab.diff("p/v@a", "p/c@b"):
            start, end = entry["offset"], entry["offset"] + entry["length"]
            patched[start:end] = (
                self.expected["c@b"][start:end] if entry["state"] == "data" else bytes(end - start)
            )
        self.assertTrue(patched == self.expected["c@b"])

    def test_of_unrelated_views_is_refused(self):
        self.lab.vsnap("create", "p/w", "--size", "1M")
        self.snapshot("v@s")
        self.lab.vsnap("diff", "p/v@s", "p/w", code=1)


class Removal(ViewTest):
    def test_of_any_snapshot_in_any_order_frees_what_a_dry_run_said_and_no_less_than_df(self):
        self.removes_in_any_order(with_clone=True)

    def test_without_clones_it_frees_exactly_what_df_said(self):
        self.removes_in_any_order(with_clone=False)

    def removes_in_any_order(self, with_clone):
        for index in range(8):
            self.scribble("v", count=15)
            if index % 3 == 2:
                punch(self.point / "v", index * 200 * BLOCK, 100 * BLOCK)
                start = index * 200 * BLOCK
                self.expected["v"][start : start + 100 * BLOCK] = bytes(100 * BLOCK)
            self.snapshot(f"v@s{index}")
        if with_clone:
            self.clone("v@s3", "c")
            self.scribble("c")
        order = [f"v@s{index}" for index in range(8)]
        self.random.shuffle(order)
        for name in order:
            predicted = self.lab.frees()[name]
            dry = self.lab.json("rm", "-n", f"p/{name}")["frees"]
            before = self.lab.space()
            self.remove(name)
            after = self.lab.space()
            freed = before["data"] - after["data"]
            self.assertEqual(dry, freed, name)
            # What only a clone sees, and has blocks of its own for, goes as well.
            self.assertTrue(predicted <= freed if with_clone else predicted == freed, name)
            self.assertGreaterEqual(after["available"], before["available"])
            self.verify()
        self.lab.umount()
        self.lab.check()

    def test_of_everything_leaves_no_data_behind(self):
        for index in range(4):
            self.scribble("v")
            self.snapshot(f"v@s{index}")
            self.clone(f"v@s{index}", f"c{index}")
            self.scribble(f"c{index}")
        self.lab.vsnap("rm", "p/v", code=4)
        self.lab.vsnap("rm", "-r", "-y", "--wait", "p/v", *(f"p/c{index}" for index in range(4)))
        self.assertEqual(os.listdir(self.point), [])
        self.assertEqual(self.lab.space()["data"], 0)
        self.lab.umount()
        self.lab.check()

    def test_a_volume_that_was_removed_predicted_what_it_frees(self):
        self.scribble("v")
        self.snapshot("v@s")
        self.clone("v@s", "c")
        self.scribble("c")
        predicted = self.lab.frees()["c"]
        before = self.lab.space()["data"]
        self.remove("c")
        self.assertEqual(before - self.lab.space()["data"], predicted)

    def test_an_open_snapshot_is_refused_by_the_command(self):
        self.scribble("v")
        self.snapshot("v@s")
        with open(self.point / "v@s", "rb") as file:
            file.read(1)
            self.lab.vsnap("rm", "p/v@s", code=4)
        # Releases reach the daemon a moment after close().
        wait_until(lambda: self.lab.vsnap("rm", "p/v@s", code=None).code == 0, what="removal after close")

    def test_of_several_is_all_or_none(self):
        self.snapshot("v@a")
        self.lab.vsnap("rm", "p/v@a", "p/v@none", code=3)
        self.verify()


class Crash(LabTest):
    EXTENTS = 65536  # of each snapshot that is removed, so that the removal takes a while

    def write_spread(self, path):
        """Every second block, so that no two are one extent."""
        self.lab.run(
            "fio",
            "--name=spread",
            f"--filename={path}",
            "--rw=write:4k",
            "--bs=4k",
            "--direct=1",
            "--ioengine=libaio",
            "--iodepth=32",
            f"--size={2 * self.EXTENTS * BLOCK}",
            f"--io_size={self.EXTENTS * BLOCK}",
            timeout=120,
        )

    def digest(self, path):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def test_a_removal_goes_on_after_the_daemon_was_killed_during_it(self):
        volumes = ("a", "b", "c")
        self.lab.pool(size="3G")
        point = self.lab.mount()
        for name in volumes:
            self.lab.vsnap("create", f"p/{name}", "--size", str(2 * self.EXTENTS * BLOCK))
            self.write_spread(point / name)
            self.lab.vsnap("snapshot", f"p/{name}@s")
            self.write_spread(point / name)  # now nobody but the snapshot sees the first ones
        expected = {name: self.digest(point / name) for name in volumes}
        killed = 0
        for name in volumes:
            self.assertEqual(self.lab.frees()[f"{name}@s"], self.EXTENTS * BLOCK)
            before = self.lab.space()["data"]
            pid = self.lab.daemon_pid()
            self.lab.vsnap("rm", f"p/{name}@s")
            self.lab.kill_daemon(pid=pid)
            killed += self.lab.status()["removal_pending"]
            point = self.lab.mount()
            self.lab.settle()
            self.assertEqual(before - self.lab.space()["data"], self.EXTENTS * BLOCK)
        print(f"killed {killed} times while it was removing", flush=True)
        self.assertGreater(killed, 0, "no kill hit a removal")
        self.assertEqual(sorted(self.lab.views()), sorted(volumes))
        self.assertEqual({name: self.digest(point / name) for name in volumes}, expected)
        self.lab.umount()
        self.lab.check()


if __name__ == "__main__":
    main()
