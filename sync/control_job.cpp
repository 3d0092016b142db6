#include "sync/control_job.h"

#include <cerrno>
#include <exception>

#include "core/log.h"
#include "sync/control_server.h"

namespace vsnap {

Error handed_over(const std::string& pool) {
  return {ErrorKind::busy, EAGAIN, pool + ": its daemon is being replaced (try again)"};
}

ControlJob::ControlJob(std::string peer, wire::ControlRequest request, std::function<void()> wake)
    : peer_(std::move(peer)), request_(std::move(request)), wake_(std::move(wake)) {}

void ControlJob::run(Pool& pool, const Answerer& before_pool) {
  wire::ControlMessage message;
  message.set_version(wire::kProtocolVersion);
  try {
    auto reply = before_pool ? before_pool(request_) : std::nullopt;
    *message.mutable_reply() = reply ? std::move(*reply) : execute(pool, request_, *this);
  } catch (
      const std::exception& e) { // nothing below should throw; a stray must not end the daemon and its I/O
    log::error("control request failed: {}", e.what());
    *message.mutable_reply() =
        wire::error_reply(ErrorKind::failed, std::string("internal error: ") + e.what());
  }
  {
    MutexLock lock(mutex_);
    if (handed_over_ && message.reply().has_error() && message.reply().error().errno_value() == ECANCELED)
      *message.mutable_reply() = wire::error_reply(handed_over(pool.name()));
    if (!abandoned_) queue_.push_back(message.SerializeAsString());
    finished_ = true;
  }
  wake_();
}

void ControlJob::cancel() {
  MutexLock lock(mutex_);
  cancelled_ = true;
  taken_.notify_all();
}

void ControlJob::hand_over() {
  MutexLock lock(mutex_);
  handed_over_ = handed_over_ || !cancelled_;
  cancelled_ = true;
  taken_.notify_all();
}

void ControlJob::abandon() {
  MutexLock lock(mutex_);
  abandoned_ = true;
  queue_.clear();
  taken_.notify_all();
}

std::optional<std::string> ControlJob::front() {
  MutexLock lock(mutex_);
  if (queue_.empty()) return std::nullopt;
  return queue_.front();
}

void ControlJob::pop() {
  MutexLock lock(mutex_);
  if (!queue_.empty()) queue_.pop_front();
  taken_.notify_all();
}

std::string ControlJob::sign_of_life(bool& is_progress) {
  wire::ControlMessage message;
  message.set_version(wire::kProtocolVersion);
  MutexLock lock(mutex_);
  is_progress = progress_.has_value();
  if (progress_) {
    message.mutable_progress()->set_done(progress_->first);
    message.mutable_progress()->set_total(progress_->second);
    progress_.reset();
  } else {
    message.mutable_heartbeat();
  }
  return message.SerializeAsString();
}

bool ControlJob::over() {
  MutexLock lock(mutex_);
  return finished_ && queue_.empty();
}

bool ControlJob::progress(std::uint64_t done, std::uint64_t total) {
  MutexLock lock(mutex_);
  progress_.emplace(done, total);
  return !cancelled_ && !(abandoned_ && only_looks());
}

bool ControlJob::diff(std::span<const DiffRange> ranges) {
  wire::ControlMessage message;
  message.set_version(wire::kProtocolVersion);
  for (const DiffRange& range : ranges) *message.mutable_diff()->add_ranges() = wire::to_wire(range);
  {
    MutexLock lock(mutex_);
    while (!cancelled_ && !abandoned_ && queue_.size() >= ControlServer::kMaxQueuedBatches)
      taken_.wait(mutex_);
    if (cancelled_ || abandoned_) return false;
    queue_.push_back(message.SerializeAsString());
  }
  wake_();
  return true;
}

bool ControlJob::only_looks() const {
  switch (request_.operation_case()) {
    case wire::ControlRequest::kDiff:
    case wire::ControlRequest::kWaitRemovals:
    case wire::ControlRequest::kWaitCopy:
      return true;
    case wire::ControlRequest::kCheck:
      return !request_.check().repair();
    default:
      return false;
  }
}

} // namespace vsnap
