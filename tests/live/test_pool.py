#!/usr/bin/env python3
"""Pools: what they are made of, what is refused, how they grow, move and are forgotten."""

import json
import os
import shutil
import socket
import time

from support import MIB, VSNAP, LabTest, fio, main, read_all, seeded, write_at


class Create(LabTest):
    def test_makes_a_missing_file_with_the_size_asked_for_and_sparse(self):
        path = self.lab.path / "new.img"
        self.lab.vsnap("pool", "create", "p", path, "--size", "64M")
        self.assertEqual(path.stat().st_size, 64 * MIB)
        self.assertLess(path.stat().st_blocks * 512, 16 * MIB)
        self.assertEqual(path.stat().st_mode & 0o077, 0, "others could read the volumes")

    def test_takes_a_file_that_exists_and_is_empty(self):
        path = self.lab.file("there.img", 64 * MIB)
        self.lab.vsnap("pool", "create", "p", path)
        self.assertLessEqual(self.lab.space()["size"], 64 * MIB)

    def test_a_missing_file_without_a_size_is_refused(self):
        done = self.lab.vsnap("pool", "create", "p", self.lab.path / "no.img", code=2)
        self.mentions(done.err, "no.img", "--size")
        self.assertFalse((self.lab.path / "no.img").exists())

    def test_a_block_device_holds_a_pool_as_a_file_does(self):
        device = self.lab.losetup(self.lab.file("disk", 128 * MIB))
        self.lab.vsnap("pool", "create", "p", device)
        status = self.lab.status()
        self.assertEqual(status["members"][0]["path"], device)
        self.assertEqual(status["members"][0]["type"], "device")
        point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "32M")
        write_at(point / "v", 12345, b"on a device")
        self.lab.vsnap("snapshot", "p/v@s")
        self.lab.umount()
        # The same bytes on either: the file below the device is the same pool.
        self.lab.vsnap("pool", "detach", "p")
        self.lab.detach(device)
        self.lab.vsnap("pool", "attach", self.lab.path / "disk")
        point = self.lab.mount()
        self.assertEqual(read_all(point / "v@s")[12345:12356], b"on a device")
        self.lab.umount()
        self.lab.check()

    def test_a_pool_of_several_members_adds_up(self):
        self.lab.pool(members=3, size="64M")
        status = self.lab.status()
        self.assertEqual([member["index"] for member in status["members"]], [0, 1, 2])
        space = status["space"]
        self.assertEqual(space["size"], sum(member["size"] for member in status["members"]))
        self.assertEqual(space["size"], space["data"] + space["metadata"] + space["free"])

    def test_a_dry_run_makes_nothing(self):
        path = self.lab.path / "new.img"
        self.lab.vsnap("pool", "create", "p", path, "--size", "64M", "-n")
        self.assertFalse(path.exists())
        self.assertEqual(self.lab.json("pool", "list")["pools"], [])

    def test_a_name_that_is_taken_is_refused_and_the_pool_stays(self):
        self.lab.pool()
        before = self.lab.status()["uuid"]
        self.lab.vsnap("pool", "create", "p", self.lab.path / "x.img", "--size", "64M", code=4)
        self.assertEqual(self.lab.status()["uuid"], before)
        self.assertFalse((self.lab.path / "x.img").exists())


