#include "core/superblock.h"

#include <fmt/format.h>
#include <boost/crc.hpp>
#include <cstring>

#include "core/assert.h"
#include "core/format.h"
#include "core/names.h"

namespace vsnap {
namespace {

constexpr std::size_t kCrcOffset = 8; // after the magic; counted as zero in the CRC itself

class Writer {
 public:
  explicit Writer(std::vector<std::byte>& out) : out_(out) {}
  void u32(std::uint32_t v) { integer(v, 4); }
  void u64(std::uint64_t v) { integer(v, 8); }
  void raw(const void* data, std::size_t size) {
    VSNAP_ASSERT(at_ + size <= out_.size());
    std::memcpy(out_.data() + at_, data, size);
    at_ += size;
  }

 private:
  void integer(std::uint64_t v, std::size_t size) {
    VSNAP_ASSERT(at_ + size <= out_.size());
    for (std::size_t i = 0; i < size; ++i) out_[at_ + i] = static_cast<std::byte>(v >> (8 * i));
    at_ += size;
  }
  std::vector<std::byte>& out_;
  std::size_t at_ = 0;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> in) : in_(in) {}
  std::uint32_t u32() { return static_cast<std::uint32_t>(integer(4)); }
  std::uint64_t u64() { return integer(8); }
  void raw(void* data, std::size_t size) {
    VSNAP_ASSERT(at_ + size <= in_.size());
    std::memcpy(data, in_.data() + at_, size);
    at_ += size;
  }

 private:
  std::uint64_t integer(std::size_t size) {
    VSNAP_ASSERT(at_ + size <= in_.size());
    std::uint64_t v = 0;
    for (std::size_t i = 0; i < size; ++i) v |= static_cast<std::uint64_t>(in_[at_ + i]) << (8 * i);
    at_ += size;
    return v;
  }
  std::span<const std::byte> in_;
  std::size_t at_ = 0;
};

Result<> check_contents(const Superblock& s) {
  const auto bad = [](std::string_view what) {
    return failure(ErrorKind::damaged, fmt::format("superblock: {}", what));
  };
  if (!valid_name(s.pool_name)) return bad("bad pool name");
  if (s.member_index >= s.roster.size()) return bad("member index out of range");
  for (const RosterEntry& member : s.roster) {
    if (member.blocks <= format::kHeaderBlocks || member.blocks > format::kMaxMemberBytes / kBlockBytes)
      return bad("bad member size");
  }
  std::size_t journals = 0;
  bool has_copy = false;
  for (const MetadataSegment& segment : s.segments) {
    if (segment.file == MetadataFile::journal) ++journals;
    has_copy = has_copy || segment.file == MetadataFile::copy;
    const Place start = segment.run.start;
    const std::uint64_t count = segment.run.count.value();
    if (segment.file > MetadataFile::copy) return bad("unknown metadata file");
    if (start.member() >= s.roster.size()) return bad("segment on an unknown member");
    const std::uint64_t blocks = s.roster[start.member()].blocks;
    if (start.block() < format::kHeaderBlocks || count == 0 || count > blocks ||
        start.block() > blocks - count) {
      return bad("segment outside its member");
    }
  }
  if (journals != ((s.incompat & format::kFeatureJournal) != 0 ? 1U : 0U)) return bad("not one journal");
  if (has_copy != ((s.incompat & format::kFeatureCopy) != 0))
    return bad("copy of the catalog without feature");
  return {};
}

} // namespace

namespace {

std::uint32_t crc32c_portable(std::span<const std::byte> data) {
  boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> crc;
  crc.process_bytes(data.data(), data.size());
  return crc.checksum();
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) std::uint32_t crc32c_sse(std::span<const std::byte> data) {
  std::uint64_t crc = 0xFFFFFFFF;
  std::size_t at = 0;
  for (; at + sizeof(std::uint64_t) <= data.size(); at += sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, data.data() + at, sizeof word);
    crc = __builtin_ia32_crc32di(crc, word);
  }
  for (; at < data.size(); ++at)
    crc = __builtin_ia32_crc32qi(static_cast<std::uint32_t>(crc), std::to_integer<unsigned char>(data[at]));
  return static_cast<std::uint32_t>(crc) ^ 0xFFFFFFFF;
}
#endif

} // namespace

std::uint32_t crc32c(std::span<const std::byte> data) {
#if defined(__x86_64__)
  static const bool sse = __builtin_cpu_supports("sse4.2") != 0;
  if (sse) return crc32c_sse(data);
#endif
  return crc32c_portable(data);
}

