// Brings saved versions of an adopted volume to the extent index.
//
// The newest version of a block lies in the image, in an explicit row or, as long as there is no row at all,
// without one. A change says that what was there before version `born` has been saved at a place of the pool.
// So the row of the newest version moves to that place (where there was none it gets one, born at 0), and a
// row with the new version says that the image has it from now on. Where it held zeros the place is none
// (zeros.h).
//
// A version that was born after the change's floor is seen by nobody but the head: it is overwritten without
// being kept. As a rule no change says such a thing; one does after a crash, when a snapshot that was never
// confirmed is gone, for which it was saved (recovery.cpp).
#include <array>

#include "core/assert.h"
#include "core/extent_index.h"

namespace vsnap {
namespace {

constexpr int kCorrupt = 11; // SQLITE_CORRUPT

// The rows of one region, and of each block which of them is the newest.
class Newest {
 public:
  Newest(std::vector<ExtentRow> rows, RegionIndex region)
      : rows_(std::move(rows)), base_(first_block(region)) {
    newest_.fill(kNone);
    for (std::size_t i = 0; i < rows_.size(); ++i) note(i);
  }
  // nullptr: none, the image has the block since ever.
  [[nodiscard]] const ExtentRow* at(BlockIndex block) const {
    const std::uint32_t found = newest_[(block - base_).value()];
    return found == kNone ? nullptr : &rows_[found];
  }
  [[nodiscard]] bool same(BlockIndex a, BlockIndex b) const {
    return newest_[(a - base_).value()] == newest_[(b - base_).value()];
  }
  void add(const ExtentRow& row) {
    rows_.push_back(row);
    note(rows_.size() - 1);
  }

 private:
  static constexpr std::uint32_t kNone = ~0U;
  void note(std::size_t index) {
    const ExtentRow& row = rows_[index];
    for (std::uint64_t i = 0; i < row.count.value(); ++i) {
      std::uint32_t& newest = newest_[(row.start - base_).value() + i];
      if (newest == kNone || rows_[newest].born <= row.born) newest = static_cast<std::uint32_t>(index);
    }
  }

  std::vector<ExtentRow> rows_;
  BlockIndex base_;
  std::array<std::uint32_t, kRegionBlocks> newest_{};
};

} // namespace

void ExtentIndex::apply_copy_outs(std::span<const MapChange> changes, std::uint32_t base_member,
                                  Allocator& allocator, CopiedOut& places) {
  if (changes.empty()) return;
  const BranchId branch = changes.front().branch;
  const RegionIndex region = region_of(changes.front().start);
  const auto newest = std::make_unique<Newest>(rows(branch, region), region);
  const auto keep = [&](const ExtentRow& row) {
    insert(branch, row);
    newest->add(row);
  };
  for (const MapChange& change : changes) {
    const BlockIndex end = change.start + change.count;
    for (BlockIndex from = change.start; from < end;) {
      BlockIndex to = from + BlockCount(1);
      while (to < end && newest->same(from, to)) to = to + BlockCount(1);
      const PlaceRun saved{change.place + (from - change.start), to - from};
      const ExtentRow* const old = newest->at(from);
      if (static_cast<std::int64_t>(old == nullptr ? 0 : old->born) > change.floor) {
        if (saved.start.in_pool()) places.unused.push_back(saved);
        from = to;
        continue;
      }
      const std::uint64_t born = old == nullptr ? 0 : old->born;
      if (old != nullptr) {
        const ExtentRow whole = *old;
        if (!whole.place.is_base()) throw SQLite::Exception("extent row: not in its image", kCorrupt);
        remove(branch, whole);
        if (whole.start < from) keep(whole.part(whole.start, from));
        if (to < whole.end()) keep(whole.part(to, whole.end()));
      }
      insert(branch, {from, born, saved.count, change.kind, saved.start});
      if (saved.start.in_pool()) {
        allocator.set_durable(saved, true);
        places.added.push_back(saved);
      }
      keep({from, change.born.value(), saved.count, BlockKind::data, Place(base_member, from.value())});
      from = to;
    }
  }
}

} // namespace vsnap
