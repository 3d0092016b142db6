"""Reads what the tests need out of the man pages and out of --help: which options each command has."""
import functools
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAN = ROOT / 'man'


def sections(page: Path) -> dict[str, list[str]]:
    """The lines of a page by section."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in page.read_text().splitlines():
        if line.startswith('.Sh '):
            current = found.setdefault(line[4:], [])
        else:
            current.append(line)
    return found


def flags_of_line(line: str) -> set[str]:
    """The options a line of mdoc(7) names: `.Fl nq` is -n and -q, `.Fl -size` is --size."""
    flags: set[str] = set()
    if not line.startswith('.'):
        return flags
    after_flag = False
    before = ''
    for word in line[1:].split():
        if word == 'Fl':
            after_flag = True
        elif before != 'Fl' and re.fullmatch(r'[A-Z][a-z]', word):  # a macro, and not as in `.Fl Hp`
            after_flag = False
        elif after_flag and re.fullmatch(r'-[\w-]+', word):
            flags.add('-' + word)
        elif after_flag and re.fullmatch(r'\w+', word):
            flags.update('-' + letter for letter in word)
        before = word
    return flags


def flags_of(lines: list[str]) -> set[str]:
    return set().union(*map(flags_of_line, lines)) if lines else set()


def described(lines: list[str]) -> list[set[str]]:
    """The options that have an entry of their own, each as the set of its spellings."""
    return [flags for line in lines if line.startswith('.It Fl ') and (flags := flags_of_line(line))]


def common_options() -> list[list[set[str]]]:
    """What vsnap(1) describes for other pages: options of every command, of lists, of what destroys."""
    groups: list[list[str]] = []
    for line in sections(MAN / 'vsnap.1')['COMMON OPTIONS']:
        if line.startswith('.Bl'):
            groups.append([])
        elif groups:
            groups[-1].append(line)
    return [described(group) for group in groups]


def synopses(page: Path) -> dict[str, list[str]]:
    """The lines of the SYNOPSIS by command: "pool create", "ls", ..."""
    commands: dict[str, list[str]] = {}
    current: list[str] = []
    for line in sections(page)['SYNOPSIS']:
        if line.startswith('.Nm vsnap'):
            current = commands.setdefault(line[len('.Nm vsnap'):].strip(), [])
        else:
            current.append(line)
    return commands


def command_pages() -> list[Path]:
    return sorted(MAN.glob('vsnap-*.1'))


@functools.cache
def help_text(program: str, command: str) -> str:
    done = subprocess.run([program, *command.split(), '--help'], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f'vsnap {command} --help: exit {done.returncode}: {done.stderr}'
    assert not done.stderr, f'vsnap {command} --help wrote to standard error: {done.stderr}'
    return done.stdout


def options_of_help(text: str) -> list[set[str]]:
    """The options, each as the set of its spellings."""
    options = []
    for line in text.splitlines():
        if match := re.match(r'\s+(-{1,2}[A-Za-z][\w-]*(?:\s*,\s*-{1,2}[A-Za-z][\w-]*)*)', line):
            options.append({part.strip() for part in match[1].split(',')})
    return options


def promised_of_help(text: str) -> set[str]:
    """What stands below the options: "Every command takes --json -q -v -y as well"."""
    promise = re.search(r'^Every command takes (.*) as well', text, re.MULTILINE)
    return set(promise[1].split()) if promise else set()


def subcommands_of_help(text: str) -> list[str]:
    names: list[str] = []
    below = False
    for line in text.splitlines():
        if re.match(r'\S', line):
            below = line.lower().startswith('subcommands:')
        elif below and (match := re.match(r'  ([a-z-]+)', line)):
            names.append(match[1])
    return names
