#include "fuse/open_files.h"

#include <utility>

#include "core/log.h"

namespace vsnap {

OpenFile& OpenFiles::keep(std::uint64_t number, ViewHandle view, bool direct) {
  auto made = std::make_unique<OpenFile>();
  made->number = number;
  made->view = std::move(view);
  made->direct = direct;
  std::weak_ptr<InodeState>& known = inodes_[made->view->id()];
  made->inode = known.lock();
  if (!made->inode) known = made->inode = std::make_shared<InodeState>();
  OpenFile& file = *made;
  files_.emplace(number, std::move(made));
  if (!direct) file.inode->cached_open();
  slots_[MountState::slot_of(number)].store(&file, std::memory_order_release);
  return file;
}

Result<OpenFile*> OpenFiles::add(ViewHandle view, bool direct, std::uint64_t opened_by) {
  MutexLock lock(mutex_);
  const auto number = state_.add_handle(view->id(), direct, opened_by);
  if (!number) return failure(ErrorKind::failed, ENFILE, "too many open files");
  return &keep(*number, std::move(view), direct);
}

OpenFile* OpenFiles::find_opened_by(std::uint64_t request) {
  MutexLock lock(mutex_);
  const auto number = state_.handle_opened_by(request);
  const auto found = number ? files_.find(*number) : files_.end();
  return found == files_.end() ? nullptr : found->second.get();
}

void OpenFiles::confirm(std::uint64_t number) {
  MutexLock lock(mutex_);
  state_.confirm_handle(number);
}

void OpenFiles::no_doubt(std::uint64_t request) {
  MutexLock lock(mutex_);
  in_doubt_.erase(request);
}

void OpenFiles::drop_in_doubt() {
  std::unordered_map<std::uint64_t, std::uint64_t> dropped;
  {
    MutexLock lock(mutex_);
    dropped.swap(in_doubt_);
    any_in_doubt_ = false;
  }
  for (const auto& [request, number] : dropped) remove(number);
}

// The slot first: the successor of a process that dies in between need not open the file again.
void OpenFiles::remove(std::uint64_t number) {
  std::unique_ptr<OpenFile> gone; // closes its view after the lock is released: that may take a while
  MutexLock lock(mutex_);
  const auto found = files_.find(number);
  if (found != files_.end()) slots_[MountState::slot_of(number)].store(nullptr);
  state_.remove_handle(number);
  if (found == files_.end()) return;
  gone = std::move(found->second);
  files_.erase(found);
  if (!gone->direct) gone->inode->cached_close();
  if (gone->inode.use_count() == 1) inodes_.erase(gone->view->id());
}

void OpenFiles::remove_all() {
  std::unordered_map<std::uint64_t, std::unique_ptr<OpenFile>> gone;
  MutexLock lock(mutex_);
  for (const auto& [number, file] : files_) slots_[MountState::slot_of(number)].store(nullptr);
  gone.swap(files_);
  inodes_.clear();
}

void OpenFiles::restore(Pool& pool) {
  MutexLock lock(mutex_);
  for (const MountState::Handle& handle : state_.handles()) {
    // Where it was answered the kernel most likely knows it.
    if (handle.opened_by != 0 && !state_.was_answered(handle.opened_by))
      in_doubt_.emplace(handle.opened_by, handle.number);
    auto view = pool.go_on_with(handle.view, handle.tenure);
    if (view) {
      keep(handle.number, std::move(*view), handle.direct);
    } else { // removed before the last close of it was noted; or its map cannot be read
      log::warning("an open file of object {} is not open any more: {}", handle.view.value(),
                   view.error().message);
    }
  }
  any_in_doubt_ = !in_doubt_.empty();
}

} // namespace vsnap
