#include "fuse/set_aside.h"

#include <chrono>
#include <cstring>
#include <exception>
#include <thread>
#include <utility>

#include "core/wait_listener.h"
#include "fuse/operations.h"
#include "fuse/reply.h"

namespace vsnap {
namespace {

constexpr auto kIdle = std::chrono::seconds(5);

} // namespace

// While a thread of the group waits in core, another may take its place.
class SetAside::Pause final : public WaitListener {
 public:
  Pause(SetAside& all, ObjectId view, Group& group) : all_(all), view_(view), group_(group) {}
  void waits() noexcept override {
    MutexLock lock(all_.mutex_);
    ++group_.paused;
    if (group_.waiting.size() > group_.idle) all_.add_thread(view_, group_);
  }
  void goes_on() noexcept override {
    MutexLock lock(all_.mutex_);
    --group_.paused;
  }

 private:
  SetAside& all_;
  const ObjectId view_;
  Group& group_;
};

SetAside::Stay::Stay(SetAside& all, bool wanted) : all_(all) {
  if (!wanted) return;
  granted_ = all_.staying_.fetch_add(1, std::memory_order_relaxed) < all_.most_staying_;
  if (!granted_) all_.staying_.fetch_sub(1, std::memory_order_relaxed);
}

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
    const bool suffices = group->waiting.size() < group->idle; // those that it waits for count as well
    if (!suffices && !add_thread(view, *group) && group->threads == 0) {
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

// False: it may have no other, or there is none.
bool SetAside::add_thread(ObjectId view, Group& group) {
  if (ending_ || group.threads >= kMostAView || group.threads - group.paused >= kMostBusyAView) return false;
  if (group.threads != 0 && threads_ >= kMostThreads) return false;
  try {
    std::thread([this, view, &group] { work(view, group); }).detach();
  } catch (const std::exception&) { // no thread, or no memory
    return false;
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
      carry_out(view, group, std::move(next));
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
void SetAside::carry_out(ObjectId view, Group& group, Request request) noexcept {
  mutex_.unlock();
  {
    const AnswerFor origin(request.origin);
    Pause pause(*this, view, group);
    const ListenToWaits listens(pause);
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
