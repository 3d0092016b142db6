#!/usr/bin/env python3
"""The Spin models of this folder: each is free of errors, and each of its broken variants is not.

    tests/models/test_models.py [-v] [MODEL...]    exit 77 where spin or a C compiler is missing

A variant is a word that the model's text looks at with #ifdef or #ifndef; each stands in its opening comment,
with what it breaks. -v prints how many states there are.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SKIPPED = 77  # ctest's SKIP_RETURN_CODE
DEEPEST = 1_000_000  # steps of a run; one that is longer fails the test
MOST_MIB = 4096
SECONDS = 300


def variants_of(text):
    return sorted(set(re.findall(r"(?m)^#ifn?def +(\w+)", text)))


def explored(model, variant, directory):
    """What the search of all states printed."""
    define = [f"-D{variant}"] if variant else []

    def run(*words):
        done = subprocess.run(words, cwd=directory, capture_output=True, text=True, timeout=SECONDS)
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, words))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    run("spin", *define, "-a", model)
    # Of a variant the shortest run to an error is looked for, which takes fewer states.
    order = "-DBFS" if variant else "-DCOLLAPSE"
    settings = ("-DSAFETY", order, "-DVECTORSZ=4096", f"-DMEMLIM={MOST_MIB}")
    run("gcc", "-O2", "-w", *settings, "-o", "pan", "pan.c")
    return run("./pan", f"-m{DEEPEST}", "-E")  # -E: that a process waits for ever is no error


def errors_in(output):
    """Their number; only of a search that was not cut short."""
    found = re.search(r"errors: (\d+)", output)
    if not found:
        sys.exit(f"no result:\n{output}")
    errors = int(found.group(1))
    if errors == 0 and re.search(r"max search depth too small|out of memory|not completed", output):
        sys.exit(f"not all was searched:\n{output}")
    return errors


def main(arguments):
    lacking = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    if lacking:
        print(f"skipped: this machine lacks {' and '.join(lacking)}")
        return SKIPPED
    talks = "-v" in arguments
    names = [word for word in arguments if word != "-v"] or sorted(path.stem for path in FOLDER.glob("*.pml"))
    failures = 0
    for name in names:
        model = FOLDER / f"{name}.pml"
        text = model.read_text()
        comment = text[: text.index("*/")]
        for variant in [None, *variants_of(text)]:
            with tempfile.TemporaryDirectory(prefix="vsnap-model-") as directory:
                output = explored(model, variant, directory)
            errors = errors_in(output)
            right = errors > 0 if variant else errors == 0
            if variant and not re.search(rf"(?m)^ \* {variant} ", comment):
                print(f"{name}: {variant} is not in the opening comment")
                right = False
            failures += not right
            print(f"{name} {variant or 'as it is'}: {errors} errors{'' if right else ': WRONG'}", flush=True)
            if talks:
                states = re.search(r"(\d+) states, stored", output)
                asserted = re.search(r"pan:\d+: (.*)", output)
                print(f"    {states and states.group(1)} states; {asserted.group(1) if asserted else ''}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
