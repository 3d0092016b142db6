// The right to change blocks of a region of a view: among writers of this image, and towards the images of
// the same volume above and below it (image_pair.h). For the files of VolumeIo.
//
// Lock order: the pair above, shared; the range of the region; the pair below, alone. Inside the branch's
// gate.
#pragma once

#include "core/planted.h"
#include "core/volume_io.h"

namespace vsnap {

class VolumeIo::ChangeRange {
 public:
  ChangeRange(VolumeIo& view, Region& region, std::uint64_t from, std::uint64_t to)
      : above_(turns(view.above_), start(region, from), BlockCount(to - from), RangeTurns::Turn::shared),
        range_(region, from, to),
        below_(range_.held() && !planted(Fault::pair_entry_unlocked) ? turns(view.below_) : nullptr,
               start(region, from), BlockCount(to - from), RangeTurns::Turn::alone) {}
  [[nodiscard]] bool held() const { return range_.held(); } // false: the region is retired

 private:
  static RangeTurns* turns(const std::atomic<ImagePair*>& pair) {
    ImagePair* const found = pair.load(std::memory_order_acquire);
    return found == nullptr ? nullptr : &found->turns();
  }
  static BlockIndex start(const Region& region, std::uint64_t from) {
    return first_block(region.index()) + BlockCount(from);
  }

  const RangeTurns::Held above_;
  const RangeLock range_;
  const RangeTurns::Held below_;
};

} // namespace vsnap
