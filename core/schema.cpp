#include "core/schema.h"

namespace vsnap::schema {

const char* const kCreate = R"sql(
CREATE TABLE pool(              -- values: generation, next_object, next_branch, opened, extents, applied, ...
  key   TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE branch(            -- a line of versions; every volume writes to one
  id            INTEGER PRIMARY KEY,
  parent        INTEGER REFERENCES branch(id), -- NULL, or: where this branch has no row, look there ...
  parent_number INTEGER,                       -- ... as of this number
  number        INTEGER NOT NULL,              -- the running number: new rows are born with it
  mapped        INTEGER NOT NULL               -- blocks that are mapped in the newest view
);

CREATE TABLE volume(
  id       INTEGER PRIMARY KEY, -- shared with snapshot, never used twice; the inode number of its file
  name     TEXT UNIQUE,         -- NULL: unlinked while open; goes at the next start
  branch   INTEGER NOT NULL UNIQUE REFERENCES branch(id),
  size     INTEGER NOT NULL,    -- bytes
  created  INTEGER NOT NULL,    -- nanoseconds since 1970
  modified INTEGER NOT NULL,
  mode     INTEGER NOT NULL,
  uid      INTEGER NOT NULL,
  gid      INTEGER NOT NULL,
  trim     INTEGER              -- NULL, or: shrunk; blocks from here on are still to be unmapped
);

CREATE TABLE snapshot(          -- the view (branch, number)
  id      INTEGER PRIMARY KEY,
  volume  INTEGER NOT NULL REFERENCES volume(id),
  name    TEXT,                 -- NULL: unlinked while open
  branch  INTEGER NOT NULL REFERENCES branch(id),
  number  INTEGER NOT NULL,
  size    INTEGER NOT NULL,
  mapped  INTEGER NOT NULL,
  created INTEGER NOT NULL,
  UNIQUE(volume, name)
);

CREATE TABLE extent(            -- blocks [start, start + count) of the branch, as of number `born`, lie there
  branch   INTEGER NOT NULL,
  start    INTEGER NOT NULL,
  born     INTEGER NOT NULL,
  count    INTEGER NOT NULL,
  kind     INTEGER NOT NULL,    -- 1 data, 2 reserved (reads as zeros; member 512: no place), 3 hole
  member   INTEGER,
  physical INTEGER,             -- block of the member
  PRIMARY KEY(branch, start, born)
) WITHOUT ROWID;

CREATE TABLE space(             -- which blocks of a member belong to rows of extent; 32768 blocks a row
  member INTEGER NOT NULL,
  part   INTEGER NOT NULL,      -- blocks from part * 32768 on
  bitmap BLOB NOT NULL,         -- 4096 bytes, low bit first
  UNIQUE(member, part)
);

CREATE TABLE sweep(             -- branches in which versions nobody can see any more are to be freed
  branch INTEGER PRIMARY KEY,
  next   INTEGER NOT NULL       -- done below this block
);
)sql";

const char* const kAddedIn2 = R"sql(
CREATE TABLE preserved(         -- images that programs go on writing to under the handles that they had
  id     INTEGER PRIMARY KEY,   -- of a volume without a name, whose snapshot this becomes
  volume INTEGER NOT NULL,      -- that goes on in its place; where its branch has no row, the image shows
  name   TEXT NOT NULL,         -- of the snapshot
  final  INTEGER NOT NULL       -- 1: it is one; blocks mapped in the volume are still to be counted
);

CREATE TABLE copy(              -- branches that get copies of all that they see through their parent
  branch   INTEGER PRIMARY KEY,
  snapshot INTEGER,             -- that is full-sized by it; NULL: it was split off since
  next     INTEGER,             -- done below this block; NULL: finished, the branch has no parent any more
  copied   INTEGER NOT NULL,    -- blocks
  members  TEXT,                -- that the copies may lie on, as in '1,2'; NULL: any
  rate     INTEGER,             -- bytes a second at most; NULL: no limit
  paused   INTEGER NOT NULL     -- 1: on request
);

CREATE TABLE base(              -- images of adopted volumes
  member INTEGER PRIMARY KEY,   -- what rows of extent call the image: 256 to 511
  branch INTEGER NOT NULL UNIQUE REFERENCES branch(id),
  path   TEXT NOT NULL,
  blocks INTEGER NOT NULL,      -- where the branch has no row, block i below this is block i of the image
  stamp  TEXT NOT NULL,         -- size, inode, time, content, sectors, boot: how it was last seen
  open   INTEGER NOT NULL,      -- 1: changed since by us; the time is some seconds behind
  target INTEGER                -- NULL, or: a rollback to this number of the branch is under way
);

CREATE TABLE level(             -- what snapshots hold of what was in memory; those that are not here: crash
  snapshot INTEGER PRIMARY KEY,
  level    TEXT NOT NULL        -- 'fs' or 'app'
);

CREATE TABLE property(          -- what was set of volumes (vsnap set)
  volume INTEGER NOT NULL,
  name   TEXT NOT NULL,         -- snapshot-limit, on-full
  value  TEXT NOT NULL,         -- 'none', bytes, or per cent as in '20%'; 'error', 'pause' or 'drop-oldest'
  PRIMARY KEY(volume, name)
) WITHOUT ROWID;

CREATE TABLE hold(              -- what keeps snapshots from being removed (vsnap hold)
  snapshot INTEGER NOT NULL,    -- or the preserved image that is to be one
  tag      TEXT NOT NULL,
  created  INTEGER NOT NULL,
  PRIMARY KEY(snapshot, tag)
) WITHOUT ROWID;

CREATE TABLE host(              -- that share the pool (vsnap host)
  id     INTEGER PRIMARY KEY,   -- never used twice
  name   TEXT NOT NULL UNIQUE,
  key    BLOB NOT NULL UNIQUE,  -- its public key: 32 bytes, of CURVE
  joined INTEGER NOT NULL
);

CREATE TABLE invitation(        -- for hosts that may join, each for one
  key     BLOB PRIMARY KEY,     -- the public key of a pair that is used once
  name    TEXT,                 -- that the host is to have; NULL: as it likes
  created INTEGER NOT NULL,
  expires INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE delegation(        -- volumes that one host reads and writes at their places
  number   INTEGER PRIMARY KEY, -- never used twice
  volume   INTEGER NOT NULL,
  host     INTEGER NOT NULL,    -- of the table host, where it may be gone since
  since    INTEGER NOT NULL,
  snapshot INTEGER              -- NULL, or: the host was lost; this keeps what it may still write to
);

CREATE TABLE granted(           -- with delegations: places to write to; those that extents name were used
  delegation INTEGER NOT NULL,
  member     INTEGER NOT NULL,
  start      INTEGER NOT NULL,  -- block of the member
  blocks     INTEGER NOT NULL,
  PRIMARY KEY(member, start)
) WITHOUT ROWID;
)sql";

} // namespace vsnap::schema
