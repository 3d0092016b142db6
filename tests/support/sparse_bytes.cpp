#include "tests/support/sparse_bytes.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "core/assert.h"

namespace vsnap {

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
  resize(0);
  resize(other.size_);
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

void SparseBytes::copy_from(const SparseBytes& other) {
  for (off_t from = 0; (from = ::lseek(other.fd_, from, SEEK_DATA)) >= 0;) {
    const off_t end = ::lseek(other.fd_, from, SEEK_HOLE);
    std::memcpy(at_ + from, other.at_ + from, static_cast<std::size_t>(end - from));
    from = end;
  }
}

} // namespace vsnap
