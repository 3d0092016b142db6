#!/usr/bin/env python3
"""Holds the source to the rules of style that a machine can check.

    tests/tidy.py [ROOT]         prints each violation as FILE:LINE: RULE: WHAT; exit 1 when there is one
    tests/tidy.py --self-test    plants violations of each rule in a temporary tree, demands each is found
"""

import ast
import re
import sys
import tempfile
from pathlib import Path

MAX_LINE = 110
MAX_FUNCTION = 70

CPP_FOLDERS = ("core", "fuse", "sync", "cli", "tests")
# Who may include whom: core knows nobody, fuse and sync never see each other, cli joins them.
MAY_INCLUDE = {
    "core": {"core"},
    "fuse": {"core", "fuse"},
    "sync": {"core", "sync"},
    "cli": {"core", "fuse", "sync", "cli"},
    "tests": {"core", "fuse", "sync", "cli", "tests"},
}
VAGUE_NAMES = {"utils", "util", "common", "manager", "helpers", "misc"}

# (rule, pattern, where it holds, files that may do it all the same, what to do instead)
BANNED = [
    ("banned-call", r"(?<![\w.>:])(?:std::)?v?sprintf\s*\(", "", (), "fmt::format"),
    ("banned-call", r"(?<![\w.>])(?:std::)?(?:strn?cpy|strn?cat|gets|strtok)\s*\(", "", (), "std::string"),
    ("banned-call", r"(?<![\w.>])(?:std::)?(?:atoi|atol|atoll|atof)\s*\(", "", (), "std::from_chars"),
    ("banned-call", r"(?<![\w.>])(?:std::|::)?system\s*\(", "", (), "posix_spawn with a list of arguments"),
    ("banned-call", r"(?<![\w.>])(?:::)?popen\s*\(", "", (), "posix_spawn with a list of arguments"),
    ("banned-call", r"(?<![\w.>])(?:std::|::)?(?:tmpnam|tempnam|mktemp)\s*\(", "", (), "mkstemp"),
    ("banned-call", r"(?<![\w.>])(?:std::)?s?rand\s*\(", "", (), "Env or a seeded engine"),
    ("using-namespace", r"\busing\s+namespace\s+std\s*;", "", (), "names with std::"),
    ("sleep-in-core", r"\b(?:sleep|usleep|nanosleep|clock_nanosleep|sleep_for|sleep_until)\s*\(", "core",
     # what they wait for gives no signal: the lock of another process; readers that take no lock
     ("core/member_set.cpp", "core/grace.cpp", "core/env.cpp"), "a condition to wait for"),
    ("clock-in-core", r"\b(?:system_clock|steady_clock|high_resolution_clock)\s*::\s*now\b|"
                      r"\b(?:clock_gettime|gettimeofday)\s*\(|\brandom_device\b|\bgetrandom\s*\(",
     "core", ("core/env_posix.cpp",), "Env: the tests replace it"),
    ("file-in-core", r"(?<![\w.>])::(?:open|pread|pwrite|fsync|fdatasync|ftruncate|unlink)\s*\(", "core",
     ("core/env_posix.cpp", "core/direct_io.cpp", "core/image_file.cpp", "core/probe.cpp",
      "core/shared_memory.cpp"),
     "Env: the tests replace it"),
    ("bare-mutex", r"\bstd::(?:mutex|recursive_mutex|shared_mutex|condition_variable)\b", "core",
     ("core/mutex.h",), "core/mutex.h, which clang checks"),
    ("raw-delete", r"(?<!=)(?<!operator)\s\bdelete\b(?!\s*;)", "",
     ("core/region_table.cpp",), "a smart pointer"), # a tree of atomic pointers
    ("raw-malloc", r"(?<![\w.>])(?:std::|::)?(?:malloc|calloc|realloc)\s*\(", "", (), "a container"),
    ("console-in-library", r"\bstd::(?:cout|cerr|clog)\b|(?<![\w.>])(?:std::|::)?f?(?:printf|puts)\s*\(",
     "core fuse sync", ("core/log.cpp", "core/assert.cpp"), "log:: or a Result"),
]
# `new` is right only where the same statement hands it to an owner.
OWNED_NEW = re.compile(r"(?:unique_ptr|shared_ptr)\s*<[^;]*[({]\s*$|\breset\s*\(\s*$|::\s*$|operator\s*$")
MARKERS = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")


class Violation:
    def __init__(self, path, line, rule, what):
        self.path, self.line, self.rule, self.what = path, line, rule, what

    def __str__(self):
        return f"{self.path}:{self.line}: {self.rule}: {self.what}"


