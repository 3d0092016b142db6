#include "core/allocator.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>

#include "core/assert.h"
#include "core/format.h"

namespace vsnap {
namespace {

constexpr std::uint64_t kWordBits = 64;
constexpr std::uint64_t kChunk = kNeighbourhoodBlocks;
constexpr int kLooksForLong = 64; // free runs, of which the longest is taken

class Bitmap {
 public:
  explicit Bitmap(std::uint64_t bits) : words_((bits + kWordBits - 1) / kWordBits), bits_(bits) {}
  [[nodiscard]] bool test(std::uint64_t i) const {
    return ((words_[i / kWordBits] >> (i % kWordBits)) & 1) != 0;
  }
  void set(std::uint64_t i, bool on) {
    const std::uint64_t mask = 1ULL << (i % kWordBits);
    if (on)
      words_[i / kWordBits] |= mask;
    else
      words_[i / kWordBits] &= ~mask;
  }
  [[nodiscard]] std::uint64_t word(std::uint64_t i) const { return words_[i]; }
  [[nodiscard]] std::uint64_t bits() const { return bits_; }
  // How many bits from `start` are clear, up to `limit`.
  [[nodiscard]] std::uint64_t clear_run(std::uint64_t start, std::uint64_t limit) const {
    std::uint64_t length = 0;
    limit = std::min(limit, bits_ - start);
    while (length < limit) {
      const std::uint64_t at = start + length;
      const std::uint64_t shifted = words_[at / kWordBits] >> (at % kWordBits);
      const std::uint64_t zeros =
          shifted == 0 ? kWordBits - at % kWordBits : static_cast<std::uint64_t>(std::countr_zero(shifted));
      length += zeros;
      if (shifted != 0) break;
    }
    return std::min(length, limit);
  }

 private:
  std::vector<std::uint64_t> words_;
  std::uint64_t bits_;
};

} // namespace

struct Allocator::Member {
  explicit Member(std::uint64_t blocks)
      : taken(blocks),
        durable(blocks),
        free_in_group((blocks + format::kGroupBlocks - 1) / format::kGroupBlocks),
        chunks_in_group(free_in_group.size()) {}
  Bitmap taken;
  Bitmap durable;
  std::vector<std::uint32_t> free_in_group;
  std::vector<std::uint32_t> chunks_in_group; // of the chunks those that are wholly free
  std::uint64_t free = 0;
  std::uint64_t free_chunks = 0;
  std::uint64_t first_free_group = 0; // none before it has a free block
  std::uint64_t durable_count = 0;
  std::uint64_t cursor = 0; // where the last search ended
  std::set<std::uint64_t> changed_groups;

