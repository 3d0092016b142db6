#!/usr/bin/env python3
"""Plants each fault of core/planted.h and demands that the tests find it.

    planted.py HARNESS [FAULT...]

A harness that has never caught a bug proves nothing. Each fault is tried with the tests meant for it;
they must pass without it. A fault that nothing finds is a failure.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

WORLDS = "after every short sequence*"
KILLED = "killed at any call*,what came back after a kill*,a killed daemon*,a tail*"
MODEL = "random operations*"
CRASHES = "*power cut*,*cut off*,writers that extend*,commits that bring nothing*,a volume that was shrunk*"
FULL = "a crash at any call leaves a full-sized*"
ADOPTED = "an adopted image through a power cut*"
FAULTS = "whichever call fails*,after a failed flush*"

GRANTS = "granted space through a power cut*"
DEGRADED = "a full-sized snapshot outlives*,without a member a pool*,the flag that a pool was closed*"

FOUND_BY = {
    "degraded_not_frozen": DEGRADED,
    "closed_while_in_use": DEGRADED,
    "wal_done_without": DEGRADED,
    "line_not_told": DEGRADED,
    "frame_not_durable": CRASHES,
    "frame_unsealed": "a flipped byte anywhere in a journal*",
    "frame_overwritten": "many small fsyncs*",
    "lost_wakeup": "many threads that sync*",
    "sync_without_flush": CRASHES,
    "commit_without_flush": WORLDS,
    "applied_before_rows": WORLDS,
    "undo_forgotten": "a long commit gives way*",
    "snapshot_without_frame": CRASHES,
    "snapshot_kept_half": "writes beside a snapshot*",
    "replay_takes_no_places": CRASHES + "," + KILLED,
    "replay_skips_sizes": CRASHES,
    "one_superblock": "*superblock*",
    "flush_error_forgotten": FAULTS,
    "write_not_counted": CRASHES,
    "merge_forgotten": MODEL,
    "own_not_refreshed": MODEL,
    "discard_unrecorded": MODEL,
    "end_not_zeroed": MODEL,
    "read_error_as_zeros": "a block that cannot be read*",
    "write_error_ignored": "a write that fails*",
    "tail_of_other_boot": "a tail*",
    "tail_of_other_token": "a tail*",
    "tail_not_ended": "a tail*",
    "tail_last_stays": KILLED,
    "copy_not_written": "one damaged byte*",
    "pair_entry_unlocked": "threads on both images*",
    "pair_read_unlocked": "threads on both images*",
    "lost_places_forgotten": "after a failed flush*",
    "short_read_whole": "a range is read as a whole*",
    "short_write_whole": "a range is written as a whole*",
    "short_ring_read_whole": "what io_uring reads in parts*",
    "flag_in_old_copy": "the flag for a check*",
    "wait_by_wall_clock": "a wait for a locked member*",
    "piece_not_flushed": FULL,
    "copy_ends_early": FULL,
    "copy_of_old_line": FULL,
    "saved_without_flush": ADOPTED,
    "copy_not_compared": ADOPTED,
    "image_not_flushed": ADOPTED,
    "overwritten_before_record": ADOPTED,
    "rollback_not_resumed": ADOPTED,
    "group_in_turn": "a group across forms*",
    "base_read_once": "readers of snapshots and clones*",
    "entry_not_switched": "an open snapshot goes on*",
    "load_without_saves": "a snapshot that is first read*",
    "pause_not_woken": "a write waits for room*",
    "counted_while_written": "a figure that was counted beside writers*",
    "covered_by_later": "what only children see*",
    "hold_not_kept": "the oldest snapshots are dropped*",
    "lost_without_snapshot": "what a lost host still writes*",
    "exported_unsynced": "a power cut leaves a delegated*",
    "grant_not_durable": GRANTS,
    "granted_not_taken": GRANTS,
    "commit_of_foreign_place": "a place that was not granted*",
    "left_over_freed": "what a lost host was granted*",
}
HANGS = {"lost_wakeup", "pause_not_woken"}  # found by its never coming to an end
TRIES = 8  # where threads have to meet, which they do less often on a machine that is busy
THREE = {"commit_without_flush"}  # a snapshot, a first write, and a commit
SECONDS = 120


def passes(harness, tests, fault=None, seed=1):
    env = {**os.environ, "VSNAP_TEST_SEED": str(seed)}
    env |= {"VSNAP_MODEL_OPERATIONS": "20000", "VSNAP_WORLDS": "3" if fault in THREE else "2"}
    if fault:
        env["VSNAP_PLANT"] = fault
    try:
        limit = 20 if fault in HANGS else SECONDS
        command = [harness, tests, "--abort"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        if fault in HANGS:
            return False
        sys.exit(f"{fault}: {tests}: no end after {limit} s")
    if "No test cases matched" in done.stdout + done.stderr:
        sys.exit(f"{fault}: no test is called {tests}")
    if fault is None and done.returncode != 0:
        sys.exit(f"without a fault, fails already: {tests}\n{done.stdout[-4000:]}")
    return done.returncode == 0


def main():
    harness, faults = sys.argv[1], sys.argv[2:] or list(FOUND_BY)
    # The program stops at a name that it does not know, which would look like a fault that was found.
    source = (Path(__file__).parents[2] / "core/planted.cpp").read_text()
    known = set(re.findall(r'std::pair{Fault::\w+, "(\w+)"}', source))
    if known != set(FOUND_BY):
        sys.exit(f"core/planted.cpp and this list differ: {known ^ set(FOUND_BY)}")
    missed = []
    for tests in sorted({FOUND_BY[fault] for fault in faults}):
        passes(harness, tests)
    for fault in faults:
        found = not all(passes(harness, FOUND_BY[fault], fault, seed) for seed in range(1, TRIES + 1))
        print(f"{'found' if found else 'NOT FOUND'}: {fault}", flush=True)
        if not found:
            missed.append(fault)
    if len(FOUND_BY) < 20:
        sys.exit("fewer than 20 faults")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
