// Images of adopted volumes beside the members: the same reads, writes and flushes, within the image's size.
#include <fmt/format.h>
#include <algorithm>
#include <cstring>

#include "core/assert.h"
#include "core/frozen_file.h"
#include "core/member_set.h"

namespace vsnap {
namespace {

std::size_t index_of(std::uint32_t member) {
  VSNAP_ASSERT(member >= Place::kFirstBase && member < Place::kFirstBase + Place::kMaxBases);
  return member - Place::kFirstBase;
}

} // namespace

void MemberSet::attach_base(std::uint32_t member, const std::string& path, std::unique_ptr<File> file) {
  if (frozen()) file = std::make_unique<FrozenFile>(std::move(file));
  std::shared_ptr<Slot> slot = make_slot(path, std::move(file));
  slot->size_bytes.store(slot->file->size_bytes());
  MutexLock lock(bases_mutex_);
  auto& kept = bases_[index_of(member)];
  VSNAP_ASSERT(!kept);
  kept = std::move(slot);
  base_slots_[index_of(member)].store(kept.get(), std::memory_order_release);
}

void MemberSet::detach_base(std::uint32_t member) {
  std::shared_ptr<Slot> gone; // closed without the lock, and once a flush that goes on has ended
  MutexLock lock(bases_mutex_);
  base_slots_[index_of(member)].store(nullptr, std::memory_order_release);
  gone.swap(bases_[index_of(member)]);
}

bool MemberSet::has_base(std::uint32_t member) const {
  return base_slots_[index_of(member)].load(std::memory_order_acquire) != nullptr;
}

Result<MemberSet::Slot*> MemberSet::base_slot(std::uint32_t member) const {
  Slot* const slot = base_slots_[index_of(member)].load(std::memory_order_acquire);
  if (slot != nullptr) return slot;
  return failure(ErrorKind::failed, EIO, "the image of the adopted volume is missing (vsnap ls)");
}

File& MemberSet::base(std::uint32_t member) {
  Slot* const slot = base_slots_[index_of(member)].load(std::memory_order_acquire);
  VSNAP_ASSERT(slot != nullptr);
  return *slot->file;
}

Result<> MemberSet::read_base(Place place, std::uint64_t offset_bytes, std::span<std::byte> out) {
  VSNAP_TRY_ASSIGN(Slot* const slot, base_slot(place.member()));
  const std::uint64_t at = place.block() * kBlockBytes + offset_bytes;
  const std::uint64_t size = slot->size_bytes.load(std::memory_order_acquire);
  const std::size_t there = std::min<std::uint64_t>(out.size(), size > at ? size - at : 0);
  std::memset(out.data() + there, 0, out.size() - there);
  return there > 0 ? slot->file->read_at(at, out.first(there)) : Result<>();
}

Result<File::Progress> MemberSet::start_base_read(Place place, std::uint64_t offset_bytes,
                                                  std::span<std::byte> out, File::Done done) {
  VSNAP_TRY_ASSIGN(Slot* const slot, base_slot(place.member()));
  const std::uint64_t at = place.block() * kBlockBytes + offset_bytes;
  if (at + out.size() <= slot->size_bytes.load(std::memory_order_acquire))
    return slot->file->start_read(at, out, std::move(done));
  VSNAP_TRY(read_base(place, offset_bytes, out));
  return File::Progress::finished;
}

Result<> MemberSet::write_base(Place place, std::uint64_t offset_bytes, std::span<const std::byte> data) {
  VSNAP_TRY_ASSIGN(Slot* const slot, base_slot(place.member()));
  const std::uint64_t at = place.block() * kBlockBytes + offset_bytes;
  const std::uint64_t size = slot->size_bytes.load(std::memory_order_acquire);
  data = data.first(std::min<std::uint64_t>(data.size(), size > at ? size - at : 0));
  if (data.empty()) return {};
  VSNAP_TRY(slot->file->write_at(at, data));
  slot->writes.fetch_add(1, std::memory_order_release);
  return {};
}

Result<> MemberSet::zero_base(PlaceRun run) {
  VSNAP_TRY_ASSIGN(Slot* const slot, base_slot(run.start.member()));
  const std::uint64_t at = run.start.block() * kBlockBytes;
  const std::uint64_t size = slot->size_bytes.load(std::memory_order_acquire);
  if (at >= size) return {};
  VSNAP_TRY(slot->file->zero(at, std::min(bytes(run.count), size - at)));
  slot->writes.fetch_add(1, std::memory_order_release);
  return {};
}

Result<> MemberSet::resize_base(std::uint32_t member, std::uint64_t size_bytes) {
  VSNAP_TRY_ASSIGN(Slot* const slot, base_slot(member));
  VSNAP_TRY(slot->file->resize(size_bytes));
  slot->size_bytes.store(size_bytes, std::memory_order_release);
  slot->writes.fetch_add(1, std::memory_order_release);
  return {};
}

Result<> MemberSet::flush_base(std::uint32_t member) {
  std::shared_ptr<Slot> slot;
  {
    MutexLock lock(bases_mutex_);
    slot = bases_[index_of(member)];
  }
  if (!slot) return {};
  VSNAP_TRY(check_flushes());
  return flush_member(*slot);
}

Result<> MemberSet::flush_bases() {
  for (std::uint32_t i = 0; i < Place::kMaxBases; ++i) {
    if (has_base(Place::kFirstBase + i)) VSNAP_TRY(flush_base(Place::kFirstBase + i));
  }
  return {};
}

} // namespace vsnap
