#include "sync/pending_memory.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <tuple>
#include <utility>

#include "core/assert.h"
#include "core/log.h"

namespace vsnap {
namespace {

constexpr std::uint64_t kMagic = 0x31444E455050534E; // "NSPPEND1"
constexpr std::size_t kHeaderBytes = 4096;

struct Header {
  std::atomic<std::uint64_t> magic{0}; // last of all to be written
  std::uint64_t slots = PendingMemory::kSlots;
  std::array<char, 64> boot_id{};
};
struct Slot {
  std::atomic<std::uint64_t> is_taken{0};
  std::uint64_t volume = 0;
  std::uint64_t delegation = 0;
  std::uint64_t block = 0;
  std::uint64_t place = 0; // packed
};
constexpr std::size_t kSegmentBytes = kHeaderBytes + PendingMemory::kSlots * sizeof(Slot);
static_assert(sizeof(Header) <= kHeaderBytes && std::atomic<std::uint64_t>::is_always_lock_free);

Header& header_of(SharedMemory& memory) {
  return *reinterpret_cast<Header*>(memory.bytes().data()); // NOLINT: aligned to a page
}
Slot* slots_of(SharedMemory& memory) {
  return reinterpret_cast<Slot*>(memory.bytes().data() + kHeaderBytes); // NOLINT: aligned to a page
}

bool is_sound(SharedMemory& memory, const std::string& boot_id) {
  if (memory.bytes().size() != kSegmentBytes) return false; // of another version, or never finished
  const Header& header = header_of(memory);
  return header.magic.load(std::memory_order_acquire) == kMagic && header.slots == PendingMemory::kSlots &&
         std::string(header.boot_id.data(), ::strnlen(header.boot_id.data(), header.boot_id.size())) ==
             boot_id;
}

} // namespace

PendingMemory::PendingMemory(Env& env, std::string name, std::unique_ptr<SharedMemory> memory)
    : env_(env), name_(std::move(name)), memory_(std::move(memory)) {
  free_.reserve(kSlots); // clear() does not fail
  for (std::size_t slot = kSlots; slot > 0; --slot) free_.push_back(static_cast<std::uint32_t>(slot - 1));
}

Result<std::unique_ptr<PendingMemory>> PendingMemory::make(Env& env, std::string name) {
  VSNAP_TRY_ASSIGN(auto memory, env.make_shared_memory(name, kSegmentBytes));
  VSNAP_ASSERT(memory->bytes().size() == kSegmentBytes);
  Header& header = *std::construct_at(&header_of(*memory));
  const std::string boot_id = env.boot_id();
  std::memcpy(header.boot_id.data(), boot_id.data(), std::min(boot_id.size(), header.boot_id.size() - 1));
  for (std::size_t slot = 0; slot < kSlots; ++slot) std::construct_at(slots_of(*memory) + slot);
  header.magic.store(kMagic, std::memory_order_release);
  return std::unique_ptr<PendingMemory>(new PendingMemory(env, std::move(name), std::move(memory)));
}

Result<std::vector<PendingChange>> PendingMemory::left(Env& env, const std::string& name) {
  std::vector<PendingChange> found;
  auto memory = env.open_shared_memory(name);
  if (!memory) {
    if (memory.error().kind == ErrorKind::not_found) return found;
    return Failure(memory.error());
  }
  if (!is_sound(**memory, env.boot_id())) {
    log::warning("{}: not used: from before the machine was started, or of another version", name);
    return found;
  }
  // One that goes on has no session any more, as this process has one.
  if (!hold_soon(env, **memory)) log::warning("{}: the daemon before has not let go of it", name);
  for (std::size_t i = 0; i < kSlots; ++i) {
    const Slot& slot = slots_of(**memory)[i];
    if (slot.is_taken.load(std::memory_order_acquire) == 0) continue;
    found.push_back(
        {ObjectId(slot.volume), slot.delegation, BlockIndex(slot.block), Place::unpack(slot.place)});
  }
  const auto order = [](const PendingChange& change) {
    return std::tuple(change.volume, change.delegation, change.block);
  };
  std::sort(found.begin(), found.end(), [&](const auto& a, const auto& b) { return order(a) < order(b); });
  return found;
}

bool PendingMemory::reserve(std::size_t slots) {
  MutexLock lock(mutex_);
  if (free_.size() - reserved_ < slots) return false;
  reserved_ += slots;
  return true;
}

void PendingMemory::give_up(std::size_t slots) {
  MutexLock lock(mutex_);
  reserved_ -= slots;
}

std::uint32_t PendingMemory::put(const PendingChange& change) {
  MutexLock lock(mutex_);
  VSNAP_ASSERT(reserved_ > 0);
  --reserved_;
  const std::uint32_t number = free_.back();
  free_.pop_back();
  Slot& slot = slots_of(*memory_)[number];
  slot.volume = change.volume.value();
  slot.delegation = change.delegation;
  slot.block = change.block.value();
  slot.place = change.place.packed();
  slot.is_taken.store(1, std::memory_order_release);
  return number;
}

void PendingMemory::clear(std::uint32_t slot) {
  MutexLock lock(mutex_);
  slots_of(*memory_)[slot].is_taken.store(0, std::memory_order_release);
  std::atomic_thread_fence(std::memory_order_seq_cst); // before the slot is written to again
  free_.push_back(slot);
}

bool PendingMemory::is_empty() {
  MutexLock lock(mutex_);
  return free_.size() == kSlots;
}

void PendingMemory::remove() { env_.remove_shared_memory(name_); }

} // namespace vsnap
