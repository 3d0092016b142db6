#!/usr/bin/env python3
"""Commands: the same on a pool that is mounted or not; output, options, suggestions, codes, bad input."""

import fcntl
import json
import os
import re
import signal
import subprocess
import termios

from support import GIB, MIB, VSNAP, LabTest, main, used_bytes, wait_until, write_at

# Queries that change nothing, with all their ways to print.
QUERIES = [
    ("ls", "p"),
    ("ls", "p/a"),
    ("ls", "p", "-t", "snapshot"),
    ("ls", "p", "-t", "volume", "-H", "-p"),
    ("ls", "p", "-H", "-o", "name,size"),
    ("ls", "p", "-s", "size", "-H", "-o", "name"),
    ("df", "p"),
    ("df", "p", "-H", "-p", "-o", "name,frees"),
    ("info", "p/a"),
    ("info", "p/a@one"),
    ("info", "p/c"),
    ("tree", "p"),
    ("tree", "p/a"),
    ("diff", "p/a@one"),
    ("diff", "p/a@one", "p/a@two"),
    ("diff", "p/a@one", "p/c"),
    ("rm", "-n", "p/a@one"),
    ("rm", "-n", "-r", "p/a"),
    ("rollback", "-n", "p/a@one"),
    ("resize", "-n", "p/a", "1M", "--shrink"),
    ("pool", "list", "-H"),
    ("check", "p"),
]
# Errors, with the exit code that each must have.
ERRORS = [
    (("info", "p/none"), 3),
    (("info", "p/a@none"), 3),
    (("snapshot", "p/none@s"), 3),
    (("rm", "p/none"), 3),
    (("clone", "p/a@none", "x"), 3),
    (("rollback", "p/a@none"), 3),
    (("resize", "p/none", "1M"), 3),
    (("create", "p/a", "--size", "1M"), 1),
    (("snapshot", "p/a@one"), 1),
    (("clone", "p/a@one", "c"), 1),
    (("rename", "p/a", "c"), 1),
    (("resize", "p/a", "1M"), 2),
    (("rm", "p/a"), 4),
    (("diff", "p/a@one", "p/e"), 1),
    (("snapshot", "p/bad name@s"), 2),
    (("create", "p/.x", "--size", "1M"), 2),
    (("clone", "p/a@one", "bad/name"), 2),
    (("rename", "p/a", "-x"), 2),
    (("create", "p/x", "--size", "-1"), 2),
    (("rollback", "p/a"), 2),
    (("snapshot", "p/a"), 2),
]


