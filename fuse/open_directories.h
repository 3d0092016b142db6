// The open directories of one mount. Each is a picture of the pool at the moment it was opened, so a listing
// is never torn; but for one that was open when its daemon was replaced: that goes on with a new picture.
//
// Invariants
// 1. One lives from its open reply to its release, or to the end of the mount where the kernel sends none.
// 2. Entries are in the order of their positions, and the position of an entry is the same in every picture:
//    a listing that goes on in another one neither leaves out nor repeats what was there all the time.
// Threads: any method from any thread. A picture is constant.
#pragma once

#include <sys/types.h>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/mutex.h"

namespace vsnap {

struct DirectoryEntry {
  std::string name;
  std::uint64_t inode;
  mode_t type;
  std::uint64_t position; // above 0
};
using Directory = std::vector<DirectoryEntry>;

class OpenDirectories {
 public:
  void add(std::uint64_t number, Directory directory) VSNAP_EXCLUDES(mutex_) {
    auto made = std::make_shared<const Directory>(std::move(directory));
    MutexLock lock(mutex_);
    directories_.emplace(number, std::move(made));
  }
  // Null: it was opened in another process.
  [[nodiscard]] std::shared_ptr<const Directory> find(std::uint64_t number) VSNAP_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    const auto found = directories_.find(number);
    return found == directories_.end() ? nullptr : found->second;
  }
  void remove(std::uint64_t number) VSNAP_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    directories_.erase(number);
  }

 private:
  Mutex mutex_;
  std::unordered_map<std::uint64_t, std::shared_ptr<const Directory>> directories_ VSNAP_GUARDED_BY(mutex_);
};

} // namespace vsnap
