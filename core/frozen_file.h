// A member of a pool that is open without all of its members, and of which nothing is to change: reads come
// from the file below, and what is written stays in memory and ends with it. Of a missing member there is no
// file below: what was not written here cannot be read.
//
// Recovery needs that: it brings the journal into the catalog as always, and the members keep their bytes.
//
// Invariants
// 1. Nothing of the file below is changed: not its bytes, not its size.
// 2. A read shows the bytes that were written here last, and those of the file below elsewhere. Where there
//    is none, a read of other bytes is an error, never zeros.
// Threads: any.
#pragma once

#include <array>
#include <atomic>
#include <bitset>
#include <memory>
#include <string>
#include <unordered_map>

#include "core/env.h"
#include "core/mutex.h"
#include "core/units.h"

namespace vsnap {

class FrozenFile final : public File {
 public:
  explicit FrozenFile(std::unique_ptr<File> below);
  FrozenFile(std::uint64_t size_bytes, std::string why_missing); // a missing member

  [[nodiscard]] bool is_missing() const { return below_ == nullptr; }

  Result<> read_at(std::uint64_t offset, std::span<std::byte> out) override;
  Result<Progress> start_read(std::uint64_t offset, std::span<std::byte> out, Done done) override;
  Result<> write_at(std::uint64_t offset, std::span<const std::byte> data) override;
  Result<> write_durably(std::uint64_t offset, std::span<const std::byte> data) override {
    return write_at(offset, data);
  }
  Result<> flush() override { return {}; }
  void drop_cache() override;
  void discard(std::uint64_t, std::uint64_t) override {}
  Result<FileStamp> stamp(bool durably) override;
  [[nodiscard]] std::uint64_t size_bytes() const override { return size_bytes_.load(); }
  Result<> resize(std::uint64_t size_bytes) override;
  [[nodiscard]] std::string identity() const override;
  [[nodiscard]] bool is_block_device() const override { return below_ && below_->is_block_device(); }
  Result<bool> try_lock() override;
  [[nodiscard]] int descriptor() const override { return below_ ? below_->descriptor() : -1; }
  [[nodiscard]] bool may_wait() const override { return below_ && below_->may_wait(); }

 private:
  struct Block {
    std::array<std::byte, kBlockBytes> bytes;
    std::bitset<kBlockBytes> written;
  };
  enum class Covered { nothing, some, all };
  [[nodiscard]] Covered covered(std::uint64_t offset, std::uint64_t length) const VSNAP_REQUIRES(mutex_);
  void lay_over(std::uint64_t offset, std::span<std::byte> out) const VSNAP_REQUIRES(mutex_);

  const std::unique_ptr<File> below_;
  const std::string why_missing_;
  std::atomic<std::uint64_t> size_bytes_;
  mutable Mutex mutex_; // a leaf
  std::unordered_map<std::uint64_t, Block> blocks_ VSNAP_GUARDED_BY(mutex_);
};

} // namespace vsnap
