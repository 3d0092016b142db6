// Changes of a view, piece by piece: for the files of VolumeIo alone.
#pragma once

#include <algorithm>

#include "core/volume_io.h"

namespace vsnap {

// A piece makes at most one record a block; see ChangeLog.
inline constexpr std::uint64_t kPieceBytes = ChangeLog::kMaxPieceRecords * kBlockBytes;
static_assert(kRegionBytes % kPieceBytes == 0);

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
    if (!changed && SnapshotLimit::refused(changed.error())) {
      VSNAP_TRY(engine_.make_snapshot_room(object_));
      continue;
    }
    if (!changed && Engine::wants_commit(changed.error())) {
      VSNAP_TRY(engine_.commit());
      continue;
    }
    if (!changed) {
      if (changed.error().kind == ErrorKind::no_space && committed) engine_.seek_space();
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