  [[nodiscard]] bool chunk_free(std::uint64_t start) const {
    return start + kChunk <= taken.bits() &&
           ((taken.word(start / kWordBits) >> (start % kWordBits)) & 0xFFFF) == 0;
  }
  void take(std::uint64_t start, std::uint64_t count) {
    for (std::uint64_t i = start; i < start + count; ++i) {
      VSNAP_ASSERT(!taken.test(i));
      if (chunk_free(i / kChunk * kChunk)) {
        --chunks_in_group[i / format::kGroupBlocks];
        --free_chunks;
      }
      taken.set(i, true);
      --free_in_group[i / format::kGroupBlocks];
    }
    free -= count;
  }
  void give(std::uint64_t start, std::uint64_t count) {
    for (std::uint64_t i = start; i < start + count; ++i) {
      VSNAP_ASSERT(taken.test(i) && !durable.test(i));
      taken.set(i, false);
      ++free_in_group[i / format::kGroupBlocks];
      if (chunk_free(i / kChunk * kChunk)) {
        ++chunks_in_group[i / format::kGroupBlocks];
        ++free_chunks;
      }
    }
    first_free_group = std::min(first_free_group, start / format::kGroupBlocks);
    free += count;
  }
  // First aligned chunk at or after `from` and before `to` that is wholly free.
  [[nodiscard]] std::optional<std::uint64_t> find_chunk(std::uint64_t from, std::uint64_t to) const {
    if (free_chunks == 0) return std::nullopt;
    from = (from + kChunk - 1) / kChunk * kChunk;
    for (std::uint64_t at = from; at < to;) {
      const std::uint64_t group = at / format::kGroupBlocks;
      if (chunks_in_group[group] == 0) {
        at = (group + 1) * format::kGroupBlocks;
      } else if (at % kWordBits == 0 && taken.word(at / kWordBits) == ~0ULL) {
        at += kWordBits;
      } else if (chunk_free(at)) {
        return at;
      } else {
        at += kChunk;
      }
    }
    return std::nullopt;
  }
  [[nodiscard]] std::optional<std::uint64_t> find_block(std::uint64_t from, std::uint64_t to) const {
    for (std::uint64_t at = from; at < to;) {
      const std::uint64_t group = at / format::kGroupBlocks;
      if (free_in_group[group] == 0) {
        at = (group + 1) * format::kGroupBlocks;
        continue;
      }
      // Beyond the end the word has zeros, which are no free blocks.
      const std::uint64_t used = taken.word(at / kWordBits) >> (at % kWordBits);
      const auto run = static_cast<std::uint64_t>(std::countr_one(used));
      if (run < kWordBits - at % kWordBits) return at + run < to ? std::optional(at + run) : std::nullopt;
      at = (at / kWordBits + 1) * kWordBits;
    }
    return std::nullopt;
  }
};

Allocator::Allocator() = default;
Allocator::~Allocator() = default;

void Allocator::add_member(std::uint64_t blocks, std::uint64_t header_blocks) {
  MutexLock lock(mutex_);
  auto member = std::make_unique<Member>(blocks);
  for (std::uint64_t group = 0; group < member->free_in_group.size(); ++group)
    member->free_in_group[group] =
        static_cast<std::uint32_t>(std::min(format::kGroupBlocks, blocks - group * format::kGroupBlocks));
  member->free = blocks;
  member->free_chunks = blocks / kChunk;
  for (std::uint64_t chunk = 0; chunk < member->free_chunks; ++chunk)
    ++member->chunks_in_group[chunk * kChunk / format::kGroupBlocks];
  member->take(0, header_blocks);
  member->cursor = header_blocks;
  members_.push_back(std::move(member));
}

bool Allocator::load_group(const SpaceGroup& group) {
  MutexLock lock(mutex_);
  if (group.member >= members_.size() || group.bitmap.size() != format::kGroupBlocks / 8) return false;
  Member& member = *members_[group.member];
  if (group.group >= member.free_in_group.size()) return false;
  const std::uint64_t first = group.group * format::kGroupBlocks;
  for (std::uint64_t i = 0; i < format::kGroupBlocks; ++i) {
    if (((static_cast<unsigned>(group.bitmap[i / 8]) >> (i % 8)) & 1U) == 0) continue;
    if (first + i >= member.taken.bits() || member.taken.test(first + i)) return false;
    member.take(first + i, 1);
    member.durable.set(first + i, true);
    ++member.durable_count;
  }
  return true;
}

bool Allocator::take(PlaceRun run) {
  MutexLock lock(mutex_);
  if (run.start.member() >= members_.size()) return false;
  Member& member = *members_[run.start.member()];
  const std::uint64_t start = run.start.block();
  const std::uint64_t count = run.count.value();
  if (start >= member.taken.bits() || count > member.taken.bits() - start) return false;
  if (member.taken.clear_run(start, count) != count) return false;
  member.take(start, count);
  return true;
}

std::vector<std::uint32_t> Allocator::members_by_free() const {
  std::vector<std::uint32_t> order(members_.size());
  for (std::uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::uint32_t a, std::uint32_t b)
                       VSNAP_NO_THREAD_SAFETY_ANALYSIS { return members_[a]->free > members_[b]->free; });
  return order;
}

