// The open directories of one mount. Each is a picture of the pool at the moment it was opened, so a listing
// is never torn.
//
// Invariant: one lives from its open reply to its release, or to the end of the mount where the kernel sends
// none. Threads: any method from any thread. An open directory is constant.
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
};
using Directory = std::vector<DirectoryEntry>;

class OpenDirectories {
 public:
  const Directory& add(Directory directory) VSNAP_EXCLUDES(mutex_) {
    auto made = std::make_unique<const Directory>(std::move(directory));
    const Directory& kept = *made;
    MutexLock lock(mutex_);
    directories_.emplace(&kept, std::move(made));
    return kept;
  }
  void remove(const Directory& directory) VSNAP_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    directories_.erase(&directory);
  }

 private:
  Mutex mutex_;
  std::unordered_map<const Directory*, std::unique_ptr<const Directory>> directories_
      VSNAP_GUARDED_BY(mutex_);
};

} // namespace vsnap