class Refusal(LabTest):
    def refused(self, path, *found):
        before = read_all(path)[: 8 * MIB]
        done = self.lab.vsnap("pool", "create", "q", path, code=1)
        self.mentions(done.err, path, *found, "--force")
        self.assertEqual(read_all(path)[: 8 * MIB], before, "a refused member was written to")
        self.lab.vsnap("pool", "create", "q", path, "--force")
        self.assertEqual(self.lab.status("q")["health"], "ok")

    def test_a_file_system_is_named_and_refused_without_force(self):
        path = self.lab.file("fs.img", 64 * MIB)
        self.lab.run("mkfs.ext4", "-q", path)
        self.refused(path, "ext4")

    def test_a_partition_table_is_named_and_refused_without_force(self):
        path = self.lab.file("parts.img", 64 * MIB)
        self.lab.run("sfdisk", "-q", path, stdin="label: gpt\n,\n")
        self.refused(path, "gpt")

    def test_another_pool_is_named_and_refused_without_force(self):
        path = self.lab.pool("other", size="64M")[0]
        self.refused(path, "other")

    def test_data_that_no_signature_tells_of_is_refused_without_force(self):
        self.refused(self.lab.file("late.img", 64 * MIB, b"\0" * (30 * MIB) + b"a database"), "holds data")

    def test_a_dry_run_says_what_would_be_overwritten(self):
        path = self.lab.file("tar.img", 64 * MIB, b"x" * MIB)
        self.lab.vsnap("pool", "create", "q", path, "-n", code=1)
        done = self.lab.vsnap("pool", "create", "q", path, "-n", "--force")
        self.mentions(done.out, f"would overwrite {path}, which holds data")
        self.assertEqual(read_all(path)[:MIB], b"x" * MIB)

    def test_a_size_that_an_existing_file_does_not_have_is_refused(self):
        path = self.lab.file("there.img", 64 * MIB)
        done = self.lab.vsnap("pool", "create", "q", path, "--size", "128M", code=2)
        self.mentions(done.err, path, "--size")
        self.assertEqual(path.stat().st_size, 64 * MIB)
        self.lab.vsnap("pool", "create", "q", path, "--size", "64M")
        device = self.lab.losetup(self.lab.file("disk", 64 * MIB))
        self.lab.vsnap("pool", "add", "q", device, "--size", "64M", code=2)

    def test_what_lies_in_the_pools_own_mount_is_refused(self):
        self.lab.pool(size="512M")
        point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "64M")
        refused = [point / "v", point / "new"]
        device = self.lab.map("p/v")
        refused.append(device)
        self.lab.run("mkfs.ext4", "-q", device)
        inner = self.lab.mount_device(device, "fs")
        refused.append(inner / "new.img")
        for path in refused:
            size = [] if os.path.exists(path) else ["--size", "32M"]
            done = self.lab.vsnap("pool", "add", "p", path, "--force", *size, code=2)
            self.mentions(done.err, path, "own mount")
        self.lab.umount_device(inner, device)
        self.lab.unmap(device)
        self.assertEqual(len(self.lab.status()["members"]), 1)

    def test_a_device_that_is_mounted_is_refused_even_with_force(self):
        path = self.lab.file("fs.img", 64 * MIB)
        device = self.lab.losetup(path)
        self.lab.run("mkfs.ext4", "-q", device)
        self.lab.mount_device(device, "fs")
        self.lab.vsnap("pool", "create", "q", device, "--force", code=4)
        self.lab.umount_device(self.lab.path / "fs", device)
        self.lab.run("fsck.ext4", "-n", "-f", device)

    def test_a_member_of_a_mounted_pool_is_refused_even_with_force(self):
        path = self.lab.pool()[0]
        self.lab.mount()
        self.lab.vsnap("pool", "create", "q", path, "--force", code=4)
        self.assertEqual(self.lab.status()["health"], "ok")

    def test_pool_add_refuses_what_pool_create_refuses(self):
        self.lab.pool()
        path = self.lab.file("fs.img", 64 * MIB)
        self.lab.run("mkfs.ext4", "-q", path)
        self.mentions(self.lab.vsnap("pool", "add", "p", path, code=1).err, "ext4", "--force")
        self.lab.vsnap("pool", "add", "p", path, "--force")
        self.assertEqual(len(self.lab.status()["members"]), 2)

    def test_the_same_file_twice_is_refused(self):
        path = self.lab.file("one.img", 64 * MIB)
        link = self.lab.path / "link.img"
        link.symlink_to(path)
        self.lab.vsnap("pool", "create", "p", path, link, code=2)
        self.assertEqual(self.lab.json("pool", "list")["pools"], [])


