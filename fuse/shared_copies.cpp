#include "fuse/shared_copies.h"

#include <algorithm>
#include <climits>

#include "core/log.h"
#include "fuse/request_channel.h"

namespace vsnap {
namespace {

constexpr std::uint64_t kLongestChunk = UINT_MAX & ~4095ULL; // what the kernel cuts a longer request to

} // namespace

std::optional<std::uint64_t> SharedCopies::copy(View& from, View& to, std::uint64_t from_offset,
                                                std::uint64_t to_offset, std::uint64_t length) {
  if (from_offset != to_offset || from.id() == to.id() || length == 0) return std::nullopt;
  MutexLock lock(mutex_);
  return from_offset == 0 ? begin(from, to, length) : go_on(from, to, from_offset, length);
}

std::optional<std::uint64_t> SharedCopies::begin(View& from, View& to, std::uint64_t length) {
  const std::uint64_t size = from.size_bytes();
  if (size == 0 || (length < size && length != kLongestChunk) || to.size_bytes() > size) return std::nullopt;
  // It may come again, after a process that had done it died: then nothing is left to be done.
  const bool was_done =
      current_request().again && to.size_bytes() == size && pool_.shares_all_of(to.id(), from.id());
  const Result<ViewInfo> target = pool_.info(to.id());
  if (!target || (target->used_bytes != 0 && !was_done)) return std::nullopt;
  // Counted before the extents are shared: a write of the source that ends later than this sees it and
  // settles.
  count_ = copies_.size() + 1;
  const std::uint64_t done = std::min(length, size);
  const bool has_room = done == size || state_.put_copy({to.id(), from.id(), done, size});
  Result<> shared;
  if (has_room && !was_done) shared = pool_.share_into(from.id(), to.id());
  if (has_room && shared && done < size) {
    copies_[to.id()] = {from.id(), done, size};
    count_ = copies_.size();
  } else {
    forget(to.id());
  }
  if (!has_room || !shared) return std::nullopt; // the kernel copies; a real fault shows up there again
  return done;
}

std::optional<std::uint64_t> SharedCopies::go_on(View& from, View& to, std::uint64_t offset,
                                                 std::uint64_t length) {
  const auto found = copies_.find(to.id());
  if (found == copies_.end()) return std::nullopt;
  Copy& copy = found->second;
  const std::uint64_t size = copy.size_bytes;
  const bool unchanged =
      from.size_bytes() == size && to.size_bytes() == size && pool_.shares_all_of(to.id(), from.id());
  const std::uint64_t done = std::min(length, size - offset);
  // One that comes again may have been counted, by a process that died before it could say so.
  const bool was_counted = current_request().again && copy.done_bytes == offset + done;
  if (copy.from != from.id() || (copy.done_bytes != offset && !was_counted) || !unchanged) {
    cut(to.id(), copy);
    forget(to.id());
    return std::nullopt;
  }
  copy.done_bytes = offset + done;
  state_.set_copied(to.id(), copy.done_bytes);
  if (copy.done_bytes == size && !was_counted) forget(to.id());
  return done;
}

void SharedCopies::settle_slow(ObjectId id) {
  MutexLock lock(mutex_);
  for (auto it = copies_.begin(); it != copies_.end();) {
    if (it->first != id && it->second.from != id) {
      ++it;
      continue;
    }
    cut(it->first, it->second);
    state_.remove_copy(it->first);
    it = copies_.erase(it);
  }
  count_ = copies_.size();
}

void SharedCopies::forget(ObjectId to) {
  state_.remove_copy(to);
  copies_.erase(to);
  count_ = copies_.size();
}

bool SharedCopies::is_whole(ObjectId to, const Copy& copy) {
  const auto info = pool_.info(to);
  return info && info->size_bytes == copy.size_bytes && pool_.shares_all_of(to, copy.from);
}

// Where the predecessor died before it had shared anything, its request comes again.
void SharedCopies::restore() {
  MutexLock lock(mutex_);
  for (const MountState::Copy& kept : state_.copies()) {
    const Copy copy{kept.from, kept.done_bytes, kept.size_bytes};
    if (is_whole(kept.to, copy))
      copies_[kept.to] = copy;
    else
      state_.remove_copy(kept.to);
  }
  count_ = copies_.size();
}

void SharedCopies::cut(ObjectId to, const Copy& copy) {
  const Result<ViewInfo> info = pool_.info(to);
  if (!info || info->name.volume.empty() || info->size_bytes != copy.size_bytes) return;
  const Result<> result = pool_.resize(info->id, copy.done_bytes, true);
  if (!result) {
    log::error("{}: a copy that was given up could not be cut: {}", info->name.text(),
               result.error().message);
  }
}

std::optional<std::uint64_t> SharedCopies::size_so_far(ObjectId id) {
  if (count_.load() == 0) return std::nullopt;
  MutexLock lock(mutex_);
  const auto found = copies_.find(id);
  return found == copies_.end() ? std::nullopt : std::optional(found->second.done_bytes);
}

} // namespace vsnap
