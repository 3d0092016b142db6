// System calls that move less than they were asked to. Linked into a test program, these stand before pread,
// pwrite, preadv2, pwritev2 and fdatasync of libc, and before what hands reads to io_uring: as after a
// signal, on a disk that is almost full, or where the page cache has a part.
//
// Invariants
// 1. Nothing is different while there is no ShortTransfers.
// 2. What is said to have been moved was moved by the kernel, and no byte more: buffers and files beyond it
//    are as they were.
// Threads: the fate is asked by whatever thread makes the call, and by several at once. One object at a time,
// which no call may outlive.
#pragma once

#include <cstddef>
#include <functional>

namespace vsnap {

class ShortTransfers {
 public:
  enum class Call { read, read_cached, write, sync, ring };
  struct Outcome {
    std::size_t moved = 0; // of the bytes asked for; not for sync
    int error = 0;         // instead: errno
  };
  using Fate = std::function<Outcome(Call call, std::size_t asked)>;

  explicit ShortTransfers(Fate fate);
  ~ShortTransfers();
  ShortTransfers(const ShortTransfers&) = delete;
  ShortTransfers& operator=(const ShortTransfers&) = delete;

 private:
  const Fate fate_;
};

} // namespace vsnap
