// The superblock's bytes: they come back as they were, and nothing else is taken for a superblock.
#include "core/superblock.h"

#include "core/format.h"
#include "tests/core/refusal.h"

using namespace vsnap;

namespace {

Superblock sample() {
  Superblock s;
  s.compat = 5;
  s.sequence = 77;
  s.flags = format::kFlagNeedsCheck;
  s.pool_uuid.fill(0xab);
  s.pool_name = "lab";
  s.member_index = 1;
  s.roster = {{Uuid{1, 2, 3}, 1024}, {Uuid{4, 5, 6}, 1ULL << 34}};
  s.segments = {{MetadataFile::catalog, {Place(0, 256), BlockCount(16)}},
                {MetadataFile::wal, {Place(1, (1ULL << 34) - 32), BlockCount(32)}}};
  return s;
}

void require_same(const Superblock& a, const Superblock& b) {
  REQUIRE(a.same_layout(b));
  REQUIRE(a.sequence == b.sequence);
  REQUIRE(a.member_index == b.member_index);
}

void write_crc(std::vector<std::byte>& raw) {
  for (std::size_t i = 8; i < 12; ++i) raw[i] = std::byte{0};
  const std::uint32_t crc = crc32c(raw);
  for (std::size_t i = 0; i < 4; ++i) raw[8 + i] = static_cast<std::byte>(crc >> (8 * i));
}

constexpr std::size_t kVersionAt = 12;  // after magic and CRC
constexpr std::size_t kIncompatAt = 32; // after compat and ro_compat
constexpr std::size_t kIndexAt = 52;
constexpr std::size_t kNameAt = 72;
constexpr std::size_t kCountsAt = 136;
constexpr std::size_t kRosterAt = 144;
constexpr std::size_t kSegmentsAt = kRosterAt + 2 * 24; // of sample()

// The sample with one byte set, under a checksum that is right.
Result<Superblock> decoded_with(std::size_t at, unsigned value) {
  std::vector<std::byte> raw = encode(sample());
  raw[at] = static_cast<std::byte>(value);
  write_crc(raw);
  return decode_superblock(raw);
}

} // namespace

TEST_CASE("the checksum is CRC-32C") {
  const std::string text = "123456789"; // the check value of its catalogue entry
  CHECK(crc32c(std::as_bytes(std::span(text))) == 0xE3069283U);
}

TEST_CASE("a superblock comes back as it was written") {
  const auto decoded = decode_superblock(encode(sample()));
  REQUIRE(decoded.has_value());
  require_same(*decoded, sample());
}

TEST_CASE("the largest superblock comes back as it was written") {
  Superblock s = sample();
  s.pool_name = std::string(63, 'n');
  s.roster.assign(format::kMaxMembers, {Uuid{9}, 100'000});
  s.segments.assign(format::kMaxSegments, {MetadataFile::wal, {Place(254, 300), BlockCount(7)}});
  const auto decoded = decode_superblock(encode(s));
  REQUIRE(decoded.has_value());
  require_same(*decoded, s);
}

TEST_CASE("a superblock is 32 KiB long and starts with its magic") {
  const auto raw = encode(sample());
  CHECK(raw.size() == format::kSuperblockBytes);
  CHECK(has_superblock_magic(raw));
}

TEST_CASE("a superblock with any one byte flipped is refused as damaged") {
  std::vector<std::byte> raw = encode(sample());
  for (std::size_t at = 0; at < raw.size(); ++at) {
    const std::byte flip{static_cast<unsigned char>(1U << (at % 8))};
    raw[at] ^= flip;
    const auto decoded = decode_superblock(raw);
    raw[at] ^= flip;
    if (decoded || decoded.error().kind != ErrorKind::damaged) FAIL("byte " << at);
  }
  SUCCEED();
}

TEST_CASE("a superblock cut anywhere is refused as damaged") {
  const std::vector<std::byte> raw = encode(sample());
  for (std::size_t size = 0; size < raw.size(); size += size < 512 ? 1 : 512) {
    const auto decoded = decode_superblock(std::span(raw).first(size));
    if (decoded || decoded.error().kind != ErrorKind::damaged) FAIL("cut at " << size);
  }
  SUCCEED();
}

TEST_CASE("a superblock with its end still zero from before is refused") {
  Superblock s = sample();
  s.segments.assign(format::kMaxSegments, s.segments[0]);
  std::vector<std::byte> raw = encode(s);
  for (std::size_t at = 512; at < raw.size(); ++at) raw[at] = std::byte{0};
  CHECK(refusal(decode_superblock(raw)).kind == ErrorKind::damaged);
}

TEST_CASE("zeros are not a superblock") {
  const std::vector<std::byte> zeros(format::kSuperblockBytes);
  CHECK_FALSE(has_superblock_magic(zeros));
  CHECK(refusal(decode_superblock(zeros)).kind == ErrorKind::damaged);
}

TEST_CASE("a superblock of a newer format is refused as that and not as damage") {
  const Error error = refusal(decoded_with(kVersionAt, format::kVersion + 1));
  CHECK(error.kind == ErrorKind::failed);
  CHECK(says(error, "format version 2"));
}

TEST_CASE("a superblock with an unknown feature is refused as that and not as damage") {
  CHECK(refusal(decoded_with(kIncompatAt, 4)).kind == ErrorKind::failed);
  CHECK(refusal(decoded_with(kIncompatAt - 8, 1)).kind == ErrorKind::failed);
}

TEST_CASE("a superblock that contradicts itself is refused though its checksum is right") {
  struct Case {
    const char* what;
    std::size_t at;
    unsigned value;
  };
  for (const auto& [what, at, value] :
       std::initializer_list<Case>{{"member index past the roster", kIndexAt, 2},
                                   {"a path as the pool's name", kNameAt, '/'},
                                   {"an empty pool name", kNameAt, 0},
                                   {"no member", kCountsAt, 0},
                                   {"256 members", kCountsAt + 1, 1},
                                   {"more segments than fit", kCountsAt + 5, 5},
                                   {"a member without blocks", kRosterAt + 17, 0},
                                   {"a member of more blocks than a place can name", kRosterAt + 16 + 5, 1},
                                   {"an unknown file", kSegmentsAt, 3},
                                   {"a journal without its feature", kSegmentsAt, 2},
                                   {"the feature without a journal", kIncompatAt, 1},
                                   {"a segment on an unknown member", kSegmentsAt + 4, 2},
                                   {"a segment in the header", kSegmentsAt + 9, 0},
                                   {"a segment that starts past its member", kSegmentsAt + 8 + 2, 1},
                                   {"an empty segment", kSegmentsAt + 16, 0},
                                   {"a segment that ends past its member", kSegmentsAt + 17, 4},
                                   {"a segment whose end overflows", kSegmentsAt + 23, 0xff}}) {
    INFO(what);
    CHECK(refusal(decoded_with(at, value)).kind == ErrorKind::damaged);
  }
}

TEST_CASE("layouts are the same whichever member and sequence they come from") {
  Superblock other = sample();
  other.member_index = 0;
  other.sequence = 1;
  CHECK(other.same_layout(sample()));
  other.segments.pop_back();
  CHECK_FALSE(other.same_layout(sample()));
}
