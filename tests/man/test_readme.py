#!/usr/bin/env python3
"""Runs what README.md shows, as it stands there, one block after another. Usage: test_readme.py PATH-OF-VSNAP

A block below <!-- not run: REASON --> is left out; one below <!-- as an ordinary user --> runs as one.
"""
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml
from dataclasses import dataclass
from pathlib import Path

import lab
import pages

README = pages.ROOT / 'README.md'
MIN_RECIPES = 10
CAP_SYS_RESOURCE = 24  # ext4 asks for it when a mounted file system grows; containers may lack it
GROW_UNMOUNTED = 'umount /mnt/data; e2fsck -fp "$dev"; resize2fs "$dev"; mount -o discard "$dev" /mnt/data'


@dataclass
class Block:
    heading: str
    language: str
    mark: str  # of the comment above it, or empty
    text: str
    line: int


def blocks() -> list[Block]:
    found: list[Block] = []
    heading = mark = ''
    inside = None
    for number, line in enumerate(README.read_text().splitlines(), 1):
        if inside is not None:
            if line == '```':
                found.append(inside)
                inside, mark = None, ''
            else:
                inside.text += line + '\n'
        elif fence := re.fullmatch(r'```(\w*)', line):
            inside = Block(heading, fence[1], mark, '', number)
        elif line.startswith('#'):
            heading, mark = line.lstrip('# '), ''
        elif comment := re.fullmatch(r'<!-- (.*) -->', line):
            mark = comment[1]
    return found


def same_tree(a: str, b: str):
    done = subprocess.run(['diff', '-rq', '--no-dereference', a, b], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def names(pool: str = 'lab') -> list[str]:
    return lab.run(f'vsnap ls -H -o name {pool}').split()


def check_disk():
    same_tree('/etc', '/mnt/data/etc')


def check_import():
    lab.run('qemu-img compare -f qcow2 -F raw disk.qcow2 /mnt/lab/golden')


def check_backup():
    lab.run('qemu-img check data-backup.qcow2')
    assert 'lab/data@backup' not in names()


def check_grown_pool():
    assert '/srv/lab2.img' in lab.run('vsnap pool status lab')


def check_grown_volume():
    size = int(lab.run('df --output=size -B1 /mnt/data | tail -n 1'))
    assert size > 5 << 30, size
    check_disk()


def check_rolled_back():
    check_disk()
    assert {'lab/data@monday', 'lab/data@nightly', 'lab/data@before-rollback-1'} <= set(names())


def check_clones():
    for n in range(1, 11):
        lab.run(f'cmp /mnt/lab/golden@v1 /mnt/lab/web{n}')


def check_taken_over():
    lab.run('e2fsck -fn /srv/old.raw')
    assert 'lab/old' not in names()


def check_removed():
    assert not [name for name in names() if re.match('lab/(data@monday|golden|web)', name)], names()


def check_moved():
    assert '/var/tmp/lab.img' in lab.run('vsnap pool status lab')
    assert 'lab/data@nightly' in names()


# What must be so after the last block below a heading.
AFTER = {
    'A disk for this machine': check_disk,
    'A snapshot, and a file back from it': check_disk,
    'Import a qcow2 image': check_import,
    'Back up from a snapshot': check_backup,
    'Grow a pool': check_grown_pool,
    'Grow a volume and its file system': check_grown_volume,
    'Roll back': check_rolled_back,
    'Clone a golden image ten times': check_clones,
    'Take over an existing image': check_taken_over,
    'See what takes the space, and remove it': check_removed,
    'Stop, and go on elsewhere': check_moved,
}


def check_virtual_machine(block: Block):
    """The drive is used as the command line says: by qemu-io, and by QEMU itself where it is installed."""
    drive = dict(part.split('=') for part in re.search(r'-drive (\S+)', block.text)[1].split(','))
    options = f'-f {drive["format"]} -t {drive["cache"]} -i {drive["aio"]} -d {drive["discard"]}'
    commands = ['write -P 7 1M 64k', 'flush', 'read -P 7 1M 64k', 'discard 1M 64k', 'read -P 0 1M 64k']
    lab.run(f'qemu-io {options} {drive["file"]} ' + ' '.join(f"-c '{command}'" for command in commands))
    program = block.text.split()[0]
    if shutil.which(program):
        Path('debian-netinst.iso').touch()
        lab.run(f'echo quit | {block.text.strip()} -display none -S -monitor stdio')


def check_libvirt(block: Block):
    disk = xml.fromstring(block.text)
    assert disk.tag == 'disk' and disk.get('type') == 'file'
    assert disk.find('driver').get('type') == 'raw'
    assert Path(disk.find('source').get('file')).is_file()
    assert disk.find('target').get('dev')


def may_grow_mounted() -> bool:
    status = Path('/proc/self/status').read_text()
    return int(re.search(r'CapEff:\s*(\w+)', status)[1], 16) >> CAP_SYS_RESOURCE & 1 == 1


def run_block(block: Block):
    if 'resize2fs' in block.text and not may_grow_mounted():
        print('  no CAP_SYS_RESOURCE here: the file system is grown while it is not mounted')
        block.text = block.text.replace('resize2fs "$dev"', GROW_UNMOUNTED)
    if block.language == 'xml':
        check_libvirt(block)
    elif block.text.startswith('qemu-system'):
        check_virtual_machine(block)
    elif block.mark.startswith('not run: '):
        print(f'  {block.mark}')
    elif block.mark == 'as an ordinary user':
        lab.run_as_user(block.text)
    else:
        assert not block.mark, f'unknown mark {block.mark!r}'
        print(lab.run(block.text), end='')


def main() -> int:
    found = blocks()
    headings = list(dict.fromkeys(block.heading for block in found))
    unknown = set(AFTER) - set(headings)
    assert not unknown, f'README.md has no block below {unknown}'
    recipes = re.split(r'^## ', README.read_text(), flags=re.MULTILINE)
    recipes = next(part for part in recipes if part.startswith('Recipes')).count('\n### ')
    assert recipes >= MIN_RECIPES, f'{recipes} recipes'

    lab.enter(sys.argv[1])
    if not shutil.which('qemu-img'):
        lab.skip('needs qemu-img')
    lab.run('qemu-img create -q -f qcow2 disk.qcow2 256M; qemu-io -c "write -P 5 1M 8M" disk.qcow2')
    failed = False
    for number, block in enumerate(found):
        print(f'README.md:{block.line}: {block.heading}', flush=True)
        try:
            run_block(block)
            if number + 1 == len(found) or found[number + 1].heading != block.heading:
                AFTER.get(block.heading, lambda: None)()
        except (AssertionError, OSError, xml.ParseError) as error:
            print(f'README.md:{block.line}: FAILED: {error}')
            failed = True
            break  # the following blocks go on from this one
    lab.tear_down()
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
