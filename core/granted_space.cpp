#include "core/granted_space.h"

#include <algorithm>
#include <iterator>

#include "core/assert.h"

namespace vsnap {
namespace {

Place end_of(PlaceRun run) { return run.start + run.count; }
PlaceRun between(Place from, Place to) { return {from, BlockCount(to.packed() - from.packed())}; }

} // namespace

void GrantedSpace::Places::add(PlaceRun run) {
  VSNAP_ASSERT(missing(run) == std::vector{run});
  blocks_ += run.count.value();
  auto after = runs_.upper_bound(run.start);
  if (after != runs_.end() && after->first == end_of(run)) {
    run.count = run.count + after->second;
    after = runs_.erase(after);
  }
  if (after != runs_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second == run.start) {
      before->second = before->second + run.count;
      return;
    }
  }
  runs_.emplace(run.start, run.count);
}

void GrantedSpace::Places::remove(PlaceRun run) {
  const Place end = end_of(run);
  auto at = runs_.upper_bound(run.start);
  if (at != runs_.begin()) --at;
  while (at != runs_.end() && at->first < end) {
    const PlaceRun old{at->first, at->second};
    const Place from = std::max(old.start, run.start);
    const Place to = std::min(end_of(old), end);
    if (!(from < to)) {
      ++at;
      continue;
    }
    at = runs_.erase(at);
    blocks_ -= between(from, to).count.value();
    if (old.start < from) runs_.emplace(old.start, between(old.start, from).count);
    if (to < end_of(old)) at = runs_.emplace(to, between(to, end_of(old)).count).first;
  }
}

std::vector<PlaceRun> GrantedSpace::Places::missing(PlaceRun run) const {
  std::vector<PlaceRun> parts;
  const Place end = end_of(run);
  Place from = run.start; // nothing before it is missing that is not in `parts`
  auto at = runs_.upper_bound(run.start);
  if (at != runs_.begin()) --at;
  for (; at != runs_.end() && at->first < end && from < end; ++at) {
    const Place at_end = at->first + at->second;
    if (!(from < at_end)) continue;
    if (from < at->first) parts.push_back(between(from, at->first));
    from = at_end;
  }
  if (from < end) parts.push_back(between(from, end));
  return parts;
}

std::vector<PlaceRun> GrantedSpace::Places::all() const {
  std::vector<PlaceRun> runs;
  for (const auto& [start, count] : runs_) runs.push_back({start, count});
  return runs;
}

void GrantedSpace::add(std::uint64_t delegation, PlaceRun run) {
  MutexLock lock(mutex_);
  granted_[delegation].left.add(run);
}

bool GrantedSpace::take(std::uint64_t delegation, PlaceRun run) {
  MutexLock lock(mutex_);
  const auto found = granted_.find(delegation);
  if (found == granted_.end() || !found->second.left.missing(run).empty()) return false;
  found->second.left.remove(run);
  found->second.taken.add(run);
  return true;
}

bool GrantedSpace::put_back(std::uint64_t delegation, PlaceRun run) {
  MutexLock lock(mutex_);
  const auto found = granted_.find(delegation);
  if (found == granted_.end()) return false;
  found->second.taken.remove(run);
  found->second.left.add(run);
  return true;
}

void GrantedSpace::settle(std::uint64_t delegation, PlaceRun run) {
  MutexLock lock(mutex_);
  const auto found = granted_.find(delegation);
  if (found != granted_.end()) found->second.taken.remove(run);
}

void GrantedSpace::forget_taken(std::span<const PlaceRun> runs) {
  MutexLock lock(mutex_);
  for (auto& [delegation, granted] : granted_) {
    for (const PlaceRun& run : runs) granted.taken.remove(run);
  }
}

std::vector<PlaceRun> GrantedSpace::end(std::uint64_t delegation) {
  MutexLock lock(mutex_);
  const auto found = granted_.find(delegation);
  if (found == granted_.end()) return {};
  std::vector<PlaceRun> left = found->second.left.all();
  granted_.erase(found);
  return left;
}

std::vector<PlaceRun> GrantedSpace::outstanding(std::uint64_t delegation) {
  MutexLock lock(mutex_);
  const auto found = granted_.find(delegation);
  if (found == granted_.end()) return {};
  std::vector<PlaceRun> runs = found->second.left.all();
  const std::vector<PlaceRun> taken = found->second.taken.all();
  runs.insert(runs.end(), taken.begin(), taken.end());
  return runs;
}

std::uint64_t GrantedSpace::blocks(std::uint64_t delegation) {
  MutexLock lock(mutex_);
  const auto found = granted_.find(delegation);
  return found == granted_.end() ? 0 : found->second.left.blocks() + found->second.taken.blocks();
}

std::uint64_t GrantedSpace::blocks() {
  MutexLock lock(mutex_);
  std::uint64_t sum = 0;
  for (const auto& [delegation, granted] : granted_) sum += granted.left.blocks() + granted.taken.blocks();
  return sum;
}

std::vector<PlaceRun> GrantedSpace::unknown(std::uint64_t delegation, PlaceRun run) {
  MutexLock lock(mutex_);
  const auto found = granted_.find(delegation);
  if (found == granted_.end()) return {run};
  std::vector<PlaceRun> parts;
  for (const PlaceRun& part : found->second.left.missing(run)) {
    const std::vector<PlaceRun> unknown = found->second.taken.missing(part);
    parts.insert(parts.end(), unknown.begin(), unknown.end());
  }
  return parts;
}

bool GrantedSpace::has_left(std::uint64_t delegation) {
  MutexLock lock(mutex_);
  const auto found = granted_.find(delegation);
  return found != granted_.end() && !found->second.left.empty();
}

} // namespace vsnap
