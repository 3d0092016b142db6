// Reads and writes of an adopted volume, and reads of snapshots and clones that look at its image: see
// copy_out.h.
#include <fmt/format.h>
#include <array>
#include <atomic>
#include <cstring>

#include "core/assert.h"
#include "core/names.h"
#include "core/planted.h"
#include "core/volume_change.h"

namespace vsnap {
namespace {

constexpr std::array<std::byte, kBlockBytes> kZeros{};

} // namespace

Result<> VolumeIo::prepare_image(std::uint64_t end) {
  if (end > size_bytes()) {
    return failure(ErrorKind::usage, EFBIG,
                   fmt::format("beyond the end of an image of {} (vsnap resize makes it larger)",
                               format_size(size_bytes())));
  }
  return engine_.mark_base(*map_.branch);
}

// Holds the range, saves what others see of it, and goes on with `then`.
template <class Then>
Result<> VolumeIo::save_range(const Span& span, Then then) {
  for (;;) {
    VSNAP_TRY_ASSIGN(Region * region, engine_.cache().get(map_, span.region));
    if (!planted(Fault::own_not_refreshed)) region->refresh_own(map_.branch->version());
    const auto range = copy_out_.range_for(*region, {span.first_block(), span.end_block()});
    const RangeLock held(*region, range.from, range.to);
    if (!held.held()) continue; // taken out of the cache meanwhile
    VSNAP_TRY(copy_out_.save(map_, *region, range));
    return then(*region);
  }
}

// Changes the range once what others see of it is saved, durably.
template <class Change>
Result<> VolumeIo::change_image(const Span& span, Change change) {
  const CopyOut::Change under_way(copy_out_);
  return save_range(span, [&](const Region& region) -> Result<> {
    VSNAP_TRY(copy_out_.settle(map_, region, {span.first_block(), span.end_block()}));
    return change();
  });
}

Result<> VolumeIo::write_image(const Span& span, std::span<const std::byte> data) {
  return change_image(span, [&]() -> Result<> {
    const std::uint64_t block = span.first_block();
    const Place place = map_.branch->identity(first_block(span.region) + BlockCount(block));
    auto written = engine_.members().write(place, span.from - block * kBlockBytes, data);
    if (!planted(Fault::write_error_ignored)) return written;
    return {};
  });
}

// Reads as zeros from then on; whole blocks give their space back to whatever the image lies on.
Result<> VolumeIo::zero_image(std::uint64_t from, std::uint64_t to) {
  VSNAP_TRY(prepare_image(to));
  const bool to_the_end = to == size_bytes(); // the last block, too, goes as a whole
  VSNAP_TRY(change(from, to - from, [&](const Span& span, std::uint64_t done) -> Result<> {
    const bool last = to_the_end && from + done + (span.to - span.from) == to;
    return change_image(span, [&]() -> Result<> {
      for (std::uint64_t block = span.first_block(); block < span.end_block();) {
        const Place place = map_.branch->identity(first_block(span.region) + BlockCount(block));
        std::uint64_t end = block;
        while (end < span.end_block() && (span.whole(end) || (last && end + 1 == span.end_block() &&
                                                              span.begin_in(end) == end * kBlockBytes)))
          ++end;
        if (end > block) {
          VSNAP_TRY(engine_.members().zero_base({place, BlockCount(end - block)}));
          block = end;
          continue;
        }
        const std::uint64_t begin = span.begin_in(block);
        VSNAP_TRY(engine_.members().write(place, begin % kBlockBytes,
                                          std::span(kZeros).first(span.end_in(block) - begin)));
        ++block;
      }
      return {};
    });
  }));
  note_modified();
  return {};
}

// Nothing is overwritten, so nothing has to be durable before it is in the catalog.
Result<> VolumeIo::save_image(const Progress& progress) {
  const SnapshotLimit::Exempt exempt;
  const std::uint64_t size = size_bytes();
  constexpr std::uint64_t kStep = 1 << 20;
  for (std::uint64_t at = 0; at < size; at += kStep) {
    VSNAP_TRY(change(at, std::min(kStep, size - at), [&](const Span& span, std::uint64_t) {
      return save_range(span, [](const Region&) { return Result<>(); });
    }));
    if (progress && !progress(at, size))
      return failure(ErrorKind::failed, ECANCELED, "given up; what was copied is used next time");
  }
  return {};
}

// Reads first and asks then: a block that the map still shows in the image had not been overwritten when it
// was read, as maps are switched before.
Result<> VolumeIo::read_through_image(RegionIndex index, std::uint64_t block, Entry first,
                                      std::uint64_t offset, std::span<std::byte> out) {
  VSNAP_TRY(engine_.members().read(first.place(), offset, out));
  if (planted(Fault::base_read_once)) return {};
  std::atomic_thread_fence(std::memory_order_seq_cst); // against the writer's, between switch and overwrite
  VSNAP_TRY_ASSIGN(Region * region, engine_.cache().get(map_, index)); // may have been loaded anew
  std::uint64_t done = 0;
  for (std::uint64_t at = block; done < out.size(); ++at) {
    const std::uint64_t in_block = (offset + done) % kBlockBytes;
    const std::uint64_t part = std::min(out.size() - done, kBlockBytes - in_block);
    const Entry now = region->entry(at);
    if (now.kind() != BlockKind::data) {
      std::memset(out.data() + done, 0, part); // it was saved as zeros, or a clone has discarded it meanwhile
    } else if (now.place() != first.place() + BlockCount(at - block)) {
      VSNAP_TRY(engine_.check_kept({now.place(), BlockCount(1)}));
      VSNAP_TRY(engine_.members().read(now.place(), in_block, out.subspan(done, part)));
    }
    done += part;
  }
  return {};
}

} // namespace vsnap