bool Superblock::same_layout(const Superblock& other) const {
  return pool_uuid == other.pool_uuid && pool_name == other.pool_name && roster == other.roster &&
         segments == other.segments && compat == other.compat && ro_compat == other.ro_compat &&
         incompat == other.incompat;
}

std::vector<std::byte> encode(const Superblock& s) {
  VSNAP_ASSERT(s.roster.size() <= format::kMaxMembers && s.segments.size() <= format::kMaxSegments);
  VSNAP_ASSERT(check_contents(s).has_value());
  std::vector<std::byte> out(format::kSuperblockBytes);
  Writer w(out);
  w.raw(format::kMagic.data(), format::kMagic.size());
  w.u32(0); // CRC, below
  w.u32(format::kVersion);
  w.u64(s.compat);
  w.u64(s.ro_compat);
  w.u64(s.incompat);
  w.u64(s.sequence);
  w.u32(s.flags);
  w.u32(s.member_index);
  w.raw(s.pool_uuid.data(), s.pool_uuid.size());
  std::array<char, kMaxNameLength + 1> name{};
  std::memcpy(name.data(), s.pool_name.data(), s.pool_name.size());
  w.raw(name.data(), name.size());
  w.u32(static_cast<std::uint32_t>(s.roster.size()));
  w.u32(static_cast<std::uint32_t>(s.segments.size()));
  for (const RosterEntry& member : s.roster) {
    w.raw(member.uuid.data(), member.uuid.size());
    w.u64(member.blocks);
  }
  for (const MetadataSegment& segment : s.segments) {
    w.u32(static_cast<std::uint32_t>(segment.file));
    w.u32(segment.run.start.member());
    w.u64(segment.run.start.block());
    w.u64(segment.run.count.value());
  }
  const std::uint32_t crc = crc32c(out);
  for (std::size_t i = 0; i < 4; ++i) out[kCrcOffset + i] = static_cast<std::byte>(crc >> (8 * i));
  return out;
}

bool has_superblock_magic(std::span<const std::byte> raw) {
  return raw.size() >= format::kMagic.size() &&
         std::memcmp(raw.data(), format::kMagic.data(), format::kMagic.size()) == 0;
}

Result<Superblock> decode_superblock(std::span<const std::byte> raw) {
  const auto bad = [](std::string_view what) {
    return failure(ErrorKind::damaged, fmt::format("superblock: {}", what));
  };
  if (raw.size() != format::kSuperblockBytes || !has_superblock_magic(raw)) return bad("not there");
  std::vector<std::byte> copy(raw.begin(), raw.end());
  for (std::size_t i = 0; i < 4; ++i) copy[kCrcOffset + i] = std::byte{0};
  Reader r(raw);
  std::array<char, 8> magic{};
  r.raw(magic.data(), magic.size());
  if (r.u32() != crc32c(copy)) return bad("checksum does not match");
  if (const auto version = r.u32(); version != format::kVersion) {
    return failure(ErrorKind::failed,
                   fmt::format("format version {}; this vsnap reads version {}", version, format::kVersion));
  }
  Superblock s;
  s.compat = r.u64();
  s.ro_compat = r.u64();
  s.incompat = r.u64();
  s.sequence = r.u64();
  s.flags = r.u32();
  s.member_index = r.u32();
  r.raw(s.pool_uuid.data(), s.pool_uuid.size());
  std::array<char, kMaxNameLength + 1> name{};
  r.raw(name.data(), name.size());
  name.back() = '\0';
  s.pool_name = name.data();
  const std::uint32_t members = r.u32();
  const std::uint32_t segments = r.u32();
  if (members == 0 || members > format::kMaxMembers || segments > format::kMaxSegments)
    return bad("bad counts");
  s.roster.resize(members);
  for (RosterEntry& member : s.roster) {
    r.raw(member.uuid.data(), member.uuid.size());
    member.blocks = r.u64();
  }
  s.segments.resize(segments);
  for (MetadataSegment& segment : s.segments) {
    segment.file = static_cast<MetadataFile>(r.u32());
    const std::uint32_t member = r.u32();
    const std::uint64_t block = r.u64();
    if (member >= members || block >= (1ULL << Place::kBlockBits)) return bad("segment on an unknown member");
    segment.run.start = Place(member, block);
    segment.run.count = BlockCount(r.u64());
  }
  VSNAP_TRY(check_contents(s));
  if ((s.incompat & ~format::kKnownIncompat) != 0 || (s.ro_compat & ~format::kKnownRoCompat) != 0) {
    return failure(ErrorKind::failed,
                   "the pool uses features that this vsnap does not know (use a newer one)");
  }
  return s;
}

} // namespace vsnap