def blank_out(text):
    """The C++ text with comments, strings and characters made blank: every position and line stays."""
    token = re.compile(
        r'//[^\n]*|/\*.*?\*/|(?:u8|[uUL])?R"(?P<tag>[^()\\\s]{0,16})\(.*?\)(?P=tag)"'
        r'|"(?:\\.|[^"\\\n])*"'
        r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'",
        re.S,
    )

    def blank(match):
        found = match.group(0)
        hidden = re.sub(r"[^\n]", " ", found)
        if found[0] == "/":
            return hidden
        return '"' + hidden[1:-1] + '"'  # stays an expression

    return token.sub(blank, text)


def without_directives(code):
    """Blanks preprocessor lines, with their continuations."""
    return re.sub(r"(?m)^[ \t]*#(?:[^\n\\]|\\.|\\\n)*", lambda m: re.sub(r"[^\n]", " ", m.group(0)), code)


def opens_function(head):
    """Whether a brace after `head`, outside every function, starts the body of one."""
    if "(" not in head:
        return False
    depth = 0
    flat = []  # what stands outside all brackets
    for char in head:
        if char in "([":
            depth += 1
        elif char in ")]":
            depth -= 1
        elif depth == 0:
            flat.append(char)
    text = "".join(flat)
    if re.search(r"\b(?:namespace|struct|class|union|enum)\b", re.sub(r"template\s*<[^{}]*>", " ", text)):
        # A class, unless it is a function that returns one: `struct stat f() {`.
        return "namespace" not in text and bool(re.search(r"\)\s*(?:const|noexcept|override|\s)*$", head))
    # `x = {...}` is a value; `operator=(...) {` is not.
    return not re.search(r"(?<![=!<>])=(?!=)", re.sub(r"operator\s*[=!<>]=?", "", text))


def functions(text):
    """(first line, last line) of each function of C++ text; lambdas count with what holds them."""
    code = without_directives(blank_out(text))
    stack = []  # of open braces: None, or where the function that it belongs to starts
    head_start = 0
    inside = 0
    for at, char in enumerate(code):
        if char == "{":
            start = None
            if inside == 0 and opens_function(code[head_start:at]):
                start = head_start + len(code[head_start:at]) - len(code[head_start:at].lstrip())
                inside = 1
            elif inside:
                inside += 1
            stack.append(start)
            if not inside:
                head_start = at + 1
        elif char == "}" and stack:
            start = stack.pop()
            if inside:
                inside -= 1
            if start is not None:
                # `: member_{value}, other_(value) {`: an initialiser, not a body; the head goes on.
                if re.match(r"\s*[,{]", code[at + 1 :]):
                    continue
                yield code.count("\n", 0, start) + 1, code.count("\n", 0, at) + 1
            if not inside:
                head_start = at + 1
        elif char == ";" and not inside:
            head_start = at + 1


