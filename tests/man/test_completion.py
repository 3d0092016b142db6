#!/usr/bin/env python3
"""Completion for bash, typed into a real interactive shell. Usage: test_completion.py PATH-OF-VSNAP"""
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import pages

PROGRAM = ''
COMPLETION = pages.ROOT / 'packaging/completion/vsnap.bash'
PATIENCE_S = 60
TAB = '\t'
ALL = '\x1b*'  # insert-completions: every candidate, one after another
SHOW = '\x18\x10'  # bound below to print the line as it stands, and to clear it


class Shell:
    """bash on a terminal of its own, with the completion loaded."""

    def __init__(self, env: dict[str, str], cwd: Path):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.execvpe('bash', ['bash', '--norc', '--noprofile', '-i'], env)
        self.run(f'source {COMPLETION}')
        self.run(r'''bind -x '"\C-x\C-p": printf "LINE<%s>ENIL" "$READLINE_LINE"; READLINE_LINE=' ''')

    def read_until(self, pattern: str) -> re.Match:
        text = ''
        deadline = time.monotonic() + PATIENCE_S
        while not (found := re.search(pattern, text, re.DOTALL)):
            ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise AssertionError(f'waited for {pattern!r}; the shell wrote {text!r}')
            text += os.read(self.fd, 65536).decode()
        return found

    def run(self, line: str):
        os.write(self.fd, line.encode() + b' ; echo DO""NE\n')
        self.read_until('DONE')

    def line_after(self, typed: str, key: str) -> str:
        os.write(self.fd, (typed + key + SHOW).encode())
        return self.read_until('LINE<(.*?)>ENIL')[1]

    def close(self):
        os.close(self.fd)
        os.waitpid(self.pid, 0)


