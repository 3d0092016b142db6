#include "sync/pending_blocks.h"

#include <algorithm>

#include "core/assert.h"

namespace vsnap {

void PendingBlocks::begin(std::uint64_t delegation, PendingMemory* memory) {
  VSNAP_ASSERT(pending_.empty());
  stop_granting();
  delegation_ = delegation;
  memory_ = memory;
}

// ---- space ----

void PendingBlocks::grant(std::span<const PlaceRun> runs) {
  for (const PlaceRun& run : runs) {
    space_.push_back(run);
    left_ += run.count.value();
  }
}

void PendingBlocks::stop_granting() {
  space_.clear();
  left_ = 0;
}

std::vector<PlaceRun> PendingBlocks::take(std::uint64_t blocks) {
  std::vector<PlaceRun> taken;
  if (!may_be_used() || blocks == 0 || left_ < blocks) return taken;
  std::size_t runs = 0;
  for (std::uint64_t found = 0; found < blocks; ++runs) found += space_[runs].count.value();
  taken.reserve(runs);
  if (!memory_->reserve(blocks)) return taken;
  for (std::uint64_t missing = blocks; missing > 0;) {
    PlaceRun& next = space_.front();
    const BlockCount count(std::min(missing, next.count.value()));
    taken.push_back({next.start, count});
    missing -= count.value();
    if (count == next.count)
      space_.pop_front();
    else
      next = {next.start + count, next.count - count};
  }
  left_ -= blocks;
  return taken;
}

void PendingBlocks::put_back(PlaceRun run) {
  memory_->give_up(run.count.value());
  try {
    space_.push_front(run);
    left_ += run.count.value();
  } catch (const std::bad_alloc&) { // it is freed with the delegation
  }
}

// ---- changes ----

void PendingBlocks::add(BlockIndex first, PlaceRun run) {
  const std::uint64_t number = last_ + 1;
  std::uint64_t added = 0;
  try {
    counts_.emplace(number, run.count.value());
    for (; added < run.count.value(); ++added) {
      const bool is_new =
          pending_.try_emplace(first + BlockCount(added), Pending{run.start + BlockCount(added), number, 0})
              .second;
      VSNAP_ASSERT(is_new); // one that is pending is overwritten in its place
    }
  } catch (const std::bad_alloc&) {
    counts_.erase(number);
    for (std::uint64_t i = 0; i < added; ++i) pending_.erase(first + BlockCount(i));
    throw;
  }
  last_ = number;
  for (auto it = pending_.find(first); added > 0; ++it, --added)
    it->second.slot = memory_->put({volume_, delegation_, it->first, it->second.place});
}

bool PendingBlocks::overlaps(BlockIndex first, BlockCount count) const {
  const auto next = pending_.lower_bound(first);
  return next != pending_.end() && next->first - first < count;
}

std::uint64_t PendingBlocks::first() const { return counts_.empty() ? 0 : counts_.begin()->first; }

std::vector<MapRun> PendingBlocks::batch(std::uint64_t upto, std::size_t runs) const {
  std::vector<MapRun> batch;
  for (const auto& [block, pending] : pending_) {
    if (pending.number > upto) continue;
    if (!batch.empty() && batch.back().end() == block &&
        batch.back().place + batch.back().count == pending.place) {
      batch.back().count = batch.back().count + BlockCount(1);
      continue;
    }
    if (batch.size() == runs) break;
    batch.push_back({block, BlockCount(1), BlockKind::data, pending.place, true});
  }
  return batch;
}

void PendingBlocks::handed_over(std::span<const MapRun> runs) {
  for (const MapRun& run : runs) {
    for (auto it = pending_.lower_bound(run.start); it != pending_.end() && it->first < run.end();) {
      memory_->clear(it->second.slot);
      const auto count = counts_.find(it->second.number);
      if (--count->second == 0) counts_.erase(count);
      it = pending_.erase(it);
    }
  }
}

void PendingBlocks::lose() {
  for (const auto& [block, pending] : pending_) memory_->clear(pending.slot);
  pending_.clear();
  counts_.clear();
}

} // namespace vsnap
