#include "core/direct_io.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <utility>

#include "core/assert.h"
#include "core/units.h"

namespace vsnap {
namespace {

// Of each thread that needs one. Requests of the kernel have at most 1 MiB; a quarter of it at a time keeps
// what is copied in the processor's cache.
constexpr std::size_t kBufferBytes = 256U << 10;

// Empty: no memory.
std::span<std::byte> thread_buffer() {
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  thread_local std::unique_ptr<std::byte, Free> buffer;
  if (!buffer) buffer.reset(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kBufferBytes)));
  return {buffer.get(), buffer ? kBufferBytes : 0};
}

struct Alignment {
  std::uint32_t block = 0;
  std::uint32_t memory = 0;
};

// Where the kernel does not say, what every device takes that has blocks of at most 4 KiB.
Alignment alignment_of(int fd, bool block_device) {
  Alignment out{kBlockBytes, kBlockBytes};
#ifdef STATX_DIOALIGN // Linux 6.1
  struct statx s = {};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &s) == 0 && (s.stx_mask & STATX_DIOALIGN) != 0)
    return {s.stx_dio_offset_align, std::max(s.stx_dio_mem_align, 1U)};
#endif
  int logical = 0;
  if (block_device && ::ioctl(fd, BLKSSZGET, &logical) == 0 && logical > 0) {
    out.block = out.memory = static_cast<std::uint32_t>(logical);
  }
  return out;
}

// A lock that not everybody needs.
using Held = std::unique_lock<Mutex>;
Held held(Mutex* mutex) { return mutex != nullptr ? Held(*mutex) : Held(); }

bool usable(std::uint32_t alignment) { return std::has_single_bit(alignment) && alignment <= kBlockBytes; }

} // namespace

std::unique_ptr<DirectIo> DirectIo::of(int fd, bool block_device, std::uint64_t size_bytes) {
  const Alignment alignment = alignment_of(fd, block_device);
  if (!usable(alignment.block) || !usable(alignment.memory) || size_bytes % alignment.block != 0) return {};
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_DIRECT) != 0) return {};
  std::unique_ptr<DirectIo> io(new DirectIo(fd, alignment.block, alignment.memory));
  // Some file systems take the flag and refuse the I/O.
  const std::span<std::byte> buffer = thread_buffer();
  if (buffer.empty() || io->read_aligned(0, buffer.first(kBlockBytes)) != 0) {
    static_cast<void>(::fcntl(fd, F_SETFL, flags));
    return {};
  }
  return io;
}

int DirectIo::read_aligned(std::uint64_t offset, std::span<std::byte> out) const {
  VSNAP_ASSERT(is_aligned(offset, out));
  while (!out.empty()) {
    const ssize_t n = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    const std::size_t whole = static_cast<std::size_t>(n) / block_bytes_ * block_bytes_;
    if (whole == 0) return ENODATA;
    out = out.subspan(whole);
    offset += whole;
  }
  return 0;
}

int DirectIo::write_aligned(std::uint64_t offset, std::span<const std::byte> data, bool durably) const {
  VSNAP_ASSERT(is_aligned(offset, data));
  while (!data.empty()) {
    const iovec piece{const_cast<std::byte*>(data.data()), data.size()};
    const ssize_t n = ::pwritev2(fd_, &piece, 1, static_cast<off_t>(offset), durably ? RWF_DSYNC : 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    const std::size_t whole = static_cast<std::size_t>(n) / block_bytes_ * block_bytes_;
    if (whole == 0) return EIO;
    data = data.subspan(whole);
    offset += whole;
  }
  return 0;
}

int DirectIo::read(std::uint64_t offset, std::span<std::byte> out) {
  if (is_aligned(offset, out)) return read_aligned(offset, out);
  const std::span<std::byte> buffer = thread_buffer();
  if (buffer.empty()) return ENOMEM;
  while (!out.empty()) {
    const std::size_t before = offset % block_bytes_;
    const std::size_t wanted = std::min(out.size(), buffer.size() - before);
    const std::size_t blocks = (before + wanted + block_bytes_ - 1) / block_bytes_;
    if (const int error = read_aligned(offset - before, buffer.first(blocks * block_bytes_)); error != 0)
      return error;
    std::memcpy(out.data(), buffer.data() + before, wanted);
    out = out.subspan(wanted);
    offset += wanted;
  }
  return 0;
}

int DirectIo::write(std::uint64_t offset, std::span<const std::byte> data, bool durably) {
  if (is_aligned(offset, data)) return write_aligned(offset, data, durably);
  while (!data.empty()) {
    const std::size_t before = offset % block_bytes_;
    const std::span<const std::byte> part = data.first(std::min(data.size(), kBufferBytes - before));
    if (const int error = write_merged(offset, part, durably); error != 0) return error;
    data = data.subspan(part.size());
    offset += part.size();
  }
  return 0;
}

int DirectIo::write_merged(std::uint64_t offset, std::span<const std::byte> data, bool durably) {
  const std::uint64_t begin = offset / block_bytes_ * block_bytes_;
  const std::uint64_t last = (offset + data.size() - 1) / block_bytes_ * block_bytes_;
  const bool first_in_part = offset != begin || offset + data.size() < begin + block_bytes_;
  const bool last_in_part = last != begin && offset + data.size() < last + block_bytes_;
  Mutex* low = first_in_part ? &stripe(begin) : nullptr;
  Mutex* high = last_in_part ? &stripe(last) : nullptr;
  if (low == high) high = nullptr;
  if (low != nullptr && high != nullptr && std::less<>()(high, low)) std::swap(low, high);
  const Held first = held(low), second = held(high); // in the order of their addresses
  const std::span<std::byte> buffer = thread_buffer();
  if (buffer.empty()) return ENOMEM;
  const std::span<std::byte> merged = buffer.first(last + block_bytes_ - begin);
  if (first_in_part) {
    if (const int error = read_aligned(begin, merged.first(block_bytes_)); error != 0) return error;
  }
  if (last_in_part) {
    if (const int error = read_aligned(last, merged.last(block_bytes_)); error != 0) return error;
  }
  std::memcpy(merged.data() + (offset - begin), data.data(), data.size());
  return write_aligned(begin, merged, durably);
}

} // namespace vsnap
