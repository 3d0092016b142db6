#include "core/lost_places.h"

#include <algorithm>

namespace vsnap {
namespace {

std::uint64_t end_of(const PlaceRun& run) { return run.start.packed() + run.count.value(); }

} // namespace

LostPlaces::LostPlaces(std::span<const LogRecord> since_last_flush) {
  for (const LogRecord& record : since_last_flush) {
    if (!changes_map(record.type)) continue;
    const MapChange change = change_of(record);
    if (change.kind == BlockKind::data) runs_.push_back({change.place, change.count});
  }
  std::sort(runs_.begin(), runs_.end(),
            [](const PlaceRun& a, const PlaceRun& b) { return a.start < b.start; });
  std::size_t kept = 0;
  for (const PlaceRun& run : runs_) {
    if (kept > 0 && end_of(runs_[kept - 1]) >= run.start.packed()) {
      PlaceRun& last = runs_[kept - 1];
      last.count = BlockCount(std::max(end_of(last), end_of(run)) - last.start.packed());
    } else {
      runs_[kept++] = run;
    }
  }
  runs_.resize(kept);
}

bool LostPlaces::touches(PlaceRun run) const {
  const auto after =
      std::upper_bound(runs_.begin(), runs_.end(), end_of(run) - 1,
                       [](std::uint64_t place, const PlaceRun& at) { return place < at.start.packed(); });
  return after != runs_.begin() && end_of(*std::prev(after)) > run.start.packed();
}

} // namespace vsnap
