#include "cli/resuming_sink.h"

namespace vsnap::cli {

bool ResumingSink::progress(std::uint64_t done, std::uint64_t total) {
  gave_up_ = !inner_.progress(done, total) || gave_up_;
  return !gave_up_;
}

bool ResumingSink::diff(std::span<const DiffRange> ranges) {
  std::vector<DiffRange> fresh;
  for (DiffRange range : ranges) {
    const std::uint64_t end = range.offset + range.length;
    if (end <= heard_up_to_) continue;
    if (range.offset < heard_up_to_) range = {heard_up_to_, end - heard_up_to_, range.state};
    heard_up_to_ = end;
    fresh.push_back(range);
  }
  if (!fresh.empty()) gave_up_ = !inner_.diff(fresh) || gave_up_;
  return !gave_up_;
}

} // namespace vsnap::cli
