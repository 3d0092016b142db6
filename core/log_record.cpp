#include "core/log_record.h"

#include <limits>

namespace vsnap {
namespace {

void put(std::byte*& at, std::uint64_t value, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) *at++ = static_cast<std::byte>(value >> (8 * i));
}

std::uint64_t take(const std::byte*& at, std::size_t size) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < size; ++i) value |= static_cast<std::uint64_t>(*at++) << (8 * i);
  return value;
}

bool has_blocks(const LogRecord& record) {
  return record.count > 0 && record.start <= blocks_for(kMaxVolumeBytes).value() &&
         record.start % kRegionBlocks + record.count <= kRegionBlocks &&
         record.flags < 2 * LogRecord::kMayJoin;
}

} // namespace

LogRecord record_of(const MapChange& change) {
  LogRecord record;
  record.type = change.saves ? RecordType::copy_out : RecordType::map;
  record.subject = change.branch.value();
  record.start = change.start.value();
  record.count = static_cast<std::uint32_t>(change.count.value());
  record.kind = static_cast<std::uint8_t>(change.kind);
  record.place = change.place.packed();
  record.born = change.born.value();
  record.floor = change.floor;
  record.flags = static_cast<std::uint8_t>((change.fresh ? LogRecord::kFresh : 0) |
                                           (change.keep_hole ? LogRecord::kKeepHole : 0) |
                                           (change.may_join ? LogRecord::kMayJoin : 0));
  record.mapped_change = change.saves ? std::int64_t{change.checksum} : change.mapped_change;
  return record;
}

LogRecord size_record(ObjectId volume, std::uint64_t size_bytes, std::int64_t modified_ns,
                      std::uint64_t trim) {
  LogRecord record;
  record.type = RecordType::size;
  record.subject = volume.value();
  record.start = size_bytes;
  record.place = trim;
  record.born = static_cast<std::uint64_t>(modified_ns);
  return record;
}

LogRecord attributes_record(ObjectId volume, std::uint32_t mode, std::uint32_t uid, std::uint32_t gid,
                            std::int64_t modified_ns) {
  LogRecord record;
  record.type = RecordType::attributes;
  record.subject = volume.value();
  record.start = mode;
  record.place = uid | (static_cast<std::uint64_t>(gid) << 32);
  record.born = static_cast<std::uint64_t>(modified_ns);
  return record;
}

MapChange change_of(const LogRecord& record) {
  MapChange change;
  change.branch = BranchId(record.subject);
  change.start = BlockIndex(record.start);
  change.count = BlockCount(record.count);
  change.kind = static_cast<BlockKind>(record.kind);
  change.place = Place::unpack(record.place);
  change.born = Version(record.born);
  change.floor = record.floor;
  change.fresh = (record.flags & LogRecord::kFresh) != 0;
  change.keep_hole = (record.flags & LogRecord::kKeepHole) != 0;
  change.may_join = (record.flags & LogRecord::kMayJoin) != 0;
  change.saves = record.type == RecordType::copy_out;
  if (change.saves)
    change.checksum = static_cast<std::uint32_t>(record.mapped_change);
  else
    change.mapped_change = record.mapped_change;
  return change;
}

bool valid(const LogRecord& record) {
  if (record.zero != 0) return false;
  switch (record.type) {
    case RecordType::note:
      return true;
    case RecordType::copy_out:
      if (record.place == Place::zeros(BlockIndex(record.start)).packed())
        return record.kind == static_cast<std::uint8_t>(BlockKind::reserved) && record.mapped_change == 0 &&
               has_blocks(record);
      if (record.kind != static_cast<std::uint8_t>(BlockKind::data) || record.mapped_change < 0 ||
          record.mapped_change > std::numeric_limits<std::uint32_t>::max())
        return false;
      [[fallthrough]];
    case RecordType::map:
      return record.kind >= static_cast<std::uint8_t>(BlockKind::data) &&
             record.kind <= static_cast<std::uint8_t>(BlockKind::hole) && has_blocks(record) &&
             Place::unpack(record.place).in_pool();
    case RecordType::size:
      return record.start <= kMaxVolumeBytes;
    case RecordType::attributes:
      return record.start <= 07777;
  }
  return false;
}

void encode(const LogRecord& record, std::span<std::byte, kLogRecordBytes> out) {
  std::byte* at = out.data();
  put(at, record.sequence, 8);
  put(at, record.subject, 8);
  put(at, record.start, 8);
  put(at, record.place, 8);
  put(at, record.born, 8);
  put(at, static_cast<std::uint64_t>(record.floor), 8);
  put(at, static_cast<std::uint64_t>(record.mapped_change), 8);
  put(at, record.count, 4);
  put(at, static_cast<std::uint64_t>(record.type), 1);
  put(at, record.kind, 1);
  put(at, record.flags, 1);
  put(at, record.zero, 1);
}

LogRecord decode_record(std::span<const std::byte, kLogRecordBytes> in) {
  const std::byte* at = in.data();
  LogRecord record;
  record.sequence = take(at, 8);
  record.subject = take(at, 8);
  record.start = take(at, 8);
  record.place = take(at, 8);
  record.born = take(at, 8);
  record.floor = static_cast<std::int64_t>(take(at, 8));
  record.mapped_change = static_cast<std::int64_t>(take(at, 8));
  record.count = static_cast<std::uint32_t>(take(at, 4));
  record.type = static_cast<RecordType>(take(at, 1));
  record.kind = static_cast<std::uint8_t>(take(at, 1));
  record.flags = static_cast<std::uint8_t>(take(at, 1));
  record.zero = static_cast<std::uint8_t>(take(at, 1));
  return record;
}

} // namespace vsnap
