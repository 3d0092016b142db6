#include "core/change_log.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "core/assert.h"
#include "core/planted.h"

namespace vsnap {
namespace {

constexpr std::size_t kRingBytes = ChangeLog::kSlots * sizeof(LogRecord);

LogRecord* map_ring() {
  void* const memory =
      ::mmap(nullptr, kRingBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "the log of changes");
  return static_cast<LogRecord*>(memory);
}

} // namespace

void ChangeLog::Unmap::operator()(LogRecord* slots) const { ::munmap(slots, kRingBytes); }

ChangeLog::ChangeLog(std::uint64_t committed, std::uint64_t limit, std::uint64_t region_limit)
    : own_(map_ring()),
      slots_(own_.get()),
      limit_(std::min(limit, kMaxLimit)),
      region_limit_(region_limit),
      committed_(committed),
      line_(committed),
      last_(committed),
      last_with_data_(committed) {}

const LogRecord& ChangeLog::slot(std::uint64_t sequence) const {
  const LogRecord& found = slots_[sequence % kSlots];
  VSNAP_ASSERT(found.sequence == sequence);
  return found;
}

std::uint64_t ChangeLog::append(LogRecord record, bool first_of_region) {
  MutexLock lock(mutex_);
  const std::uint64_t sequence = last_.load(std::memory_order_relaxed) + 1;
  VSNAP_ASSERT(sequence - committed_.load(std::memory_order_relaxed) <= kSlots);
  record.sequence = sequence;
  slots_[sequence % kSlots] = record;
  ++touched_;
  if (first_of_region) regions_.fetch_add(1, std::memory_order_relaxed);
  if (shared_last_ != nullptr && !planted(Fault::tail_last_stays))
    shared_last_->store(sequence, std::memory_order_release);
  if (needs_flushed_data(record)) last_with_data_.store(sequence, std::memory_order_release);
  last_.store(sequence, std::memory_order_release);
  return sequence;
}

void ChangeLog::move_to(LogRecord* slots, std::atomic<std::uint64_t>& last,
                        std::atomic<std::uint64_t>& committed) {
  MutexLock lock(mutex_);
  VSNAP_ASSERT(committed_.load() == last_.load() && last.load() == last_.load());
  slots_ = slots;
  shared_last_ = &last;
  shared_committed_ = &committed;
  own_.reset();
}

std::uint64_t ChangeLog::draw_line() {
  MutexLock lock(mutex_);
  const std::uint64_t line = last_.load(std::memory_order_relaxed);
  line_.store(line, std::memory_order_relaxed);
  regions_before_line_ += regions_.exchange(0, std::memory_order_relaxed);
  return line;
}

void ChangeLog::withdraw_line() {
  MutexLock lock(mutex_);
  line_.store(committed_.load(std::memory_order_relaxed), std::memory_order_relaxed);
  regions_.fetch_add(std::exchange(regions_before_line_, 0), std::memory_order_relaxed);
}

void ChangeLog::copy(std::uint64_t from, std::uint64_t to, std::vector<LogRecord>& out) const {
  MutexLock lock(mutex_); // their slots are not used again meanwhile
  from = std::max(from, committed_.load(std::memory_order_relaxed));
  for (std::uint64_t sequence = from + 1; sequence <= to; ++sequence) out.push_back(slot(sequence));
}

void ChangeLog::set_committed(std::uint64_t sequence) {
  MutexLock lock(mutex_);
  VSNAP_ASSERT(sequence >= committed_.load(std::memory_order_relaxed) &&
               sequence <= line_.load(std::memory_order_relaxed));
  committed_.store(sequence, std::memory_order_release);
  if (shared_committed_ != nullptr) shared_committed_->store(sequence, std::memory_order_release);
  if (sequence == line_.load(std::memory_order_relaxed)) regions_before_line_ = 0;
  if (own_ && sequence == last_.load(std::memory_order_relaxed) && touched_ > kKeptSlots) {
    static_cast<void>(::madvise(own_.get(), kRingBytes, MADV_DONTNEED));
    touched_ = 0;
  }
}

} // namespace vsnap