class Growth(LabTest):
    def test_a_member_is_added_while_mounted_and_under_load(self):
        self.lab.pool(size="128M")
        point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "64M")
        load = self.lab.start(
            *fio(
                point / "v",
                "--rw=randwrite",
                "--bs=4k",
                "--direct=1",
                "--ioengine=libaio",
                "--iodepth=8",
                "--time_based=1",
                "--runtime=3",
                size="64M",
            )
        )
        try:
            before = self.lab.status()
            for index in range(3):
                self.lab.vsnap("pool", "add", "p", self.lab.path / f"more{index}.img", "--size", "64M")
            after = self.lab.status()
            output = load.communicate(timeout=60)[0]
        finally:
            load.kill()
        self.assertEqual(load.returncode, 0, output)
        self.assertEqual(len(after["members"]), 4)
        self.assertEqual(after["space"]["size"], before["space"]["size"] + 192 * MIB)
        self.assertGreater(after["generation"], before["generation"])
        # The new space is of use: more is written than the first member could hold.
        self.lab.vsnap("create", "p/big", "--size", "200M")
        self.lab.run(
            "dd", "if=/dev/urandom", f"of={point}/big", "bs=1M", "count=200", "conv=notrunc,fsync"
        )
        self.lab.umount()
        self.lab.check()


class KilledGrowth(LabTest):
    def test_a_pool_add_that_was_killed_leaves_a_pool_that_works(self):
        random = seeded()
        self.lab.pool(size="64M")
        for mounted in (False, True):
            if mounted:
                self.lab.mount()
            for turn in range(12):
                new = self.lab.path / f"new-{mounted}-{turn}.img"
                command = self.lab.start(VSNAP, "pool", "add", "p", new, "--size", "64M")
                time.sleep(random.uniform(0, 0.04))
                command.kill()
                command.communicate()
                self.lab.status()
                self.lab.vsnap("create", f"p/v-{mounted}-{turn}", "--size", "1M")
        self.lab.umount()
        self.lab.check()
        members = len(self.lab.status()["members"])
        print(f"{members - 1} of 24 members were added", flush=True)
        self.lab.vsnap("pool", "add", "p", self.lab.path / "last.img", "--size", "64M")
        self.assertEqual(len(self.lab.status()["members"]), members + 1)


class Status(LabTest):
    def test_says_members_space_generation_and_health(self):
        paths = self.lab.pool(members=2)
        status = self.lab.status()
        self.assertEqual(status["name"], "p")
        self.assertEqual(status["health"], "ok")
        self.assertEqual([member["path"] for member in status["members"]], [str(path) for path in paths])
        self.assertEqual((status["volumes"], status["snapshots"]), (0, 0))
        self.assertIsNone(status["mount_point"])
        self.lab.vsnap("create", "p/v", "--size", "1M")
        self.lab.vsnap("snapshot", "p/v@s")
        later = self.lab.status()
        self.assertEqual((later["volumes"], later["snapshots"]), (1, 1))
        self.assertEqual(later["generation"], status["generation"] + 2)

    def test_of_a_mounted_pool_says_where_and_by_whom(self):
        self.lab.pool()
        point = self.lab.mount()
        status = self.lab.status()
        self.assertEqual(status["mount_point"], str(point))
        with open(f"/proc/{status['pid']}/comm") as comm:
            self.assertEqual(comm.read().strip(), "vsnap")
        text = self.lab.vsnap("pool", "status", "p").out
        self.mentions(text, point, status["pid"], "ok")


