#!/usr/bin/env python3
"""What vsnap-pool-format(5) and the JSON section of vsnap(1) say is so, of a real pool that was really used:
every block of every view is looked up with the query of the page and read from the members; the superblocks
are read by its table.

Usage: test_format.py PATH-OF-VSNAP
"""
import json
import os
import random
import re
import sqlite3
import sys
import traceback
from pathlib import Path

import format_page
import lab
import pages

MEMBERS = ['/srv/a.img', '/srv/b.img']
BLOCK = format_page.BLOCK


def write_at_random(rng: random.Random, volume: str, times: int):
    size = os.path.getsize(lab.MOUNT / volume)
    with open(lab.MOUNT / volume, 'r+b', buffering=0) as file:
        for _ in range(times):
            offset = rng.randrange(size - 1)
            length = min(rng.choice([512, BLOCK, 5000, 1 << 16, 1 << 20]), size - offset)
            os.pwrite(file.fileno(), rng.randbytes(length), offset)
        os.fsync(file.fileno())


def make_history(rng: random.Random):
    """Snapshots, a hole, a clone of a clone, a rollback and a removed snapshot, over two members."""
    lab.run(f'''
vsnap pool create lab {MEMBERS[0]} --size 256M
vsnap pool add lab {MEMBERS[1]} --size 256M
mkdir -p {lab.MOUNT}
vsnap mount lab {lab.MOUNT}
vsnap create lab/base --size 70M
''')
    write_at_random(rng, 'base', 60)
    lab.run('vsnap snapshot lab/base@one')
    write_at_random(rng, 'base', 60)
    lab.run(f'fallocate -p -o 20M -l 20M {lab.MOUNT}/base; vsnap snapshot lab/base@two')
    write_at_random(rng, 'base', 40)
    lab.run('vsnap clone lab/base@two copy')
    write_at_random(rng, 'copy', 40)
    lab.run('vsnap snapshot lab/copy@mine; vsnap clone lab/copy@mine grandchild')
    write_at_random(rng, 'grandchild', 40)
    lab.run(f'fallocate -l 90M {lab.MOUNT}/grandchild; vsnap rollback lab/base@one')
    lab.run('vsnap rm --wait lab/base@two')
    write_at_random(rng, 'base', 40)


