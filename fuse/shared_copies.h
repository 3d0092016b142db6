// copy_file_range of a whole view by sharing its extents instead of copying.
//
// The kernel passes a long copy on in chunks of 4 GiB - 4 KiB at most. The first one shares everything at
// once; those that follow have nothing left to do, as long as neither side was changed in between. Until the
// last of them has come, the copy is told to be as long as what was copied so far, and it is cut to that
// length for good when somebody changes one of the two or stops copying.
//
// Invariants
// 1. A chunk is reported as copied only while both sides are what they were when the extents were shared.
// 2. Copies under way are in the mount's state before anything is shared, so that a successor goes on with
//    them, or cuts them.
// Threads: any method from any thread. The mutex is held while extents are shared and while a copy is cut;
// these are rare. Nothing else is called with it.
#pragma once

#include <atomic>
#include <optional>
#include <unordered_map>

#include "core/mutex.h"
#include "core/pool.h"
#include "fuse/mount_state.h"

namespace vsnap {

class SharedCopies {
 public:
  SharedCopies(Pool& pool, MountState& state) : pool_(pool), state_(state) {}
  // Those of the predecessor; before the first request.
  void restore() VSNAP_EXCLUDES(mutex_);

  // How many bytes count as copied; nullopt: not to be done by sharing.
  std::optional<std::uint64_t> copy(View& from, View& to, std::uint64_t from_offset, std::uint64_t to_offset,
                                    std::uint64_t length) VSNAP_EXCLUDES(mutex_);
  // To be called before `id` is changed through its file, after it (so that a chunk which came in between
  // does not count on what it was), and when a file of it is closed.
  void settle(ObjectId id) VSNAP_EXCLUDES(mutex_) {
    if (count_.load() != 0) settle_slow(id);
  }
  // The size to tell for a copy under way.
  [[nodiscard]] std::optional<std::uint64_t> size_so_far(ObjectId id) VSNAP_EXCLUDES(mutex_);

 private:
  struct Copy {
    ObjectId from;
    std::uint64_t done_bytes = 0;
    std::uint64_t size_bytes = 0; // of both sides
  };

  void settle_slow(ObjectId id) VSNAP_EXCLUDES(mutex_);
  void cut(ObjectId to, const Copy& copy) VSNAP_REQUIRES(mutex_);
  void forget(ObjectId to) VSNAP_REQUIRES(mutex_);
  [[nodiscard]] bool is_whole(ObjectId to, const Copy& copy);
  std::optional<std::uint64_t> begin(View& from, View& to, std::uint64_t length) VSNAP_REQUIRES(mutex_);
  std::optional<std::uint64_t> go_on(View& from, View& to, std::uint64_t offset, std::uint64_t length)
      VSNAP_REQUIRES(mutex_);

  Pool& pool_;
  MountState& state_;
  std::atomic<std::size_t> count_{0}; // of copies_: all that reads and writes look at
  Mutex mutex_;
  std::unordered_map<ObjectId, Copy> copies_ VSNAP_GUARDED_BY(mutex_); // by target
};

} // namespace vsnap
