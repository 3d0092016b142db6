// What the map says of one block: one word.
#pragma once

#include <cstdint>

#include "core/units.h"

namespace vsnap {

enum class BlockKind : std::uint8_t {
  none = 0, // no version anywhere: zeros
  data = 1,
  reserved = 2, // has a place that was never written: zeros
  hole = 3,     // discarded: zeros
};

class Entry {
 public:
  constexpr Entry() = default;
  constexpr Entry(BlockKind kind, Place place, bool own)
      : word_((static_cast<std::uint64_t>(kind) << kKindShift) | (own ? kOwn : 0) | place.packed()) {}
  static constexpr Entry from_word(std::uint64_t word) {
    Entry e;
    e.word_ = word;
    return e;
  }
  [[nodiscard]] constexpr std::uint64_t word() const { return word_; }
  [[nodiscard]] constexpr BlockKind kind() const { return static_cast<BlockKind>((word_ >> kKindShift) & 3); }
  [[nodiscard]] constexpr bool own() const { return (word_ & kOwn) != 0; }
  [[nodiscard]] constexpr Place place() const { return Place::unpack(word_ & kPlaceMask); }
  [[nodiscard]] constexpr bool mapped() const {
    return kind() == BlockKind::data || kind() == BlockKind::reserved;
  }
  [[nodiscard]] constexpr Entry frozen() const { return from_word(word_ & ~kOwn); }
  // The entry `blocks` further on in a run: blocks of one kind at consecutive places, or none of them with a
  // place.
  [[nodiscard]] constexpr Entry further(std::uint64_t blocks) const {
    return mapped() ? from_word(word_ + blocks) : *this;
  }
  // All but the place, in kFlagBits bits.
  static constexpr unsigned kFlagBits = 3;
  [[nodiscard]] constexpr std::uint32_t flags() const {
    return static_cast<std::uint32_t>(word_ >> kKindShift);
  }
  static constexpr Entry from_flags(std::uint32_t flags) {
    return from_word(static_cast<std::uint64_t>(flags) << kKindShift);
  }
  [[nodiscard]] constexpr Entry at(std::uint64_t packed_place) const {
    return from_word(word_ | packed_place);
  }
  constexpr bool operator==(const Entry&) const = default;

 private:
  static constexpr unsigned kKindShift = 50;
  static constexpr std::uint64_t kOwn = 1ULL << 52;
  static constexpr std::uint64_t kPlaceMask = (1ULL << (Place::kBlockBits + Place::kMemberBits)) - 1;
  std::uint64_t word_ = 0;
};
static_assert(Place::kBlockBits + Place::kMemberBits <= 50);

} // namespace vsnap
