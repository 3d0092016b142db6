#include "tests/support/memory_env.h"

#include <algorithm>
#include <cstring>

namespace vsnap {

class MemoryFile final : public File {
 public:
  static constexpr std::size_t kPage = 4096;
  MemoryFile(MemoryEnv& env, std::shared_ptr<MemoryEnv::Content> content)
      : env_(env), content_(std::move(content)), power_(env.power_) {}
  ~MemoryFile() override {
    MutexLock lock(env_.mutex_);
    if (holds_lock_ && power_ == env_.power_) content_->locked = false;
  }
  Result<> read_at(std::uint64_t offset, std::span<std::byte> out) override {
    MutexLock lock(env_.mutex_);
    if (gone() || env_.fails() || offset + out.size() > content_->bytes.size())
      return failure(ErrorKind::failed, EIO, "read");
    std::memcpy(out.data(), content_->bytes.data() + offset, out.size());
    return {};
  }
  Result<> write_at(std::uint64_t offset, std::span<const std::byte> data) override {
    MutexLock lock(env_.mutex_);
    if (gone() || env_.fails() || offset + data.size() > content_->bytes.size())
      return failure(ErrorKind::failed, EIO, "write");
    if (env_.no_space_) return failure(ErrorKind::no_space, ENOSPC, "write");
    std::byte* const at = content_->bytes.data() + offset;
    for (std::size_t done = 0; done < data.size();) { // a cache keeps, or loses, each page by itself
      const std::size_t size = std::min(data.size() - done, kPage - (offset + done) % kPage);
      content_->unsynced.push_back({offset + done, {at + done, at + done + size}});
      done += size;
    }
    std::memcpy(at, data.data(), data.size());
    return {};
  }
  Result<> write_durably(std::uint64_t offset, std::span<const std::byte> data) override {
    MutexLock lock(env_.mutex_);
    if (gone() || env_.fails() || offset + data.size() > content_->bytes.size())
      return failure(ErrorKind::failed, EIO, "write");
    if (env_.no_space_) return failure(ErrorKind::no_space, ENOSPC, "write");
    std::copy(data.begin(), data.end(), content_->bytes.begin() + static_cast<std::ptrdiff_t>(offset));
    // What was written there before and may be lost can no longer come back.
    for (auto& undo : content_->unsynced) {
      const std::uint64_t from = std::max(undo.offset, offset);
      const std::uint64_t to = std::min(undo.offset + undo.before.size(), offset + data.size());
      if (from < to)
        std::copy_n(data.begin() + static_cast<std::ptrdiff_t>(from - offset), to - from,
                    undo.before.begin() + static_cast<std::ptrdiff_t>(from - undo.offset));
    }
    return {};
  }
  Result<> flush() override {
    MutexLock lock(env_.mutex_);
    if (gone() || env_.fails() || std::exchange(env_.fail_flush_, false))
      return failure(ErrorKind::failed, EIO, "flush");
    content_->unsynced.clear();
    return {};
  }
  void discard(std::uint64_t offset, std::uint64_t length) override {
    MutexLock lock(env_.mutex_);
    if (gone()) return;
    // Contents are undefined afterwards: something nobody wrote, so that whoever relies on it is found out.
    std::byte* const at = content_->bytes.data() + offset;
    content_->unsynced.push_back({offset, {at, at + length}});
    std::fill_n(at, length, std::byte{0xdd});
  }
  [[nodiscard]] std::uint64_t size_bytes() const override { return content_->bytes.size(); }
  Result<> resize(std::uint64_t size) override {
    MutexLock lock(env_.mutex_);
    content_->bytes.resize(size);
    return {};
  }
  [[nodiscard]] std::string identity() const override { return std::to_string(content_->number); }
  [[nodiscard]] bool is_block_device() const override { return true; } // nothing for libblkid to open
  Result<bool> try_lock() override {
    MutexLock lock(env_.mutex_);
    if (content_->locked && !holds_lock_) return false;
    content_->locked = holds_lock_ = true;
    return true;
  }

