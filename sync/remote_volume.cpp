#include "sync/remote_volume.h"

#include <algorithm>

#include "sync/remote_read.h"

namespace vsnap {

// What the lease does not cover any more does not count, however it was done.
Result<std::size_t> RemoteVolume::read(std::uint64_t offset, std::span<std::byte> out) {
  if (!has_lapsed()) {
    const auto read = direct_->read(offset, out);
    if (has_lapsed()) return io_.lapsed(*this);
    VSNAP_TRY(read);
    if (*read) return **read;
  }
  wire::ReadRequest whole;
  whole.set_view(info_.id.value());
  whole.set_number(number_);
  whole.set_offset(offset);
  return read_in_parts(whole, out, [this](const wire::ReadRequest& part) {
    return io_.carry_out(*this, [&part](wire::LinkRequest& request) { *request.mutable_read() = part; });
  });
}

Result<std::optional<std::uint64_t>> RemoteVolume::seek(std::uint64_t offset, bool hole) {
  if (!has_lapsed()) VSNAP_TRY(direct_->settle(0, DirectVolume::Change::kAll));
  VSNAP_TRY_ASSIGN(const wire::LinkReply reply, io_.carry_out(*this, [&](wire::LinkRequest& request) {
    wire::SeekRequest& seek = *request.mutable_seek();
    seek.set_view(info_.id.value());
    seek.set_number(number_);
    seek.set_offset(offset);
    seek.set_hole(hole);
  }));
  return reply.seek().has_offset() ? std::optional(reply.seek().offset()) : std::nullopt;
}

// What failed may have gone some way, and counts.
Result<> RemoteVolume::change(std::uint64_t offset, std::uint64_t length, const RemoteIo::Make& make) {
  if (has_lapsed()) return io_.lapsed(*this);
  DirectVolume::Change change(*direct_, offset, length);
  VSNAP_TRY(change.ready());
  unsynced_->begin();
  const auto reply = io_.carry_out(*this, make);
  unsynced_->end();
  VSNAP_TRY(reply);
  size_bytes_.store(reply->changed().size_bytes());
  change.note_size(reply->changed().size_bytes());
  return {};
}

Result<> RemoteVolume::write(std::uint64_t offset, std::span<const std::byte> data) {
  if (data.size() > kMaxVolumeBytes || offset > kMaxVolumeBytes - data.size())
    return failure(ErrorKind::usage, EFBIG, "past the largest size of a volume (8 EiB - 1)");
  if (!has_lapsed()) {
    const auto written = direct_->write(offset, data);
    if (has_lapsed()) return io_.lapsed(*this);
    VSNAP_TRY(written);
    if (*written) return {};
  }
  for (std::size_t done = 0; done < data.size();) {
    const auto part = data.subspan(done, std::min<std::size_t>(data.size() - done, kMaxBytes));
    VSNAP_TRY(change(offset + done, part.size(), [&](wire::LinkRequest& request) {
      wire::WriteRequest& write = *request.mutable_write();
      write.set_number(number_);
      write.set_offset(offset + done);
      write.set_data(part.data(), part.size());
    }));
    done += part.size();
  }
  return {};
}

Result<> RemoteVolume::discard(std::uint64_t offset, std::uint64_t length) {
  return change(0, DirectVolume::Change::kAll, [&](wire::LinkRequest& request) {
    wire::DiscardRequest& discard = *request.mutable_discard();
    discard.set_number(number_);
    discard.set_offset(offset);
    discard.set_length(length);
  });
}

Result<> RemoteVolume::reserve(std::uint64_t offset, std::uint64_t length, bool extend) {
  return change(0, DirectVolume::Change::kAll, [&](wire::LinkRequest& request) {
    wire::ReserveRequest& reserve = *request.mutable_reserve();
    reserve.set_number(number_);
    reserve.set_offset(offset);
    reserve.set_length(length);
    reserve.set_extend(extend);
  });
}

// What is delegated holds nothing that is not durable but what this host has written: here, or through the
// coordinator.
Result<> RemoteVolume::fsync() {
  const std::uint64_t delegation = direct_->given();
  const std::uint64_t covered = unsynced_->covered();
  if (has_lapsed()) return io_.lapsed(*this);
  VSNAP_TRY(direct_->flush());
  if (const std::uint64_t failures = direct_->flush_failures();
      flush_failures_.exchange(failures) != failures)
    return failure(ErrorKind::failed, EIO, "what was written since the last fsync may be lost");
  if (delegation != 0 && !unsynced_->any() && direct_->given() == delegation && !has_lapsed()) return {};
  VSNAP_TRY_ASSIGN(const wire::LinkReply reply, io_.carry_out(*this, [&](wire::LinkRequest& request) {
    request.mutable_fsync()->set_number(number_);
  }));
  size_bytes_.store(reply.changed().size_bytes());
  unsynced_->confirm(covered);
  return {};
}

} // namespace vsnap
