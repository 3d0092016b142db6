#include "core/frozen_file.h"

#include <algorithm>

namespace vsnap {
namespace {

// body(block, begin in it, end in it, bytes before it)
template <class Body>
void for_blocks(std::uint64_t offset, std::uint64_t length, Body body) {
  for (std::uint64_t done = 0; done < length;) {
    const std::uint64_t begin = (offset + done) % kBlockBytes;
    const std::uint64_t end = std::min<std::uint64_t>(kBlockBytes, begin + length - done);
    body((offset + done) / kBlockBytes, begin, end, done);
    done += end - begin;
  }
}

} // namespace

FrozenFile::FrozenFile(std::unique_ptr<File> below)
    : below_(std::move(below)), size_bytes_(below_->size_bytes()) {}

FrozenFile::FrozenFile(std::uint64_t size_bytes, std::string why_missing)
    : why_missing_(std::move(why_missing)), size_bytes_(size_bytes) {}

FrozenFile::Covered FrozenFile::covered(std::uint64_t offset, std::uint64_t length) const {
  std::uint64_t bytes = 0;
  if (blocks_.empty()) return Covered::nothing;
  for_blocks(offset, length,
             [&](std::uint64_t number, std::uint64_t begin, std::uint64_t end,
                 std::uint64_t) VSNAP_NO_THREAD_SAFETY_ANALYSIS {
               const auto found = blocks_.find(number);
               if (found == blocks_.end()) return;
               for (std::uint64_t at = begin; at < end; ++at) bytes += found->second.written.test(at) ? 1 : 0;
             });
  return bytes == 0 ? Covered::nothing : bytes == length ? Covered::all : Covered::some;
}

void FrozenFile::lay_over(std::uint64_t offset, std::span<std::byte> out) const {
  for_blocks(offset, out.size(),
             [&](std::uint64_t number, std::uint64_t begin, std::uint64_t end,
                 std::uint64_t done) VSNAP_NO_THREAD_SAFETY_ANALYSIS {
               const auto found = blocks_.find(number);
               if (found == blocks_.end()) return;
               for (std::uint64_t at = begin; at < end; ++at) {
                 if (found->second.written.test(at)) out[done + at - begin] = found->second.bytes[at];
               }
             });
}

Result<> FrozenFile::read_at(std::uint64_t offset, std::span<std::byte> out) {
  {
    MutexLock lock(mutex_);
    if (covered(offset, out.size()) == Covered::all) {
      lay_over(offset, out);
      return {};
    }
  }
  if (!below_) return failure(ErrorKind::failed, EIO, why_missing_);
  VSNAP_TRY(below_->read_at(offset, out));
  MutexLock lock(mutex_);
  lay_over(offset, out);
  return {};
}

Result<File::Progress> FrozenFile::start_read(std::uint64_t offset, std::span<std::byte> out, Done done) {
  bool ours = !below_;
  if (!ours) {
    MutexLock lock(mutex_);
    ours = covered(offset, out.size()) != Covered::nothing;
  }
  if (!ours) return below_->start_read(offset, out, std::move(done));
  VSNAP_TRY(read_at(offset, out));
  return Progress::finished;
}

Result<> FrozenFile::write_at(std::uint64_t offset, std::span<const std::byte> data) {
  MutexLock lock(mutex_);
  for_blocks(offset, data.size(),
             [&](std::uint64_t number, std::uint64_t begin, std::uint64_t end,
                 std::uint64_t done) VSNAP_NO_THREAD_SAFETY_ANALYSIS {
               Block& block = blocks_[number];
               for (std::uint64_t at = begin; at < end; ++at) {
                 block.bytes[at] = data[done + at - begin];
                 block.written.set(at);
               }
             });
  return {};
}

void FrozenFile::drop_cache() {
  if (below_) below_->drop_cache();
}

Result<FileStamp> FrozenFile::stamp(bool) {
  return below_ ? below_->stamp(false) : Result<FileStamp>(FileStamp{size_bytes()});
}

Result<> FrozenFile::resize(std::uint64_t size_bytes) {
  size_bytes_.store(size_bytes);
  return {};
}

std::string FrozenFile::identity() const { return below_ ? below_->identity() : why_missing_; }

Result<bool> FrozenFile::try_lock() { return below_ ? below_->try_lock() : Result<bool>(true); }

} // namespace vsnap