std::optional<PlaceRun> Allocator::allocate_on(Member& member, std::uint32_t index, std::uint64_t wanted,
                                               std::uint64_t phase) {
  if (member.free == 0) return std::nullopt;
  auto chunk = member.find_chunk(member.cursor, member.taken.bits());
  if (!chunk) chunk = member.find_chunk(0, member.cursor);
  if (chunk) {
    const std::uint64_t start = *chunk + phase;
    const std::uint64_t count = member.taken.clear_run(start, wanted);
    member.take(start, count);
    member.cursor = (start + count + kChunk - 1) / kChunk * kChunk;
    return PlaceRun{Place(index, start), BlockCount(count)};
  }
  const auto block = member.find_block(member.first_free_group * format::kGroupBlocks, member.taken.bits());
  VSNAP_ASSERT(block.has_value());
  member.first_free_group = *block / format::kGroupBlocks;
  const std::uint64_t count = member.taken.clear_run(*block, wanted);
  member.take(*block, count);
  return PlaceRun{Place(index, *block), BlockCount(count)};
}

std::optional<PlaceRun> Allocator::allocate(BlockCount wanted, std::optional<Place> near,
                                            std::uint64_t phase) {
  VSNAP_ASSERT(wanted.value() > 0 && phase < kChunk);
  MutexLock lock(mutex_);
  if (near && near->member() < members_.size()) {
    Member& member = *members_[near->member()];
    if (near->block() < member.taken.bits() && !member.taken.test(near->block())) {
      const std::uint64_t count = member.taken.clear_run(near->block(), wanted.value());
      member.take(near->block(), count);
      return PlaceRun{*near, BlockCount(count)};
    }
  }
  // Stay on one member for a while (locality), and change over before it lags behind by more than a group.
  const auto order = members_by_free();
  if (order.empty()) return std::nullopt;
  if (members_[order[0]]->free > members_[current_]->free + format::kGroupBlocks ||
      members_[current_]->free < kChunk) {
    current_ = order[0];
  }
  if (auto run = allocate_on(*members_[current_], current_, wanted.value(), phase)) return run;
  for (const std::uint32_t index : order) {
    if (auto run = allocate_on(*members_[index], index, wanted.value(), phase)) return run;
  }
  return std::nullopt;
}

std::optional<PlaceRun> Allocator::allocate_among(std::span<const std::uint32_t> members, BlockCount wanted,
                                                  std::uint64_t phase) {
  VSNAP_ASSERT(wanted.value() > 0 && phase < kChunk);
  MutexLock lock(mutex_);
  std::optional<std::uint32_t> best;
  for (const std::uint32_t index : members) {
    if (index < members_.size() && (!best || members_[index]->free > members_[*best]->free)) best = index;
  }
  return best ? allocate_on(*members_[*best], *best, wanted.value(), phase) : std::nullopt;
}

std::optional<PlaceRun> Allocator::allocate_segment(BlockCount minimum, BlockCount wanted,
                                                    std::optional<std::uint32_t> apart_from) {
  MutexLock lock(mutex_);
  std::optional<PlaceRun> best;
  std::vector<std::uint32_t> order = members_by_free();
  if (apart_from) std::stable_partition(order.begin(), order.end(), [&](auto i) { return i != *apart_from; });
  for (const std::uint32_t index : order) {
    if (best && apart_from == index) break;
    Member& member = *members_[index];
    for (std::uint64_t at = 0; at < member.taken.bits();) {
      const auto block = member.find_block(at, member.taken.bits());
      if (!block) break;
      const std::uint64_t count = member.taken.clear_run(*block, wanted.value());
      if (count >= minimum.value() && (!best || count > best->count.value()))
        best = PlaceRun{Place(index, *block), BlockCount(count)};
      if (best && best->count == wanted) break;
      at = *block + count;
    }
    if (best && best->count == wanted) break;
  }
  if (best) members_[best->start.member()]->take(best->start.block(), best->count.value());
  return best;
}