class Completion(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = Path(tempfile.mkdtemp(prefix='vsnap-completion-'))
        cls.addClassCleanup(shutil.rmtree, cls.dir)
        (cls.dir / 'bin').mkdir()
        (cls.dir / 'bin/vsnap').symlink_to(Path(PROGRAM).resolve())
        cls.env = os.environ | {'PATH': f'{cls.dir}/bin:{os.environ["PATH"]}', 'TERM': 'dumb',
                                'HOME': str(cls.dir), 'VSNAP_STATE_DIR': f'{cls.dir}/state',
                                'VSNAP_RUNTIME_DIR': f'{cls.dir}/run',
                                'HISTFILE': '', 'INPUTRC': '/dev/null', 'LC_ALL': 'C.UTF-8'}
        for command in ['pool create lab lab.img --size 32M', 'pool create other other.img --size 32M',
                        'create lab/vm1 --size 1M', 'create lab/vm2 --size 1M', 'create lab/web --size 1M',
                        'snapshot lab/vm1@monday lab/vm2@monday', 'snapshot lab/vm1@tuesday']:
            subprocess.run(['vsnap', *command.split()], env=cls.env, cwd=cls.dir, check=True)
        (cls.dir / 'mnt').mkdir()
        cls.shell = Shell(cls.env, cls.dir)
        cls.addClassCleanup(cls.shell.close)

    def completes(self, typed: str, line: str):
        with self.subTest(typed=typed):
            self.assertEqual(line, self.shell.line_after(typed, TAB))

    def offers(self, typed: str, *candidates: str):
        """All of them and no others; what was typed is part of the first line word."""
        with self.subTest(typed=typed):
            before = typed[:len(typed) - len(typed.split(' ')[-1])]
            line = self.shell.line_after(typed, ALL)
            self.assertTrue(line.startswith(before), line)
            self.assertEqual(sorted(candidates), sorted(line[len(before):].split()))

    def test_commands_are_completed(self):
        self.completes('vsnap snap', 'vsnap snapshot ')
        self.completes('vsnap pool des', 'vsnap pool destroy ')
        self.completes('vsnap catalog ', 'vsnap catalog dump ')
        self.completes('vsnap help flat', 'vsnap help flatten ')
        self.offers('vsnap u', 'umount', 'unmap', 'upgrade')
        self.offers('vsnap ', *pages.subcommands_of_help(pages.help_text(PROGRAM, '')))

    def test_properties_and_held_snapshots_are_completed(self):
        self.offers('vsnap set lab/vm1 ', 'snapshot-limit=', 'on-full=error', 'on-full=pause',
                    'on-full=drop-oldest')
        self.completes('vsnap get lab/vm1 sn', 'vsnap get lab/vm1 snapshot-limit ')
        self.completes('vsnap release-hold lab/vm1@m', 'vsnap release-hold lab/vm1@monday ')

    def test_commands_for_hosts_are_completed(self):
        self.offers('vsnap host ', 'invite', 'join', 'list', 'revoke')
        self.completes('vsnap host list la', 'vsnap host list lab ')
        self.completes('vsnap host join --member la', 'vsnap host join --member lab.img ')

    def test_options_and_their_values_are_completed(self):
        self.completes('vsnap resize --shr', 'vsnap resize --shrink ')
        self.completes('vsnap pool create --fo', 'vsnap pool create --force ')
        self.completes('vsnap ls -t sn', 'vsnap ls -t snapshot ')
        self.completes('vsnap map --sector-size 40', 'vsnap map --sector-size 4096 ')
        self.completes('vsnap mount -o cac', 'vsnap mount -o cache=')

    def test_every_option_of_every_command_is_offered(self):
        for page in pages.command_pages():
            for command in pages.synopses(page):
                known = set().union(*pages.options_of_help(pages.help_text(PROGRAM, command)))
                self.offers(f'vsnap {command} -', *known)

    def test_pools_are_completed(self):
        self.completes('vsnap df la', 'vsnap df lab ')
        self.completes('vsnap pool status o', 'vsnap pool status other ')
        self.offers('vsnap mount ', 'lab', 'other')

    def test_the_slash_after_a_pool_waits_for_more(self):
        self.completes('vsnap info lab/w', 'vsnap info lab/web ')
        self.completes('vsnap rm ot', 'vsnap rm other/')
        self.completes('vsnap create la', 'vsnap create lab/')

    def test_volumes_and_snapshots_are_completed(self):
        self.offers('vsnap info lab/', 'lab/vm1', 'lab/vm1@monday', 'lab/vm1@tuesday', 'lab/vm2',
                    'lab/vm2@monday', 'lab/web')
        self.offers('vsnap resize lab/', 'lab/vm1', 'lab/vm2', 'lab/web')
        self.completes('vsnap resize lab/we', 'vsnap resize lab/web ')
        self.completes('vsnap rollback lab/vm1@m', 'vsnap rollback lab/vm1@monday ')
        self.completes('vsnap diff -q lab/vm1@monday lab/vm1@t',
                       'vsnap diff -q lab/vm1@monday lab/vm1@tuesday ')
        self.completes('vsnap rm lab/vm1@monday lab/vm2', 'vsnap rm lab/vm1@monday lab/vm2')

    def test_a_new_snapshot_begins_with_its_volume(self):
        self.completes('vsnap snapshot lab/w', 'vsnap snapshot lab/web@')
        self.completes('vsnap snapshot lab/web@x lab/w', 'vsnap snapshot lab/web@x lab/web@')

    def test_names_also_where_the_at_sign_does_not_end_a_word(self):
        self.shell.run('shopt -u hostcomplete')
        try:
            self.completes('vsnap rollback lab/vm1@t', 'vsnap rollback lab/vm1@tuesday ')
        finally:
            self.shell.run('shopt -s hostcomplete')

    def test_paths_are_completed(self):
        self.completes('vsnap pool attach lab.', 'vsnap pool attach lab.img ')
        self.completes('vsnap mount lab mn', 'vsnap mount lab mnt/')

    def test_a_new_name_is_not_made_up(self):
        self.completes('vsnap clone lab/vm1@monday l', 'vsnap clone lab/vm1@monday l')
        self.completes('vsnap create lab/x --size ', 'vsnap create lab/x --size ')


@unittest.skipUnless(shutil.which('shellcheck'), 'shellcheck is not installed')
class Script(unittest.TestCase):
    def test_shellcheck_finds_nothing(self):
        done = subprocess.run(['shellcheck', '-s', 'bash', str(COMPLETION)], capture_output=True, text=True)
        self.assertEqual('', done.stdout)


if __name__ == '__main__':
    PROGRAM = sys.argv.pop(1)
    unittest.main()
