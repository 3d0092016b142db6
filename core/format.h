// Where things lie on a member; the same on a file and on a block device. man/vsnap-pool-format.5 is the
// prose.
//
//   0         superblock, copy A (32 KiB)
//   64 KiB    superblock, copy B
//   512 KiB   owner record (4 KiB): who has the pool open
//   1 MiB     blocks of 4 KiB: data of views, and metadata segments
#pragma once

#include <array>
#include <cstdint>

#include "core/units.h"

namespace vsnap::format {

inline constexpr std::array<char, 8> kMagic = {'V', 'S', 'N', 'A', 'P', 'M', 'B', 'R'};
inline constexpr std::uint32_t kVersion = 1;

inline constexpr std::uint64_t kSuperblockBytes = 32 * 1024;
inline constexpr std::array<std::uint64_t, 2> kSuperblockOffsets = {0, 64 * 1024};
inline constexpr std::uint64_t kOwnerRecordOffset = 512 * 1024;
inline constexpr std::uint64_t kOwnerRecordBytes = 4096;
inline constexpr std::uint64_t kHeaderBytes = 1024 * 1024;
inline constexpr std::uint64_t kHeaderBlocks = kHeaderBytes / kBlockBytes;

inline constexpr std::uint32_t kMaxMembers = 255;
// 32 KiB - 256 bytes of fixed fields - 255 members of 24 bytes leave 26,392 bytes: 1,099 segments of 24
// bytes.
inline constexpr std::uint32_t kMaxSegments = 1024;

// A pool must have room for its header, the first segments and something to store.
inline constexpr std::uint64_t kMinMemberBytes = 4ULL << 20;
inline constexpr std::uint64_t kMaxMemberBytes = 64ULL << 40; // two bits a block in memory: 4 GiB
inline constexpr std::uint64_t kMinPoolBytes = 16ULL << 20;

// One space bitmap covers 32,768 blocks (128 MiB of a member): a blob of 4 KiB.
inline constexpr std::uint64_t kGroupBlocks = 32768;

// Features a reader must know to read (incompat), to write (ro_compat), or may ignore (compat).
inline constexpr std::uint64_t kFeatureJournal = 1; // the catalog is not all: frames of a journal follow it
inline constexpr std::uint64_t kFeatureCopy = 2;    // who writes the catalog's pages writes their copy, too
inline constexpr std::uint64_t kKnownIncompat = kFeatureJournal | kFeatureCopy;
inline constexpr std::uint64_t kKnownRoCompat = 0;

inline constexpr std::uint32_t kFlagNeedsCheck =
    1; // a flush failed, or damage was seen: run check before writing
inline constexpr std::uint32_t kFlagClosed = 2; // the WAL was empty, and still is

} // namespace vsnap::format
