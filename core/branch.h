// A branch in memory: a line of versions that at most one volume writes to, and that snapshots and clones
// look at.
//
// Invariants
// 1. `number` is higher than every pin; `floor` is the highest pin, or kNoFloor.
// 2. A row of the extent index belongs to the head alone exactly when it was born after `floor`.
// 3. number, floor, pins, parent and base change under the commit lock with the gate closed; parent and base
//    also under the database's lock, where maps are loaded, and they, pins and has_head under the mutex of
//    Objects.
//    Writers inside the gate may read number and floor as they like.
#pragma once

#include <atomic>
#include <optional>
#include <set>
#include <string>

#include "core/full_copy.h"
#include "core/io_gate.h"
#include "core/map_change.h"
#include "core/units.h"

namespace vsnap {

// Who sees versions of a branch.
struct Viewers {
  bool has_head = false;             // a volume writes to it
  std::multiset<std::uint64_t> pins; // numbers that snapshots and clones see

  [[nodiscard]] bool unseen() const { return !has_head && pins.empty(); }
  // Does any view see a version that was born at `born` and overtaken at `overtaken` (nullopt: it is the
  // newest)?
  [[nodiscard]] bool seen(std::uint64_t born, std::optional<std::uint64_t> overtaken) const {
    if (!overtaken && has_head) return true;
    const auto pin = pins.lower_bound(born);
    return pin != pins.end() && (!overtaken || *pin < *overtaken);
  }
};

// Where the blocks of an adopted volume lie as long as nothing else is known of them: each at its own number
// in the image (copy_out.h).
struct BranchBase {
  std::uint32_t member = 0; // of a Place; 0: none, the branch is that of a thin volume
  std::uint64_t blocks = 0; // of the image when it was adopted; those that it grew by later have rows
  std::string path = {};    // under the mutex of Objects
  // The catalog says that the image is being changed, as of this moment; 0: it does not.
  std::atomic<std::int64_t> marked_ns{0};
  std::string problem = {}; // why the image cannot be used; under the mutex of Objects
};

struct Branch : Viewers {
  BranchId id;
  Branch* parent = nullptr;
  Version parent_number;
  // The parent is the head of a first image that is still written to (image_pair.h): it has no number to be
  // seen at yet, is not pinned, and its rows are not part of this branch's maps. Changes as `parent` does.
  std::atomic<bool> parent_draining{false};
  [[nodiscard]] Branch* seen_parent() const { return parent_draining.load() ? nullptr : parent; }
  std::atomic<std::uint64_t> number{1};
  std::atomic<std::int64_t> floor{kNoFloor};
  std::atomic<std::int64_t> mapped{0}; // blocks mapped in the head
  IoGate gate;
  bool flattening = false; // under the mutex of Objects
  std::optional<FullCopy> copy; // of what the parent has; under the mutex of Objects
  BranchBase base;
  // One that is under way, and for somebody: a full-sized snapshot, or the volume that it became.
  [[nodiscard]] bool being_copied() const {
    return copy && !copy->finished() && (copy->snapshot || has_head);
  }

  [[nodiscard]] Version version() const { return Version(number.load(std::memory_order_acquire)); }
  [[nodiscard]] bool adopted() const { return base.member != 0; }
  [[nodiscard]] Place identity(BlockIndex block) const { return {base.member, block.value()}; }
  [[nodiscard]] bool covers(BlockIndex block) const { return adopted() && block.value() < base.blocks; }
  void set_floor() { floor.store(pins.empty() ? kNoFloor : static_cast<std::int64_t>(*pins.rbegin())); }
};

} // namespace vsnap
