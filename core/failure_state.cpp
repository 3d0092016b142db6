#include "core/failure_state.h"

#include <fmt/format.h>

#include "core/log.h"

namespace vsnap {

Result<> FailureState::check_writable() const {
  if (!failed()) return {};
  {
    MutexLock lock(mutex_);
    if (!frozen_why_.empty()) return failure(ErrorKind::failed, EROFS, frozen_why_);
  }
  return failure(ErrorKind::failed, EIO, fmt::format("the pool takes no changes: {}", health()));
}

std::string FailureState::health() const {
  constexpr std::string_view kNext = "unmount the pool and run vsnap check";
  MutexLock lock(mutex_);
  if (!frozen_health_.empty()) return frozen_health_;
  if (!reason_.empty()) return needs_check() ? fmt::format("{} ({})", reason_, kNext) : reason_;
  if (members_.flush_failed()) return fmt::format("a flush failed: {}", kNext);
  return "ok";
}

void FailureState::refuse_changes(std::string why, std::string health) {
  MutexLock lock(mutex_);
  frozen_why_ = std::move(why);
  frozen_health_ = std::move(health);
  failed_.store(true, std::memory_order_release);
}

void FailureState::fail(const Error& why) {
  MutexLock lock(mutex_);
  if (reason_.empty()) {
    reason_ = why.message;
    log::error("the pool takes no more changes: {}", why.message);
  }
  if (why.kind != ErrorKind::no_space) needs_check_.store(true);
  failed_.store(true, std::memory_order_release);
}

void FailureState::mark_members() {
  if (!marked_.load()) marked_.store(members_.mark_needs_check());
}

void FailureState::set_lost_places(std::span<const LogRecord> since_last_flush) {
  MutexLock lock(mutex_);
  if (lost_places_) return;
  lost_places_ = std::make_unique<const LostPlaces>(since_last_flush);
  lost_.store(lost_places_.get(), std::memory_order_release);
}

Result<> FailureState::lost_error(PlaceRun run) {
  return failure(ErrorKind::failed, EIO,
                 fmt::format("member {}, block {}: may be lost, as a flush has failed", run.start.member(),
                             run.start.block()));
}

} // namespace vsnap