std::optional<PlaceRun> Allocator::longest_ahead(const Member& member, std::uint32_t index,
                                                 std::uint64_t wanted) {
  std::optional<PlaceRun> best;
  std::uint64_t at = member.cursor;
  bool around = false;
  for (int looks = 0; looks < kLooksForLong; ++looks) {
    auto chunk = member.find_chunk(at, around ? member.cursor : member.taken.bits());
    if (!chunk && !around) {
      around = true;
      chunk = member.find_chunk(0, member.cursor);
    }
    if (!chunk) break;
    const std::uint64_t count = member.taken.clear_run(*chunk, wanted);
    if (!best || count > best->count.value()) best = PlaceRun{Place(index, *chunk), BlockCount(count)};
    if (best->count.value() == wanted) break;
    at = *chunk + count;
  }
  return best;
}

std::optional<PlaceRun> Allocator::allocate_long(BlockCount wanted) {
  VSNAP_ASSERT(wanted.value() > 0);
  MutexLock lock(mutex_);
  for (const std::uint32_t index : members_by_free()) {
    Member& member = *members_[index];
    const auto run = longest_ahead(member, index, wanted.value());
    if (!run) continue;
    const std::uint64_t start = run->start.block();
    member.take(start, run->count.value());
    member.cursor = (start + run->count.value() + kChunk - 1) / kChunk * kChunk;
    return run;
  }
  return std::nullopt;
}

void Allocator::release(PlaceRun run) {
  MutexLock lock(mutex_);
  members_[run.start.member()]->give(run.start.block(), run.count.value());
}

void Allocator::set_durable(PlaceRun run, bool in_use) {
  MutexLock lock(mutex_);
  Member& member = *members_[run.start.member()];
  for (std::uint64_t i = run.start.block(); i < run.start.block() + run.count.value(); ++i) {
    VSNAP_ASSERT(member.taken.test(i) && member.durable.test(i) != in_use);
    member.durable.set(i, in_use);
    member.changed_groups.insert(i / format::kGroupBlocks);
  }
  member.durable_count =
      in_use ? member.durable_count + run.count.value() : member.durable_count - run.count.value();
}

std::vector<SpaceGroup> Allocator::take_changed_groups() {
  MutexLock lock(mutex_);
  std::vector<SpaceGroup> changed;
  for (std::uint32_t index = 0; index < members_.size(); ++index) {
    Member& member = *members_[index];
    for (const std::uint64_t group : member.changed_groups) {
      SpaceGroup row{index, group, std::vector<std::byte>(format::kGroupBlocks / 8)};
      const std::uint64_t first_word = group * format::kGroupBlocks / kWordBits;
      const std::uint64_t words = std::min(format::kGroupBlocks / kWordBits,
                                           (member.durable.bits() + kWordBits - 1) / kWordBits - first_word);
      for (std::uint64_t i = 0; i < words; ++i) {
        std::uint64_t word = member.durable.word(first_word + i);
        if constexpr (std::endian::native == std::endian::big) word = __builtin_bswap64(word);
        std::memcpy(row.bitmap.data() + i * sizeof word, &word, sizeof word);
      }
      changed.push_back(std::move(row));
    }
    member.changed_groups.clear();
  }
  return changed;
}

std::uint64_t Allocator::free_blocks() const {
  MutexLock lock(mutex_);
  std::uint64_t sum = 0;
  for (const auto& member : members_) sum += member->free;
  return sum;
}

std::uint64_t Allocator::free_blocks(std::uint32_t member) const {
  MutexLock lock(mutex_);
  return members_[member]->free;
}

std::uint64_t Allocator::durable_blocks() const {
  MutexLock lock(mutex_);
  std::uint64_t sum = 0;
  for (const auto& member : members_) sum += member->durable_count;
  return sum;
}

bool Allocator::is_durable(Place place) const {
  MutexLock lock(mutex_);
  return place.member() < members_.size() && place.block() < members_[place.member()]->durable.bits() &&
         members_[place.member()]->durable.test(place.block());
}

} // namespace vsnap
