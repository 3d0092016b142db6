// Reads and writes of one file past the page cache (O_DIRECT), of any offset, length and address.
//
// Invariants
// 1. The kernel gets whole blocks of the device and aligned memory only. What is neither goes through a
// buffer
//    that each thread keeps.
// 2. A block that is written in part is read, merged and written under its lock, so that writers of different
//    parts of one block lose nothing of each other. Writes that overlap are never concurrent: their callers
//    hold a lock of their own (RangeLock, SQLite's, the journal's).
// 3. Bytes beside the written ones are written again as they were; they lie in the same block of the device,
//    which it writes whole or not at all.
// Threads: any.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "core/mutex.h"

namespace vsnap {

class DirectIo {
 public:
  // Makes the open file's I/O direct. Null, and nothing changed: it cannot be. Its size is a multiple of 4
  // KiB and stays so.
  [[nodiscard]] static std::unique_ptr<DirectIo> of(int fd, bool block_device, std::uint64_t size_bytes);

  // errno, or 0; ENODATA where the file ended before.
  [[nodiscard]] int read(std::uint64_t offset, std::span<std::byte> out);
  // `durably`: as with O_DSYNC.
  [[nodiscard]] int write(std::uint64_t offset, std::span<const std::byte> data, bool durably);
  // Whether the kernel takes such a request as it is.
  [[nodiscard]] bool is_aligned(std::uint64_t offset, std::span<const std::byte> bytes) const {
    return (offset | bytes.size()) % block_bytes_ == 0 &&
           reinterpret_cast<std::uintptr_t>(bytes.data()) % memory_alignment_ == 0;
  }

 private:
  static constexpr std::size_t kStripes = 64;
  DirectIo(int fd, std::uint32_t block_bytes, std::uint32_t memory_alignment)
      : fd_(fd), block_bytes_(block_bytes), memory_alignment_(memory_alignment) {}
  [[nodiscard]] int read_aligned(std::uint64_t offset, std::span<std::byte> out) const;
  [[nodiscard]] int write_aligned(std::uint64_t offset, std::span<const std::byte> data, bool durably) const;
  // At most as much as the thread's buffer takes.
  [[nodiscard]] int write_merged(std::uint64_t offset, std::span<const std::byte> data, bool durably);
  [[nodiscard]] Mutex& stripe(std::uint64_t offset) { return stripes_[offset / block_bytes_ % kStripes]; }

  const int fd_;
  const std::uint32_t block_bytes_;      // of the device
  const std::uint32_t memory_alignment_; // of what is read into or written from
  std::array<Mutex, kStripes> stripes_;  // a block's lock; held while it is read and written
};

} // namespace vsnap
