// Units that must not be mixed up, as types of their own.
//
// A volume is mapped in blocks of 4 KiB. Blocks of a view, blocks of a member, branches and version numbers
// are all integers; giving one where another is meant does not compile. Plain std::uint64_t is used for bytes
// only, at the borders where callers speak bytes (FUSE, commands), under names that end in _bytes or are
// called offset / length.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>

namespace vsnap {

inline constexpr std::uint64_t kBlockBytes = 4096;
inline constexpr std::uint64_t kRegionBlocks =
    8192; // 32 MiB: the unit in which maps are loaded and rows are cut
inline constexpr std::uint64_t kNeighbourhoodBlocks =
    16; // 64 KiB: blocks the allocator tries to keep together
inline constexpr std::uint64_t kMaxVolumeBytes =
    static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());

template <class Tag>
class Unit {
 public:
  constexpr Unit() = default;
  constexpr explicit Unit(std::uint64_t value) : value_(value) {}
  [[nodiscard]] constexpr std::uint64_t value() const { return value_; }
  [[nodiscard]] constexpr std::int64_t sql() const { return static_cast<std::int64_t>(value_); }
  constexpr auto operator<=>(const Unit&) const = default;

 private:
  std::uint64_t value_ = 0;
};

using BlockCount = Unit<struct BlockCountTag>;
using BlockIndex = Unit<struct BlockIndexTag>;   // block of a view
using RegionIndex = Unit<struct RegionIndexTag>; // BlockIndex / kRegionBlocks
using BranchId = Unit<struct BranchIdTag>;
using ObjectId =
    Unit<struct ObjectIdTag>; // of a volume or snapshot; never used twice in a pool; the inode number
using Version = Unit<struct VersionTag>; // a branch's running number; `born` of an extent

constexpr BlockCount operator+(BlockCount a, BlockCount b) { return BlockCount(a.value() + b.value()); }
constexpr BlockCount operator-(BlockCount a, BlockCount b) { return BlockCount(a.value() - b.value()); }
constexpr BlockIndex operator+(BlockIndex a, BlockCount n) { return BlockIndex(a.value() + n.value()); }
constexpr BlockCount operator-(BlockIndex a, BlockIndex b) { return BlockCount(a.value() - b.value()); }
constexpr Version next(Version v) { return Version(v.value() + 1); }
constexpr RegionIndex region_of(BlockIndex b) { return RegionIndex(b.value() / kRegionBlocks); }
constexpr BlockIndex first_block(RegionIndex r) { return BlockIndex(r.value() * kRegionBlocks); }
constexpr std::uint64_t bytes(BlockCount n) { return n.value() * kBlockBytes; }
constexpr BlockCount blocks_for(std::uint64_t size_bytes) {
  return BlockCount(size_bytes / kBlockBytes + (size_bytes % kBlockBytes != 0 ? 1 : 0));
}

// Where a block lies: a member of the pool, or the image of an adopted volume (base.h), and a block of it; or
// nowhere, as it reads as zeros (zeros.h): then it has its own number here.
class Place {
 public:
  static constexpr unsigned kBlockBits = 40; // 4 PiB; format::kMaxMemberBytes is less
  static constexpr unsigned kMemberBits = 10;
  static constexpr std::uint32_t kFirstBase = 256; // below: members; from here on: images
  static constexpr std::uint32_t kMaxBases = 256;
  static constexpr std::uint32_t kZeros = kFirstBase + kMaxBases;
  constexpr Place() = default;
  constexpr Place(std::uint32_t member, std::uint64_t block)
      : packed_((static_cast<std::uint64_t>(member) << kBlockBits) | block) {}
  static constexpr Place zeros(BlockIndex block) { return Place(kZeros, block.value()); }
  static constexpr Place unpack(std::uint64_t packed) { return Place(packed); }
  [[nodiscard]] constexpr std::uint32_t member() const {
    return static_cast<std::uint32_t>(packed_ >> kBlockBits);
  }
  // In an image, which belongs to nobody but its volume: the allocator knows nothing of it.
  [[nodiscard]] constexpr bool is_base() const { return member() >= kFirstBase && member() < kZeros; }
  [[nodiscard]] constexpr bool is_zeros() const { return member() == kZeros; }
  // On a member: space that the allocator knows of.
  [[nodiscard]] constexpr bool in_pool() const { return member() < kFirstBase; }
  [[nodiscard]] constexpr std::uint64_t block() const { return packed_ & ((1ULL << kBlockBits) - 1); }
  [[nodiscard]] constexpr std::uint64_t packed() const { return packed_; }
  constexpr auto operator<=>(const Place&) const = default;

 private:
  constexpr explicit Place(std::uint64_t packed) : packed_(packed) {}
  std::uint64_t packed_ = 0;
};
constexpr Place operator+(Place p, BlockCount n) { return Place(p.member(), p.block() + n.value()); }

struct PlaceRun { // blocks next to each other on one member
  Place start;
  BlockCount count;
  bool operator==(const PlaceRun&) const = default;
};

} // namespace vsnap

template <class Tag>
struct std::hash<vsnap::Unit<Tag>> {
  std::size_t operator()(vsnap::Unit<Tag> u) const noexcept { return std::hash<std::uint64_t>{}(u.value()); }
};
