#include "fuse/notifier.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "core/env.h"
#include "core/log.h"

namespace vsnap {
namespace {

constexpr std::chrono::seconds kLongestSettling(5);

// For the calling thread only. Where the kernel cannot do it all descriptors stay.
void keep_only(std::vector<int> descriptors) {
  for (const int standard : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) descriptors.push_back(standard);
  std::sort(descriptors.begin(), descriptors.end());
  if (::unshare(CLONE_FILES) != 0) {
    log::warning("a daemon that is killed may keep its successor waiting: unshare: errno {}", errno);
    return;
  }
  for (std::size_t i = 0; i < descriptors.size(); ++i) {
    const auto first = static_cast<unsigned>(descriptors[i]) + 1;
    const bool is_last = i + 1 == descriptors.size();
    if (const unsigned end = is_last ? ~0U : static_cast<unsigned>(descriptors[i + 1]); first < end)
      ::close_range(first, is_last ? end : end - 1, 0);
  }
}

} // namespace

Notifier::Notifier() : directory_modified_ns_(Env::real().wall_clock_ns()) {}

void Notifier::start(fuse_session* session, const std::vector<int>& devices) {
  MutexLock lock(thread_mutex_);
  names_.start(session, devices);
  contents_.start(session, devices);
}

void Notifier::stop() {
  MutexLock lock(thread_mutex_);
  names_.stop();
  contents_.stop();
}

void Notifier::entry_changed(const std::string& file_name) {
  directory_modified_ns_ = Env::real().wall_clock_ns();
  names_.queue({file_name, {}});
}

void Notifier::content_changed(ObjectId id) { contents_.queue({{}, id}); }

void Notifier::range_changed(ObjectId id, std::uint64_t offset, std::uint64_t length) {
  contents_.queue({{}, id, nullptr, {}, offset, length});
}

void Notifier::settle() {
  if (contents_.settle(kLongestSettling)) return;
  log::warning("the kernel has not dropped what it had cached of changed contents for {} s",
               kLongestSettling.count());
}

void Notifier::reply_after_invalidation(fuse_req_t req, ObjectId id, std::uint64_t offset,
                                        std::size_t length) {
  if (contents_.queue({{}, id, req, current_request(), offset, length})) return;
  // The session ends, and with it the kernel's caches; or a successor gets the request again.
  if (!successor_) fuse_reply_write(req, length);
}

void Notifier::Lane::start(fuse_session* session, const std::vector<int>& devices) {
  {
    MutexLock lock(mutex_);
    running_ = true;
  }
  thread_ = std::thread([this, session, devices] {
    if (!devices.empty()) keep_only(devices);
    run(session);
  });
}

void Notifier::Lane::stop() {
  {
    MutexLock lock(mutex_);
    running_ = false;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

bool Notifier::Lane::queue(Item item) {
  {
    MutexLock lock(mutex_);
    if (!running_) return false;
    items_.push_back(std::move(item));
    ++queued_;
  }
  changed_.notify_one();
  return true;
}

bool Notifier::Lane::settle(std::chrono::milliseconds longest) {
  const auto start = std::chrono::steady_clock::now();
  MutexLock lock(mutex_);
  const std::uint64_t wanted = queued_;
  while (sent_ < wanted) {
    const auto left = longest - (std::chrono::steady_clock::now() - start);
    if (left <= left.zero()) return false;
    progress_.wait_for(mutex_, std::chrono::duration_cast<std::chrono::milliseconds>(left));
  }
  return true;
}

// Errors are not looked at: ENOENT says that the kernel has nothing cached, and any other that the mount is
// gone.
void Notifier::Lane::run(fuse_session* session) {
  for (;;) {
    Item item;
    {
      MutexLock lock(mutex_);
      while (items_.empty() && running_) changed_.wait(mutex_);
      if (items_.empty()) return;
      item = std::move(items_.front());
      items_.pop_front();
    }
    if (!item.entry.empty()) {
      fuse_lowlevel_notify_inval_entry(session, FUSE_ROOT_ID, item.entry.c_str(), item.entry.size());
    } else {
      fuse_lowlevel_notify_inval_inode(session, item.id.value(), static_cast<off_t>(item.offset),
                                       static_cast<off_t>(item.length));
      const AnswerFor origin(item.origin);
      if (item.written != nullptr) fuse_reply_write(item.written, item.length);
    }
    {
      MutexLock lock(mutex_);
      ++sent_;
    }
    progress_.notify_all();
  }
}

} // namespace vsnap
