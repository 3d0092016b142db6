#!/usr/bin/env python3
"""Holds the --help of each command against its man page. Usage: test_help.py PATH-OF-VSNAP"""
import re
import sys
import unittest

import pages

PROGRAM = ''


def options_of(command: str) -> list[set[str]]:
    return pages.options_of_help(pages.help_text(PROGRAM, command))


class HelpAndPages(unittest.TestCase):
    def test_each_command_has_a_page_and_each_page_a_command(self):
        commands = set(pages.subcommands_of_help(pages.help_text(PROGRAM, '')))
        self.assertTrue(commands, 'vsnap --help lists no commands')
        named = {page.stem.removeprefix('vsnap-') for page in pages.command_pages()}
        self.assertEqual(commands, named)

    def test_each_subcommand_is_in_the_synopsis_of_its_page(self):
        for page in pages.command_pages():
            command = page.stem.removeprefix('vsnap-')
            below = pages.subcommands_of_help(pages.help_text(PROGRAM, command))
            expected = {f'{command} {name}' for name in below} or {command}
            with self.subTest(page=page.name):
                self.assertEqual(expected, set(pages.synopses(page)))

    def test_the_synopsis_of_each_command_has_the_options_of_its_help(self):
        everywhere = pages.common_options()[0]
        for page in pages.command_pages():
            for command, lines in pages.synopses(page).items():
                with self.subTest(command=command):
                    options = options_of(command)
                    promised = pages.promised_of_help(pages.help_text(PROGRAM, command))
                    for option in everywhere:
                        self.assertTrue(option in options or option & promised,
                                        f'vsnap(1) says that it takes {option}')
                    named = pages.flags_of(lines)
                    self.assertLessEqual(named, set().union(*options))
                    for option in options:
                        self.assertTrue(option in everywhere or option & named,
                                        f'{option} is not in the page')

    def test_each_option_is_described_with_all_its_spellings(self):
        common = [option for group in pages.common_options() for option in group]
        for page in pages.command_pages():
            entries = pages.described(pages.sections(page)['OPTIONS']) + common
            for command in pages.synopses(page):
                for option in options_of(command):
                    with self.subTest(command=command):
                        self.assertIn(option, entries)

    def test_examples_use_options_that_the_command_has(self):
        for page in [pages.MAN / 'vsnap.1', *pages.command_pages()]:
            for line in pages.sections(page)['EXAMPLES']:
                words = r'\bvsnap ((?:pool|catalog|copy|host|lock) [a-z]+|[a-z-]+)([^|;)]*)'
                for command, rest in re.findall(words, line):
                    with self.subTest(page=page.name, line=line):
                        used = set(re.findall(r'(?<=\s)--?[A-Za-z][\w-]*', rest))
                        self.assertLessEqual(used, set().union(*options_of(command)))


if __name__ == '__main__':
    PROGRAM = sys.argv.pop(1)
    unittest.main()
