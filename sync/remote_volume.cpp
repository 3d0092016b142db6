#include "sync/remote_volume.h"

#include <algorithm>
#include <cstring>

namespace vsnap {

Result<std::size_t> RemoteVolume::read(std::uint64_t offset, std::span<std::byte> out) {
  std::size_t done = 0;
  while (done < out.size()) {
    const auto wanted = static_cast<std::uint32_t>(std::min<std::size_t>(out.size() - done, kMaxBytes));
    VSNAP_TRY_ASSIGN(const wire::LinkReply reply, io_.carry_out(*this, [&](wire::LinkRequest& request) {
      wire::ReadRequest& read = *request.mutable_read();
      read.set_view(info_.id.value());
      read.set_number(number_);
      read.set_offset(offset + done);
      read.set_length(wanted);
    }));
    const std::string& data = reply.read().data();
    if (data.size() > wanted) return failure(ErrorKind::failed, EPROTO, "more came than was asked for");
    std::memcpy(out.data() + done, data.data(), data.size());
    done += data.size();
    if (data.size() < wanted) break;
  }
  return done;
}

Result<std::optional<std::uint64_t>> RemoteVolume::seek(std::uint64_t offset, bool hole) {
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
Result<> RemoteVolume::change(const RemoteIo::Make& make) {
  unsynced_->begin();
  const auto reply = io_.carry_out(*this, make);
  unsynced_->end();
  VSNAP_TRY(reply);
  size_bytes_.store(reply->changed().size_bytes());
  return {};
}

Result<> RemoteVolume::write(std::uint64_t offset, std::span<const std::byte> data) {
  if (data.size() > kMaxVolumeBytes || offset > kMaxVolumeBytes - data.size())
    return failure(ErrorKind::usage, EFBIG, "past the largest size of a volume (8 EiB - 1)");
  for (std::size_t done = 0; done < data.size();) {
    const auto part = data.subspan(done, std::min<std::size_t>(data.size() - done, kMaxBytes));
    VSNAP_TRY(change([&](wire::LinkRequest& request) {
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
  return change([&](wire::LinkRequest& request) {
    wire::DiscardRequest& discard = *request.mutable_discard();
    discard.set_number(number_);
    discard.set_offset(offset);
    discard.set_length(length);
  });
}

Result<> RemoteVolume::reserve(std::uint64_t offset, std::uint64_t length, bool extend) {
  return change([&](wire::LinkRequest& request) {
    wire::ReserveRequest& reserve = *request.mutable_reserve();
    reserve.set_number(number_);
    reserve.set_offset(offset);
    reserve.set_length(length);
    reserve.set_extend(extend);
  });
}

Result<> RemoteVolume::fsync() {
  const std::uint64_t covered = unsynced_->covered();
  VSNAP_TRY_ASSIGN(const wire::LinkReply reply, io_.carry_out(*this, [&](wire::LinkRequest& request) {
    request.mutable_fsync()->set_number(number_);
  }));
  size_bytes_.store(reply.changed().size_bytes());
  unsynced_->confirm(covered);
  return {};
}

} // namespace vsnap
