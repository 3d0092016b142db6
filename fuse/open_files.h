// The open files of one mount. What the kernel calls a handle is the number of a slot in MountState, so that
// a successor knows the same files.
//
// Invariants
// 1. An OpenFile lives from its open reply to its release, or to the end of the session where the kernel
//    sends none.
// 2. Open files of one view share an InodeState, which lives as long as any of them.
// 3. A file that a predecessor opened, without telling the kernel, is open while that open request may come
//    again: until the first that comes for the first time, as those that come again are sent before it. Who
//    asked for it was killed else, and no release will come.
// 4. A file whose view cannot be opened again in a successor keeps its number: requests for it get EIO.
// Threads: any method from any thread; restore() before the first request. An OpenFile is constant but for
// what its view does.
#pragma once

#include <atomic>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/mutex.h"
#include "core/pool.h"
#include "core/view.h"
#include "fuse/mount_state.h"

namespace vsnap {

// Tells whether the kernel may have put pages of a view into its cache since a given moment.
class InodeState {
 public:
  void cached_open() { opened_.fetch_add(1); }
  void cached_close() { closed_.fetch_add(1); }
  [[nodiscard]] std::uint64_t cached_opens() const { return opened_.load(); }
  // Was any cached handle open between the moment that gave `opens` and now?
  [[nodiscard]] bool cached_since(std::uint64_t opens) const {
    return closed_.load() != opens || opened_.load() != opens;
  }

 private:
  std::atomic<std::uint64_t> opened_{0};
  std::atomic<std::uint64_t> closed_{0};
};

struct OpenFile {
  std::uint64_t number = 0; // the kernel's handle
  ViewHandle view;
  std::shared_ptr<InodeState> inode;
  bool direct = false; // past the kernel's page cache
};

class OpenFiles {
 public:
  explicit OpenFiles(MountState& state) : state_(state) {}
  // Of the open request with that number. ENFILE: as many as MountState can hold are open.
  Result<OpenFile*> add(ViewHandle view, bool direct, std::uint64_t opened_by) VSNAP_EXCLUDES(mutex_);
  // EIO: the file could not be opened again.
  [[nodiscard]] Result<OpenFile*> find(std::uint64_t number) const {
    const std::uint32_t slot = MountState::slot_of(number);
    OpenFile* file = nullptr;
    if (slot < slots_.size()) file = slots_[slot].load(std::memory_order_acquire);
    if (file != nullptr && file->number == number) return file;
    return failure(ErrorKind::failed, EIO, "a file that could not be opened again");
  }
  void confirm(std::uint64_t number) VSNAP_EXCLUDES(mutex_); // the kernel knows it; it may be gone again
  // A request was read, which came again or did not; see 3.
  void came_again(std::uint64_t request) VSNAP_EXCLUDES(mutex_) {
    if (any_in_doubt_.load()) no_doubt(request);
  }
  void came_first() VSNAP_EXCLUDES(mutex_) {
    if (any_in_doubt_.load()) drop_in_doubt();
  }
  // The one that this request opened already, before it came again.
  [[nodiscard]] OpenFile* find_opened_by(std::uint64_t request) VSNAP_EXCLUDES(mutex_);
  void remove(std::uint64_t number) VSNAP_EXCLUDES(mutex_);
  void remove_all() VSNAP_EXCLUDES(mutex_);
  // Those of the predecessor.
  void restore(Pool& pool) VSNAP_EXCLUDES(mutex_);

 private:
  void no_doubt(std::uint64_t request) VSNAP_EXCLUDES(mutex_);
  void drop_in_doubt() VSNAP_EXCLUDES(mutex_);
  OpenFile& keep(std::uint64_t number, ViewHandle view, bool direct) VSNAP_REQUIRES(mutex_);

  MountState& state_;
  Mutex mutex_;
  std::vector<std::atomic<OpenFile*>> slots_{MountState::kMaxHandles};
  std::unordered_map<std::uint64_t, std::unique_ptr<OpenFile>> files_ VSNAP_GUARDED_BY(mutex_); // by number
  std::atomic<bool> any_in_doubt_{false};
  std::unordered_map<std::uint64_t, std::uint64_t> in_doubt_ VSNAP_GUARDED_BY(mutex_); // numbers by request
  std::unordered_map<ObjectId, std::weak_ptr<InodeState>> inodes_ VSNAP_GUARDED_BY(mutex_);
};

} // namespace vsnap
