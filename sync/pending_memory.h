// Changes of maps that this host has made and not handed over (pending_blocks.h), in shared memory: so they
// outlive its daemon, but not the machine's boot. The next process of the host hands them over.
//
// Invariants
// 1. A slot that is taken is whole: it is marked last of all, and the mark goes first. Writers and readers of
//    the same machine see stores in order, whether the writer lives or not.
// 2. Memory is reserved when it is made, and a slot before it is needed: put() never fails.
// 3. What was made in another boot counts for nothing: what it speaks of was never flushed.
// 4. It stays until it is removed, or another is made by its name: by who has handed over what it held.
// Threads: any.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/env.h"
#include "core/mutex.h"
#include "core/units.h"

namespace vsnap {

struct PendingChange { // the block lies there
  ObjectId volume;
  std::uint64_t delegation = 0;
  BlockIndex block;
  Place place;
  bool operator==(const PendingChange&) const = default;
};

class PendingMemory {
 public:
  static constexpr std::size_t kSlots = 65'536;

  // In place of what had the name.
  [[nodiscard]] static Result<std::unique_ptr<PendingMemory>> make(Env& env, std::string name);
  // What a process before this one has left, by volume, delegation and block. Waits a moment for one that is
  // being killed.
  [[nodiscard]] static Result<std::vector<PendingChange>> left(Env& env, const std::string& name);

  [[nodiscard]] bool reserve(std::size_t slots) VSNAP_EXCLUDES(mutex_); // false: so many are not free
  void give_up(std::size_t slots) VSNAP_EXCLUDES(mutex_);               // that were reserved
  // Into one that was reserved; its number.
  [[nodiscard]] std::uint32_t put(const PendingChange& change) VSNAP_EXCLUDES(mutex_);
  void clear(std::uint32_t slot) VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] bool is_empty() VSNAP_EXCLUDES(mutex_);
  void remove(); // its name

 private:
  PendingMemory(Env& env, std::string name, std::unique_ptr<SharedMemory> memory);
  Env& env_;
  const std::string name_;
  const std::unique_ptr<SharedMemory> memory_;
  Mutex mutex_; // a leaf
  std::vector<std::uint32_t> free_ VSNAP_GUARDED_BY(mutex_);
  std::size_t reserved_ VSNAP_GUARDED_BY(mutex_) = 0; // of those
};

} // namespace vsnap
