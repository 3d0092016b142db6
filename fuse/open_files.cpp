#include "fuse/open_files.h"

#include <utility>

namespace vsnap {

OpenFile& OpenFiles::add(ViewHandle view, bool direct) {
  auto made = std::make_unique<OpenFile>();
  made->view = std::move(view);
  made->direct = direct;
  MutexLock lock(mutex_);
  std::weak_ptr<InodeState>& known = inodes_[made->view->id()];
  made->inode = known.lock();
  if (!made->inode) known = made->inode = std::make_shared<InodeState>();
  OpenFile& file = *made;
  files_.emplace(&file, std::move(made));
  if (!direct) file.inode->cached_open();
  return file;
}

void OpenFiles::remove(OpenFile& file) {
  std::unique_ptr<OpenFile> gone; // closes its view after the lock is released: that may take a while
  MutexLock lock(mutex_);
  const auto found = files_.find(&file);
  if (found == files_.end()) return;
  if (!file.direct) file.inode->cached_close();
  gone = std::move(found->second);
  files_.erase(found);
  if (gone->inode.use_count() == 1) inodes_.erase(gone->view->id());
}

void OpenFiles::remove_all() {
  std::unordered_map<const OpenFile*, std::unique_ptr<OpenFile>> gone;
  MutexLock lock(mutex_);
  gone.swap(files_);
  inodes_.clear();
}

} // namespace vsnap
