// The open files of one mount.
//
// Invariants
// 1. An OpenFile lives from its open reply to its release, or to the end of the session where the kernel
//    sends none.
// 2. Open files of one view share an InodeState, which lives as long as any of them.
// Threads: any method from any thread. An OpenFile is constant but for what its view does.
#pragma once

#include <atomic>
#include <memory>
#include <unordered_map>

#include "core/mutex.h"
#include "core/view.h"

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
  ViewHandle view;
  std::shared_ptr<InodeState> inode;
  bool direct = false; // past the kernel's page cache
};

class OpenFiles {
 public:
  OpenFile& add(ViewHandle view, bool direct) VSNAP_EXCLUDES(mutex_);
  void remove(OpenFile& file) VSNAP_EXCLUDES(mutex_);
  void remove_all() VSNAP_EXCLUDES(mutex_);

 private:
  Mutex mutex_;
  std::unordered_map<const OpenFile*, std::unique_ptr<OpenFile>> files_ VSNAP_GUARDED_BY(mutex_);
  std::unordered_map<ObjectId, std::weak_ptr<InodeState>> inodes_ VSNAP_GUARDED_BY(mutex_);
};

} // namespace vsnap
