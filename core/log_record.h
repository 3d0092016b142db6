// What is written down of a change before the catalog has it: a record of 64 bytes, in memory and, in
// little-endian order, in the journal on a member (man/vsnap-pool-format.5).
//
// Invariants
// 1. A record has a sequence number of its own; numbers are consecutive over the life of a pool.
// 2. Whoever decodes one that comes from outside checks it first (valid()).
// Pure functions; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/map_change.h"

namespace vsnap {

enum class RecordType : std::uint8_t {
  note = 0,       // takes a number, in place of a record that says nothing any more; see recovery.cpp
  map = 1,        // a MapChange
  size = 2,       // a volume's size, time and trim
  attributes = 3, // a volume's mode, owner and time
  copy_out = 4,   // a MapChange that saves: old content went to its place, or was zeros and went nowhere
};

struct LogRecord {
  std::uint64_t sequence = 0;
  std::uint64_t subject = 0;      // map, copy_out: branch (so below); else the volume's object id
  std::uint64_t start = 0;        // map: first block; size: bytes; attributes: mode
  std::uint64_t place = 0;        // map: packed place; size: trim; attributes: owner, and group << 32
  std::uint64_t born = 0;         // map: the branch's number; else nanoseconds since 1970
  std::int64_t floor = 0;         // map
  std::int64_t mapped_change = 0; // map; copy_out: CRC-32C of the saved content
  std::uint32_t count = 0;        // map: blocks
  RecordType type = RecordType::note;
  std::uint8_t kind = 0;  // map
  std::uint8_t flags = 0; // map: kFresh, kKeepHole, kMayJoin
  std::uint8_t zero = 0;
  static constexpr std::uint8_t kFresh = 1;
  static constexpr std::uint8_t kKeepHole = 2;
  static constexpr std::uint8_t kMayJoin = 4;
};
inline constexpr std::size_t kLogRecordBytes = 64;
static_assert(sizeof(LogRecord) == kLogRecordBytes);

[[nodiscard]] LogRecord record_of(const MapChange& change);
[[nodiscard]] LogRecord size_record(ObjectId volume, std::uint64_t size_bytes, std::int64_t modified_ns,
                                    std::uint64_t trim);
[[nodiscard]] LogRecord attributes_record(ObjectId volume, std::uint32_t mode, std::uint32_t uid,
                                          std::uint32_t gid, std::int64_t modified_ns);
[[nodiscard]] constexpr bool changes_map(RecordType type) {
  return type == RecordType::map || type == RecordType::copy_out;
}
// Nothing but a flush can tell whether the data that the record names is where it says. Of a copy-out its
// checksum tells, unless it was zeros; others name none.
[[nodiscard]] constexpr bool needs_flushed_data(const LogRecord& record) {
  return record.type == RecordType::map && record.kind == static_cast<std::uint8_t>(BlockKind::data);
}
[[nodiscard]] MapChange change_of(const LogRecord& record); // of a type that changes_map()
// False: no record that this program could have written.
[[nodiscard]] bool valid(const LogRecord& record);

void encode(const LogRecord& record, std::span<std::byte, kLogRecordBytes> out);
[[nodiscard]] LogRecord decode_record(std::span<const std::byte, kLogRecordBytes> in);

} // namespace vsnap
