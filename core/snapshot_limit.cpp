#include "core/snapshot_limit.h"

#include <algorithm>
#include <array>

#include "core/planted.h"

namespace vsnap {
namespace {

constexpr std::array<unsigned, 2> kMarks = {95, SnapshotLimit::kWarnPercent};

thread_local unsigned exempt = 0;

} // namespace

SnapshotLimit::Exempt::Exempt() { ++exempt; }
SnapshotLimit::Exempt::~Exempt() { --exempt; }

void SnapshotLimit::set(std::optional<std::uint64_t> blocks, OnFull on_full) {
  const std::uint64_t most = blocks ? std::min(*blocks, kNoLimit - 1) : kNoLimit;
  const OnFull before = on_full_.exchange(on_full);
  const std::uint64_t old_most = most_.load();
  if (old_most == most && before == on_full) return;
  if (old_most == kNoLimit) forget(); // nobody has counted
  most_.store(most);
  if (used() < most) told_full_.store(false);
  pause_.store(0);
  looks_left_.store(0);
  wake();
}

std::uint64_t SnapshotLimit::take(std::uint64_t wanted) {
  if (exempt > 0 || !active()) {
    add(wanted);
    return wanted;
  }
  if (!known_.load(std::memory_order_acquire)) return 0;
  const std::uint64_t most = most_.load();
  std::int64_t used = used_.load();
  for (;;) {
    const auto so_far = static_cast<std::uint64_t>(std::max<std::int64_t>(used, 0));
    const std::uint64_t granted = so_far >= most ? 0 : std::min(wanted, most - so_far);
    if (granted == 0) return 0;
    if (used_.compare_exchange_weak(used, used + static_cast<std::int64_t>(granted))) return granted;
  }
}

Failure SnapshotLimit::refusal() {
  return failure(ErrorKind::no_space, EDQUOT, "snapshots use all of their limit");
}

bool SnapshotLimit::refused(const Error& error) {
  return error.kind == ErrorKind::no_space && error.errno_value == EDQUOT;
}

std::uint64_t SnapshotLimit::used() const {
  return static_cast<std::uint64_t>(std::max<std::int64_t>(figure(), 0));
}

unsigned SnapshotLimit::percent() const {
  const std::uint64_t limit = most();
  if (limit == 0) return 100;
  // Blocks are fewer than 2^51.
  return static_cast<unsigned>(std::min<std::uint64_t>(used() * 100 / limit, 9999));
}

bool SnapshotLimit::is_near(std::uint64_t room) const {
  if (!active()) return false;
  return !known_.load() || used() + std::min(room, most()) >= most();
}

SnapshotLimit::Room SnapshotLimit::room() const {
  if (!active()) return Room::some;
  if (!known_.load()) return Room::unknown;
  if (used() < most()) return Room::some;
  return is_exact() ? Room::none : Room::unknown;
}

SnapshotLimit::Count SnapshotLimit::begin_count() {
  MutexLock lock(mutex_);
  const std::uint64_t hints = hints_.load();
  return {figure(), hints, epoch_};
}

bool SnapshotLimit::end_count(Count count, std::uint64_t exact) {
  MutexLock lock(mutex_);
  if (count.epoch != epoch_) return false;
  used_.fetch_add(static_cast<std::int64_t>(exact) - count.figure);
  counted_hints_.store(count.hints);
  known_.store(true, std::memory_order_release);
  if (used() < most()) told_full_.store(false);
  return true;
}

void SnapshotLimit::may_be_less() {
  note_guess();
  wake();
}

void SnapshotLimit::forget() {
  {
    MutexLock lock(mutex_);
    known_.store(false);
    ++epoch_;
  }
  wake();
}

std::uint64_t SnapshotLimit::turn() {
  MutexLock lock(mutex_);
  return turn_;
}

void SnapshotLimit::wait(std::uint64_t turn) {
  MutexLock lock(mutex_);
  waiting_.fetch_add(1);
  while (turn_ == turn) changed_.wait(mutex_);
  waiting_.fetch_sub(1);
}

void SnapshotLimit::wake() {
  if (planted(Fault::pause_not_woken)) return;
  MutexLock lock(mutex_);
  ++turn_;
  changed_.notify_all();
}

unsigned SnapshotLimit::mark() const {
  const unsigned now = active() ? percent() : 0;
  const auto* const mark = std::find_if(kMarks.begin(), kMarks.end(), [&](unsigned m) { return now >= m; });
  return mark == kMarks.end() ? 0 : *mark;
}

bool SnapshotLimit::wants_count() {
  if (!active() || is_exact()) return false;
  if (is_known() && mark() <= told_mark_.load()) return false;
  if (const unsigned left = looks_left_.load(); left > 0) {
    looks_left_.store(left - 1);
    return false;
  }
  const unsigned pause = pause_.load();
  looks_left_.store(pause);
  pause_.store(std::min(2 * pause + 1, kLongestPause));
  return true;
}

unsigned SnapshotLimit::tell_mark() {
  if (active() && !is_known()) return 0;
  const unsigned passed = mark();
  // Lower than the last one it is in any case.
  if (passed > told_mark_.load() && !is_exact()) return 0;
  if (passed <= told_mark_.exchange(passed)) return 0;
  pause_.store(0);
  looks_left_.store(0);
  return passed;
}

} // namespace vsnap