class CommandTest(LabTest):
    def setUp(self):
        super().setUp()
        self.members = self.lab.pool(members=2)
        point = self.lab.mount()
        for name in ("a", "b", "e"):
            self.lab.vsnap("create", f"p/{name}", "--size", "8M")
        write_at(point / "a", 0, b"1" * MIB)
        self.lab.vsnap("snapshot", "p/a@one", "p/b@one")
        write_at(point / "a", MIB // 2, b"2" * MIB)
        self.lab.vsnap("snapshot", "p/a@two")
        self.lab.vsnap("clone", "p/a@one", "c")
        write_at(point / "c", 5 * MIB, b"3" * MIB)
        self.point = point

    def unmounted(self):
        self.lab.umount()

    def state(self):
        """All that a command could change, but for where it is mounted."""
        status = self.lab.status()
        return {
            key: status[key] for key in ("generation", "volumes", "snapshots", "space", "members")
        }, self.lab.views()


class Alike(CommandTest):
    @staticmethod
    def neutral(text):
        """Without what has to differ: who has the pool open where, and how many files are open."""
        text = re.sub(r'"(open|generation)": \d+', r'"\1": 0', text)
        return re.sub(
            r'"(modified|state|where|role|pid)": ("[^"]*"|\d+|null)',
            r'"\1": ""',
            re.sub(r"idle\s.*|mounted\s.*", "", text),
        )

    def test_each_query_prints_the_same_mounted_and_unmounted(self):
        os.sync()
        mounted = {}
        for query in QUERIES:
            for json_too in ((), ("--json",)):
                done = self.lab.vsnap(*query, *json_too)
                mounted[query + json_too] = self.neutral(done.out)
        self.unmounted()
        for query, expected in mounted.items():
            with self.subTest(query=query):
                self.assertEqual(self.neutral(self.lab.vsnap(*query).out), expected)

    def test_each_error_is_the_same_mounted_and_unmounted(self):
        mounted = {}
        for arguments, code in ERRORS:
            with self.subTest(arguments=arguments):
                done = self.lab.vsnap(*arguments, code=code)
                self.assertEqual(done.out, "")
                self.assertEqual(done.err.count("\n"), 1, done.err)
                self.assertTrue(done.err.startswith("vsnap: "), done.err)
                mounted[arguments] = (done.code, done.err)
        before = self.state()
        self.unmounted()
        for arguments, expected in mounted.items():
            with self.subTest(arguments=arguments):
                done = self.lab.vsnap(*arguments, code=None)
                self.assertEqual((done.code, done.err), expected)
        self.assertEqual(self.state(), before)

    def test_each_change_works_mounted_and_unmounted_with_the_same_result(self):
        changes = [
            ("create", "p/x", "--size", "4M"),
            ("snapshot", "p/x@s", "p/a@three"),
            ("rename", "p/x@s", "t"),
            ("rename", "p/x", "y"),
            ("resize", "p/y", "8M"),
            ("resize", "p/y", "2M", "--shrink"),
            ("clone", "p/y@t", "z"),
            ("flatten", "p/z"),
            ("rollback", "p/a@one"),
            ("rm", "--wait", "p/y@t"),
            ("rm", "--wait", "p/y", "p/z", "p/a@three", "p/a@before-rollback-1"),
            ("rollback", "p/a@two", "--discard"),
        ]
        results = []
        for _ in range(2):
            outputs = [self.lab.vsnap(*change, "--json").out for change in changes]
            differs = re.compile(r'"(id|created|modified|pause_ns)": .*')
            results.append([differs.sub("", output) for output in outputs])
            views = self.lab.views()
            self.assertEqual(sorted(views), ["a", "a@one", "a@two", "b", "b@one", "c", "e"])
            self.assertEqual(views["a"]["used"], views["a@two"]["used"])
            if self.lab.status()["pid"]:
                self.unmounted()
        self.assertEqual(results[0], results[1])
        self.lab.check()

    def test_paths_under_the_mount_stand_for_names(self):
        by_name = self.lab.vsnap("info", "p/a@one", "--json").out
        self.assertEqual(self.lab.vsnap("info", self.point / "a@one", "--json").out, by_name)
        self.assertEqual(self.lab.vsnap("info", "./a@one", "--json", cwd=self.point).out, by_name)
        self.lab.vsnap("snapshot", self.point / "a@path")
        self.lab.vsnap("rm", self.point / "a@path")
        self.lab.vsnap("ls", self.point)
        self.lab.vsnap("df", self.point)
        self.assertNotIn("a@path", self.lab.views())


    def test_relative_paths_below_a_mount_stand_for_names(self):
        mount = self.point.name
        for spec in (f"{mount}/a@one", f"./{mount}/a@one"):
            self.assertEqual(self.lab.json("info", spec)["view"]["name"], "p/a@one")
        self.assertEqual(self.lab.json("info", "a@one", cwd=self.point)["view"]["name"], "p/a@one")
        self.lab.vsnap("create", f"{mount}/new", "--size", "1M")
        self.lab.vsnap("create", "new2", "--size", "1M", cwd=self.point)
        self.lab.vsnap("snapshot", f"{mount}/new@s", "new2@s", cwd=self.lab.path, code=2)
        self.lab.vsnap("snapshot", "new@s", "new2@s", cwd=self.point)
        self.lab.vsnap("clone", f"{mount}/new@s", f"{mount}/clone")
        self.lab.vsnap("rename", f"{mount}/clone", f"{mount}/renamed")
        self.assertLess({"new", "new@s", "new2@s", "renamed"}, set(self.lab.views()))
        self.lab.vsnap("ls", "nothing", cwd=self.point, code=3)
        self.lab.file("x", 0)
        self.lab.vsnap("info", "x", code=3)

    def test_a_snapshot_stays_with_its_volume(self):
        self.lab.vsnap("rename", "p/a@one", "p/a@first")
        self.lab.vsnap("rename", "p/a@two", "a@second")
        for name in ("p/b@x", "b@x"):
            self.mentions(self.lab.vsnap("rename", "p/a@first", name, code=2).err, "stays with its volume")
        self.assertLess({"a@first", "a@second"}, set(self.lab.views()))


class Output(CommandTest):
    def test_every_printing_command_has_json_with_the_schema(self):
        for query in QUERIES:
            with self.subTest(query=query):
                self.assertEqual(json.loads(self.lab.vsnap(*query, "--json").out)["schema"], 1)

    def test_json_sizes_are_the_bytes_of_the_files(self):
        for name, view in self.lab.views().items():
            found = (self.point / name).stat()
            self.assertEqual(
                (view["size"], view["used"], view["id"]),
                (found.st_size, used_bytes(self.point / name), found.st_ino),
                name,
            )

    def test_without_header_columns_are_separated_by_one_tab(self):
        lines = self.lab.vsnap("ls", "p", "-H", "-p", "-o", "name,size,used").out.splitlines()
        self.assertEqual(lines[0], f"p/a\t{8 * MIB}\t{MIB + MIB // 2}")
        self.assertEqual(len(lines), 7)

    def test_exact_numbers_are_exact_and_rounded_ones_short(self):
        self.lab.vsnap("create", "p/odd", "--size", "1234567B")
        row = ("ls", "p/odd", "-H", "-o", "size")
        self.assertEqual(self.lab.vsnap(*row, "-p").out, "1234567\n")
        self.assertRegex(self.lab.vsnap(*row).out, r"^1\.\d+M\n$")

    def test_lists_sort_by_the_column_asked_for(self):
        self.lab.vsnap("create", "p/small", "--size", "1M")
        self.lab.vsnap("create", "p/large", "--size", "64M")
        names = self.lab.vsnap("ls", "p", "-t", "volume", "-H", "-o", "name", "-s", "size").out.split()
        self.assertEqual((names[0], names[-1]), ("p/small", "p/large"))

    def test_volumes_come_by_name_each_followed_by_its_snapshots_oldest_first(self):
        self.lab.vsnap("snapshot", "p/a@aaa")
        names = self.lab.vsnap("ls", "p", "-H", "-o", "name").out.split()
        self.assertEqual(names, ["p/a", "p/a@one", "p/a@two", "p/a@aaa", "p/b", "p/b@one", "p/c", "p/e"])

    def test_options_may_stand_before_or_after_the_arguments(self):
        expected = self.lab.vsnap("ls", "-H", "-o", "name", "p").out
        self.assertEqual(self.lab.vsnap("ls", "p", "-H", "-o", "name").out, expected)
        self.assertEqual(self.lab.vsnap("ls", "-o", "name", "p", "-H").out, expected)
        self.lab.vsnap("create", "--size", "1M", "p/before")
        self.lab.vsnap("create", "p/after", "--size", "1M")

    def test_options_may_stand_before_the_command(self):
        self.assertEqual(self.lab.vsnap("--json", "ls", "p").out, self.lab.vsnap("ls", "p", "--json").out)
        self.assertEqual(self.lab.vsnap("-H", "-o", "name", "pool", "list").out, "p\n")
        self.assertEqual(self.lab.vsnap("pool", "-H", "-o", "name", "list").out, "p\n")
        self.mentions(self.lab.vsnap("-n", "rm", "p/e").out, "would remove p/e")
        self.lab.vsnap("-n", "ls", "p", code=2)
        self.lab.vsnap("--json", code=2)

    def test_diff_takes_the_options_of_lists(self):
        self.assertEqual(self.lab.vsnap("diff", "p/a@one", "-H", "-p").out, f"{MIB // 2}\t{MIB}\tdata\n")
        self.assertEqual(self.lab.vsnap("diff", "p/a@one", "-H", "-o", "length,state").out, f"{MIB}\tdata\n")
        write_at(self.point / "a", 4 * MIB, b"4" * 8192)
        lengths = self.lab.vsnap("diff", "p/a@one", "-H", "-o", "length", "-s", "length").out.split()
        self.assertEqual(lengths, ["8192", str(MIB)])
        self.lab.vsnap("diff", "p/a@one", "-o", "bogus", code=2)

    def test_df_of_a_volume_is_of_it_and_its_snapshots(self):
        names = self.lab.vsnap("df", "p/a", "-H", "-o", "name").out.split()
        self.assertEqual(names, ["p/a", "p/a@one", "p/a@two"])
        self.assertEqual(self.lab.vsnap("df", "p/a@one", "-H", "-o", "name").out, "p/a@one\n")
        self.assertEqual(len(self.lab.json("df", "p/a")["pools"][0]["views"]), 3)
        self.lab.vsnap("df", "p/none", code=3)

    def test_help_lists_the_commands_where_there_is_no_manual(self):
        nowhere = {"PATH": "/nonexistent"}
        self.mentions(self.lab.vsnap("help", env=nowhere).out, "Subcommands:", "snapshot")
        self.mentions(self.lab.vsnap("help", "pool", "create", env=nowhere).out, "vsnap pool create NAME")
        self.lab.vsnap("help", "pool", "bogus", code=2)

    def test_help_is_there_for_every_command_and_short(self):
        overview = self.lab.vsnap("--help").out
        for command in (
            "create",
            "ls",
            "info",
            "rename",
            "resize",
            "snapshot",
            "rollback",
            "clone",
            "flatten",
            "diff",
            "rm",
            "mount",
            "umount",
            "map",
            "unmap",
            "df",
            "check",
            "help",
        ):
            self.assertIn(command, overview)
            text = self.lab.vsnap(command, "--help").out
            self.assertIn(f"usage: vsnap {command}", text)
            self.assertLess(text.count("\n"), 40)
        for verb in ("create", "add", "attach", "detach", "list", "status", "destroy"):
            self.assertIn("usage: vsnap pool " + verb, self.lab.vsnap("pool", verb, "--help").out)

    def test_without_a_terminal_there_is_no_progress(self):
        for arguments in (("check", "p"), ("flatten", "p/c"), ("rm", "--wait", "p/a@one")):
            self.assertEqual(self.lab.vsnap(*arguments).err, "")

    def test_a_result_that_cannot_be_written_is_an_error(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [VSNAP, "ls", "p"], stdout=full, stderr=subprocess.PIPE, env=self.lab.env
            )
        self.assertEqual(done.returncode, 5 if b"space" in done.stderr else 1, done.stderr)
        self.assertNotEqual(done.stderr, b"")


class Suggestions(CommandTest):
    def test_a_wrong_verb_or_name_suggests_the_nearest_right_one(self):
        self.lab.vsnap("create", "p/database", "--size", "1M")
        for arguments, code, word in (
            (("snpashot", "p/a@s"), 2, "snapshot"),
            (("pool", "craete", "q"), 2, "create"),
            (("info", "p/databse"), 3, "database"),
            (("info", "p/a@ine"), 3, "one"),
            (("ls", "p", "-o", "nmae"), 2, "name"),
        ):
            with self.subTest(arguments=arguments):
                self.mentions(self.lab.vsnap(*arguments, code=code).err, word)

    def test_a_wrong_pool_suggests_the_nearest_right_one(self):
        self.lab.pool("laboratory", size="64M")
        self.mentions(self.lab.vsnap("ls", "labratory", code=3).err, "laboratory")


    def test_what_is_meant_is_said(self):
        member = self.members[0]
        for command, hint in (
            (("create", "p/x", "4G"), "vsnap create p/x --size 4G"),
            (("create", "p/x"), "--size"),
            (("create", "p/x", "--size"), "--size needs a value"),
            (("resize", "p/a", "--size", "6G"), "vsnap resize p/a 6G"),
            (("clone", "x", "p/a@one"), "vsnap clone p/a@one x"),
            (("mount", self.point, "p"), f"vsnap mount p {self.point}"),
            (("mount", self.point.name, "p"), f"vsnap mount p {self.point.name}"),
            (("pool", "create", member, "q", "--size", "1G"), f"vsnap pool create q {member}"),
            (("pool", "create", member.name, "q", "--size", "1G"), f"vsnap pool create q {member.name}"),
            (("snapshot", "p/a", "monday"), "write p/a@monday"),
            (("snapshot", "a@monday"), "write p/a@monday"),
            (("rm", "p/a@"), "write p/a@NAME"),
            (("list",), "vsnap ls"),
            (("delete", "p/a"), "vsnap rm"),
            (("pool", "import", member), "vsnap pool attach"),
            (("check", member), "vsnap check p"),
            (("check", member.name), "vsnap check p"),
            (("catalog", "dump", "p", "-"), "standard output"),
            (("diff", "p/a"), "vsnap diff p/a@SNAPSHOT"),
            (("map", "p/a", "--sector-size", "513"), "512, 1024, 2048 or 4096"),
        ):
            with self.subTest(command=command):
                self.mentions(self.lab.vsnap(*command, code=2).err, hint)
        self.mentions(self.lab.vsnap("check", "srv/lab.img", code=3).err, "neither a pool nor a member")

    def test_a_view_named_twice_is_removed_once(self):
        done = self.lab.vsnap("rm", "-n", "p/a@one", "p/a@one")
        self.assertEqual(done.out.count("would remove"), 1)


class DryRun(CommandTest):
    def test_changes_nothing_and_says_what_would_go(self):
        before = self.state()
        removal = self.lab.json("rm", "-n", "-r", "p/a")
        self.assertEqual(sorted(removal["removed"]), ["p/a", "p/a@one", "p/a@two"])
        self.assertEqual(removal["dry_run"], True)
        self.mentions(self.lab.vsnap("rm", "-n", "p/a@one").out, "p/a@one", "free")
        self.mentions(self.lab.vsnap("rollback", "-n", "p/a@one").out, "before-rollback-1")
        self.lab.vsnap("resize", "-n", "--shrink", "p/a", "1M")
        self.assertEqual(self.state(), before)
        self.unmounted()
        self.lab.vsnap("pool", "destroy", "-n", "p")
        self.assertEqual(self.state(), before)

    def test_predicts_what_the_removal_then_frees(self):
        predicted = self.lab.json("rm", "-n", "-r", "p/a")["frees"]
        before = self.lab.space()["data"]
        self.lab.vsnap("rm", "-r", "-y", "--wait", "p/a")
        self.assertEqual(before - self.lab.space()["data"], predicted)

    def test_fails_where_the_real_one_would(self):
        self.lab.vsnap("rm", "-n", "p/a", code=4)
        self.lab.vsnap("rm", "-n", "p/none", code=3)


class Questions(CommandTest):
    def test_what_loses_data_asks_on_a_terminal_and_says_what_a_dry_run_says(self):
        write_at(self.point / "a", 0, b"x" * MIB)
        for command in (
            ("rm", "p/e"),
            ("rm", "-r", "p/a"),
            ("rollback", "--discard", "p/a@one"),
            ("resize", "--shrink", "p/a", "4K"),
        ):
            with self.subTest(command=command):
                before = self.lab.views()
                dry = self.lab.vsnap(*command, "-n").out
                done = self.lab.on_terminal(*command, answer="n", code=1)
                self.mentions(done.err.replace("\r", ""), dry, "[y/N]", "not done")
                self.assertEqual(self.lab.views(), before)
        self.lab.on_terminal("rm", "p/e", answer="y")
        self.lab.on_terminal("rm", "-y", "-r", "p/a", answer="n")
        self.assertEqual(set(self.lab.views()), {"b", "b@one", "c"})
        self.lab.umount()
        self.lab.on_terminal("pool", "destroy", "p", answer="n", code=1)

    def answered(self, *command, answer):
        """Answers once the question is on the controlling terminal, with standard output and error elsewhere;
        the process, what the terminal showed, and standard error."""
        mine, terminal = os.openpty()
        os.set_blocking(mine, False)
        shown = b""

        def asked():
            nonlocal shown
            try:
                shown += os.read(mine, 1 << 16)
            except BlockingIOError:
                pass  # nothing yet
            return b"[y/N]" in shown

        process = subprocess.Popen(
            [VSNAP, *command],
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.lab.env,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        try:
            wait_until(asked, what="the question on the terminal")
            os.write(mine, answer.encode() + b"\n")
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
            os.close(mine)
            os.close(terminal)
        return process.returncode, shown.decode().replace("\r", ""), err.decode()

    def test_the_question_is_on_the_terminal_also_where_standard_error_is_not(self):
        dry = self.lab.vsnap("rm", "-n", "p/e").out
        code, shown, err = self.answered("rm", "p/e", answer="n")
        self.assertEqual((code, err.count("\n")), (1, 1), err)
        self.mentions(shown, dry, "[y/N]")
        self.mentions(err, "not done")
        self.assertIn("e", self.lab.views())
        code, shown, err = self.answered("rm", "p/e", answer="y")
        self.assertEqual((code, err), (0, ""))
        self.mentions(shown, dry)
        self.assertNotIn("e", self.lab.views())

    def test_nothing_is_asked_where_nothing_is_lost(self):
        for command in (("rm", "p/a@one"), ("rollback", "p/a@two"), ("resize", "p/e", "+1M")):
            self.assertNotIn("[y/N]", self.lab.on_terminal(*command, answer="n").err)


class PoolList(LabTest):
    def row(self, **options):
        return self.lab.json("pool", "list", **options)["pools"][0]

    def states(self, **options):
        row = self.row(**options)
        return row["state"], row["where"], row["role"], row["pid"]

    def test_a_pool_is_mounted_in_use_elsewhere_or_idle(self):
        self.lab.pool(members=2)
        elsewhere = {"env": {"VSNAP_RUNTIME_DIR": str(self.lab.path / "run-2")}}
        nobody = ("idle", None, None, None)
        self.assertEqual(self.states(), nobody)
        point = self.lab.mount()
        pid = self.lab.daemon_pid()
        self.assertEqual(self.states(), ("mounted", str(point), "daemon", pid))
        self.assertEqual(
            self.states(**elsewhere), ("in use", f"daemon with pid {pid}", "daemon", pid)
        )
        self.lab.kill_daemon(pid=pid)  # its record stays on the members, its lock does not
        self.assertEqual(self.states(**elsewhere), nobody)
        self.lab.mount()
        self.lab.umount()
        self.assertEqual(self.states(**elsewhere), nobody)

    def test_a_pool_on_a_device_is_looked_at_beside_its_daemon(self):
        device = self.lab.losetup(self.lab.file("disk", 64 * MIB))
        self.lab.vsnap("pool", "create", "p", device)
        self.lab.mount()
        elsewhere = {"env": {"VSNAP_RUNTIME_DIR": str(self.lab.path / "run-2")}}
        self.assertEqual(self.states(**elsewhere)[0], "in use")
        self.lab.umount()
        self.assertEqual(self.states()[0], "idle")

    def test_what_is_wrong_with_a_pool_is_told_with_the_member(self):
        paths = self.lab.pool(members=2, size="64M")
        away = self.lab.path / "away.img"
        paths[1].rename(away)
        self.assertEqual(self.states()[:2], ("missing", str(paths[1])))
        self.lab.file(paths[1].name, 64 * MIB)
        self.assertEqual(self.states()[:2], ("damaged", str(paths[1])))
        foreign = self.lab.pool("q", members=2, size="64M")
        self.lab.run("cp", "--sparse=always", foreign[1], paths[1])
        self.assertEqual(self.states()[:2], ("damaged", str(paths[1])))
        self.lab.vsnap("pool", "detach", "q")
        paths[1].unlink()
        paths[1].mkdir()
        self.assertEqual(self.states()[:2], ("unreadable", str(paths[1])))
        paths[1].rmdir()
        away.rename(paths[1])
        self.assertEqual(self.states()[:2], ("idle", None))

    def test_members_that_were_added_under_another_state_directory_are_missing(self):
        paths = self.lab.pool(size="64M")
        elsewhere = {"env": {"VSNAP_STATE_DIR": str(self.lab.path / "elsewhere")}}
        self.lab.vsnap("pool", "attach", *paths, **elsewhere)
        self.lab.vsnap("pool", "add", "p", self.lab.path / "new.img", "--size", "64M", **elsewhere)
        self.assertEqual(self.states()[:2], ("missing", "1 of 2 members"))
        self.assertEqual(self.states(**elsewhere)[:2], ("idle", None))


class InUse(CommandTest):
    def test_who_uses_a_volume_is_named(self):
        point = self.point
        with open(point / "a"):
            shrink = ("resize", "--shrink", "p/a", "4K")
            for command in (("rm", "-r", "p/a"), ("rollback", "p/a@one"), shrink):
                self.mentions(self.lab.vsnap(*command, code=4).err, "p/a: in use by", f"(pid {os.getpid()})")
        self.lab.vsnap("create", "p/disk", "--size", "64M")
        device = self.lab.map("p/disk")
        self.lab.run("mkfs.ext4", "-q", device)
        inner = self.lab.mount_device(device, "fs")
        for command in (("rm", "p/disk"), ("unmap", "p/disk"), ("umount", "p")):
            self.mentions(self.lab.vsnap(*command, code=4).err, device, f"mounted at {inner}")
        self.lab.umount_device(inner, device)
        self.lab.unmap(device)

    def test_a_loop_device_of_another_pool_whose_daemon_hangs_is_not_waited_for(self):
        self.lab.pool("q", size="64M")
        self.lab.mount("q")
        self.lab.vsnap("create", "q/v", "--size", "1M")
        hanging = self.lab.map("q/v")
        pid = self.lab.daemon_pid("q")
        os.kill(pid, signal.SIGSTOP)  # from now on a look at the file of the device does not come back
        try:
            mine = self.lab.map("p/b")
            self.mentions(self.lab.vsnap("umount", "p", code=4).err, mine)
            self.lab.unmap(mine)
            self.lab.vsnap("unmap", "p/b", code=1)
        finally:
            os.kill(pid, signal.SIGCONT)
        self.lab.unmap(hanging)

    def test_live_rates_have_the_new_name_after_a_rename(self):
        point = self.point
        with open(point / "a") as volume, open(point / "a@one"):
            self.lab.vsnap("rename", "p/a", "renamed")
            volume.read(1)
            shown = self.lab.vsnap("top", "p", "-H", "-o", "name", "--interval", "0.05").out.split()
        self.assertEqual({name for name in shown if name != "p/c"}, {"p/renamed", "p/renamed@one"})


class ExitCodes(CommandTest):
    def test_0_done(self):
        self.lab.vsnap("ls", "p", code=0)

    def test_1_it_could_not_be_done(self):
        self.lab.vsnap("diff", "p/a@one", "p/e", code=1)

    def test_2_wrong_usage(self):
        for arguments in (
            (),
            ("nonsense",),
            ("create",),
            ("create", "p/x"),
            ("ls", "--nonsense"),
            ("ls", "p", "q", "r"),
            ("ls", "-t", "nothing"),
            ("map", "p/a", "--sector-size", "513"),
        ):
            with self.subTest(arguments=arguments):
                done = self.lab.vsnap(*arguments, code=2)
                self.assertEqual((done.out, done.err.count("\n")), ("", 1), done.err)

    def test_3_no_such_pool_volume_or_snapshot(self):
        for spec in ("q", "q/a", "p/x", "p/a@x"):
            self.lab.vsnap("ls", spec, code=3)

    def test_4_busy(self):
        self.lab.vsnap("pool", "destroy", "-y", "p", code=4)

    def test_5_no_space(self):
        fd = os.open(self.point / "b", os.O_RDWR)
        self.addCleanup(os.close, fd)
        os.ftruncate(fd, 2 * GIB)
        with self.assertRaises(OSError):
            os.posix_fallocate(fd, 0, 2 * GIB)
        self.lab.vsnap("create", "p/x", "--size", "2G")  # thin: no error
        self.lab.run(
            "dd", "if=/dev/urandom", f"of={self.point}/x", "bs=1M", "count=700", "conv=notrunc", code=1
        )
        self.lab.vsnap("flatten", "p/c", code=5)

    def test_6_damage(self):
        self.unmounted()
        with open(self.members[0], "r+b") as file:
            file.write(bytes(MIB))
        self.lab.vsnap("ls", "p", code=6)


class BadInput(CommandTest):
    def refused(self, *arguments, code=2):
        with self.subTest(arguments=arguments):
            done = self.lab.vsnap(*arguments, code=code)
            self.assertEqual(done.err.count("\n"), 1, done.err)
            self.assertTrue(done.err[:-1].isprintable(), ascii(done.err))

    def test_bad_names_are_refused_and_quoted_safely(self):
        before = self.state()
        for name in (
            "",
            ".x",
            "-x",
            "..",
            "a/b",
            "a b",
            "a\nb",
            "a\x1b[31mb",
            "a\x7f",
            "\u202ex",
            "n" * 64,
            "n" * 5000,
            "*",
            "a;b",
            "é",
            "a@b",
        ):
            self.refused("create", f"p/{name}", "--size", "1M")
            self.refused("clone", "p/a@one", "--", name)
            self.refused("rename", "p/a", "--", name)
            self.refused("snapshot", f"p/a@{name}")
            if "/" not in name:
                self.refused("pool", "create", "--size", "64M", "--", name, self.lab.path / "bad.img")
        self.assertEqual(self.state(), before)
        self.assertFalse((self.lab.path / "bad.img").exists())
        self.assertEqual([path.name for path in (self.lab.path / "state/pools").iterdir()], ["p.json"])

    def test_bytes_that_are_no_text_are_refused(self):
        for argument in (b"p/\xff\xfe", b"p/\x80abc", b"\xc3\x28/v"):
            done = subprocess.run(
                [VSNAP, "create", argument, "--size", "1M"], capture_output=True, env=self.lab.env
            )
            self.assertEqual(done.returncode, 2, done)
            self.assertTrue(done.stderr.decode("ascii")[:-1].isprintable(), done.stderr)

    def test_bad_sizes_are_refused(self):
        for size in (
            "-1",
            "-1K",
            "",
            " ",
            "1 G",
            "0x10",
            "1e3",
            "abc",
            "K",
            "1KK",
            "1Q",
            str(1 << 63),
            str((1 << 63) + 1),
            str(1 << 64),
            "8E",
            "16E",
            "9" * 30,
            "1.2.3",
            "+5",
            "nan",
            "inf",
        ):
            self.refused("create", "p/x", f"--size={size}")
            if size != "+5":
                self.refused("resize", "p/e", "--", size)
            self.refused("pool", "create", "q", self.lab.path / "bad.img", f"--size={size}")
        self.assertNotIn("x", self.lab.views())
        self.assertEqual(self.lab.views()["e"]["size"], 8 * MIB)
        self.assertFalse((self.lab.path / "bad.img").exists())

    def test_the_largest_size_and_the_smallest_are_taken(self):
        self.lab.vsnap("create", "p/none", "--size", "0")
        largest = (1 << 63) - 1
        self.lab.vsnap("create", "p/most", "--size", str(largest))
        self.assertEqual((self.point / "most").stat().st_size, largest)
        self.lab.vsnap("create", "p/huge", "--size", "4P")
        self.assertEqual((self.point / "huge").stat().st_size, 4 << 50)
        write_at(self.point / "huge", (4 << 50) - 10, b"end")
        self.lab.vsnap("rm", "p/huge", "--wait")

    def test_a_name_of_63_characters_works_everywhere(self):
        name = "n" * 63
        self.lab.vsnap("create", f"p/{name}", "--size", "1M")
        self.lab.vsnap("snapshot", f"p/{name}@{name}")
        self.assertTrue((self.point / f"{name}@{name}").exists())
        self.lab.vsnap("clone", f"p/{name}@{name}", "m" * 63)
        self.lab.vsnap("rollback", f"p/{name}@{name}")

    def test_a_path_that_is_no_view_is_refused(self):
        outside = self.lab.file("outside", 1000)
        for code, *arguments in (
            (3, "info", outside),
            (3, "rm", outside),
            (3, "snapshot", f"{outside}@s"),
            (3, "info", "/"),
            (2, "rm", "p/../../etc/passwd"),
        ):
            with self.subTest(arguments=arguments):
                self.lab.vsnap(*arguments, code=code)
        self.assertTrue(outside.exists())

    def test_a_size_with_a_sign_counts_from_the_size_now(self):
        self.lab.vsnap("resize", "p/e", "+1MiB")
        self.assertEqual(self.lab.views()["e"]["size"], 9 * MIB)
        self.lab.vsnap("resize", "p/e", "-2M", code=2)
        self.lab.vsnap("resize", "--shrink", "p/e", "-2M")
        self.assertEqual(self.lab.views()["e"]["size"], 7 * MIB)
        self.lab.vsnap("resize", "--shrink", "p/e", "-8M", code=2)
        self.lab.vsnap("resize", "p/e", "+9223372036854775807", code=2)

    def test_a_shrink_needs_its_option(self):
        self.mentions(self.lab.vsnap("resize", "p/a", "1M", code=2).err, "--shrink")
        self.assertEqual(self.lab.views()["a"]["size"], 8 * MIB)


if __name__ == "__main__":
    main()
