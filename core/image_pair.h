// What ties the two images of a volume together while programs still write to the first one (`vsnap
// preserve`).
//
//     programs that had the volume open          programs that opened it since
//                  │ read, write                               │ read, write
//                  ▼                                           ▼
//      ┌──────────────────────┐   no entry: look below  ┌──────────────────────┐
//      │ first image          │◄────────────────────────│ second image         │
//      │ the head of branch B │                         │ the head of branch C │  its map is the lookup table
//      └──────────────────────┘                         └──────────────────────┘
//
// Invariants
// 1. A block that has no entry in the second image is read from the first as it is then: a late write to the
// first
//    shows through. A write or discard in the second makes the entry, and from then on the first is not
//    asked.
// 2. The lock belongs to neither image. Shared over a range: looking an entry up and reading what it names;
// writing to
//    the first image. Alone: making entries in the second one, with what a block keeps of the first.
//    So a block is never seen to go back: what shows through either was there when the entry was made, and is
//    in the block now, or came after it, and is not seen any more.
// 3. Images form a line: the first image of one pair may be the second of another. Locks are taken from the
// newest
//    image to the oldest.
// Threads: any. The lock is held across I/O.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "core/range_turns.h"
#include "core/units.h"

namespace vsnap {

class VolumeIo;

class ImagePair {
 public:
  explicit ImagePair(std::shared_ptr<VolumeIo> first) : first_(std::move(first)) {}
  [[nodiscard]] VolumeIo& first() const { return *first_; }
  [[nodiscard]] RangeTurns& turns() { return turns_; }

 private:
  const std::shared_ptr<VolumeIo> first_;
  RangeTurns turns_;
};

} // namespace vsnap