class Moving(LabTest):
    def test_a_copy_of_the_one_image_file_has_everything(self):
        image = self.lab.pool(size="256M")[0]
        point = self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "64M")
        with open("/dev/urandom", "rb") as noise:
            old, new = noise.read(8 * MIB), noise.read(3 * MIB)
        write_at(point / "v", 30 * MIB, old)
        self.lab.vsnap("snapshot", "p/v@one")
        write_at(point / "v", 31 * MIB, new)
        self.lab.vsnap("clone", "p/v@one", "c")
        expected = {name: read_all(point / name) for name in ("v", "v@one", "c")}
        views = self.lab.views()
        self.lab.umount()
        moved = self.lab.path / "moved.img"
        self.lab.run("cp", "--sparse=always", image, moved)
        # Another machine, as far as this one can be one: another registry, other sockets.
        elsewhere = {
            "VSNAP_STATE_DIR": f"{self.lab.path}/state2",
            "VSNAP_RUNTIME_DIR": f"{self.lab.path}/run/2",
        }
        (self.lab.path / "run").mkdir(exist_ok=True)
        self.lab.vsnap("pool", "status", "p", env=elsewhere, code=3)
        self.lab.vsnap("pool", "attach", moved, env=elsewhere)
        there = self.lab.directory("there")
        self.lab.vsnap("mount", "p", there, env=elsewhere)
        self.assertEqual({path.name for path in there.iterdir()}, set(expected))
        for name, content in expected.items():
            self.assertEqual(read_all(there / name), content, name)
        listed = json.loads(self.lab.vsnap("ls", "p", "--json", env=elsewhere).out)["views"]
        self.assertEqual([view["name"] for view in listed], [view["name"] for view in views.values()])
        self.lab.vsnap("umount", "p", env=elsewhere)
        self.lab.vsnap("check", "p", env=elsewhere)

    def test_detach_forgets_and_attach_finds_again(self):
        paths = self.lab.pool(members=2)
        self.lab.vsnap("create", "p/v", "--size", "1M")
        self.lab.vsnap("pool", "detach", "p")
        self.assertEqual(self.lab.json("pool", "list")["pools"], [])
        self.lab.vsnap("ls", "p", code=3)
        self.lab.vsnap("pool", "attach", *reversed(paths))  # in any order
        self.assertEqual(list(self.lab.views()), ["v"])

    def test_attach_repoints_neither_a_mounted_pool_nor_one_whose_members_are_there(self):
        image = self.lab.pool()[0]
        copy = self.lab.path / "copy.img"
        self.lab.run("cp", "--sparse=always", image, copy)
        done = self.lab.vsnap("pool", "attach", copy, code=4)
        self.mentions(done.err, "known with other members", image, "vsnap pool detach p")
        self.lab.vsnap("pool", "attach", image)
        point = self.lab.mount()
        self.mentions(self.lab.vsnap("pool", "attach", image, code=4).err, "mounted", point)
        self.assertEqual(self.lab.status()["members"][0]["path"], str(image))
        self.lab.umount()
        image.unlink()
        self.lab.vsnap("pool", "attach", copy)
        self.assertEqual(self.lab.status()["members"][0]["path"], str(copy))

    def test_attach_wants_all_members_and_says_how_many(self):
        paths = self.lab.pool(members=3)
        self.lab.vsnap("pool", "detach", "p")
        self.mentions(self.lab.vsnap("pool", "attach", *paths[:2], code=1).err, "p", "3", "2")
        self.lab.vsnap("ls", "p", code=3)

    def test_destroy_makes_the_members_no_pool_any_more(self):
        paths = self.lab.pool(members=2)
        self.lab.vsnap("pool", "destroy", "p", code=2)  # not without -y where nobody can be asked
        self.lab.vsnap("pool", "destroy", "p", "-n")
        self.lab.status()
        self.lab.vsnap("pool", "destroy", "p", "-y")
        self.lab.vsnap("pool", "status", "p", code=3)
        self.lab.vsnap("pool", "attach", *paths, code=3)
        self.lab.vsnap("pool", "create", "q", *paths)  # no --force needed

    def test_destroy_and_detach_of_a_mounted_pool_are_refused(self):
        self.lab.pool()
        self.lab.mount()
        self.lab.vsnap("pool", "destroy", "p", "-y", code=4)
        self.lab.vsnap("pool", "detach", "p", code=4)
        self.assertEqual(self.lab.status()["health"], "ok")


class OneOwner(LabTest):
    def names_owner(self, done, pid):
        self.mentions(done.err, f"pid {pid}", socket.gethostname())

    def other_machine(self, members):
        """A registry and runtime directory that know nothing of the daemon."""
        env = {
            "VSNAP_STATE_DIR": f"{self.lab.path}/state2",
            "VSNAP_RUNTIME_DIR": f"{self.lab.path}/run/2",
        }
        self.lab.vsnap("pool", "attach", *members, env=env)
        return env

    def test_a_second_daemon_is_told_who_has_the_pool(self):
        members = self.lab.pool()
        self.lab.mount()
        env = self.other_machine(members)
        done = self.lab.vsnap("mount", "p", self.lab.directory("second"), env=env, code=4)
        self.names_owner(done, self.lab.daemon_pid())

    def test_a_command_that_cannot_reach_the_daemon_is_told_who_has_the_pool(self):
        members = self.lab.pool()
        self.lab.mount()
        env = self.other_machine(members)
        self.names_owner(self.lab.vsnap("ls", "p", env=env, code=4), self.lab.daemon_pid())
        self.lab.vsnap("create", "p/v", "--size", "1M", env=env, code=4)
        self.assertEqual(self.lab.views(), {})

    def test_mounting_twice_says_where_it_is_mounted(self):
        self.lab.pool()
        point = self.lab.mount()
        done = self.lab.vsnap("mount", "p", self.lab.directory("second"), code=4)
        self.mentions(done.err, point, self.lab.daemon_pid())

    def test_many_commands_at_once_all_get_their_turn(self):
        self.lab.pool()
        running = [self.lab.start(VSNAP, "create", f"p/v{index}", "--size", "1M") for index in range(8)]
        for process in running:
            output = process.communicate(timeout=60)[0]
            self.assertEqual(process.returncode, 0, output)
        self.assertEqual(len(self.lab.views()), 8)


