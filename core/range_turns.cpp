#include "core/range_turns.h"

#include <bit>

#include "core/assert.h"

namespace vsnap {
namespace {

std::uint64_t bit(std::uint64_t stripe) { return std::uint64_t{1} << stripe; }

} // namespace

RangeTurns::RangeTurns() {
  pthread_rwlockattr_t attributes;
  VSNAP_ASSERT(pthread_rwlockattr_init(&attributes) == 0);
  pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
  for (pthread_rwlock_t& lock : locks_) VSNAP_ASSERT(pthread_rwlock_init(&lock, &attributes) == 0);
  pthread_rwlockattr_destroy(&attributes);
}

RangeTurns::~RangeTurns() {
  for (pthread_rwlock_t& lock : locks_) pthread_rwlock_destroy(&lock);
}

RangeTurns::Held::Held(RangeTurns* turns, BlockIndex from, BlockCount count, Turn turn) : turns_(turns) {
  if (turns == nullptr || count.value() == 0) return;
  const std::uint64_t first = from.value() / kStripeBlocks;
  const std::uint64_t last = (from.value() + count.value() - 1) / kStripeBlocks;
  for (std::uint64_t stripe = first; stripe <= last && stripe < first + kStripes; ++stripe)
    stripes_ |= bit(stripe % kStripes);
  for (std::uint64_t left = stripes_; left != 0; left &= left - 1) {
    const auto i = static_cast<unsigned>(std::countr_zero(left));
    const int taken = turn == Turn::alone ? pthread_rwlock_wrlock(&turns->locks_[i])
                                          : pthread_rwlock_rdlock(&turns->locks_[i]);
    VSNAP_ASSERT(taken == 0);
  }
}

RangeTurns::Held::~Held() {
  for (std::uint64_t left = stripes_; left != 0; left &= left - 1)
    pthread_rwlock_unlock(&turns_->locks_[static_cast<unsigned>(std::countr_zero(left))]);
}

} // namespace vsnap
