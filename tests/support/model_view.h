// An open view of a ModelPool. Only model_pool.cpp makes them.
// Threads: as core/view.h; uses the pool's mutex.
#pragma once

#include "tests/support/model_pool.h"

namespace vsnap {

class ModelView : public View {
 public:
  ModelView(ModelPool& pool, std::shared_ptr<ModelObject> object)
      : pool_(pool), object_(std::move(object)), late_(object_->draining) {}

  [[nodiscard]] ObjectId id() const override { return object_->info.id; }
  [[nodiscard]] bool writable() const override;
  [[nodiscard]] std::uint64_t size_bytes() const override;
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> out) override;
  Result<> write(std::uint64_t offset, std::span<const std::byte> data) override;
  Result<> discard(std::uint64_t offset, std::uint64_t length) override;
  Result<> reserve(std::uint64_t offset, std::uint64_t length, bool extend) override;
  Result<std::optional<std::uint64_t>> seek_data(std::uint64_t offset) override;
  Result<std::optional<std::uint64_t>> seek_hole(std::uint64_t offset) override;
  Result<> fsync() override { return {}; }
  WriteWait write_wait() const override {
    return pool_.may_pause_.load() == object_->info.id ? pool_.foreseen_.load() : WriteWait::none;
  }

 private:
  [[nodiscard]] Result<> stays_within(std::uint64_t end) const;
  [[nodiscard]] Result<> may_change(std::uint64_t offset, std::uint64_t length) const;

  ModelPool& pool_;
  const std::shared_ptr<ModelObject> object_;
  const bool late_; // opened when the image was preserved already
};

} // namespace vsnap