 private:
  // Opened before the power was cut: nothing that is done through it happens any more.
  [[nodiscard]] bool gone() const VSNAP_REQUIRES(env_.mutex_) { return power_ != env_.power_; }
  MemoryEnv& env_;
  std::shared_ptr<MemoryEnv::Content> content_;
  const std::uint64_t power_;
  bool holds_lock_ = false;
};

MemoryEnv::MemoryEnv(std::uint64_t seed) : random_(seed) {}
MemoryEnv::~MemoryEnv() = default;

bool MemoryEnv::fails() {
  const std::uint64_t call = ++calls_;
  if (fail_once_ && call == *fail_once_) return true;
  return fail_from_ && call >= *fail_from_;
}

Result<std::unique_ptr<File>> MemoryEnv::open_file(const std::string& path, OpenMode mode) {
  MutexLock lock(mutex_);
  auto found = files_.find(path);
  if (found == files_.end()) {
    if (!mode.create && !mode.exclusive_create) return system_failure(ENOENT, path);
    auto content = std::make_shared<Content>();
    content->number = random_();
    found = files_.emplace(path, std::move(content)).first;
  } else if (mode.exclusive_create) {
    return system_failure(EEXIST, path);
  }
  return std::make_unique<MemoryFile>(*this, found->second);
}

Result<> MemoryEnv::remove_file(const std::string& path) {
  MutexLock lock(mutex_);
  if (files_.erase(path) == 0) return system_failure(ENOENT, path);
  return {};
}

std::int64_t MemoryEnv::wall_clock_ns() {
  MutexLock lock(mutex_);
  return now_ns_ += 1'000'000;
}

std::int64_t MemoryEnv::monotonic_ns() { return wall_clock_ns(); }

Uuid MemoryEnv::random_uuid() {
  MutexLock lock(mutex_);
  Uuid uuid{};
  for (auto& byte : uuid) byte = static_cast<std::uint8_t>(random_());
  return uuid;
}

void MemoryEnv::power_cut(std::uint64_t seed) {
  constexpr std::size_t kSector = 512;
  std::mt19937_64 random(seed);
  MutexLock lock(mutex_);
  ++power_;
  for (auto& [path, content] : files_) {
    for (auto undo = content->unsynced.rbegin(); undo != content->unsynced.rend(); ++undo) {
      const std::uint64_t fate = random() % 3; // kept, lost, torn
      if (fate == 0) continue;
      const std::size_t keep = fate == 1 ? 0 : random() % (undo->before.size() / kSector + 1) * kSector;
      std::copy(undo->before.begin() + static_cast<std::ptrdiff_t>(keep), undo->before.end(),
                content->bytes.begin() + static_cast<std::ptrdiff_t>(undo->offset + keep));
    }
    content->unsynced.clear();
    content->locked = false;
  }
}

void MemoryEnv::fail_from(std::optional<std::uint64_t> nth) {
  MutexLock lock(mutex_);
  fail_from_ = nth ? std::optional(calls_ + *nth) : std::nullopt;
  if (!nth) fail_once_.reset();
}

void MemoryEnv::fail_once(std::uint64_t nth) {
  MutexLock lock(mutex_);
  fail_once_ = calls_ + nth;
}

void MemoryEnv::fail_flush_once() {
  MutexLock lock(mutex_);
  fail_flush_ = true;
}

void MemoryEnv::no_space(bool full) {
  MutexLock lock(mutex_);
  no_space_ = full;
}

std::uint64_t MemoryEnv::calls() const {
  MutexLock lock(mutex_);
  return calls_;
}

std::vector<std::byte>& MemoryEnv::bytes_of(const std::string& path) {
  MutexLock lock(mutex_);
  return files_.at(path)->bytes;
}

} // namespace vsnap
