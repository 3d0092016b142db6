#include "core/journal.h"

#include <fmt/format.h>
#include <algorithm>
#include <array>
#include <cstring>

#include "core/assert.h"
#include "core/planted.h"
#include "core/superblock.h"

namespace vsnap {
namespace {

// A frame: a header of 64 bytes, its records, zeros up to a multiple of a block.
constexpr std::array<char, 8> kMagic = {'V', 'S', 'N', 'A', 'P', 'J', 'N', 'L'};
constexpr std::uint64_t kHeaderBytes = 64;
constexpr std::size_t kCrcAt = 8;     // CRC-32C of the whole frame, with zeros here
constexpr std::size_t kCountAt = 12;  // records
constexpr std::size_t kNumberAt = 16; // of the frame
constexpr std::size_t kPoolAt = 24;   // UUID
constexpr std::uint64_t kMaxFrameBytes = 1024 * 1024;
constexpr std::uint64_t kMaxFrameRecords = (kMaxFrameBytes - kHeaderBytes) / kLogRecordBytes;

std::uint64_t frame_bytes(std::uint64_t records) {
  return (kHeaderBytes + records * kLogRecordBytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
}

template <class Integer>
void put(std::span<std::byte> at, Integer value) {
  for (std::size_t i = 0; i < sizeof value; ++i) at[i] = static_cast<std::byte>(value >> (8 * i));
}

template <class Integer>
Integer get(std::span<const std::byte> at) {
  Integer value = 0;
  for (std::size_t i = 0; i < sizeof value; ++i)
    value |= static_cast<Integer>(static_cast<Integer>(at[i]) << (8 * i));
  return value;
}

void seal(std::span<std::byte> frame) { put(frame.subspan(kCrcAt), crc32c(frame)); }

bool sealed(std::span<std::byte> frame) { // leaves zeros where the CRC was
  const auto crc = get<std::uint32_t>(frame.subspan(kCrcAt));
  put(frame.subspan(kCrcAt), std::uint32_t{0});
  return crc == crc32c(frame);
}

} // namespace

void Journal::attach(PlaceRun segment, const Uuid& pool) {
  start_ = segment.start;
  size_ = bytes(segment.count);
  pool_ = pool;
}

// ---- writing ----

std::optional<std::uint64_t> Journal::place_for(std::uint64_t length) const {
  const std::uint64_t head = next_.offset;
  if (frames_.empty() || planted(Fault::frame_overwritten)) {
    if (head + length <= size_) return head;
    return length <= size_ ? std::optional<std::uint64_t>(0) : std::nullopt;
  }
  const std::uint64_t tail = frames_.front().begin;
  if (head <= tail) return head + length < tail ? std::optional(head) : std::nullopt; // it has turned round
  if (head + length <= size_) return head;
  return length < tail ? std::optional<std::uint64_t>(0) : std::nullopt;
}

std::uint64_t Journal::flushed() const {
  MutexLock lock(mutex_);
  return flushed_;
}

bool Journal::needs_no_flush(std::uint64_t wanted) const {
  MutexLock lock(mutex_);
  return wanted <= std::max({flushed_, durable_, log_.committed(), last_without_flush()});
}

// 0 where something before needs one.
std::uint64_t Journal::last_without_flush() const {
  const std::uint64_t last = log_.last(); // before the other
  return log_.last_with_data() <= std::max({flushed_, durable_, log_.committed()}) ? last : 0;
}

Result<bool> Journal::sync(std::uint64_t wanted) {
  MutexLock lock(mutex_);
  flushed_ = std::max(flushed_, wanted);
  return sync(wanted, Flush::done);
}

Result<bool> Journal::sync_and_flush(std::uint64_t wanted) {
  MutexLock lock(mutex_);
  return sync(wanted, Flush::with_frame);
}

Result<bool> Journal::sync(std::uint64_t wanted, Flush flush) {
  for (;;) {
    if (failed_) return failure(ErrorKind::failed, EIO, "an earlier write to the journal failed");
    if (durable_ >= wanted || log_.committed() >= wanted) return true;
    if (writing_) {
      written_.wait(mutex_);
      continue;
    }
    const std::uint64_t to = flush == Flush::done ? flushed_ : std::max(wanted, last_without_flush());
    VSNAP_TRY_ASSIGN(const bool written, write_frame(to, flush));
    if (!written) return false;
  }
}

// The mutex is let go of while the frame is written.
Result<bool> Journal::write_frame(std::uint64_t to, Flush flush) {
  records_.clear();
  const std::uint64_t from = std::max(durable_, log_.committed());
  to = std::min(to, from + kMaxFrameRecords);
  log_.copy(from, to, records_);
  if (records_.empty()) { // committed meanwhile
    set_durable(std::max(durable_, to));
    return true;
  }
  const std::uint64_t length = frame_bytes(records_.size());
  const auto offset = place_for(length);
  if (!offset) return false;
  frame_.assign(length, std::byte{0});
  const std::span<std::byte> frame(frame_);
  std::memcpy(frame_.data(), kMagic.data(), kMagic.size());
  put(frame.subspan(kCountAt), static_cast<std::uint32_t>(records_.size()));
  put(frame.subspan(kNumberAt), next_.frame);
  std::memcpy(frame_.data() + kPoolAt, pool_.data(), pool_.size());
  std::uint64_t at = kHeaderBytes;
  for (const LogRecord& record : records_) {
    encode(record, frame.subspan(at).first<kLogRecordBytes>());
    at += kLogRecordBytes;
  }
  seal(frame);
  auto written = write_unlocked(*offset, flush);
  if (!written) {
    if (written.error().kind == ErrorKind::no_space) return false; // a commit says what is missing
    failed_ = true;
    return Failure(written.error());
  }
  set_durable(to);
  if (flush == Flush::with_frame) flushed_ = std::max(flushed_, to);
  frames_.push_back({next_.frame, *offset, *offset + length});
  next_ = {next_.frame + 1, *offset + length};
  used_.fetch_add(length, std::memory_order_relaxed);
  return true;
}

// Nobody could go on without the mutex and the turn given back: nothing is thrown.
Result<> Journal::write_unlocked(std::uint64_t offset, Flush flush) noexcept {
  writing_ = true;
  mutex_.unlock();
  const bool flushes = flush == Flush::with_frame && !planted(Fault::saved_without_flush);
  auto written = planted(Fault::frame_not_durable) ? members_.write(start_, offset, frame_)
                 : flushes                         ? write_and_flush(offset)
                                                   : members_.write_durably(start_, offset, frame_);
  mutex_.lock();
  writing_ = false;
  if (!planted(Fault::lost_wakeup)) written_.notify_all();
  return written;
}

Result<> Journal::write_and_flush(std::uint64_t offset) {
  VSNAP_TRY(members_.write(start_, offset, frame_));
  return members_.flush_members();
}

void Journal::set_durable(std::uint64_t sequence) {
  durable_ = sequence;
  durable_now_.store(sequence, std::memory_order_release);
}

Journal::Position Journal::line() const {
  MutexLock lock(mutex_);
  return next_;
}

void Journal::trim(Position to) {
  MutexLock lock(mutex_);
  while (!frames_.empty() && frames_.front().number < to.frame) {
    used_.fetch_sub(frames_.front().end - frames_.front().begin, std::memory_order_relaxed);
    frames_.pop_front();
  }
}

// ---- reading ----

Result<std::optional<Journal::Found>> Journal::read_frame(std::uint64_t offset, std::uint64_t number,
                                                          bool or_later) {
  if (offset + kBlockBytes > size_) return std::nullopt;
  std::vector<std::byte> frame(kBlockBytes);
  VSNAP_TRY(members_.read(start_, offset, frame));
  const auto found = get<std::uint64_t>(std::span(frame).subspan(kNumberAt));
  const auto count = get<std::uint32_t>(std::span(frame).subspan(kCountAt));
  if (std::memcmp(frame.data(), kMagic.data(), kMagic.size()) != 0 ||
      std::memcmp(frame.data() + kPoolAt, pool_.data(), pool_.size()) != 0 ||
      (or_later ? found < number : found != number) || count == 0 || count > kMaxFrameRecords) {
    return std::nullopt;
  }
  const std::uint64_t length = frame_bytes(count);
  if (length > size_ - offset) return std::nullopt;
  frame.resize(length);
  VSNAP_TRY(members_.read(start_, offset + kBlockBytes, std::span(frame).subspan(kBlockBytes)));
  if (!sealed(frame) && !planted(Fault::frame_unsealed)) return std::nullopt;
  Found whole{offset, length, {}};
  for (std::uint32_t i = 0; i < count; ++i) {
    whole.records.push_back(
        decode_record(std::span(frame).subspan(kHeaderBytes + i * kLogRecordBytes).first<kLogRecordBytes>()));
  }
  return whole;
}

Result<std::optional<Journal::Found>> Journal::find_frame(Position at) {
  VSNAP_TRY_ASSIGN(auto found, read_frame(at.offset, at.frame, false));
  if (found || at.offset == 0) return found;
  return read_frame(0, at.frame, false);
}

// Where the frame behind the one that is missing would begin is known only by the longest that it may be.
Result<bool> Journal::any_frame_after(Position end) {
  const auto look = [&](std::uint64_t from) -> Result<bool> {
    for (std::uint64_t at = from; at <= from + kMaxFrameBytes && at < size_; at += kBlockBytes) {
      VSNAP_TRY_ASSIGN(const auto found, read_frame(at, end.frame + 1, true));
      if (found) return true;
    }
    return false;
  };
  VSNAP_TRY_ASSIGN(const bool found, look(end.offset));
  if (found || end.offset == 0) return found;
  return look(0);
}

namespace {

Failure damaged(std::uint64_t frame, std::string_view what) {
  return failure(
      ErrorKind::damaged,
      fmt::format("journal: frame {}: {} (vsnap check --repair gives up what was written after it)", frame,
                  what));
}

} // namespace

// Where it cannot be read the record counts: reading an error is better than reading what came later.
bool Journal::has_copy(const LogRecord& save) {
  const MapChange change = change_of(save);
  if (change.place.is_zeros()) return true; // there is nothing to have
  if (change.place.member() >= members_.count()) return true; // whoever gets the record tells
  std::vector<std::byte> copy(bytes(change.count));
  if (!members_.read(change.place, 0, copy) || planted(Fault::copy_not_compared)) return true;
  return crc32c(copy) == change.checksum;
}

Result<> Journal::replay_frame(const Found& found, std::uint64_t number, bool newest, std::uint64_t& last,
                               const Each& each) {
  const std::uint64_t first = found.records.front().sequence;
  if (first > last + 1) return damaged(number, "records are missing before it");
  for (std::size_t i = 0; i < found.records.size(); ++i) {
    const LogRecord& record = found.records[i];
    if (record.sequence != first + i || !valid(record)) return damaged(number, "a record contradicts itself");
    if (record.sequence <= last) continue;
    LogRecord nothing;
    nothing.sequence = record.sequence;
    const bool counts = !newest || record.type != RecordType::copy_out || has_copy(record);
    VSNAP_TRY(each(counts ? record : nothing));
    last = record.sequence;
  }
  return {};
}

Result<> Journal::replay(Position from, std::uint64_t applied, const Each& each) {
  MutexLock lock(mutex_);
  next_ = {from.frame, 0};
  durable_ = flushed_ = applied;
  if (from.offset > size_ || from.offset % kBlockBytes != 0)
    return damaged(from.frame, "the catalog says that it lies outside of the ring");
  next_ = from;
  std::optional<Found> found;
  if (attached()) {
    VSNAP_TRY_ASSIGN(found, find_frame(next_));
  }
  while (found) {
    const Position after{next_.frame + 1, found->offset + found->length};
    VSNAP_TRY_ASSIGN(auto following, find_frame(after));
    VSNAP_TRY(replay_frame(*found, next_.frame, !following, durable_, each));
    frames_.push_back({next_.frame, found->offset, found->offset + found->length});
    used_.fetch_add(found->length);
    next_ = after;
    found = std::move(following);
  }
  set_durable(durable_);
  flushed_ = durable_;
  if (!attached()) return {};
  VSNAP_TRY_ASSIGN(const bool more, any_frame_after(next_));
  return more ? damaged(next_.frame, "damaged, as a later one is whole") : Result<>();
}

Result<> Journal::reset() {
  MutexLock lock(mutex_);
  const std::vector<std::byte> zeros(kMaxFrameBytes);
  for (std::uint64_t at = 0; at < size_; at += zeros.size()) {
    const std::uint64_t length = std::min<std::uint64_t>(zeros.size(), size_ - at);
    VSNAP_TRY(members_.write_durably(start_, at, std::span(zeros).first(length)));
  }
  frames_.clear();
  used_.store(0);
  return {};
}

} // namespace vsnap
