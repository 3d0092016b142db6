// A handle on a draining image that was opened after the image had been preserved: it reads what the old
// handles write, and writes nothing. It keeps the image from nothing: the image is final when the old handles
// are closed. Threads: as View.
#pragma once

#include "core/volume_io.h"

namespace vsnap {

class LateReader final : public View {
 public:
  explicit LateReader(std::shared_ptr<VolumeIo> image) : image_(std::move(image)) {}
  [[nodiscard]] VolumeIo& image() const { return *image_; }

  [[nodiscard]] ObjectId id() const override { return image_->id(); }
  [[nodiscard]] bool writable() const override { return false; }
  [[nodiscard]] std::uint64_t size_bytes() const override { return image_->size_bytes(); }
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> out) override {
    return image_->read(offset, out);
  }
  Result<std::optional<std::size_t>> start_read(std::uint64_t offset, std::span<std::byte> out,
                                                ReadDone done) override {
    return image_->start_read(offset, out, std::move(done));
  }
  [[nodiscard]] bool may_wait() const override { return image_->may_wait(); }
  Result<> write(std::uint64_t, std::span<const std::byte>) override { return refused(); }
  Result<> discard(std::uint64_t, std::uint64_t) override { return refused(); }
  Result<> reserve(std::uint64_t, std::uint64_t, bool) override { return refused(); }
  Result<std::optional<std::uint64_t>> seek_data(std::uint64_t offset) override {
    return image_->seek_data(offset);
  }
  Result<std::optional<std::uint64_t>> seek_hole(std::uint64_t offset) override {
    return image_->seek_hole(offset);
  }
  Result<> fsync() override { return {}; }

 private:
  static Failure refused() { return failure(ErrorKind::failed, EROFS, "a preserved image: read-only"); }
  const std::shared_ptr<VolumeIo> image_;
};

} // namespace vsnap
