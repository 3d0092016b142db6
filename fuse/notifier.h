// Tells the kernel what to drop from its caches. A notification may wait inside the kernel for a page that
// another request of ours has locked, so it never comes from a thread that serves requests: one thread sends
// them all.
//
// Invariants
// 1. What was queued before stop() is sent, in order.
// 2. A write that was handed over is answered exactly once, after the pages it made stale are gone.
// Threads: start() and stop() by whoever runs the session; everything else from any thread.
#pragma once

#include <atomic>
#include <deque>
#include <string>
#include <thread>

#include "core/mutex.h"
#include "core/pool.h"
#include "fuse/kernel_api.h"

namespace vsnap {

class Notifier final : public PoolObserver {
 public:
  Notifier();
  ~Notifier() override { stop(); }

  void start(fuse_session* session) VSNAP_EXCLUDES(thread_mutex_);
  // Sends what is queued and ends the thread. The session must go on serving until this returns: a
  // notification may wait for the answer to a read.
  void stop() VSNAP_EXCLUDES(thread_mutex_, mutex_);

  void entry_changed(const std::string& file_name) override VSNAP_EXCLUDES(mutex_);
  void content_changed(ObjectId id) override VSNAP_EXCLUDES(mutex_);
  // Answers a direct write of `length` bytes after the kernel has dropped its pages of that range.
  void reply_after_invalidation(fuse_req_t req, ObjectId id, std::uint64_t offset, std::size_t length)
      VSNAP_EXCLUDES(mutex_);

  // When the directory last changed, since 1970.
  [[nodiscard]] std::int64_t directory_modified_ns() const { return directory_modified_ns_.load(); }

 private:
  struct Item {
    std::string entry; // of the root directory; or else
    ObjectId id;       // of a view: all of it, or with a request only the range that it wrote
    fuse_req_t written = nullptr;
    std::uint64_t offset = 0;
    std::size_t length = 0;
  };

  bool queue(Item item) VSNAP_EXCLUDES(mutex_); // false: not running
  void run() VSNAP_EXCLUDES(mutex_);
  void send(const Item& item) const;

  fuse_session* session_ = nullptr;
  std::atomic<std::int64_t> directory_modified_ns_;
  Mutex thread_mutex_; // before mutex_; stop() may be called twice at once
  std::thread thread_ VSNAP_GUARDED_BY(thread_mutex_);
  Mutex mutex_;
  CondVar changed_;
  bool running_ VSNAP_GUARDED_BY(mutex_) = false;
  std::deque<Item> items_ VSNAP_GUARDED_BY(mutex_);
};

} // namespace vsnap
