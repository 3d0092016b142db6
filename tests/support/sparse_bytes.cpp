#include "tests/support/sparse_bytes.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "core/assert.h"

namespace vsnap {
namespace {

constexpr off_t kPageBytes = 4096;

} // namespace

SparseBytes::SparseBytes(std::size_t size) : fd_(::memfd_create("bytes", MFD_CLOEXEC)), size_(size) {
  VSNAP_ASSERT(fd_ >= 0 && ::ftruncate(fd_, static_cast<off_t>(size)) == 0);
  map();
}

SparseBytes::~SparseBytes() {
  unmap();
  ::close(fd_);
}

SparseBytes::SparseBytes(const SparseBytes& other) : SparseBytes(other.size_) { copy_from(other); }

SparseBytes& SparseBytes::operator=(const SparseBytes& other) {
  if (this == &other) return *this;
  if (size_ == other.size_) {
    clear_beside(other);
  } else {
    resize(0);
    resize(other.size_);
  }
  copy_from(other);
  return *this;
}

bool SparseBytes::operator==(const SparseBytes& other) const {
  return size_ == other.size_ && (size_ == 0 || std::memcmp(at_, other.at_, size_) == 0);
}

void SparseBytes::resize(std::size_t size) {
  unmap();
  VSNAP_ASSERT(::ftruncate(fd_, static_cast<off_t>(size)) == 0);
  size_ = size;
  map();
}

void SparseBytes::map() {
  if (size_ == 0) return;
  void* const memory = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  VSNAP_ASSERT(memory != MAP_FAILED);
  at_ = static_cast<std::byte*>(memory);
}

void SparseBytes::unmap() {
  if (at_ != nullptr) ::munmap(at_, size_);
  at_ = nullptr;
}

// Pages that are the same already are only read: new ones cost far more than a comparison.
void SparseBytes::copy_from(const SparseBytes& other) {
  for (off_t from = 0; (from = ::lseek(other.fd_, from, SEEK_DATA)) >= 0;) {
    const off_t end = ::lseek(other.fd_, from, SEEK_HOLE);
    for (off_t size = 0; from < end; from += size) {
      size = std::min<off_t>(end - from, kPageBytes - from % kPageBytes);
      const auto length = static_cast<std::size_t>(size);
      if (std::memcmp(at_ + from, other.at_ + from, length) != 0)
        std::memcpy(at_ + from, other.at_ + from, length);
    }
  }
}

// What is written here and a hole there becomes one.
void SparseBytes::clear_beside(const SparseBytes& other) {
  const auto size = static_cast<off_t>(size_);
  for (off_t from = 0; (from = ::lseek(fd_, from, SEEK_DATA)) >= 0;) {
    const off_t end = ::lseek(fd_, from, SEEK_HOLE);
    while (from < end) {
      const off_t hole = std::min(::lseek(other.fd_, from, SEEK_HOLE), end);
      const off_t data = hole < size ? ::lseek(other.fd_, hole, SEEK_DATA) : size;
      const off_t stop = data < 0 ? end : std::min(data, end); // < 0: there is no more
      if (hole < stop) {
        VSNAP_ASSERT(::fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, hole, stop - hole) == 0);
      }
      from = std::max(stop, hole);
    }
  }
}

} // namespace vsnap
