// How much of a pool its metadata may take, and how much may be pending: the arithmetic, and nothing else.
// Units are blocks of 4 KiB, which are also the catalog's pages.
// Threads: any; pure functions.
#pragma once

#include <cstdint>

namespace vsnap::budget {

// Headroom in the catalog's segments: 1/64 of the pool, at least 512 pages (2 MiB), at most 32,768 (128 MiB).
// Half of it is what pending changes may need; below half, writes that need rows are refused. See
// log_limit().
inline constexpr std::uint64_t kMinHeadroomBlocks = 512;
[[nodiscard]] std::uint64_t headroom_blocks(std::uint64_t pool_blocks);

// The WAL: 1/64 of the pool, 1 to 64 MiB. It starts anew at a quarter; a transaction dirties at most a leaf,
// two split pages and a bitmap row (two pages) for each change, so that a 1/16 of its frames in changes
// always fits.
[[nodiscard]] std::uint64_t wal_blocks(std::uint64_t pool_blocks);

// The journal: 1/64 of the pool, 256 KiB to 64 MiB; a frame takes a block at least.
inline constexpr std::uint64_t kMinJournalBlocks = 64;
[[nodiscard]] std::uint64_t journal_blocks(std::uint64_t pool_blocks);

// How many changes certainly need no more than `pages`, when the catalog has `used` of them.
//
// A change makes at most three rows of some 35 bytes; half-full pages hold 50 of them: 1/16 page a change.
// Besides, it may split a leaf that is full, but not more leaves than there are. So changes c cannot need
// more pages than min(c, used) + c / 16.
[[nodiscard]] std::uint64_t changes_that_fit(std::uint64_t pages, std::uint64_t used);

// Pending changes: in the log, and as many in the commit under way.
inline constexpr std::uint64_t kMinLogRecords = 512;
// How many changes may be pending when `used` pages of the catalog are in use and `unused` are not: what fits
// into half of those. With the smallest headroom, 512 records cannot add more than 512 pages, and to add that
// many they would need 512 full leaves (2 MiB of index), at which size half of the splits share a leaf: at
// most 256 pages, half the headroom.
[[nodiscard]] std::uint64_t log_limit(std::uint64_t used, std::uint64_t unused);

} // namespace vsnap::budget
