#include "core/log_record.h"

#include <array>

#include "tests/support/catch.h"

using namespace vsnap;

namespace {

MapChange some_change() {
  MapChange c;
  c.branch = BranchId(7);
  c.start = BlockIndex(3 * kRegionBlocks + 17);
  c.count = BlockCount(40);
  c.kind = BlockKind::reserved;
  c.place = Place(200, 123456789);
  c.born = Version(99);
  c.floor = 98;
  c.fresh = true;
  c.mapped_change = -3;
  return c;
}

} // namespace

TEST_CASE("a change survives the way through a record and its bytes") {
  for (const bool keep_hole : {false, true}) {
    MapChange c = some_change();
    c.keep_hole = keep_hole;
    c.fresh = !keep_hole;
    c.may_join = keep_hole;
    LogRecord record = record_of(c);
    record.sequence = 0x0123456789abcdef;
    std::array<std::byte, kLogRecordBytes> raw{};
    encode(record, raw);
    CHECK(raw[0] == std::byte{0xef}); // little-endian on every machine
    const LogRecord back = decode_record(raw);
    CHECK(back.sequence == record.sequence);
    REQUIRE(valid(back));
    const MapChange d = change_of(back);
    CHECK(d.branch == c.branch);
    CHECK(d.start == c.start);
    CHECK(d.count == c.count);
    CHECK(d.kind == c.kind);
    CHECK(d.place == c.place);
    CHECK(d.born == c.born);
    CHECK(d.floor == c.floor);
    CHECK(d.fresh == c.fresh);
    CHECK(d.keep_hole == c.keep_hole);
    CHECK(d.may_join == c.may_join);
    CHECK(d.mapped_change == c.mapped_change);
  }
}

TEST_CASE("a save survives that way with the checksum of its copy") {
  MapChange c = some_change();
  c.kind = BlockKind::data;
  c.saves = true;
  c.mapped_change = 0;
  c.checksum = 0xfedcba98;
  std::array<std::byte, kLogRecordBytes> raw{};
  encode(record_of(c), raw);
  LogRecord back = decode_record(raw);
  REQUIRE(valid(back));
  CHECK_FALSE(needs_flushed_data(back));
  CHECK(change_of(back).saves);
  CHECK(change_of(back).checksum == c.checksum);
  CHECK(change_of(back).mapped_change == 0);
  for (const std::int64_t no_checksum : {std::int64_t{-1}, std::int64_t{1} << 32}) {
    back.mapped_change = no_checksum;
    CHECK_FALSE(valid(back));
  }
}

TEST_CASE("a save of zeros has no place and no checksum") {
  MapChange c = some_change();
  c.kind = BlockKind::reserved;
  c.place = Place::zeros(c.start);
  c.saves = true;
  c.mapped_change = 0;
  const LogRecord good = record_of(c);
  REQUIRE(valid(good));
  CHECK_FALSE(needs_flushed_data(good));
  CHECK(change_of(good).place.is_zeros());
  LogRecord bad = good;
  bad.mapped_change = 1;
  CHECK_FALSE(valid(bad));
  bad = good;
  ++bad.place; // of another block
  CHECK_FALSE(valid(bad));
  bad = good;
  bad.kind = static_cast<std::uint8_t>(BlockKind::data);
  CHECK_FALSE(valid(bad));
  bad = good;
  bad.count = 0;
  CHECK_FALSE(valid(bad));
  bad = good;
  bad.type = RecordType::map;
  CHECK_FALSE(valid(bad));
}

TEST_CASE("records that nobody could have written are refused") {
  const LogRecord good = record_of(some_change());
  REQUIRE(valid(good));
  LogRecord bad = good;
  bad.kind = 0;
  CHECK_FALSE(valid(bad));
  bad = good;
  bad.kind = 4;
  CHECK_FALSE(valid(bad));
  bad = good;
  bad.count = 0;
  CHECK_FALSE(valid(bad));
  bad = good;
  bad.count = kRegionBlocks; // beyond the end of its region
  CHECK_FALSE(valid(bad));
  bad = good;
  bad.start = ~0ULL - kRegionBlocks;
  CHECK_FALSE(valid(bad));
  bad = good;
  bad.place = 1ULL << 48;
  CHECK_FALSE(valid(bad));
  bad = good;
  bad.flags = 8;
  CHECK_FALSE(valid(bad));
  bad = good;
  bad.zero = 1;
  CHECK_FALSE(valid(bad));
  bad = good;
  bad.type = static_cast<RecordType>(9);
  CHECK_FALSE(valid(bad));
  bad = size_record(ObjectId(2), kMaxVolumeBytes, 0, ~0ULL);
  CHECK(valid(bad));
  bad.start = kMaxVolumeBytes + 1;
  CHECK_FALSE(valid(bad));
  bad = attributes_record(ObjectId(2), 0644, ~0U, ~0U, -1);
  CHECK(valid(bad));
  bad.start = 010000;
  CHECK_FALSE(valid(bad));
}