def from_members(runs: list[tuple], members: list, size: int) -> bytes:
    view = bytearray(-(-size // BLOCK) * BLOCK)
    for first, blocks, kind, member, place in runs:
        if kind == format_page.KIND_DATA:
            data = os.pread(members[member].fileno(), blocks * BLOCK, place * BLOCK)
            end = min((first + blocks) * BLOCK, len(view))
            if end > first * BLOCK:
                view[first * BLOCK:end] = data[:end - first * BLOCK]
    return bytes(view[:size])


def owner_record(path: str) -> list[str]:
    with open(path, 'rb') as file:
        return os.pread(file.fileno(), 4096, 512 << 10).rstrip(b'\0').decode().splitlines()


def check_owner_records():
    pid = str(json.loads(lab.run('vsnap pool status --json lab'))['pool']['pid'])
    boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    for path in MEMBERS:
        owner = owner_record(path)
        assert owner == ['vsnap-owner-1', pid, os.uname().nodename, boot, 'daemon'], owner


def check_views():
    views = json.loads(lab.run('vsnap ls --json lab'))['views']
    assert len(views) == 6, views
    files = {view['name']: Path(lab.MOUNT / view['name'].split('/')[1]).read_bytes() for view in views}
    lab.run('vsnap umount lab; vsnap catalog dump lab /srv/lab.db')
    database = sqlite3.connect('/srv/lab.db')
    members = [open(path, 'rb') for path in MEMBERS]
    for name, expected in files.items():
        volume, _, snapshot = name.split('/')[1].partition('@')
        runs = format_page.runs(database, volume, snapshot)
        stored = from_members(runs, members, len(expected))
        assert stored == expected, f'{name}: the members hold something else'
    check_bitmaps(database)
    check_tables(database)
    assert not any(owner_record(path) for path in MEMBERS)


def check_bitmaps(database: sqlite3.Connection):
    """They are the blocks of the rows of extent, and no others."""
    owned: dict[int, set[int]] = {}
    placed = 'SELECT member, physical, count FROM extent WHERE kind <> 3'
    for member, physical, count in database.execute(placed):
        owned.setdefault(member, set()).update(range(physical, physical + count))
    taken: dict[int, set[int]] = {}
    for member, part, bitmap in database.execute('SELECT member, part, bitmap FROM space'):
        assert len(bitmap) == 4096
        for i, byte in enumerate(bitmap):
            for bit in range(8):
                if byte >> bit & 1:
                    taken.setdefault(member, set()).add(part * 32768 + 8 * i + bit)
    assert owned == taken


def check_tables(database: sqlite3.Connection):
    def tables(db: sqlite3.Connection) -> dict:
        made = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
        return {name: ' '.join(sql.split()) for name, sql in made if not name.startswith('sqlite_')}

    documented = sqlite3.connect(':memory:')
    documented.executescript(format_page.schema())
    assert tables(documented) == tables(database)


def check_superblocks():
    status = json.loads(lab.run('vsnap pool status --json lab'))['pool']
    uuids = [bytes.fromhex(member['uuid'].replace('-', '')) for member in status['members']]
    newest = {}
    for index, path in enumerate(MEMBERS):
        copies = []
        with open(path, 'rb') as file:
            for offset, parity in ((0, 0), (64 << 10, 1)):
                raw = os.pread(file.fileno(), format_page.SUPERBLOCK_BYTES, offset)
                if any(raw):
                    copy = format_page.read_superblock(raw)
                    assert copy['sequence'] % 2 == parity
                    copies.append(copy)
        newest = max(copies, key=lambda copy: copy['sequence'])
        assert newest['index'] == index
        assert newest['name'] == 'lab'
        assert newest['pool_uuid'].hex() == status['uuid'].replace('-', '')
        assert [uuid for uuid, _ in newest['roster']] == uuids
        sizes = [member['size'] for member in status['members']]
        assert [blocks * BLOCK for _, blocks in newest['roster']] == sizes
    check_metadata(newest['segments'])


def check_metadata(segments: list[tuple]):
    """The first segment of the catalog begins as every SQLite database does, with our application id."""
    _, member, block, _ = next(segment for segment in segments if segment[0] == 0)
    with open(MEMBERS[member], 'rb') as file:
        head = os.pread(file.fileno(), 100, block * BLOCK)
    assert head.startswith(b'SQLite format 3\0')
    assert int.from_bytes(head[68:72], 'big') == 0x76736e70
    assert int.from_bytes(head[60:64], 'big') == 2


# The commands whose JSON is held against vsnap(1), with the entry that describes each.
JSON_COMMANDS = [
    ('create', 'create lab/j --size 1M'), ('snapshot', 'snapshot lab/j@s'), ('preserve', 'preserve lab/j@p'),
    ('wait', 'wait lab/j@p'), ('clone', 'clone lab/j@s k'),
    ('snapshot', 'snapshot --full --bwlimit 1K lab/base@f'), ('copy', 'copy pause lab/base@f'),
    ('copy', 'copy limit lab/base@f 2K'), ('copy', 'copy resume lab/base@f'),
    ('hold', 'hold lab/j@s keep'), ('set', 'set lab/j snapshot-limit=1M on-full=pause'),
    ('get', 'get lab/j'), ('info', 'info lab/j@s'), ('release-hold', 'release-hold lab/j@s keep'),
    ('refresh No with Fl n', 'refresh -n lab/base@f'), ('refresh', 'refresh lab/base@f'),
    ('split', 'split lab/base@f m'),
    ('info', 'info lab/j'), ('ls', 'ls lab'), ('tree', 'tree lab'), ('df', 'df lab'),
    ('pool list', 'pool list'),
    ('pool status', 'pool status lab'), ('info No of a pool', 'info lab'), ('diff', 'diff lab/base@one'),
    ('resize', 'resize lab/j 2M'), ('resize', 'resize -n --shrink lab/j 1M'),
    ('rollback', 'rollback lab/j@s'),
    ('rename', 'rename lab/k l'), ('flatten', 'flatten lab/l'), ('check', 'check lab'),
    ('catalog dump', 'catalog dump lab /srv/json.db'),
    ('mount', 'mount lab /mnt/lab --listen tcp://127.0.0.1:7809'), ('map', 'map lab/j'),
    ('host invite', 'host invite lab --name gamma'), ('host list', 'host list lab'),
    ('host join', 'VSNAP_STATE_DIR=/srv/guest vsnap host join $(vsnap host invite lab) --name beta'),
    ('host revoke', 'host revoke lab beta'), ('lock ls', 'lock ls lab'),
    ('top', 'top lab --count 1 --interval 0.05'),
    ('upgrade', 'upgrade lab'),
    ('adopt', 'adopt /srv/raw.img lab/raw'),
    ('adopt No with Fl n', 'adopt -n --changed=drop-snapshots /srv/raw.img lab/raw'),
    ('release', 'release lab/raw'),
    ('unmap', 'unmap lab/j'), ('rm', 'rm lab/l'), ('umount', 'umount lab'),
    ('pool detach', 'pool detach lab'),
    ('pool attach', f'pool attach {" ".join(MEMBERS)}'),
    ('pool create', 'pool create two /srv/c.img --size 32M'),
    ('pool add', 'pool add two /srv/d.img --size 32M'), ('pool destroy', 'pool destroy -y two'),
]


def documented_keys() -> dict[str, set[str]]:
    """By command, all words its entry has as keys or values, with those of the entries it refers to."""
    keys: dict[str, set[str]] = {}
    current: list[set[str]] = []
    for line in pages.sections(pages.MAN / 'vsnap.1')['JSON']:
        if line.startswith('.It Cm '):
            names = line[len('.It Cm '):].removesuffix(' No of a volume or snapshot').split(' , ')
            current = [keys.setdefault(name, set()) for name in names]
        elif line.startswith(('.Li ', '.Po Li ')):
            for words in current:
                words.update(word for word in line.split() if re.fullmatch('[a-z_]{2,}', word))
    space = {'size', 'used', 'available', 'free', 'data', 'freeing', 'metadata', 'metadata_used'}
    keys['df'] |= keys['info'] - {'view'} | space
    keys['tree'] |= keys['info'] - {'view'}
    keys['pool status'] |= space
    keys['info No of a pool'] = keys['pool status']
    return keys


def keys_in(value) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(keys_in, value.values()))
    if isinstance(value, list):
        return set().union(*map(keys_in, value))
    return set()


# Words of the entries that are values, and keys that only some outputs have.
NOT_ALWAYS = {'or', 'volume', 'snapshot', 'thin', 'adopted', 'full', 'crash', 'fs', 'app', 'file', 'device',
              'data', 'hole', 'data_lost', 'what', 'repairable', 'repaired', 'tag', 'local', 'default'}


def check_json():
    lab.run('truncate -s 8M /srv/raw.img')
    documented = documented_keys()
    covered = {name for name, _ in JSON_COMMANDS}
    assert set(documented) == covered, set(documented) ^ covered
    for name, command in JSON_COMMANDS:
        line = command if command.startswith('VSNAP_') else f'vsnap {command}'
        printed = json.loads(lab.run(f'{line} --json'))
        assert printed['schema'] == 1
        unknown = keys_in(printed) - {'schema'} - documented[name]
        assert not unknown, f'vsnap {command} --json prints {unknown}, which vsnap(1) does not have'
        missing = documented[name] - keys_in(printed) - NOT_ALWAYS
        assert not missing, f'vsnap {command} --json does not print {missing}, which vsnap(1) has'


def main() -> int:
    lab.enter(sys.argv[1])
    seed = int(os.environ.get('VSNAP_SEED', random.randrange(2**32)))
    print(f'VSNAP_SEED={seed}', flush=True)
    failed = False
    try:
        make_history(random.Random(seed))
        check_owner_records()
        check_views()
        check_superblocks()
        check_json()
    except AssertionError:
        traceback.print_exc()
        failed = True
    lab.tear_down()
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
