// The places whose data may be lost after a failed flush: those that changes of the map name since the last
// good one. A block that was overwritten in its place is not among them: it holds its old or its new content.
//
// Invariant: constant once made.
// Threads: any.
#pragma once

#include <span>
#include <vector>

#include "core/log_record.h"
#include "core/units.h"

namespace vsnap {

class LostPlaces {
 public:
  explicit LostPlaces(std::span<const LogRecord> since_last_flush);
  [[nodiscard]] bool touches(PlaceRun run) const;

 private:
  std::vector<PlaceRun> runs_; // by place, without overlap
};

} // namespace vsnap