class Tidy:
    def __init__(self, root):
        self.root = Path(root)
        self.found = []

    def report(self, path, line, rule, what):
        self.found.append(Violation(path, line, rule, what))

    def run(self):
        for folder in CPP_FOLDERS:
            for path in sorted(self.root.glob(f"{folder}/**/*")):
                if path.suffix in (".h", ".cpp", ".cc"):
                    self.check_cpp(path.relative_to(self.root).as_posix(), path.read_text())
                elif path.suffix == ".py":
                    self.check_python(path.relative_to(self.root).as_posix(), path.read_text())
        for path in sorted(self.root.glob("packaging/**/*")) + sorted(self.root.glob(".ci/*")):
            if path.is_file():
                text = path.read_text()
                if text.startswith("#!"):
                    self.check_text(path.relative_to(self.root).as_posix(), text)
        return self.found

    def check_text(self, path, text):
        for number, line in enumerate(text.split("\n"), 1):
            if len(line) > MAX_LINE:
                self.report(path, number, "line-length", f"{len(line)} > {MAX_LINE} characters")
            if "\t" in line:
                self.report(path, number, "tab", "a tab; two blanks are meant")
            if line != line.rstrip():
                self.report(path, number, "trailing-blank", "blanks at the end of the line")
            if MARKERS.search(line):
                self.report(path, number, "unfinished", "finish it, or make an issue of it")
        if text and not text.endswith("\n"):
            self.report(path, text.count("\n") + 1, "last-newline", "the file does not end with a newline")

    def check_cpp(self, path, text):
        self.check_text(path, text)
        folder = path.split("/")[0]
        if Path(path).stem in VAGUE_NAMES:
            self.report(path, 1, "vague-name", "a file is named after its one responsibility")
        if path.endswith(".h"):
            if not text.startswith("//"):
                self.report(path, 1, "header-comment", "a header opens with what it is")
            if not re.search(r"(?m)^#pragma once$", text):
                self.report(path, 1, "pragma-once", "no #pragma once")
        code = blank_out(text)
        self.check_includes(path, folder, text)
        self.check_banned(path, folder, code)
        for first, last in functions(text):
            if last - first + 1 > MAX_FUNCTION:
                self.report(path, first, "function-length", f"{last - first + 1} > {MAX_FUNCTION} lines")
        if folder == "tests":
            self.check_test_names(path, text)

    def check_includes(self, path, folder, text):
        for match in re.finditer(r'(?m)^\s*#\s*include\s*["<]([^">]+)[">]', text):
            target = match.group(1)
            line = text.count("\n", 0, match.start()) + 1
            if target.startswith(("./", "../")):
                self.report(path, line, "include-path", f"{target}: from the root, as core/pool.h")
            first = target.split("/")[0]
            if "/" in target and first in MAY_INCLUDE and (self.root / target).exists():
                if first not in MAY_INCLUDE[folder]:
                    self.report(path, line, "include-direction", f"{folder} must not know {target}")

    def check_banned(self, path, folder, code):
        for rule, pattern, where, excepted, instead in BANNED:
            if (where and folder not in where.split()) or path in excepted:
                continue
            for match in re.finditer(pattern, code):
                line = code.count("\n", 0, match.start()) + 1
                self.report(path, line, rule, f"{match.group(0).strip()} … use {instead}")
        for match in re.finditer(r"\bnew\b(?!\s*\()", code):
            if not OWNED_NEW.search(code[: match.start()][-200:]):
                line = code.count("\n", 0, match.start()) + 1
                self.report(path, line, "raw-new", "new without an owner; use std::make_unique")

    def check_test_names(self, path, text):
        seen = set()
        for match in re.finditer(r'(?m)^\s*(?:TEST_CASE|SCENARIO)\s*\(\s*("(?:[^"\\]|\\.)*")?', text):
            name = (match.group(1) or "").strip('"')
            line = text.count("\n", 0, match.start()) + 1
            if len(name.split()) < 2:
                self.report(path, line, "test-name", f"'{name}': a test is named by the behaviour it holds")
            elif name in seen:
                self.report(path, line, "test-name", f"{name}: the name is there twice")
            seen.add(name)

    def check_python(self, path, text):
        self.check_text(path, text)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION:
                    self.report(path, node.lineno, "function-length", f"{length} > {MAX_FUNCTION} lines")
                if node.name.startswith("test") and node.name.count("_") < 2:
                    self.report(path, node.lineno, "test-name", f"{node.name}: name the behaviour it holds")


