#include "fuse/set_aside.h"

#include <chrono>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>

#include "fuse/operations.h"
#include "fuse/reply.h"

namespace vsnap {
namespace {

constexpr auto kIdle = std::chrono::seconds(5);

} // namespace

bool SetAside::put(fuse_req_t req, ObjectId view, std::span<const std::byte> data, Body body) {
  Request request{req, current_request(), nullptr, data.size(), std::move(body)};
  {
    MutexLock lock(mutex_);
    if (ending_ || data.size() > kMostBytes - bytes_) return false;
    bytes_ += data.size();
  }
  if (!data.empty()) { // from a block's border, so that it can be written to a member directly
    const std::size_t size = bytes(blocks_for(data.size()));
    request.bytes.reset(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, size)));
    if (request.bytes) std::memcpy(request.bytes.get(), data.data(), data.size());
  }
  MutexLock lock(mutex_);
  Group* group = nullptr;
  if (data.empty() || request.bytes) {
    group = &groups_[view];
    if (!has_thread_for(view, *group)) {
      groups_.erase(view);
      group = nullptr;
    }
  }
  if (group == nullptr) {
    bytes_ -= data.size();
    return false;
  }
  group->waiting.push_back(std::move(request));
  group->changed.notify_one();
  return true;
}

// For one request more; one that it has to wait for counts as well.
bool SetAside::has_thread_for(ObjectId view, Group& group) {
  const bool may_have_more = group.threads < kMostAView && (group.threads == 0 || threads_ < kMostThreads);
  if (group.waiting.size() < group.idle || !may_have_more) return group.threads != 0;
  try {
    std::thread([this, view, &group] { work(view, group); }).detach();
  } catch (const std::system_error&) {
    return group.threads != 0;
  }
  ++group.threads;
  ++threads_;
  return true;
}

void SetAside::work(ObjectId view, Group& group) {
  MutexLock lock(mutex_);
  while (!ending_) {
    if (!group.waiting.empty()) {
      Request next = std::move(group.waiting.front());
      group.waiting.pop_front();
      carry_out(std::move(next));
      continue;
    }
    ++group.idle;
    const bool woken = group.changed.wait_for(mutex_, kIdle);
    --group.idle;
    if (!woken && group.waiting.empty()) break;
  }
  if (--group.threads == 0 && !ending_) groups_.erase(view);
  if (--threads_ == 0) ended_.notify_all();
}

// The mutex is let go of meanwhile.
void SetAside::carry_out(Request request) noexcept {
  mutex_.unlock();
  {
    const AnswerFor origin(request.origin);
    answer(request.req, [&](Operations& operations) {
      return request.body(operations, std::span<const std::byte>(request.bytes.get(), request.length));
    });
    request.bytes.reset();
  }
  mutex_.lock();
  bytes_ -= request.length;
}

void SetAside::end() {
  MutexLock lock(mutex_);
  ending_ = true;
  for (auto& [view, group] : groups_) group.changed.notify_all();
  while (threads_ != 0) ended_.wait(mutex_);
  for (auto& [view, group] : groups_) {
    for (const Request& request : group.waiting) fuse_reply_none(request.req);
  }
  groups_.clear();
  bytes_ = 0;
}

} // namespace vsnap
