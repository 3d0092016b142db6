#!/usr/bin/env python3
"""The man pages are well formed, complete and agree with one another. Needs no program."""
import re
import shutil
import subprocess
import unittest

import pages

# What mandoc says about the machine it runs on, not about the page.
ABOUT_THE_MACHINE = re.compile(r'referenced manual not found|outdated mandoc\.db')
ALL_PAGES = sorted(page for section in '157' for page in pages.MAN.glob(f'*.{section}'))


class ManPages(unittest.TestCase):
    @unittest.skipUnless(shutil.which('mandoc'), 'mandoc is not installed')
    def test_mandoc_finds_nothing_to_say(self):
        for page in ALL_PAGES:
            with self.subTest(page=page.name):
                done = subprocess.run(['mandoc', '-T', 'lint', '-W', 'style', str(page)],
                                      capture_output=True, text=True)
                said = (done.stdout + done.stderr).splitlines()
                self.assertEqual([], [line for line in said if not ABOUT_THE_MACHINE.search(line)])

    @unittest.skipUnless(shutil.which('man'), 'man is not installed')
    def test_groff_formats_each_page_without_a_warning(self):
        for page in ALL_PAGES:
            with self.subTest(page=page.name):
                env = {'PATH': '/usr/bin:/bin', 'MANWIDTH': '80', 'LC_ALL': 'C.UTF-8'}
                done = subprocess.run(['man', '--warnings=all', '-l', str(page)], capture_output=True,
                                      text=True, env=env)
                self.assertEqual((0, ''), (done.returncode, done.stderr))
                self.assertIn('NAME', done.stdout)

    def test_each_page_has_the_sections_in_order(self):
        needed = ['NAME', 'SYNOPSIS', 'DESCRIPTION', 'OPTIONS', 'EXIT STATUS', 'EXAMPLES', 'SEE ALSO']
        for page in pages.command_pages():
            with self.subTest(page=page.name):
                found = [name for name in pages.sections(page) if name in needed]
                self.assertEqual(needed, found)

    def test_each_option_of_a_synopsis_is_described_and_the_other_way_round(self):
        for page in pages.command_pages():
            with self.subTest(page=page.name):
                named = set().union(*map(pages.flags_of, pages.synopses(page).values()))
                lines = pages.sections(page)['OPTIONS']
                self.assertLessEqual(named, pages.flags_of(lines))
                for option in pages.described(lines):
                    self.assertTrue(option & named, f'{option} is described, but not in the synopsis')

    def test_options_that_a_page_leaves_to_vsnap_1_are_described_there(self):
        common = [option for group in pages.common_options() for option in group]
        for page in pages.command_pages():
            with self.subTest(page=page.name):
                lines = pages.sections(page)['OPTIONS']
                left = pages.flags_of(lines) - set().union(*pages.described(lines))
                self.assertLessEqual(left, set().union(*common))

    def test_the_page_of_the_format_has_the_tables_as_they_are_made(self):
        source = (pages.ROOT / 'core/schema.cpp').read_text()
        versions = re.findall(r'R"sql\(\n(.*?)\)sql"', source, re.DOTALL)
        made = '\n'.join(versions).splitlines()
        lines = (pages.MAN / 'vsnap-pool-format.5').read_text().replace('\\e', '\\').splitlines()
        start = lines.index('.Bd -literal') + 1
        self.assertEqual(made, lines[start:lines.index('.Ed', start)])

    def test_vsnap_1_lists_every_command(self):
        lines = pages.sections(pages.MAN / 'vsnap.1')['COMMANDS']
        listed = {line.split()[2] for line in lines if line.startswith('.It Cm ')}
        self.assertEqual({page.stem.removeprefix('vsnap-') for page in pages.command_pages()}, listed)

    def test_references_to_our_pages_lead_somewhere_and_see_also_is_sorted(self):
        ours = {page.name for page in ALL_PAGES}
        for page in ALL_PAGES:
            with self.subTest(page=page.name):
                for name, section in re.findall(r'^\.Xr (vsnap\S*) (\d)', page.read_text(), re.MULTILINE):
                    self.assertIn(f'{name}.{section}', ours)
                lines = pages.sections(page)['SEE ALSO']
                also = [line.split()[1:3] for line in lines if line.startswith('.Xr')]
                self.assertEqual(sorted(also, key=lambda ref: (ref[1], ref[0])), also)


if __name__ == '__main__':
    unittest.main()
