#!/usr/bin/env python3
"""The query of vsnap-pool-format(5) gives what its three rules say, on catalogs made at random."""
import os
import random
import sqlite3
import unittest

import format_page

REGION = 8192
CATALOGS = 200


class Catalog:
    """A chain of branches, each with versions of runs of blocks; most of them around the end of a region."""

    def __init__(self, rng: random.Random):
        self.database = sqlite3.connect(':memory:')
        self.database.executescript(format_page.schema())
        self.rows = []
        self.branches = rng.randint(1, 3)
        self.number = {}
        for branch in range(1, self.branches + 1):
            self.number[branch] = rng.randint(1, 6)
            parent = branch - 1 or None
            at = rng.randint(1, self.number[parent]) if parent else None
            self.insert('branch', branch, parent, at, self.number[branch], 0)
            self.add_rows(rng, branch)
        self.insert('volume', 1, 'vm1', self.branches, 0, 0, 0, 0, 0, 0, None)
        self.at = rng.randint(1, self.number[self.branches])
        self.insert('snapshot', 2, 1, 'monday', self.branches, self.at, 0, 0, 0)

    def insert(self, table: str, *values):
        self.database.execute(f'INSERT INTO {table} VALUES ({", ".join("?" * len(values))})', values)

    def add_rows(self, rng: random.Random, branch: int):
        for born in range(1, self.number[branch] + 1):
            block = 0
            while (block := block + rng.randint(0, 12)) < 60:
                start = block if block < 30 else REGION - 45 + block
                count = rng.randint(1, 8)
                count = min(count, REGION - start) if start < REGION else count
                place = rng.randint(1, 3), rng.randint(0, 2), rng.randint(256, 10**6)
                row = (branch, start, born, count, *place)
                self.rows.append(row)
                self.insert('extent', *row)
                block += count

    def by_the_rules(self, branch: int, number: int, block: int):
        while branch is not None:
            covering = [row for row in self.rows
                        if row[0] == branch and row[1] <= block < row[1] + row[3] and row[2] <= number]
            if covering:
                _, start, _, _, kind, member, physical = max(covering, key=lambda row: row[2])
                return kind, member, physical + block - start
            parent = self.database.execute('SELECT parent, parent_number FROM branch WHERE id = ?', (branch,))
            branch, number = parent.fetchone()
        return None


class Query(unittest.TestCase):
    def test_it_agrees_with_the_rules_block_by_block(self):
        seed = int(os.environ.get('VSNAP_SEED', random.randrange(2**32)))
        print(f'VSNAP_SEED={seed}')
        rng = random.Random(seed)
        for _ in range(CATALOGS):
            catalog = Catalog(rng)
            for snapshot, number in (('', catalog.number[catalog.branches]), ('monday', catalog.at)):
                found = {}
                for first, blocks, kind, member, place in format_page.runs(catalog.database, 'vm1', snapshot):
                    for i in range(blocks):
                        self.assertNotIn(first + i, found)
                        found[first + i] = (kind, member, place + i)
                for block in [*range(80), *range(REGION - 80, REGION + 80)]:
                    self.assertEqual(catalog.by_the_rules(catalog.branches, number, block), found.get(block))


if __name__ == '__main__':
    unittest.main()
