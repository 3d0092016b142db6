// Reads that go on after their worker has turned to the next request, because a member is slow; and the
// buffers that all reads go into.
//
// Invariants
// 1. A request is answered once: by its worker, or by the thread in which its read ends.
// 2. A buffer belongs to a worker, to a read that goes on, or to nobody; a worker whose buffer left with a
//    read takes another.
// Threads: any. wait_for_all() when nobody starts reads any more, and before the session closes its
// descriptors.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "core/error.h"
#include "core/mutex.h"
#include "core/view.h"
#include "fuse/kernel_api.h"

namespace vsnap {

// Starts at a block's border, so that a member can be read into it directly.
class ReadBuffer {
 public:
  // Of the calling worker, with room for `length` bytes.
  static ReadBuffer& of_worker(std::size_t length);
  [[nodiscard]] std::span<std::byte> first(std::size_t length) const { return {bytes_.get(), length}; }
  void make_room(std::size_t length);

 private:
  friend class PendingReads;
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<std::byte, Free> bytes_;
  std::size_t capacity_ = 0;
};

class PendingReads {
 public:
  PendingReads();
  // Reads, and answers; or leaves both for later. An error was not answered.
  Result<> read(fuse_req_t req, View& view, std::uint64_t offset, std::size_t length) VSNAP_EXCLUDES(mutex_);
  void wait_for_all() VSNAP_EXCLUDES(mutex_);

 private:
  struct Left; // a read that may go on
  void end(const Left& left, const Result<std::size_t>& length) VSNAP_EXCLUDES(mutex_);

  std::atomic<std::uint32_t> count_{0}; // of reads that a worker is at, or that go on
  Mutex mutex_;
  CondVar ended_; // the last one
  std::vector<ReadBuffer> spare_ VSNAP_GUARDED_BY(mutex_);
};

} // namespace vsnap
