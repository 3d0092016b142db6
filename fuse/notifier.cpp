#include "fuse/notifier.h"

#include <utility>

#include "core/env.h"

namespace vsnap {

Notifier::Notifier() : directory_modified_ns_(Env::real().wall_clock_ns()) {}

void Notifier::start(fuse_session* session) {
  MutexLock thread_lock(thread_mutex_);
  session_ = session;
  {
    MutexLock lock(mutex_);
    running_ = true;
  }
  thread_ = std::thread([this] { run(); });
}

void Notifier::stop() {
  MutexLock thread_lock(thread_mutex_);
  {
    MutexLock lock(mutex_);
    running_ = false;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Notifier::entry_changed(const std::string& file_name) {
  directory_modified_ns_ = Env::real().wall_clock_ns();
  queue({file_name, {}});
}

void Notifier::content_changed(ObjectId id) { queue({{}, id}); }

void Notifier::reply_after_invalidation(fuse_req_t req, ObjectId id, std::uint64_t offset,
                                        std::size_t length) {
  // Not running: the session ends, and with it the kernel's caches.
  if (!queue({{}, id, req, offset, length})) fuse_reply_write(req, length);
}

bool Notifier::queue(Item item) {
  {
    MutexLock lock(mutex_);
    if (!running_) return false;
    items_.push_back(std::move(item));
  }
  changed_.notify_one();
  return true;
}

void Notifier::run() {
  for (;;) {
    Item item;
    {
      MutexLock lock(mutex_);
      while (items_.empty() && running_) changed_.wait(mutex_);
      if (items_.empty()) return;
      item = std::move(items_.front());
      items_.pop_front();
    }
    send(item);
  }
}

// Errors are not looked at: ENOENT says that the kernel has nothing cached, and any other that the mount is
// gone.
void Notifier::send(const Item& item) const {
  if (!item.entry.empty()) {
    fuse_lowlevel_notify_inval_entry(session_, FUSE_ROOT_ID, item.entry.c_str(), item.entry.size());
    return;
  }
  fuse_lowlevel_notify_inval_inode(session_, item.id.value(), static_cast<off_t>(item.offset),
                                   static_cast<off_t>(item.length));
  if (item.written != nullptr) fuse_reply_write(item.written, item.length);
}

} // namespace vsnap
