#include "core/region.h"

#include <algorithm>

namespace vsnap {

namespace {

bool is_run(const Entry* entries) {
  for (std::uint64_t i = 1; i < kLeafBlocks; ++i) {
    if (entries[i] != entries[0].further(i)) return false;
  }
  return true;
}

PlaceBounds bounds_of(const Entry* entries) {
  PlaceBounds places;
  for (std::uint64_t i = 0; i < kLeafBlocks; ++i) places.add(entries[i]);
  return places;
}

} // namespace

template <class Each>
void Region::in_chunks(std::uint64_t from, std::uint64_t count, Entry first, Each each) {
  VSNAP_ASSERT(count <= kRegionBlocks && from <= kRegionBlocks - count);
  for (std::uint64_t block = from; block < from + count;) {
    const std::uint64_t chunk = block / kLeafBlocks;
    const std::uint64_t end = std::min(from + count, (chunk + 1) * kLeafBlocks);
    each(Part{chunk, block % kLeafBlocks, end - chunk * kLeafBlocks, first.further(block - from)});
    block = end;
  }
}

void Region::load(const std::array<Entry, kRegionBlocks>& entries) {
  MutexLock lock(mutex_);
  VSNAP_ASSERT(narrow_.size() == 0 && wide_.size() == 0);
  // All leaves at once, as many as there will be.
  std::uint64_t narrow = 0, wide = 0;
  for (const Entry* at = entries.data(); at != entries.data() + kRegionBlocks; at += kLeafBlocks) {
    if (!is_run(at)) ++(NarrowLeaf::base_for(bounds_of(at)) ? narrow : wide);
  }
  if (narrow > 0) grow(narrow_, narrow);
  if (wide > 0) grow(wide_, wide);
  for (std::uint64_t chunk = 0; chunk < kChunks; ++chunk) {
    const Entry* const at = &entries[chunk * kLeafBlocks];
    if (is_run(at))
      chunks_[chunk].store(at->word(), std::memory_order_release);
    else
      publish(chunk, at, NarrowLeaf::base_for(bounds_of(at)));
  }
}

void Region::set_run(std::uint64_t from, std::uint64_t count, Entry first) {
  make_room(from, count, first);
  in_chunks(from, count, first, [this](const Part& part) VSNAP_NO_THREAD_SAFETY_ANALYSIS { set_part(part); });
}

void Region::make_room(std::uint64_t from, std::uint64_t count, Entry first) {
  VSNAP_ASSERT(first.mapped() || first.place() == Place());
  in_chunks(from, count, first, [this](const Part& part) VSNAP_NO_THREAD_SAFETY_ANALYSIS {
    if (!has_room(part)) break_up(part);
  });
}

bool Region::has_room(const Part& part) const {
  const std::uint64_t word = chunks_[part.chunk].load(std::memory_order_relaxed);
  if ((word & kLeaf) == 0)
    return part.to - part.from == kLeafBlocks || Entry::from_word(word).further(part.from) == part.first;
  if ((word & kWide) != 0) return true;
  return narrow(word).reaches(part.first) &&
         narrow(word).reaches(part.first.further(part.to - part.from - 1));
}

// There is room: a chunk without a leaf is set as a whole, or has these entries already.
void Region::set_part(const Part& part) {
  const std::uint64_t word = chunks_[part.chunk].load(std::memory_order_relaxed);
  if ((word & kLeaf) != 0) {
    for (std::uint64_t at = part.from; at < part.to; ++at)
      set_in_leaf(word, at, part.first.further(at - part.from));
  } else if (part.to - part.from == kLeafBlocks) {
    chunks_[part.chunk].store(part.first.word(), std::memory_order_release);
  }
}

void Region::set_in_leaf(std::uint64_t word, std::uint64_t at, Entry e) {
  if ((word & kWide) == 0)
    narrow(word).set(at, e);
  else
    wide(word).set(at, e);
}

// Gives the chunk a leaf that has what it maps now, and room for what it is going to map.
void Region::break_up(const Part& part) {
  std::array<Entry, kLeafBlocks> now;
  for (std::uint64_t at = 0; at < kLeafBlocks; ++at) now[at] = entry(part.chunk * kLeafBlocks + at);
  PlaceBounds places = bounds_of(now.data());
  places.add(part.first);
  places.add(part.first.further(part.to - part.from - 1));
  const bool has_narrow = (chunks_[part.chunk].load(std::memory_order_relaxed) & kLeaf) != 0;
  publish(part.chunk, now.data(), has_narrow ? std::nullopt : NarrowLeaf::base_for(places));
}

// `base`: of a narrow leaf.
void Region::publish(std::uint64_t chunk, const Entry* entries, std::optional<std::uint64_t> base) {
  std::uint64_t word = kLeaf;
  if (base) {
    NarrowLeaf& leaf = take(narrow_);
    leaf.set_base(*base);
    word |= reinterpret_cast<std::uintptr_t>(&leaf);
  } else {
    word |= kWide | reinterpret_cast<std::uintptr_t>(&take(wide_));
  }
  for (std::uint64_t at = 0; at < kLeafBlocks; ++at) set_in_leaf(word, at, entries[at]);
  chunks_[chunk].store(word, std::memory_order_release);
}

template <class Leaf>
Leaf& Region::take(Slabs<Leaf>& slabs) {
  // A quarter more each time: few allocations, and little that is not used.
  if (slabs.full())
    grow(slabs, std::min(kChunks - slabs.size(), std::max<std::uint64_t>(slabs.size() / 4, 4)));
  return slabs.take();
}

template <class Leaf>
void Region::grow(Slabs<Leaf>& slabs, std::uint64_t leaves) {
  VSNAP_ASSERT(leaves > 0 && leaves <= kChunks - slabs.size());
  slabs.grow(leaves);
  bytes_.fetch_add(leaves * sizeof(Leaf), std::memory_order_relaxed);
  if (total_ != nullptr) total_->fetch_add(leaves * sizeof(Leaf), std::memory_order_relaxed);
}

void Region::count_in(std::atomic<std::uint64_t>& total) {
  total_ = &total;
  total.fetch_add(bytes(), std::memory_order_relaxed);
}

void Region::clear_own(Version current) {
  MutexLock lock(mutex_);
  if (own_version_.load(std::memory_order_relaxed) == current.value()) return;
  for (std::uint64_t chunk = 0; chunk < kChunks; ++chunk) {
    const std::uint64_t word = chunks_[chunk].load(std::memory_order_relaxed);
    if ((word & kLeaf) == 0) {
      chunks_[chunk].store(Entry::from_word(word).frozen().word(), std::memory_order_release);
      continue;
    }
    for (std::uint64_t at = 0; at < kLeafBlocks; ++at) {
      const Entry e = entry(chunk * kLeafBlocks + at);
      if (e.own()) set_in_leaf(word, at, e.frozen());
    }
  }
  own_version_.store(current.value(), std::memory_order_release);
}

bool Region::retire(std::uint64_t committed) {
  MutexLock lock(mutex_);
  if (!held_.empty() || waiting_ > 0 || last_record() > committed) return false;
  retired_ = true;
  return true;
}

RangeLock::RangeLock(Region& region, std::uint64_t from, std::uint64_t to)
    : region_(region), from_(from), to_(to) {
  MutexLock lock(region_.mutex_);
  const auto overlaps = [this](const Region::Range& r) { return r.from < to_ && from_ < r.to; };
  while (!region_.retired_ && std::any_of(region_.held_.begin(), region_.held_.end(), overlaps)) {
    ++region_.waiting_;
    region_.released_.wait(region_.mutex_);
    --region_.waiting_;
  }
  if (region_.retired_) return;
  region_.held_.push_back({from_, to_});
  held_ = true;
}

RangeLock::~RangeLock() {
  if (!held_) return;
  MutexLock lock(region_.mutex_);
  const auto mine = std::find_if(region_.held_.begin(), region_.held_.end(),
                                 [this](const Region::Range& r) { return r.from == from_ && r.to == to_; });
  *mine = region_.held_.back();
  region_.held_.pop_back();
  if (region_.waiting_ > 0) region_.released_.notify_all();
}

} // namespace vsnap
