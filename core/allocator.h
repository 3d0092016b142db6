// Which blocks of the members are taken, and where the next ones go.
//
// Two bitmaps for each member. `taken` is the truth of this moment: a block that is set belongs to somebody,
// or did so until an operation that is not durable yet. `durable` is what the catalog's space table says
// (data only: header and metadata segments are known from the superblock).
//
// What hosts were granted (granted_space.h) is taken and not durable, as it belongs to no row of the extent
// index; rows of its own say what is to be taken again after a crash.
//
// Invariants
// 1. A block is handed out only while its `taken` bit is clear, and the bit is set before anyone gets it.
// 2. durable ⊆ taken. A block in durable belongs to exactly one row of the extent index, in the same
//    transaction.
// 3. A freed block becomes allocatable only by release(), which is called after the transaction that freed it
//    is durable and no I/O that could still touch it is in flight.
// Placement: a neighbourhood (64 KiB) of a view that is written bit by bit gets an aligned chunk of 16 free
// blocks and puts each block at its own position in it; chunks that are in part taken are used by others only
// when no wholly free one is left. So a volume written at random reads in runs, without a reservation that
// would have to be remembered.
// Threads: any; one internal lock, held for short.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/mutex.h"
#include "core/units.h"

namespace vsnap {

struct SpaceGroup { // one row of the space table
  std::uint32_t member = 0;
  std::uint64_t group = 0;       // blocks [group * 32768, ...)
  std::vector<std::byte> bitmap; // 4096 bytes, bit i (low bit first) = block i is in use
};

class Allocator {
 public:
  Allocator();
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  // All of the member beyond `header_blocks` is free. Members are added in order of their index.
  void add_member(std::uint64_t blocks, std::uint64_t header_blocks);
  // At open: what the catalog and the superblock say. False: outside the member, or taken already.
  [[nodiscard]] bool load_group(const SpaceGroup& group);
  // At open: metadata, and what a record of the journal names. False, and nothing is taken: not all of it is
  // there and free.
  [[nodiscard]] bool take(PlaceRun run);

  // Up to `wanted` blocks next to each other, at least one; nullopt: no space. `near`: try exactly this place
  // first. `phase`: position of the first block within its neighbourhood, 0 to 15.
  [[nodiscard]] std::optional<PlaceRun> allocate(BlockCount wanted, std::optional<Place> near,
                                                 std::uint64_t phase);
  // The same on one of these members, that with the most free space first.
  [[nodiscard]] std::optional<PlaceRun> allocate_among(std::span<const std::uint32_t> members,
                                                       BlockCount wanted, std::uint64_t phase);
  // The longest of the free runs found up to `wanted`, at least `minimum` blocks; for metadata segments. Not
  // on the member `apart_from`, if there is another with space.
  [[nodiscard]] std::optional<PlaceRun> allocate_segment(
      BlockCount minimum, BlockCount wanted, std::optional<std::uint32_t> apart_from = std::nullopt);
  // A long run, up to `wanted`, that begins with a chunk: the longest of some that lie ahead. nullopt: no
  // chunk is wholly free.
  [[nodiscard]] std::optional<PlaceRun> allocate_long(BlockCount wanted);
  void release(PlaceRun run);

  // Inside a catalog transaction: the run belongs to a row now / does no longer.
  void set_durable(PlaceRun run, bool in_use);
  // Groups whose durable bitmap changed since the last call; to be stored by the same transaction.
  [[nodiscard]] std::vector<SpaceGroup> take_changed_groups();

  [[nodiscard]] std::uint64_t free_blocks() const;
  [[nodiscard]] std::uint64_t free_blocks(std::uint32_t member) const;
  [[nodiscard]] std::uint64_t durable_blocks() const;
  [[nodiscard]] bool is_durable(Place place) const;

 private:
  struct Member;
  [[nodiscard]] std::optional<PlaceRun> allocate_on(Member& member, std::uint32_t index, std::uint64_t wanted,
                                                    std::uint64_t phase) VSNAP_REQUIRES(mutex_);
  [[nodiscard]] static std::optional<PlaceRun> longest_ahead(const Member& member, std::uint32_t index,
                                                             std::uint64_t wanted);
  [[nodiscard]] std::vector<std::uint32_t> members_by_free() const VSNAP_REQUIRES(mutex_);

  mutable Mutex mutex_;
  std::vector<std::unique_ptr<Member>> members_ VSNAP_GUARDED_BY(mutex_);
  std::uint32_t current_ VSNAP_GUARDED_BY(mutex_) = 0;
};

} // namespace vsnap
