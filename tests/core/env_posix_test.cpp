// Files of the real environment over system calls that move less than they were asked to: a range is moved as
// a whole, or there is an error.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <future>
#include <mutex>
#include <random>
#include <thread>

#include "core/env.h"
#include "tests/core/refusal.h"
#include "tests/support/seed.h"
#include "tests/support/short_transfers.h"

using namespace vsnap;

namespace {

using Call = ShortTransfers::Call;
using Outcome = ShortTransfers::Outcome;

constexpr std::size_t kBytes = 256 * 1024;
constexpr std::size_t kBlock = 4096;

// An open file of kBytes, and what it holds.
class Scratch {
 public:
  Scratch() : content(kBytes) {
    for (std::size_t i = 0; i < kBytes; ++i) content[i] = static_cast<std::byte>(i * 7 % 251);
    REQUIRE(::close(::mkstemp(path_.data())) == 0);
    file = std::move(*Env::real().open_file(path_, {}));
    REQUIRE(file->resize(kBytes).has_value());
    file = std::move(*Env::real().open_file(path_, {}));
    REQUIRE(file->write_at(0, content).has_value());
  }
  ~Scratch() { std::filesystem::remove(path_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  [[nodiscard]] std::span<const std::byte> expected(std::size_t at, std::size_t size) const {
    return std::span(content).subspan(at, size);
  }
  [[nodiscard]] std::vector<std::byte> stored() const {
    std::vector<std::byte> out(kBytes);
    REQUIRE(std::move(*Env::real().open_file(path_, {}))->read_at(0, out).has_value());
    return out;
  }

  std::vector<std::byte> content;
  std::unique_ptr<File> file;

 private:
  std::string path_ = (std::filesystem::temp_directory_path() / "vsnap-env-XXXXXX").string();
};

// Some calls are interrupted, some move a part: a multiple of `unit`.
class Chance {
 public:
  Chance(std::uint64_t seed, std::size_t unit) : random_(seed), unit_(unit) {}
  Outcome operator()(Call call, std::size_t asked) {
    const std::lock_guard lock(mutex_);
    if (call == Call::sync) return {};
    ++calls;
    switch (random_() % 4) {
      case 0:
        return {0, call == Call::read_cached || call == Call::ring ? EAGAIN : EINTR};
      case 1:
        return {asked};
      default:
        return {asked <= unit_ ? asked : (1 + random_() % (asked / unit_)) * unit_};
    }
  }
  std::uint64_t below(std::uint64_t limit) {
    const std::lock_guard lock(mutex_);
    return random_() % limit;
  }
  ShortTransfers::Fate fate() {
    return [this](Call call, std::size_t asked) { return (*this)(call, asked); };
  }
  std::size_t calls = 0;

 private:
  std::mutex mutex_;
  std::mt19937_64 random_;
  const std::size_t unit_;
};

// The n-th call of this kind comes to `last`, those before it move half of what is asked.
ShortTransfers::Fate nth(Call kind, int n, Outcome last) {
  return [kind, last, left = std::make_shared<std::atomic<int>>(n)](Call call, std::size_t asked) -> Outcome {
    if (call == Call::read_cached) return {0, EAGAIN};
    if (call != kind) return {asked};
    return --*left <= 0 ? last : Outcome{(asked + 1) / 2};
  };
}

bool same(std::span<const std::byte> a, std::span<const std::byte> b) { return std::ranges::equal(a, b); }

struct Range {
  std::size_t at = 0, size = 0;
};
Range some_range(Chance& chance) {
  const std::size_t at = chance.below(kBytes);
  return {at, 1 + chance.below(std::min<std::size_t>(kBytes - at, 40'000))};
}

// Reads that nobody ends before release(): whoever asks for another then finds no thread free to wait.
class BusyReaders {
 public:
  Outcome hold(std::size_t asked) {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return released_; });
    return {asked};
  }
  void start(File& file) {
    for (int i = 0; i < 2; ++i) {
      threads_.emplace_back([&file] {
        std::vector<std::byte> out(kBlock);
        static_cast<void>(file.start_read(0, out, [](Result<>) {}));
      });
    }
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return waiting_ == 2; });
  }
  void release() {
    {
      const std::lock_guard lock(mutex_);
      released_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int waiting_ = 0;
  bool released_ = false;
  std::vector<std::thread> threads_;
};

// What reads come to that are left to the ring, whose part of the transfers is `fate`.
std::vector<Result<>> read_by_ring(File& file, const std::vector<Range>& ranges,
                                   std::vector<std::vector<std::byte>>& out,
                                   const ShortTransfers::Fate& fate) {
  BusyReaders readers;
  const ShortTransfers transfers([&](Call call, std::size_t asked) -> Outcome {
    if (call == Call::read_cached) return {0, EAGAIN};
    return call == Call::ring ? fate(call, asked) : readers.hold(asked);
  });
  readers.start(file);
  std::vector<std::promise<Result<>>> ends(ranges.size());
  std::vector<Result<>> results;
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    out.emplace_back(ranges[i].size);
    const auto started = file.start_read(ranges[i].at, out[i],
                                         [&ends, i](Result<> end) { ends[i].set_value(std::move(end)); });
    CHECK(started.has_value());
    CHECK(*started == File::Progress::pending);
  }
  for (auto& end : ends) results.push_back(end.get_future().get());
  readers.release();
  return results;
}

bool has_ring(File& file) {
  if (file.may_wait()) return true;
  WARN("skipped: files of this directory lie in memory");
  return false;
}

} // namespace

TEST_CASE("a range is read as a whole, however little each system call moves") {
  Scratch scratch;
  const bool direct = GENERATE(false, true);
  if (direct && !scratch.file->bypass_page_cache()) {
    WARN("skipped: no direct I/O here");
    return;
  }
  const std::uint64_t seed = test_seed();
  CAPTURE(seed, direct);
  Chance chance(seed, direct ? kBlock : 1);
  const ShortTransfers transfers(chance.fate());
  for (int i = 0; i < 300; ++i) {
    const Range range = some_range(chance);
    std::vector<std::byte> out(range.size);
    const auto started = scratch.file->start_read(range.at, out, [](Result<>) {});
    REQUIRE(started.has_value());
    REQUIRE(*started == File::Progress::finished);
    REQUIRE(same(out, scratch.expected(range.at, range.size)));
    REQUIRE(scratch.file->read_at(range.at, out).has_value());
    REQUIRE(same(out, scratch.expected(range.at, range.size)));
  }
  REQUIRE(chance.calls > 1000);
}

TEST_CASE("a range is written as a whole and nothing beside it, however little each system call moves") {
  Scratch scratch;
  const bool direct = GENERATE(false, true);
  if (direct && !scratch.file->bypass_page_cache()) return;
  const std::uint64_t seed = test_seed();
  CAPTURE(seed, direct);
  Chance chance(seed, direct ? kBlock : 1);
  {
    const ShortTransfers transfers(chance.fate());
    for (int i = 0; i < 300; ++i) {
      const Range range = some_range(chance);
      const std::span<std::byte> data = std::span(scratch.content).subspan(range.at, range.size);
      for (std::byte& byte : data) byte = static_cast<std::byte>(chance.below(256));
      if (i % 10 == 0)
        REQUIRE(scratch.file->write_durably(range.at, data).has_value());
      else
        REQUIRE(scratch.file->write_at(range.at, data).has_value());
    }
  }
  REQUIRE(chance.calls > 300);
  REQUIRE(same(scratch.stored(), scratch.content));
}

TEST_CASE("a read that comes to nothing or fails in its middle is an error, whatever came before") {
  Scratch scratch;
  const bool direct = GENERATE(false, true);
  if (direct && !scratch.file->bypass_page_cache()) return;
  std::vector<std::byte> out(16 * kBlock);
  for (const int error : {0, EIO, ENODATA, EAGAIN, ENOMEM}) {
    CAPTURE(error, direct);
    const ShortTransfers transfers(nth(Call::read, 3, {0, error}));
    const Error refused = refusal(scratch.file->read_at(0, out));
    CHECK(refused.kind == ErrorKind::failed);
    CHECK(refused.errno_value == EIO);
  }
}

TEST_CASE("a write that comes to nothing or fails in its middle is an error, whatever came before") {
  Scratch scratch;
  const bool direct = GENERATE(false, true);
  if (direct && !scratch.file->bypass_page_cache()) return;
  const std::vector<std::byte> data(16 * kBlock, std::byte{1});
  for (const int error : {0, EIO, ENOSPC, EAGAIN}) {
    CAPTURE(error, direct);
    for (const bool durably : {false, true}) {
      const ShortTransfers transfers(nth(Call::write, 3, {0, error}));
      const Error refused =
          refusal(durably ? scratch.file->write_durably(0, data) : scratch.file->write_at(0, data));
      CHECK(refused.kind == (error == ENOSPC ? ErrorKind::no_space : ErrorKind::failed));
      if (error != ENOSPC) CHECK(refused.errno_value == EIO);
    }
  }
}

TEST_CASE("whatever a flush fails with, it has failed") {
  Scratch scratch;
  for (const int error : {EIO, ENOSPC, EINTR}) {
    const ShortTransfers transfers(nth(Call::sync, 1, {0, error}));
    CHECK(refusal(scratch.file->flush()).kind == ErrorKind::failed);
    CHECK(refusal(scratch.file->write_durably(0, std::vector<std::byte>(1))).kind == ErrorKind::failed);
  }
}

TEST_CASE("what io_uring reads in parts, or is interrupted at, is read as a whole") {
  Scratch scratch;
  if (!has_ring(*scratch.file)) return;
  const std::uint64_t seed = test_seed();
  CAPTURE(seed);
  Chance chance(seed, 1);
  std::vector<Range> ranges;
  for (int i = 0; i < 100; ++i) ranges.push_back(some_range(chance));
  std::vector<std::vector<std::byte>> out;
  const auto results = read_by_ring(*scratch.file, ranges, out, chance.fate());
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    REQUIRE(results[i].has_value());
    REQUIRE(same(out[i], scratch.expected(ranges[i].at, ranges[i].size)));
  }
  REQUIRE(chance.calls > 200);
}

TEST_CASE("what io_uring has only read in part when it comes to nothing or fails is an error") {
  Scratch scratch;
  if (!has_ring(*scratch.file)) return;
  for (const int error : {0, EIO, ENODATA}) {
    CAPTURE(error);
    std::vector<std::vector<std::byte>> out;
    const auto results = read_by_ring(*scratch.file, {{0, 16 * kBlock}}, out, nth(Call::ring, 3, {0, error}));
    REQUIRE(results.size() == 1);
    CHECK(refusal(results[0]).errno_value == EIO);
  }
}
