#include "fuse/pending_reads.h"

#include <algorithm>
#include <utility>

#include "core/units.h"
#include "fuse/reply.h"
#include "fuse/request_channel.h"

namespace vsnap {
namespace {

// Of the longest request; a longer one, should a kernel ever send it, makes its buffer grow.
constexpr std::size_t kUsualBytes = 1U << 20;
// Buffers nobody uses. More are in use only while as many reads wait for members at a time.
constexpr std::size_t kMaxSpare = 32;

ReadBuffer& worker_buffer() {
  thread_local ReadBuffer buffer;
  return buffer;
}

} // namespace

ReadBuffer& ReadBuffer::of_worker(std::size_t length) {
  ReadBuffer& buffer = worker_buffer();
  buffer.make_room(length);
  return buffer;
}

void ReadBuffer::make_room(std::size_t length) {
  if (capacity_ >= length) return;
  const std::size_t wanted = bytes(blocks_for(std::max(length, kUsualBytes)));
  bytes_.reset(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, wanted)));
  capacity_ = bytes_ ? wanted : 0;
  if (!bytes_) throw std::bad_alloc();
}

PendingReads::PendingReads() { spare_.reserve(kMaxSpare); }

struct PendingReads::Left {
  fuse_req_t req;
  RequestOrigin origin;
  std::byte* bytes; // of a buffer that nobody else has any more
  std::size_t capacity;
};

Result<> PendingReads::read(fuse_req_t req, View& view, std::uint64_t offset, std::size_t length) {
  ReadBuffer& buffer = worker_buffer();
  if (buffer.capacity_ == 0) {
    MutexLock lock(mutex_);
    if (!spare_.empty()) {
      buffer = std::move(spare_.back());
      spare_.pop_back();
    }
  }
  buffer.make_room(length);
  const Left left{req, current_request(), buffer.bytes_.get(), buffer.capacity_};
  View::ReadDone done = [this, left](const Result<std::size_t>& later) { end(left, later); };
  count_.fetch_add(1, std::memory_order_relaxed);
  const auto got = view.start_read(offset, buffer.first(length), std::move(done));
  if (got && !*got) { // it may even have ended by now
    static_cast<void>(buffer.bytes_.release());
    buffer.capacity_ = 0;
    return {};
  }
  count_.fetch_sub(1, std::memory_order_relaxed); // no end is waited for while workers are at work
  if (!got) return Failure(got.error());
  fuse_reply_buf(req, reinterpret_cast<const char*>(left.bytes), **got);
  return {};
}

void PendingReads::end(const Left& left, const Result<std::size_t>& length) {
  const AnswerFor origin(left.origin);
  answer(left.req, [&](Operations&) -> Result<> {
    if (!length) return Failure(length.error());
    fuse_reply_buf(left.req, reinterpret_cast<const char*>(left.bytes), *length);
    return {};
  });
  ReadBuffer buffer;
  buffer.bytes_.reset(left.bytes);
  buffer.capacity_ = left.capacity;
  MutexLock lock(mutex_);
  if (spare_.size() < kMaxSpare) spare_.push_back(std::move(buffer));
  if (count_.fetch_sub(1, std::memory_order_relaxed) == 1) ended_.notify_all();
}

void PendingReads::wait_for_all() {
  MutexLock lock(mutex_);
  while (count_.load(std::memory_order_relaxed) != 0) ended_.wait(mutex_);
}

} // namespace vsnap
