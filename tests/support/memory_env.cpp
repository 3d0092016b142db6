#include "tests/support/memory_env.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "core/assert.h"

namespace vsnap {

struct MemoryEnv::Segment {
  explicit Segment(std::size_t size) : bytes(size) {}
  explicit Segment(const SparseBytes& other) : bytes(other) {}
  SparseBytes bytes;
  bool held = false;
};

class MemorySegment final : public SharedMemory {
 public:
  MemorySegment(MemoryEnv& env, std::shared_ptr<MemoryEnv::Segment> segment)
      : env_(env), segment_(std::move(segment)) {}
  ~MemorySegment() override {
    MutexLock lock(env_.mutex_);
    if (holds_) segment_->held = false;
  }
  std::span<std::byte> bytes() override { return {segment_->bytes.data(), segment_->bytes.size()}; }
  bool hold() override {
    MutexLock lock(env_.mutex_);
    if (segment_->held && !holds_) return false;
    segment_->held = holds_ = true;
    return true;
  }
  bool has_its_name() override {
    MutexLock lock(env_.mutex_);
    return std::ranges::any_of(env_.shared_, [&](const auto& named) { return named.second == segment_; });
  }

 private:
  MemoryEnv& env_;
  std::shared_ptr<MemoryEnv::Segment> segment_;
  bool holds_ = false;
};

class MemoryFile final : public File {
 public:
  static constexpr std::size_t kPage = MemoryEnv::kPageBytes;
  MemoryFile(MemoryEnv& env, std::shared_ptr<MemoryEnv::Content> content, bool read_only)
      : env_(env), content_(std::move(content)), power_(env.power_), read_only_(read_only) {}
  bool bypass_page_cache() override { return !env_.no_direct_; }
  ~MemoryFile() override {
    MutexLock lock(env_.mutex_);
    if (holds_lock_ && power_ == env_.power_) content_->locked = false;
  }
  Result<> read_at(std::uint64_t offset, std::span<std::byte> out) override {
    bool slow = false;
    {
      MutexLock lock(env_.mutex_);
      slow = !env_.slow_reads_.empty() && env_.slow_reads_ == content_->path;
    }
    if (slow) std::this_thread::sleep_for(std::chrono::microseconds(300));
    MutexLock lock(env_.mutex_);
    if (gone() || env_.fails() || offset + out.size() > content_->bytes.size())
      return failure(ErrorKind::failed, EIO, "read");
    std::memcpy(out.data(), content_->bytes.data() + offset, out.size());
    return {};
  }
  Result<> write_at(std::uint64_t offset, std::span<const std::byte> data) override {
    MutexLock lock(env_.mutex_);
    if (gone() || read_only_ || offset + data.size() > content_->bytes.size())
      return failure(ErrorKind::failed, EIO, "write");
    if (env_.fails()) {
      if (!gone()) return failure(ErrorKind::failed, EIO, "write");
      data = data.first(env_.random_() % (data.size() / kPage + 1) * kPage); // what it came to
      put(offset, data);
      return failure(ErrorKind::failed, EIO, "write");
    }
    if (env_.no_space_) return system_failure(*env_.no_space_, "write");
    env_.note(MemoryEnv::Event::write, *content_, offset, data.size(), data);
    put(offset, data);
    return {};
  }
  void put(std::uint64_t offset, std::span<const std::byte> data) VSNAP_REQUIRES(env_.mutex_) {
    content_->modified_ns = env_.wall_ns_;
    std::byte* const at = content_->bytes.data() + offset;
    for (std::size_t done = 0; done < data.size();) { // a cache keeps, or loses, each page by itself
      const std::size_t size = std::min(data.size() - done, kPage - (offset + done) % kPage);
      content_->unsynced.push_back({offset + done, {at + done, at + done + size}});
      done += size;
    }
    std::copy(data.begin(), data.end(), at);
  }
  Result<> write_durably(std::uint64_t offset, std::span<const std::byte> data) override {
    if (env_.slow_) std::this_thread::sleep_for(std::chrono::microseconds(100));
    if (env_.during_durable_write_) env_.during_durable_write_();
    MutexLock lock(env_.mutex_);
    if (gone() || read_only_ || env_.fails() || offset + data.size() > content_->bytes.size())
      return failure(ErrorKind::failed, EIO, "write");
    if (env_.no_space_) return system_failure(*env_.no_space_, "write");
    env_.note(MemoryEnv::Event::durable_write, *content_, offset, data.size(), data);
    std::copy(data.begin(), data.end(), content_->bytes.data() + offset);
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
    if (env_.slow_flushes_) std::this_thread::sleep_for(std::chrono::microseconds(200));
    MutexLock lock(env_.mutex_);
    if (gone() || env_.fails() || std::exchange(env_.fail_flush_, false))
      return failure(ErrorKind::failed, EIO, "flush");
    env_.note(MemoryEnv::Event::flush, *content_, 0, 0, {});
    content_->unsynced.clear();
    return {};
  }
  void discard(std::uint64_t offset, std::uint64_t length) override {
    MutexLock lock(env_.mutex_);
    if (gone()) return;
    env_.note(MemoryEnv::Event::discard, *content_, offset, length, {});
    // Contents are undefined afterwards: something nobody wrote, so that whoever relies on it is found out.
    std::byte* const at = content_->bytes.data() + offset;
    content_->unsynced.push_back({offset, {at, at + length}});
    std::fill_n(at, length, std::byte{0xdd});
  }
  [[nodiscard]] std::uint64_t size_bytes() const override { return content_->bytes.size(); }
  [[nodiscard]] std::uint64_t allocated_bytes() const override { // pages that hold something
    MutexLock lock(env_.mutex_);
    std::uint64_t taken = 0;
    for (std::size_t at = 0; at < content_->bytes.size(); at += kPage) {
      const std::byte* const page = content_->bytes.data() + at;
      const std::size_t length = std::min<std::size_t>(kPage, content_->bytes.size() - at);
      taken += std::any_of(page, page + length, [](std::byte b) { return b != std::byte{0}; }) ? kPage : 0;
    }
    return taken;
  }
  Result<> resize(std::uint64_t size) override {
    MutexLock lock(env_.mutex_);
    content_->bytes.resize(size);
    return {};
  }
  Result<FileStamp> stamp(bool durably) override {
    if (durably) VSNAP_TRY(flush());
    MutexLock lock(env_.mutex_);
    if (gone()) return failure(ErrorKind::failed, EIO, "stamp");
    return FileStamp{content_->bytes.size(), content_->number >> 1U, content_->modified_ns};
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
  const bool read_only_;
  bool holds_lock_ = false;
};

MemoryEnv::MemoryEnv(std::uint64_t seed) : random_(seed) {}
MemoryEnv::~MemoryEnv() = default;

bool MemoryEnv::fails() {
  const std::uint64_t call = ++calls_;
  const bool own = kill_in_ && std::this_thread::get_id() == kill_thread_ && --*kill_in_ == 0;
  if (own || (kill_at_ && call >= *kill_at_)) {
    die();
    killed_ = true;
    kill_at_.reset();
    kill_in_.reset();
    return true;
  }
  if (fail_once_ && call == *fail_once_) return true;
  return fail_from_ && call >= *fail_from_;
}

Result<std::unique_ptr<File>> MemoryEnv::open_file(const std::string& path, OpenMode mode) {
  MutexLock lock(mutex_);
  if (read_only_files_ && !mode.read_only) return system_failure(EROFS, path);
  auto found = files_.find(path);
  if (found == files_.end()) {
    if (!mode.create && !mode.exclusive_create) return system_failure(ENOENT, path);
    auto content = std::make_shared<Content>();
    content->number = random_();
    content->path = path;
    found = files_.emplace(path, std::move(content)).first;
  } else if (mode.exclusive_create) {
    return system_failure(EEXIST, path);
  }
  return std::make_unique<MemoryFile>(*this, found->second, mode.read_only);
}

Result<> MemoryEnv::remove_file(const std::string& path) {
  MutexLock lock(mutex_);
  if (files_.erase(path) == 0) return system_failure(ENOENT, path);
  return {};
}

namespace {

constexpr std::int64_t kTickNs = 1'000'000; // from one look at a clock to the next
constexpr std::int64_t kWildNs = 10LL * 365 * 86'400 * 1'000'000'000;

} // namespace

std::int64_t MemoryEnv::wall_clock_ns() {
  MutexLock lock(mutex_);
  monotonic_ns_ += kTickNs;
  wall_ns_ += kTickNs;
  if (wild_) jump(static_cast<std::int64_t>(random_() % (2 * kWildNs + 1)) - kWildNs);
  return wall_ns_;
}

std::int64_t MemoryEnv::monotonic_ns() {
  MutexLock lock(mutex_);
  wall_ns_ += kTickNs;
  return monotonic_ns_ += kTickNs;
}

void MemoryEnv::pass_time(std::int64_t by_ns) {
  MutexLock lock(mutex_);
  monotonic_ns_ += by_ns;
}

void MemoryEnv::jump(std::int64_t by_ns) {
  // Up to a century from now: further than anybody sets a clock, and far from the end of the type.
  constexpr std::int64_t kLastNs = 10 * kWildNs + 1'700'000'000'000'000'000;
  wall_ns_ = std::clamp<std::int64_t>(wall_ns_ + by_ns, 0, kLastNs);
}

void MemoryEnv::jump_wall_clock(std::int64_t by_ns) {
  MutexLock lock(mutex_);
  jump(by_ns);
}

void MemoryEnv::let_pass(std::int64_t ns) {
  MutexLock lock(mutex_);
  monotonic_ns_ += ns;
}

void MemoryEnv::wild_wall_clock(bool wild) {
  MutexLock lock(mutex_);
  wild_ = wild;
}

Uuid MemoryEnv::random_uuid() {
  MutexLock lock(mutex_);
  Uuid uuid{};
  for (auto& byte : uuid) byte = static_cast<std::uint8_t>(random_());
  return uuid;
}

void MemoryEnv::power_cut(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  power_cut([&](std::size_t) -> std::size_t {
    const std::uint64_t fate = random() % 3; // kept, lost, torn
    return fate == 0 ? kKept : fate == 1 ? 0 : random() % (kPageBytes / kSectorBytes + 1);
  });
}

void MemoryEnv::power_cut(const Fates& fate) {
  MutexLock lock(mutex_);
  ++power_;
  ++boot_;
  shared_.clear();
  std::size_t index = 0;
  for (auto& [path, content] : files_) {
    for (auto undo = content->unsynced.rbegin(); undo != content->unsynced.rend(); ++undo) {
      const std::size_t keep = fate(index++);
      if (keep == kKept || keep * kSectorBytes >= undo->before.size()) continue;
      std::copy(undo->before.begin() + static_cast<std::ptrdiff_t>(keep * kSectorBytes), undo->before.end(),
                content->bytes.data() + undo->offset + keep * kSectorBytes);
    }
    content->unsynced.clear();
    content->locked = false;
  }
}

std::size_t MemoryEnv::unsynced() const {
  MutexLock lock(mutex_);
  std::size_t count = 0;
  for (const auto& [path, content] : files_) count += content->unsynced.size();
  return count;
}

std::unique_ptr<MemoryEnv> MemoryEnv::fork() const {
  auto copy = std::make_unique<MemoryEnv>();
  MutexLock lock(mutex_);
  MutexLock other(copy->mutex_);
  copy->random_ = random_;
  copy->monotonic_ns_ = monotonic_ns_;
  copy->wall_ns_ = wall_ns_;
  copy->wild_ = wild_;
  copy->boot_ = boot_;
  for (const auto& [path, content] : files_) {
    auto same = std::make_shared<Content>(*content);
    same->locked = false;
    copy->files_.emplace(path, std::move(same));
  }
  for (const auto& [name, segment] : shared_)
    copy->shared_.emplace(name, std::make_shared<Segment>(segment->bytes));
  return copy;
}

void MemoryEnv::start_recording() {
  MutexLock lock(mutex_);
  events_.clear();
  recording_ = true;
}

std::vector<MemoryEnv::Event> MemoryEnv::stop_recording() {
  MutexLock lock(mutex_);
  recording_ = false;
  return std::exchange(events_, {});
}

void MemoryEnv::replay(const Event& event) {
  auto file = open_file(event.path, {});
  VSNAP_ASSERT(file.has_value());
  Result<> done;
  switch (event.kind) {
    case Event::write:
      done = (*file)->write_at(event.offset, event.data);
      break;
    case Event::durable_write:
      done = (*file)->write_durably(event.offset, event.data);
      break;
    case Event::flush:
      done = (*file)->flush();
      break;
    case Event::discard:
      (*file)->discard(event.offset, event.length);
      break;
  }
  VSNAP_ASSERT(done.has_value());
}

void MemoryEnv::note(Event::Kind kind, const Content& content, std::uint64_t offset, std::uint64_t length,
                     std::span<const std::byte> data) {
  if (recording_) events_.push_back({kind, content.path, offset, length, {data.begin(), data.end()}});
}

// What the dead process still does to its shared memory, as it goes on here, must not count.
void MemoryEnv::die() {
  ++power_;
  for (auto& [path, content] : files_) content->locked = false;
  for (auto& [name, segment] : shared_) segment = std::make_shared<Segment>(segment->bytes);
}

void MemoryEnv::kill() {
  MutexLock lock(mutex_);
  die();
}

void MemoryEnv::kill_at(std::optional<std::uint64_t> nth) {
  MutexLock lock(mutex_);
  kill_at_ = nth ? std::optional(calls_ + *nth) : std::nullopt;
  kill_in_.reset();
  killed_ = false;
}

void MemoryEnv::kill_at_own(std::uint64_t nth) {
  MutexLock lock(mutex_);
  kill_in_ = nth;
  kill_thread_ = std::this_thread::get_id();
  killed_ = false;
}

bool MemoryEnv::killed() const {
  MutexLock lock(mutex_);
  return killed_;
}

void MemoryEnv::no_shared_memory(bool none) {
  MutexLock lock(mutex_);
  no_shared_ = none;
}

void MemoryEnv::new_boot() {
  MutexLock lock(mutex_);
  ++boot_;
}

std::string MemoryEnv::boot_id() {
  MutexLock lock(mutex_);
  return "boot " + std::to_string(boot_);
}

Result<std::unique_ptr<SharedMemory>> MemoryEnv::make_shared_memory(const std::string& name,
                                                                    std::size_t bytes) {
  std::shared_ptr<Segment> segment = std::make_shared<Segment>(bytes);
  {
    MutexLock lock(mutex_);
    if (no_shared_) return system_failure(ENOSPC, name);
    shared_[name] = segment;
  }
  auto made = std::make_unique<MemorySegment>(*this, std::move(segment));
  VSNAP_ASSERT(made->hold());
  return made;
}

Result<std::unique_ptr<SharedMemory>> MemoryEnv::open_shared_memory(const std::string& name) {
  MutexLock lock(mutex_);
  const auto found = shared_.find(name);
  if (found == shared_.end()) return system_failure(ENOENT, name);
  return std::make_unique<MemorySegment>(*this, found->second);
}

void MemoryEnv::remove_shared_memory(const std::string& name) {
  MutexLock lock(mutex_);
  shared_.erase(name);
}

std::vector<std::string> MemoryEnv::shared_memory_names(const std::string& prefix) {
  MutexLock lock(mutex_);
  std::vector<std::string> found;
  for (const auto& [name, segment] : shared_) {
    if (name.starts_with(prefix)) found.push_back(name);
  }
  return found;
}

void MemoryEnv::slow_reads_of(const std::string& path) {
  MutexLock lock(mutex_);
  slow_reads_ = path;
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

void MemoryEnv::read_only_files(bool read_only) {
  MutexLock lock(mutex_);
  read_only_files_ = read_only;
}

void MemoryEnv::no_space(bool full, int errno_value) {
  MutexLock lock(mutex_);
  no_space_ = full ? std::optional(errno_value) : std::nullopt;
}

std::uint64_t MemoryEnv::calls() const {
  MutexLock lock(mutex_);
  return calls_;
}

SparseBytes& MemoryEnv::bytes_of(const std::string& path) {
  MutexLock lock(mutex_);
  return files_.at(path)->bytes;
}

} // namespace vsnap