class SameName(LabTest):
    def test_commands_for_a_copy_do_not_go_to_the_mounted_original(self):
        self.lab.pool()
        self.lab.mount()
        self.lab.vsnap("create", "p/v", "--size", "1M")
        self.lab.umount()
        copy = self.lab.path / "copy.img"
        shutil.copy(self.lab.path / "p-0.img", copy)
        point = self.lab.mount()
        elsewhere = {"env": {"VSNAP_STATE_DIR": str(self.lab.path / "elsewhere")}}
        self.lab.vsnap("pool", "attach", copy, code=4)  # in the place where the original is known
        self.lab.vsnap("umount", "p")
        self.lab.vsnap("pool", "attach", copy, **elsewhere)
        self.lab.mount()
        for command in (("rm", "p/v"), ("ls", "p"), ("snapshot", "p/v@s"), ("umount", "p")):
            done = self.lab.vsnap(*command, code=4, **elsewhere)
            self.mentions(done.err, copy, self.lab.path / "p-0.img", point)
        self.assertEqual(list(self.lab.views()), ["v"])
        self.lab.umount()
        self.assertEqual(self.lab.vsnap("ls", "p", "-H", **elsewhere).code, 0)


class WrongMembers(LabTest):
    def refused(self, *words):
        for command in (
            ("ls", "p"),
            ("mount", "p", self.lab.directory("m")),
            ("create", "p/x", "--size", "1M"),
        ):
            self.mentions(self.lab.vsnap(*command, code=6).err, *words)

    def test_a_member_that_is_missing_is_named(self):
        paths = self.lab.pool(members=2)
        away = self.lab.path / "away.img"
        paths[1].rename(away)
        self.refused("p: member", paths[1], "missing", "vsnap pool attach")
        self.assertEqual(self.lab.json("pool", "list")["pools"][0]["state"], "missing")
        self.assertFalse(paths[1].exists(), "a missing member was made anew")
        away.rename(paths[1])
        self.lab.check()

    def test_a_member_of_another_pool_is_refused_naming_expected_and_found(self):
        paths = self.lab.pool(members=2)
        foreign = self.lab.pool("q", members=2)
        paths[1].rename(self.lab.path / "away.img")
        self.lab.run("cp", foreign[1], paths[1])
        self.refused(paths[1], "pool q", "p")
        self.lab.vsnap("pool", "status", "q")

    def test_a_file_that_is_no_member_is_refused(self):
        paths = self.lab.pool(members=2)
        paths[1].rename(self.lab.path / "away.img")
        self.lab.file(paths[1].name, paths[0].stat().st_size)
        self.refused(paths[1], "wiped")
        self.assertNotIn("pool create", self.lab.vsnap("pool", "attach", *paths, code=3).err)

    def test_a_truncated_member_is_refused_naming_both_lengths(self):
        paths = self.lab.pool(members=2, size="64M")
        with open(paths[1], "r+b") as file:
            file.truncate(48 * MIB)
        self.refused(paths[1], 48 * MIB, 64 * MIB)
        with open(paths[1], "r+b") as file:
            file.truncate(64 * MIB)
        self.lab.check()

    def test_two_copies_of_one_member_are_refused(self):
        paths = self.lab.pool(members=2)
        self.lab.vsnap("pool", "detach", "p")
        copy = self.lab.path / "copy.img"
        self.lab.run("cp", "--sparse=always", paths[0], copy)
        done = self.lab.vsnap("pool", "attach", paths[0], copy, paths[1], code=2)
        self.mentions(done.err, copy)


if __name__ == "__main__":
    main()
