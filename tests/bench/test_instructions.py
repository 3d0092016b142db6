#!/usr/bin/env python3
"""Instructions that the engine spends on a request of each kind, held against those of instructions.json.

Times on a shared machine say nothing about a few per cent; instructions are the same every time. A request
costs the difference of two runs with different counts, so that opening the pool drops out.

    test_instructions.py REQUESTS             fails where a kind costs 10 % more than noted, or 10 % less
    test_instructions.py REQUESTS --update    notes what it finds: commit it with what made the difference
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys

NOTED = pathlib.Path(__file__).resolve().parent / "instructions.json"
KINDS = ("read", "overwrite", "first-write", "fsync", "synced-first-write")
COUNTS = (2000, 10000)
TOLERANCE = 0.10
SKIPPED = 77


def instructions(program, kind, count):
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    done = subprocess.run([*command, program, kind, str(count)], capture_output=True, text=True, check=True)
    return int(re.search(r"I\s+refs:\s+([\d,]+)", done.stderr).group(1).replace(",", ""))


def main():
    if not shutil.which("valgrind"):
        print("skipped: no valgrind")
        return SKIPPED
    program = sys.argv[1]
    few, many = COUNTS
    found = {
        kind: round((instructions(program, kind, many) - instructions(program, kind, few)) / (many - few))
        for kind in KINDS
    }
    if "--update" in sys.argv[2:]:
        NOTED.write_text(json.dumps(found, indent=2) + "\n")
    noted = json.loads(NOTED.read_text())
    failed = False
    for kind in KINDS:
        ratio = found[kind] / noted[kind]
        bad = abs(ratio - 1) > TOLERANCE
        failed |= bad
        remark = " <-- differs" if bad else ""
        print(f"{kind}: {found[kind]} instructions a request, noted {noted[kind]}{remark}")
    if failed:
        print("if it is meant to be so: test_instructions.py REQUESTS --update, and say in the commit why")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
