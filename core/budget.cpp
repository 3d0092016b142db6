#include "core/budget.h"

#include <algorithm>

#include "core/change_log.h"

namespace vsnap::budget {
namespace {

constexpr std::uint64_t kMaxHeadroomBlocks = 32768;
constexpr std::uint64_t kMinWalBlocks = 256;
constexpr std::uint64_t kMaxWalBlocks = 16384;
constexpr std::uint64_t kMaxJournalBlocks = 16384;

} // namespace

std::uint64_t headroom_blocks(std::uint64_t pool_blocks) {
  return std::clamp(pool_blocks / 64, kMinHeadroomBlocks, kMaxHeadroomBlocks);
}

std::uint64_t wal_blocks(std::uint64_t pool_blocks) {
  return std::clamp(pool_blocks / 64, kMinWalBlocks, kMaxWalBlocks);
}

std::uint64_t journal_blocks(std::uint64_t pool_blocks) {
  return std::clamp(pool_blocks / 64, kMinJournalBlocks, kMaxJournalBlocks);
}

std::uint64_t changes_that_fit(std::uint64_t pages, std::uint64_t used) {
  return pages > used + used / 16 ? (pages - used) * 16 : pages * 16 / 17;
}

std::uint64_t log_limit(std::uint64_t used, std::uint64_t unused) {
  return std::clamp(changes_that_fit(unused / 2, used) / 2, kMinLogRecords, ChangeLog::kMaxLimit);
}

} // namespace vsnap::budget
