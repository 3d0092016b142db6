// Tells the kernel what to drop from its caches. A notification may wait inside the kernel for what another
// request of ours has locked, so it never comes from a thread that serves requests. Names and contents have a
// queue and a thread each: that of a name waits for the lock of the directory, for as long as files are made
// and removed there, and nothing stale can be read meanwhile as names are looked up anew each time; that of
// contents waits for pages only, and is what settle() waits for.
//
// Invariants
// 1. What was queued before stop() is sent; names in order, contents in order.
// 2. A write that was handed over is answered exactly once, after the pages it made stale are gone; or not at
//    all, where a successor gets it again.
// 3. A process that is killed lets go of the pool, and a successor can begin, although these threads may be
//    stuck inside the kernel until that successor answers what they wait for: they have a table of
//    descriptors of their own, with the mount's and the log's in it and nothing else.
// Threads: start() and stop() by whoever runs the session; everything else from any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <string>
#include <thread>
#include <vector>

#include "core/mutex.h"
#include "core/pool.h"
#include "fuse/kernel_api.h"
#include "fuse/request_channel.h"

namespace vsnap {

class Notifier final : public PoolObserver {
 public:
  Notifier();
  ~Notifier() override { stop(); }

  // `devices`: the mount's descriptors; empty: all are kept, see invariant 3.
  void start(fuse_session* session, const std::vector<int>& devices) VSNAP_EXCLUDES(thread_mutex_);
  // Sends what is queued and ends the threads. The session must go on serving until this returns: a
  // notification may wait for the answer to a read.
  void stop() VSNAP_EXCLUDES(thread_mutex_);

  void entry_changed(const std::string& file_name) override;
  void content_changed(ObjectId id) override;
  void range_changed(ObjectId id, std::uint64_t offset, std::uint64_t length) override;
  // Returns when the kernel has dropped the contents told of before; after 5 s at the latest, should the
  // mount hang.
  void settle() override;
  // Whether the names told of before have reached the kernel, within two seconds. Not so while a removal or
  // renaming in the mount waits for a write of that file, which waits for room: it has locked the directory.
  [[nodiscard]] bool names_settle() { return names_.settle(kLongestForNames); }
  // From now on a write that comes after stop() is left to a successor.
  void set_successor() { successor_ = true; }
  // Answers a direct write of `length` bytes after the kernel has dropped its pages of that range.
  void reply_after_invalidation(fuse_req_t req, ObjectId id, std::uint64_t offset, std::size_t length);

  // When the directory last changed, since 1970.
  [[nodiscard]] std::int64_t directory_modified_ns() const { return directory_modified_ns_.load(); }

 private:
  struct Item {
    std::string entry; // of the root directory; or else
    ObjectId id;       // of a view: all of it, or a range
    fuse_req_t written = nullptr; // the request that wrote that range, to be answered
    RequestOrigin origin = {};
    std::uint64_t offset = 0;
    std::size_t length = 0; // 0: up to the end
  };

  // A queue and the thread that sends what is in it.
  class Lane {
   public:
    // Once at a time, as stop().
    void start(fuse_session* session, const std::vector<int>& devices) VSNAP_EXCLUDES(mutex_);
    void stop() VSNAP_EXCLUDES(mutex_);
    bool queue(Item item) VSNAP_EXCLUDES(mutex_); // false: not running
    bool settle(std::chrono::milliseconds longest) VSNAP_EXCLUDES(mutex_); // false: it took longer

   private:
    void run(fuse_session* session) VSNAP_EXCLUDES(mutex_);

    std::thread thread_;
    Mutex mutex_;
    CondVar changed_;  // something was queued, or it shall end
    CondVar progress_; // something was sent
    bool running_ VSNAP_GUARDED_BY(mutex_) = false;
    std::deque<Item> items_ VSNAP_GUARDED_BY(mutex_);
    std::uint64_t queued_ VSNAP_GUARDED_BY(mutex_) = 0; // items, ever
    std::uint64_t sent_ VSNAP_GUARDED_BY(mutex_) = 0;
  };

  static constexpr std::chrono::milliseconds kLongestForNames{2000};

  std::atomic<std::int64_t> directory_modified_ns_;
  std::atomic<bool> successor_{false};
  Mutex thread_mutex_; // before the lanes'; stop() may be called twice at once
  Lane names_;
  Lane contents_;
};

} // namespace vsnap
