// The superblock of a member: what it belongs to, who the other members are, where the catalog lies.
//
// Invariants
// 1. Each member carries two copies, written in turn (copy = sequence % 2), each under a CRC-32C: a torn
//    write leaves the other.
// 2. Copies of one pool with the same sequence agree in roster and segments. The highest sequence
//    counts.
// 3. A journal is one segment, and the incompat feature kFeatureJournal says that there is one. So does
//    kFeatureCopy of the segments of a copy of the catalog.
// 4. A sequence is written to all members and flushed before anything relies on what it says. Pure functions;
//    any thread.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "core/env.h"
#include "core/error.h"
#include "core/units.h"

namespace vsnap {

// copy: of the catalog's pages, see catalog_copy.h
enum class MetadataFile : std::uint32_t { catalog = 0, wal = 1, journal = 2, copy = 3 };

struct MetadataSegment {
  MetadataFile file = MetadataFile::catalog;
  PlaceRun run; // segments of a file follow one another in the order of this table
  bool operator==(const MetadataSegment&) const = default;
};

struct RosterEntry { // one member of the pool, at its index
  Uuid uuid{};
  std::uint64_t blocks = 0;
  bool operator==(const RosterEntry&) const = default;
};

struct Superblock {
  std::uint64_t compat = 0, ro_compat = 0, incompat = 0;
  std::uint64_t sequence = 0;
  std::uint32_t flags = 0;
  Uuid pool_uuid{};
  std::string pool_name;
  std::uint32_t member_index = 0;
  std::vector<RosterEntry> roster;
  std::vector<MetadataSegment> segments;
  // All but the flags, which one member may have alone.
  [[nodiscard]] bool same_layout(const Superblock& other) const;
};

[[nodiscard]] std::vector<std::byte> encode(const Superblock& superblock);
// Kind damaged: not a superblock, torn, or inconsistent. Kind failed: one of a newer format.
[[nodiscard]] Result<Superblock> decode_superblock(std::span<const std::byte> raw);
// True: the bytes claim to be a superblock (right magic), whatever their state.
[[nodiscard]] bool has_superblock_magic(std::span<const std::byte> raw);

[[nodiscard]] std::uint32_t crc32c(std::span<const std::byte> data);

} // namespace vsnap
