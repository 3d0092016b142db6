// A piece of a request that lies in one region: for the files of VolumeIo alone.
#pragma once

#include <algorithm>

#include "core/volume_io.h"

namespace vsnap {

inline constexpr std::uint64_t kRegionBytes = kRegionBlocks * kBlockBytes;
// A piece makes at most one record a block; see ChangeLog.
inline constexpr std::uint64_t kPieceBytes = ChangeLog::kMaxPieceRecords * kBlockBytes;
static_assert(kRegionBytes % kPieceBytes == 0);

struct VolumeIo::Span {
  RegionIndex region;
  std::uint64_t from = 0; // bytes within the region
  std::uint64_t to = 0;
  [[nodiscard]] std::uint64_t first_block() const { return from / kBlockBytes; }
  [[nodiscard]] std::uint64_t end_block() const { return (to + kBlockBytes - 1) / kBlockBytes; }
  // The part of a block that the span covers.
  [[nodiscard]] std::uint64_t begin_in(std::uint64_t block) const {
    return std::max(from, block * kBlockBytes);
  }
  [[nodiscard]] std::uint64_t end_in(std::uint64_t block) const {
    return std::min(to, (block + 1) * kBlockBytes);
  }
  [[nodiscard]] bool whole(std::uint64_t block) const {
    return end_in(block) - begin_in(block) == kBlockBytes;
  }
};

template <class Body>
Result<> VolumeIo::change(std::uint64_t offset, std::uint64_t length, Body body) {
  bool committed = false; // for want of space
  std::uint64_t done = 0;
  while (done < length) {
    // Outside of the gate and the grace section: a commit waits for both.
    if (engine_.log().full())
      VSNAP_TRY(engine_.make_room());
    else if (engine_.log().wants_commit())
      engine_.ask_for_commit();
    const std::uint64_t at = offset + done;
    const std::uint64_t size = std::min(length - done, kPieceBytes - at % kPieceBytes);
    Result<> changed;
    {
      const IoGate::Passage passage(map_.branch->gate);
      const Grace::Section section(engine_.grace());
      changed = body(Span{RegionIndex(at / kRegionBytes), at % kRegionBytes, at % kRegionBytes + size}, done);
    }
    engine_.cache().collect_some();
    if (!changed && Engine::wants_commit(changed.error())) {
      VSNAP_TRY(engine_.commit());
      continue;
    }
    if (!changed) {
      if (changed.error().kind != ErrorKind::no_space || committed) return changed;
      committed = true; // what was freed since the last commit becomes available
      VSNAP_TRY(engine_.commit());
      continue;
    }
    done += size;
  }
  return {};
}

} // namespace vsnap
