// The I/O half of ModelPool.
#include "tests/support/model_view.h"

#include <algorithm>
#include <cstring>

namespace vsnap {
namespace {

// Calls each(block, offset in the block, length) for the blocks of [offset, offset + length).
template <class Each>
void for_each_block(std::uint64_t offset, std::uint64_t length, Each each) {
  for (std::uint64_t done = 0; done < length;) {
    const std::uint64_t at = (offset + done) % kBlockBytes;
    const std::uint64_t part = std::min(kBlockBytes - at, length - done);
    each((offset + done) / kBlockBytes, at, part);
    done += part;
  }
}

} // namespace

bool ModelView::writable() const {
  return object_->info.kind == ViewKind::volume || (object_->draining && !late_);
}

std::uint64_t ModelView::size_bytes() const {
  MutexLock lock(pool_.mutex_);
  return object_->info.size_bytes;
}

Result<> ModelView::may_change(std::uint64_t offset, std::uint64_t length) const {
  if (!writable()) return failure(ErrorKind::failed, EROFS, "a snapshot never changes");
  if (length > kMaxVolumeBytes || offset > kMaxVolumeBytes - length) {
    return failure(ErrorKind::usage, EFBIG, "past the largest size of a volume (8 EiB - 1)");
  }
  return {};
}

Result<> ModelView::stays_within(std::uint64_t end) const {
  if (!object_->adopted || end <= object_->info.size_bytes) return {};
  return failure(ErrorKind::usage, EFBIG, "past the end of an image");
}

Result<std::size_t> ModelView::read(std::uint64_t offset, std::span<std::byte> out) {
  MutexLock lock(pool_.mutex_);
  const std::uint64_t size = object_->info.size_bytes;
  if (offset >= size) return 0U;
  const std::uint64_t length = std::min<std::uint64_t>(out.size(), size - offset);
  std::byte* to = out.data();
  for_each_block(offset, length, [&](std::uint64_t block, std::uint64_t at, std::uint64_t part) {
    const auto found = object_->blocks.find(block);
    if (found == object_->blocks.end()) {
      std::memset(to, 0, part);
    } else {
      std::memcpy(to, found->second.content.data() + at, part);
    }
    to += part;
  });
  return static_cast<std::size_t>(length);
}

Result<> ModelView::write(std::uint64_t offset, std::span<const std::byte> data) {
  std::function<void()> hook;
  {
    MutexLock lock(pool_.mutex_);
    hook = pool_.before_write_;
  }
  if (hook) hook();
  MutexLock lock(pool_.mutex_);
  VSNAP_TRY(pool_.wait_while_paused(object_->info.id, offset));
  VSNAP_TRY(may_change(offset, data.size()));
  if (data.empty()) return {};
  VSNAP_TRY(stays_within(offset + data.size()));
  VSNAP_TRY(pool_.make_room(*object_, offset / kBlockBytes, (offset + data.size() - 1) / kBlockBytes));
  const std::byte* from = data.data();
  pool_.hide_below(*object_, offset + data.size());
  pool_.decide_end(*object_, offset > object_->info.size_bytes);
  for_each_block(offset, data.size(), [&](std::uint64_t block, std::uint64_t at, std::uint64_t part) {
    pool_.decide(*object_, block);
    std::memcpy(pool_.block_for_writing(*object_, block).content.data() + at, from, part);
    from += part;
  });
  object_->info.size_bytes = std::max(object_->info.size_bytes, offset + data.size());
  object_->info.modified_ns = Env::real().wall_clock_ns();
  pool_.show_through(*object_, offset / kBlockBytes, (offset + data.size() - 1) / kBlockBytes);
  return {};
}

Result<> ModelView::discard(std::uint64_t offset, std::uint64_t length) {
  MutexLock lock(pool_.mutex_);
  VSNAP_TRY(may_change(0, 0));
  const std::uint64_t size = object_->info.size_bytes;
  if (offset >= size || length == 0) return {};
  length = std::min(length, size - offset);
  for_each_block(offset, length, [&](std::uint64_t block, std::uint64_t at, std::uint64_t part) {
    const auto found = object_->blocks.find(block);
    if (found == object_->blocks.end()) return;
    if (object_->adopted) {
      std::memset(pool_.block_for_writing(*object_, block).content.data() + at, 0, part);
      return;
    }
    const bool to_its_end = at + part == kBlockBytes || block * kBlockBytes + at + part == size;
    if (at == 0 && to_its_end) {
      pool_.decide(*object_, block);
      object_->blocks.erase(found);
    } else if (pool_.may_show(*object_, *found)) {
      pool_.decide(*object_, block);
      std::memset(pool_.block_for_writing(*object_, block).content.data() + at, 0, part);
    }
  });
  object_->info.modified_ns = Env::real().wall_clock_ns();
  pool_.show_through(*object_, offset / kBlockBytes, (offset + length - 1) / kBlockBytes);
  return {};
}

Result<> ModelView::reserve(std::uint64_t offset, std::uint64_t length, bool extend) {
  MutexLock lock(pool_.mutex_);
  VSNAP_TRY(may_change(offset, length));
  const std::uint64_t end = extend ? offset + length : std::min(offset + length, object_->info.size_bytes);
  if (length == 0 || offset >= end) return {};
  VSNAP_TRY(stays_within(end));
  VSNAP_TRY(pool_.make_room(*object_, offset / kBlockBytes, (end - 1) / kBlockBytes));
  pool_.hide_below(*object_, end);
  pool_.decide_end(*object_, end > object_->info.size_bytes);
  for (std::uint64_t block = offset / kBlockBytes; block <= (end - 1) / kBlockBytes; ++block) {
    if (object_->blocks.contains(block)) continue;
    pool_.decide(*object_, block);
    pool_.block_for_writing(*object_, block).reserved = true;
  }
  object_->info.size_bytes = std::max(object_->info.size_bytes, end);
  pool_.show_through(*object_, offset / kBlockBytes, (end - 1) / kBlockBytes);
  return {};
}

Result<std::optional<std::uint64_t>> ModelView::seek_data(std::uint64_t offset) {
  MutexLock lock(pool_.mutex_);
  for (auto it = object_->blocks.lower_bound(offset / kBlockBytes); it != object_->blocks.end(); ++it) {
    if (it->second.reserved) continue;
    const std::uint64_t found = std::max(offset, it->first * kBlockBytes);
    if (found >= object_->info.size_bytes) break;
    return std::optional(found);
  }
  return std::optional<std::uint64_t>();
}

Result<std::optional<std::uint64_t>> ModelView::seek_hole(std::uint64_t offset) {
  MutexLock lock(pool_.mutex_);
  if (offset >= object_->info.size_bytes) return std::optional<std::uint64_t>();
  std::uint64_t block = offset / kBlockBytes;
  for (auto it = object_->blocks.find(block); it != object_->blocks.end() && it->first == block;
       ++it, ++block) {
    if (it->second.reserved) break;
  }
  return std::optional(std::min(std::max(offset, block * kBlockBytes), object_->info.size_bytes));
}

} // namespace vsnap