# What the self-test plants: rule -> (file, text). Each text breaks that rule and no other.
HEADER = "// What it is.\n#pragma once\n"
PLANTED = {
    "line-length": ("core/a.cpp", "int x; //" + " x" * 60 + "\n"),
    "tab": ("core/a.cpp", "int\tx;\n"),
    "trailing-blank": ("core/a.cpp", "int x; \n"),
    "unfinished": ("core/a.cpp", "int x; // TO" + "DO: y\n"),
    "last-newline": ("core/a.cpp", "int x;"),
    "vague-name": ("core/utils.cpp", "int x;\n"),
    "header-comment": ("core/a.h", "#pragma once\n"),
    "pragma-once": ("core/a.h", "// What it is.\n"),
    "include-path": ("core/a.cpp", '#include "../core/pool.h"\n'),
    "include-direction": ("core/a.cpp", '#include "fuse/session.h"\n'),
    "banned-call": ("cli/a.cpp", "void f(char* p) { sprintf(p, 1); }\n"),
    "using-namespace": ("cli/a.cpp", "using namespace std;\n"),
    "sleep-in-core": ("core/a.cpp", "void f() { std::this_thread::sleep_for(x); }\n"),
    "clock-in-core": ("core/a.cpp", "auto f() { return std::chrono::steady_clock::now(); }\n"),
    "file-in-core": ("core/a.cpp", "auto f() { return ::open(x, 0); }\n"),
    "bare-mutex": ("core/a.h", HEADER + "struct A { std::mutex m; };\n"),
    "raw-new": ("core/a.cpp", "int* f() { return new int; }\n"),
    "raw-delete": ("core/a.cpp", "void f(int* p) { delete p; }\n"),
    "raw-malloc": ("core/a.cpp", "void* f() { return malloc(1); }\n"),
    "console-in-library": ("core/a.cpp", "void f() { std::cout << 1; }\n"),
    "function-length": ("core/a.cpp", "A::A(int x)\n    : a_{x}, b_(x) {\n" + "  g();\n" * 70 + "}\n"),
    "test-name": ("tests/core/a.cpp", 'TEST_CASE("x") {}\n'),
}
# More ways to break a rule than one.
ALSO_PLANTED = [
    ("include-direction", "fuse/a.cpp", '#include "sync/wire.h"\n'),
    ("include-direction", "sync/a.cpp", "#include <fuse/session.h>\n"),
    ("include-direction", "core/a.cpp", '#include "cli/command.h"\n'),
    ("banned-call", "cli/a.cpp", 'void f() { system("ls"); }\n'),
    ("banned-call", "cli/a.cpp", 'void f() { popen("ls", "r"); }\n'),
    ("banned-call", "core/a.cpp", "void f(char* p) { strcpy(p, q); }\n"),
    ("banned-call", "core/a.cpp", "void f(char* p) { gets(p); }\n"),
    ("function-length", "core/a.cpp", "struct S {\nint f() const {\n" + "g();\n" * 70 + "}\n};\n"),
    ("function-length", "tests/core/a.cpp", 'TEST_CASE("a long test") {\n' + "  g();\n" * 70 + "}\n"),
    ("function-length", "core/a.cpp", "auto A::f() -> R<V<T>> {\n" + "if (x) {}\n" * 70 + "}\n"),
    ("function-length", "core/a.cpp", "bool A::operator=(const A& o) {\n" + "  g();\n" * 70 + "}\n"),
    ("test-name", "tests/core/a.cpp", 'TEST_CASE("same name") {}\nTEST_CASE("same name") {}\n'),
    ("test-name", "tests/live/test_a.py", "def test_x():\n    pass\n"),
    ("function-length", "tests/live/a.py", "def f():\n" + "    g()\n" * 71),
]
# Things that look like violations and are none.
CLEAN = {
    "core/pool.h": HEADER + "class A {\n  A(const A&) = delete;\n  void operator delete(void*);\n};\n",
    "fuse/session.h": HEADER + '#include "core/pool.h"\n',
    "sync/wire.h": HEADER,
    "cli/command.h": HEADER + '#include "fuse/session.h"\n#include "sync/wire.h"\n',
    "core/ok.cpp": "// system( and new int in a comment\n"
    'const char* a = "sprintf( { new \\" {";\nconst auto raw = R"(strcpy( { )";\nconst char c = \'{\';\n'
    "int table[] = {\n" + "  f(1),\n" * 80 + "};\n"
    "namespace x {\n" + "int f(int) { return 1'000'000; }\n" * 80 + "}\n"
    "struct B : C {\n" + "  int g() const { return 1; }\n" * 80 + "};\n"
    "auto p() { return std::unique_ptr<A>(new A(1)); }\n"
    "#define MANY(x) do { \\\n  f(x); \\\n} while (false)\n"
    "B::B() : a_{1}, b_{2} { MANY(1); }\n"
    "enum class E {\n" + "  a,\n" * 80 + "};\n",
    "tests/core/ok.cpp": 'TEST_CASE("one thing holds") {}\nTEST_CASE("another thing holds") {}\n',
}


def violations_of(files):
    with tempfile.TemporaryDirectory() as directory:
        for name, text in files.items():
            path = Path(directory) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Tidy(directory).run()


def self_test():
    failures = [f"false alarm: {violation}" for violation in violations_of(CLEAN)]
    for rule in {rule for rule, *_ in BANNED} - set(PLANTED):
        failures.append(f"{rule}: nothing is planted for it")
    for rule, name, text in [(rule, *planted) for rule, planted in PLANTED.items()] + ALSO_PLANTED:
        rules = {violation.rule for violation in violations_of({**CLEAN, name: text})}
        if rules != {rule}:
            failures.append(f"planted {rule} in {name}, found {sorted(rules) or 'nothing'}")
    for failure in failures:
        print(failure)
    print(f"{len(PLANTED) + len(ALSO_PLANTED)} violations planted, {len(failures)} failures")
    return 1 if failures else 0


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        print(__doc__, file=sys.stderr)
        return 2
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    found = Tidy(root).run()
    for violation in found:
        print(violation)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
