#!/usr/bin/env python3
"""packaging/quickstart, as a newcomer runs it: twice, and then the undoing."""

from pathlib import Path

from support import ROOT, LabTest, main

QUICKSTART = ROOT / "packaging/quickstart"


class Quickstart(LabTest):
    on_disk = True

    def quickstart(self, *arguments, **options):
        env = {
            "VSNAP_QUICKSTART_NO_BUILD": "1",
            "PATH": "/nonexistent:/usr/bin",
        }  # an odd PATH on purpose
        return self.lab.run(
            QUICKSTART, "--dir", self.where, *arguments, env=env, timeout=500, cwd="/", **options
        )

    def setUp(self):
        super().setUp()
        self.where = self.lab.path / "quick start"  # a blank in it on purpose

    def test_shows_it_all_can_be_run_twice_and_undone(self):
        for _ in range(2):
            done = self.quickstart()
            self.assertNotIn("failed", done.err)
            self.mentions(
                done.out,
                "OK: the snapshot has the old tree",
                "OK: the volume has the new tree",
                "OK: the volume has the old tree again",
                "$ vsnap snapshot quickstart/disk@before",
                "--clean",
            )
            self.assertTrue((self.where / "disk/tree").is_dir())
            names = self.lab.views("quickstart")
            self.assertEqual(sorted(names), ["disk", "disk@before", "disk@before-rollback-1"])
        self.lab.vsnap("create", "quickstart/mine", "--size", "1M")
        self.mentions(self.quickstart(code=1).err, "quickstart/mine", "--clean")
        self.quickstart("--clean")
        self.assertFalse(self.where.exists())
        self.assertEqual(self.lab.json("pool", "list")["pools"], [])
        self.assertNotIn(str(self.lab.path), Path("/proc/self/mountinfo").read_text())
        self.mentions(self.quickstart("--clean").out, "Nothing to undo")

    def test_touches_no_directory_that_holds_something_else(self):
        self.where.mkdir()
        (self.where / "file").write_text("mine")
        self.mentions(self.quickstart(code=1).err, "not empty")
        self.quickstart("--clean")
        self.assertEqual((self.where / "file").read_text(), "mine")

    def test_a_failing_step_is_told_with_what_to_do(self):
        # A registry that cannot be written makes the first command that needs it fail.
        (self.lab.path / "state").write_text("in the way")
        done = self.quickstart(code=1)
        self.mentions(done.err, "the step above failed", "--clean")
        (self.lab.path / "state").unlink()
        self.quickstart("--clean")
        self.assertFalse(self.where.exists())


if __name__ == "__main__":
    main()
