"""What vsnap-pool-format(5) says, in a form that can be run: its query and its table of the superblock."""
import re
import sqlite3
import struct

import pages

PAGE = pages.MAN / 'vsnap-pool-format.5'
BLOCK = 4096
KIND_DATA, KIND_RESERVED, KIND_HOLE = 1, 2, 3
HEADER_BYTES = 1 << 20
SUPERBLOCK_BYTES = 32 << 10


def literals() -> list[str]:
    text = PAGE.read_text()
    bodies = re.findall(r'^\.Bd -literal[^\n]*\n(.*?)^\.Ed$', text, re.DOTALL | re.MULTILINE)
    return [body.replace('\\e', '\\') for body in bodies]


def schema() -> str:
    return next(text for text in literals() if text.startswith('CREATE TABLE'))


def query(volume: str, snapshot: str = '') -> str:
    """The query of the page, for this view."""
    shell = next(text for text in literals() if 'WITH RECURSIVE' in text)
    text = re.search(r"<<'END'\n(.*?)^END$", shell, re.DOTALL | re.MULTILINE)[1]
    if snapshot:
        first = next(part for part in literals() if part.startswith('SELECT 0, snapshot')).strip()
        text, count = re.subn(r"SELECT 0, branch\.id.*?volume\.name = 'vm1'", first, text, flags=re.DOTALL)
        assert count == 1
    return text.replace("'vm1'", f"'{volume}'").replace("'monday'", f"'{snapshot}'")


def runs(database: sqlite3.Connection, volume: str, snapshot: str = '') -> list[tuple]:
    """(first block, blocks, kind, member, place)"""
    return database.execute(query(volume, snapshot)).fetchall()


def superblock_fields() -> dict[str, tuple[int, int]]:
    """Offset and length of each field of fixed size, by the words of the page."""
    rows = re.findall(r'^\.It (\d+) Ta (\d+) Ta (.*)$', PAGE.read_text(), re.MULTILINE)
    return {words: (int(offset), int(length)) for offset, length, words in rows}


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def read_superblock(raw: bytes) -> dict:
    """By the page alone. None of it is taken from the program's source."""
    fields = superblock_fields()

    def value(words: str) -> bytes:
        offset, length = fields[words]
        return raw[offset:offset + length]

    def number(words: str) -> int:
        return int.from_bytes(value(words), 'little')

    assert len(raw) == SUPERBLOCK_BYTES
    assert value('magic number, Li VSNAPMBR') == b'VSNAPMBR'
    offset, length = fields['CRC-32C']
    assert number('CRC-32C') == crc32c(raw[:offset] + bytes(length) + raw[offset + length:])
    assert number('format version: 1') == 1
    members, segments = number('number of members, M'), number('number of metadata segments, S')
    at = 144
    roster = [struct.unpack_from('<16sQ', raw, at + 24 * i) for i in range(members)]
    at += 24 * members
    table = [struct.unpack_from('<IIQQ', raw, at + 24 * i) for i in range(segments)]
    assert not any(raw[at + 24 * segments:]), 'the rest is zero'
    return {'sequence': number('sequence number'), 'index': number('index of this member'),
            'pool_uuid': value('UUID of the pool'), 'flags': number('flags'),
            'name': value('name of the pool, ended and filled by zeros').rstrip(b'\0').decode(),
            'roster': roster, 'segments': table}
