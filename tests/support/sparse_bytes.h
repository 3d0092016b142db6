// The bytes of a file in memory: pages that nobody has written take no memory, and cost nothing to copy.
// Threads: as a vector.
#pragma once

#include <cstddef>
#include <span>

namespace vsnap {

class SparseBytes {
 public:
  explicit SparseBytes(std::size_t size = 0);
  ~SparseBytes();
  SparseBytes(const SparseBytes& other);
  SparseBytes& operator=(const SparseBytes& other);

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::byte* data() { return at_; }
  [[nodiscard]] const std::byte* data() const { return at_; }
  std::byte& operator[](std::size_t index) { return at_[index]; }
  const std::byte& operator[](std::size_t index) const { return at_[index]; }
  [[nodiscard]] std::byte* begin() { return at_; }
  [[nodiscard]] std::byte* end() { return at_ + size_; }
  [[nodiscard]] const std::byte* begin() const { return at_; }
  [[nodiscard]] const std::byte* end() const { return at_ + size_; }
  bool operator==(const SparseBytes& other) const;
  void resize(std::size_t size); // zeros where it grows

 private:
  void map();
  void unmap();
  void copy_from(const SparseBytes& other); // of the same size, over zeros where it has no pages
  void clear_beside(const SparseBytes& other);
  int fd_;
  std::size_t size_ = 0;
  std::byte* at_ = nullptr;
};

} // namespace vsnap
