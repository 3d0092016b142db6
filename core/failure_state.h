// What went wrong in an open pool for good: whether it still takes changes, why not, and what may be lost.
//
//   sound ──── fail() of kind no_space ────────────────────► failed: no changes until it is opened again
//     └─────── a flush failed, or fail() of another kind ──► failed, and needs a check
//
//   frozen: refuse_changes(), of a pool that is open without all of its members; nothing is wrong otherwise
//
// Invariants
// 1. There is no way back: a pool that has failed takes no changes while it is open. Reads go on.
// 2. What may be lost is known before the caller hears of a failed flush, and from then on nobody reads it.
// 3. The members say that a check is needed as soon as they take it (mark_members() is tried again).
// Threads: any.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "core/error.h"
#include "core/log_record.h"
#include "core/lost_places.h"
#include "core/member_set.h"
#include "core/mutex.h"

namespace vsnap {

class FailureState {
 public:
  explicit FailureState(MemberSet& members) : members_(members) {}

  [[nodiscard]] bool failed() const {
    return failed_.load(std::memory_order_acquire) || members_.flush_failed();
  }
  [[nodiscard]] Result<> check_writable() const VSNAP_EXCLUDES(mutex_); // EIO, EROFS of a frozen one
  [[nodiscard]] std::string health() const VSNAP_EXCLUDES(mutex_);      // "ok", or one line
  // For good. `why`: what whoever wants a change is told.
  void refuse_changes(std::string why, std::string health) VSNAP_EXCLUDES(mutex_);
  // The first reason is the one that is told.
  void fail(const Error& why) VSNAP_EXCLUDES(mutex_);
  // What the members hold may contradict itself: a check has to run before the next change.
  [[nodiscard]] bool needs_check() const { return needs_check_.load() || members_.flush_failed(); }
  void mark_members();

  // EIO where a failed flush may have lost what lies there.
  [[nodiscard]] Result<> check_kept(PlaceRun run) const {
    const LostPlaces* const lost = lost_.load(std::memory_order_acquire);
    return lost != nullptr && lost->touches(run) ? lost_error(run) : Result<>();
  }
  [[nodiscard]] bool knows_lost_places() const { return lost_.load() != nullptr; }
  // Of a failed flush: what was recorded since the last good one. Once.
  void set_lost_places(std::span<const LogRecord> since_last_flush) VSNAP_EXCLUDES(mutex_);

 private:
  [[nodiscard]] static Result<> lost_error(PlaceRun run);

  MemberSet& members_;
  mutable Mutex mutex_;
  std::string reason_ VSNAP_GUARDED_BY(mutex_);
  std::string frozen_why_ VSNAP_GUARDED_BY(mutex_); // empty: it is not
  std::string frozen_health_ VSNAP_GUARDED_BY(mutex_);
  std::atomic<bool> failed_{false};
  std::atomic<bool> needs_check_{false};
  std::atomic<bool> marked_{false}; // on all members
  std::unique_ptr<const LostPlaces> lost_places_ VSNAP_GUARDED_BY(mutex_);
  std::atomic<const LostPlaces*> lost_{nullptr};
};

} // namespace vsnap
