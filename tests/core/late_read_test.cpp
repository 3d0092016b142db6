// Reads of a view whose member lets them wait.
#include <atomic>
#include <deque>
#include <optional>
#include <thread>

#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

// The files of a MemoryEnv, whose reads wait until the test lets them go on while `late` is set.
class LateEnv final : public Env {
 public:
  class LateFile;
  struct Waiting {
    File* file;
    std::uint64_t offset;
    std::span<std::byte> out;
    File::Done done;
  };

  Result<std::unique_ptr<File>> open_file(const std::string& path, OpenMode mode) override;
  Result<> remove_file(const std::string& path) override { return memory.remove_file(path); }
  [[nodiscard]] std::int64_t wall_clock_ns() override { return memory.wall_clock_ns(); }
  [[nodiscard]] std::int64_t monotonic_ns() override { return memory.monotonic_ns(); }
  Uuid random_uuid() override { return memory.random_uuid(); }
  [[nodiscard]] std::string boot_id() override { return memory.boot_id(); }
  [[nodiscard]] std::string host_name() override { return memory.host_name(); }

  // Lets the first of the waiting ones go on.
  void go_on() {
    Waiting one = std::move(waiting.front());
    waiting.pop_front();
    one.done(one.file->read_at(one.offset, one.out));
  }

  MemoryEnv memory;
  std::deque<Waiting> waiting;
  bool late = false;
};

class LateEnv::LateFile final : public File {
 public:
  LateFile(LateEnv& env, std::unique_ptr<File> file) : env_(env), file_(std::move(file)) {}
  Result<> read_at(std::uint64_t offset, std::span<std::byte> out) override {
    return file_->read_at(offset, out);
  }
  Result<Progress> start_read(std::uint64_t offset, std::span<std::byte> out, Done done) override {
    if (!env_.late) return file_->start_read(offset, out, std::move(done));
    env_.waiting.push_back({this, offset, out, std::move(done)});
    return Progress::pending;
  }
  [[nodiscard]] bool may_wait() const override { return true; }
  Result<> write_at(std::uint64_t offset, std::span<const std::byte> data) override {
    return file_->write_at(offset, data);
  }
  Result<> write_durably(std::uint64_t offset, std::span<const std::byte> data) override {
    return file_->write_durably(offset, data);
  }
  Result<> flush() override { return file_->flush(); }
  void discard(std::uint64_t offset, std::uint64_t length) override { file_->discard(offset, length); }
  [[nodiscard]] std::uint64_t size_bytes() const override { return file_->size_bytes(); }
  Result<> resize(std::uint64_t size) override { return file_->resize(size); }
  [[nodiscard]] std::string identity() const override { return file_->identity(); }
  [[nodiscard]] bool is_block_device() const override { return file_->is_block_device(); }
  Result<bool> try_lock() override { return file_->try_lock(); }

 private:
  LateEnv& env_;
  std::unique_ptr<File> file_;
};

Result<std::unique_ptr<File>> LateEnv::open_file(const std::string& path, OpenMode mode) {
  VSNAP_TRY_ASSIGN(auto file, memory.open_file(path, mode));
  return std::make_unique<LateFile>(*this, std::move(file));
}

std::vector<std::byte> filled(std::size_t length, int value) {
  return std::vector<std::byte>(length, static_cast<std::byte>(value));
}

// A volume of 64 KiB: 16 KiB of 1, 16 KiB of nothing, 32 KiB of 2.
class LatePool {
 public:
  LatePool() {
    REQUIRE(Pool::create(env, {.name = "lab", .members = {{"/a", 32 * kMiB}}}));
    OpenPoolOptions options;
    options.member_paths = {"/a"};
    pool = Pool::open(env, options).value();
    const ViewInfo made = pool->create_volume("v", 64 << 10).value();
    view = pool->open_view(made.id).value();
    REQUIRE(view->write(0, filled(16 << 10, 1)));
    REQUIRE(view->write(32 << 10, filled(32 << 10, 2)));
    env.late = true;
  }
  // Starts a read of all of it.
  Result<std::optional<std::size_t>> start() {
    return view->start_read(0, out, [this](Result<std::size_t> length) {
      ++ended;
      result = std::move(length);
    });
  }

  LateEnv env;
  std::unique_ptr<Pool> pool;
  ViewHandle view;
  std::vector<std::byte> out = filled(64 << 10, 9);
  int ended = 0;
  std::optional<Result<std::size_t>> result;
};

} // namespace

TEST_CASE("a read ends when the last of its parts has, and not before") {
  LatePool lab;
  CHECK(lab.view->may_wait());
  const auto started = lab.start();
  REQUIRE(started);
  CHECK_FALSE(*started);
  REQUIRE(lab.env.waiting.size() == 2);
  lab.env.go_on();
  CHECK(lab.ended == 0);
  lab.env.go_on();
  CHECK(lab.ended == 1);
  CHECK(lab.result->value() == 64 << 10);
  const auto first = filled(16 << 10, 1), hole = filled(16 << 10, 0), last = filled(32 << 10, 2);
  CHECK(std::equal(first.begin(), first.end(), lab.out.begin()));
  CHECK(std::equal(hole.begin(), hole.end(), lab.out.begin() + (16 << 10)));
  CHECK(std::equal(last.begin(), last.end(), lab.out.begin() + (32 << 10)));
}

TEST_CASE("a read that need not wait gives its length at once") {
  LatePool lab;
  lab.env.late = false;
  const auto started = lab.start();
  REQUIRE(started);
  CHECK(*started == 64 << 10);
  CHECK(lab.ended == 0);
}

TEST_CASE("a read behind the end of a volume has no parts") {
  LatePool lab;
  const auto started = lab.view->start_read(64 << 10, lab.out, [](const Result<std::size_t>&) { FAIL(); });
  REQUIRE(started);
  CHECK(*started == 0);
}

TEST_CASE("a read of which one part fails, fails once all have ended") {
  LatePool lab;
  REQUIRE_FALSE(lab.start().value());
  lab.env.memory.fail_once(1);
  lab.env.go_on();
  CHECK(lab.ended == 0);
  lab.env.memory.fail_from(std::nullopt);
  lab.env.go_on();
  CHECK(lab.ended == 1);
  REQUIRE_FALSE(lab.result->has_value());
  CHECK(lab.result->error().errno_value == EIO);
}

TEST_CASE("a place is not given away while a read of it goes on") {
  LatePool lab;
  REQUIRE_FALSE(lab.start().value());
  std::atomic<bool> committed{false};
  std::thread other([&] {
    CHECK(lab.view->discard(0, 16 << 10));
    CHECK(lab.pool->create_volume("w", kBlockBytes)); // commits, and a grace period follows
    committed = true;
  });
  // Nothing can show that it never would; a thousand looks show that it does not at once.
  for (int look = 0; look < 1000; ++look) {
    CHECK_FALSE(committed);
    std::this_thread::yield();
  }
  lab.env.go_on();
  lab.env.go_on();
  other.join();
  CHECK(committed);
  CHECK(lab.out[0] == std::byte{1});
}
