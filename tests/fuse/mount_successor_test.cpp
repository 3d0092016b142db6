// A session that goes on with the mount of another, however that one ended. The test holds the mount's
// descriptors in between, as a keeper does.
#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>
#include <cstring>
#include <functional>

#include "tests/fuse/mounted_pool.h"

using namespace vsnap;

namespace {

class Serving {
 public:
  Serving(ModelPool& pool, const MountOptions& options, std::unique_ptr<KernelMount> mount)
      : session_(MountSession::over(pool, options, std::move(mount)).value()),
        server_([this] { (void)session_->serve(); }) {}
  ~Serving() { end(MountSession::Stop::unmount); }
  void end(MountSession::Stop how) {
    if (!server_.joinable()) return;
    session_->stop(how);
    server_.join();
    session_.reset();
  }
  // Of itself; whether it left the mount to another.
  bool wait_for_failure() {
    server_.join();
    const bool left = session_->was_handed_over();
    session_.reset();
    return left;
  }

 private:
  std::unique_ptr<MountSession> session_;
  std::thread server_;
};

// A mount whose descriptors are held.
class Kept {
 public:
  explicit Kept(const std::string& mount_point) {
    options.mount_point = mount_point;
    auto made = KernelMount::make(options).value();
    for (const int fd : made->descriptors()) descriptors_.push_back(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    state = MountState::map(::fcntl(descriptors_.front(), F_DUPFD_CLOEXEC, 0)).value();
    state->begin_notes();
    can_go_on_ = made->can_outlive().has_value();
    if (!can_go_on_) WARN("skipped: this kernel cannot send requests again");
    serve(std::move(made));
  }
  // Before the last session ends, or its end would not be the mount's.
  ~Kept() {
    for (const int fd : descriptors_) ::close(fd);
  }
  [[nodiscard]] bool can_go_on() const { return can_go_on_; }
  void hand_over() { serving->end(MountSession::Stop::hand_over); }
  void go_on() { serve(adopt()); }
  // One worker cannot read any more, once it has taken another request, which stays unanswered.
  void break_channel() {
    const int nothing = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
    REQUIRE(::dup3(nothing, channels_.back(), O_CLOEXEC) == channels_.back());
    ::close(nothing);
  }
  // Reads a request as a worker does that then dies, once it has answered those that only look. Its number.
  std::uint64_t take_request(std::uint32_t opcode) {
    std::vector<std::byte> buffer(2U << 20);
    for (;;) {
      const ssize_t length = ::read(descriptors_.at(1), buffer.data(), buffer.size());
      REQUIRE(length >= static_cast<ssize_t>(sizeof(fuse_in_header)));
      fuse_in_header header{};
      std::memcpy(&header, buffer.data(), sizeof header);
      if (header.opcode == FUSE_GETATTR) {
        fuse_attr_out out{};
        out.attr = attributes(header.nodeid);
        answer(header, 0, std::as_bytes(std::span(&out, 1)));
      } else if (header.opcode == FUSE_LOOKUP) {
        const auto info = pool->find({reinterpret_cast<const char*>(buffer.data()) + sizeof header, {}});
        fuse_entry_out out{};
        if (info) out.nodeid = info->id.value();
        out.attr = attributes(out.nodeid);
        answer(header, info ? 0 : -ENOENT, std::as_bytes(std::span(&out, info ? 1 : 0)));
      } else if (header.opcode == opcode) {
        return header.unique;
      } // others nobody waits for: they come again
    }
  }

  // As a daemon does that dies before it reads what it asked for.
  void ask_again_and_die() {
    const auto mount = adopt();
    mount->ask_again();
    mount->leave();
  }

  std::unique_ptr<ModelPool> pool = ModelPool::make("lab");
  MountOptions options;
  std::unique_ptr<MountState> state;
  std::unique_ptr<Serving> serving;

 private:
  void serve(std::unique_ptr<KernelMount> mount) {
    channels_ = mount->channels();
    mount->set_kept();
    serving = std::make_unique<Serving>(*pool, options, std::move(mount));
  }
  [[nodiscard]] std::unique_ptr<KernelMount> adopt() const {
    std::vector<int> copies;
    for (const int fd : descriptors_) copies.push_back(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    return KernelMount::adopt(options.mount_point, copies).value();
  }
  static fuse_attr attributes(std::uint64_t node) {
    fuse_attr out{};
    out.ino = node;
    out.mode = node == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0600;
    out.nlink = 1;
    return out;
  }
  void answer(const fuse_in_header& request, int error, std::span<const std::byte> content) const {
    fuse_out_header header{};
    header.len = static_cast<std::uint32_t>(sizeof header + content.size());
    header.error = error;
    header.unique = request.unique;
    const iovec parts[] = {{&header, sizeof header},
                           {const_cast<std::byte*>(content.data()), content.size()}};
    CHECK(::writev(descriptors_.at(1), parts, 2) == header.len);
  }

  std::vector<int> descriptors_;
  std::vector<int> channels_; // of the session; one for each worker
  bool can_go_on_ = false; // on this kernel
};

// Runs in a directory of its own; skipped where nothing can be mounted.
void with_mount(const std::function<void(Kept& kept, const std::string& directory)>& test) {
  if (::access("/dev/fuse", R_OK | W_OK) != 0) {
    WARN("skipped: /dev/fuse cannot be opened here, so nothing can be mounted");
    return;
  }
  char directory[] = "/tmp/vsnap-successor-XXXXXX";
  REQUIRE(::mkdtemp(directory) != nullptr);
  {
    Kept kept(directory);
    if (kept.can_go_on()) test(kept, directory);
  }
  CHECK(::rmdir(directory) == 0);
}

ssize_t write_text(const Fd& fd, const std::string& text) {
  return ::pwrite(fd.get(), text.data(), text.size(), 0);
}

std::string text_in(const Fd& fd) {
  std::string text(64, '\0');
  const ssize_t length = ::pread(fd.get(), text.data(), text.size(), 0);
  REQUIRE(length >= 0);
  text.resize(static_cast<std::size_t>(length));
  return text;
}

} // namespace

TEST_CASE("a file stays open over several sessions, also a removed one") {
  with_mount([](Kept& kept, const std::string& directory) {
    const Fd fd(directory + "/v", O_RDWR | O_CREAT);
    const Fd gone(directory + "/gone", O_RDWR | O_CREAT | O_DIRECT);
    REQUIRE((fd.ok() && gone.ok()));
    CHECK(write_text(fd, "first") == 5);
    CHECK(::unlink((directory + "/gone").c_str()) == 0);
    for (int round = 0; round < 5; ++round) {
      kept.hand_over();
      kept.go_on();
      CHECK(text_in(fd) == "first");
      CHECK(text_in(gone).empty());
      CHECK(kept.pool->find({"v", {}})->open_handles == 1);
    }
    CHECK(names_in(directory) == std::vector<std::string>{"v"});
  });
}

TEST_CASE("a request that nobody answered comes again") {
  with_mount([](Kept& kept, const std::string& directory) {
    const Fd fd(directory + "/v", O_RDWR | O_CREAT);
    CHECK(write_text(fd, "before") == 6);
    kept.hand_over();
    ssize_t written = 0;
    std::thread client([&] { written = write_text(fd, "beside"); });
    kept.take_request(FUSE_WRITE);
    kept.go_on();
    client.join();
    CHECK(written == 6);
    CHECK(text_in(fd) == "beside");
  });
}

TEST_CASE("a write that was carried out up to its answer is only answered when it comes again") {
  with_mount([](Kept& kept, const std::string& directory) {
    const Fd fd(directory + "/v", O_RDWR | O_CREAT);
    CHECK(write_text(fd, "newer!") == 6);
    kept.hand_over();
    ssize_t written = 0;
    std::thread client([&] { written = write_text(fd, "older!"); });
    kept.state->note_answer(kept.take_request(FUSE_WRITE)); // and then somebody else wrote "newer!"
    kept.go_on();
    client.join();
    CHECK(written == 6);
    CHECK(text_in(fd) == "newer!");
  });
}

TEST_CASE("what the kernel has cached of files that changed meanwhile is dropped") {
  with_mount([](Kept& kept, const std::string& directory) {
    const Fd fd(directory + "/v", O_RDWR | O_CREAT);
    CHECK(write_text(fd, "cached") == 6);
    CHECK(text_in(fd) == "cached");
    kept.hand_over();
    const std::string text = "newer!"; // as by a command, whose daemon died before it told the kernel
    auto view = kept.pool->open_view(kept.pool->find({"v", {}})->id).value();
    CHECK(view->write(0, std::as_bytes(std::span(text))));
    kept.go_on();
    for (int i = 0; i < 500 && text_in(fd) != "newer!"; ++i) ::usleep(10000);
    CHECK(text_in(fd) == "newer!");
  });
}

namespace {

// What a daemon carried out that dies before it can answer: `call` is made while none serves; `carry_out` is
// what that daemon does with the request. Then commands do what they like, and the next one serves.
template <class Call>
int outcome_of_resent(Kept& kept, std::uint32_t opcode, Call call, const std::function<void()>& carry_out,
                      const std::function<void()>& meanwhile) {
  CHECK(::access(kept.options.mount_point.c_str(), F_OK) == 0); // it serves
  kept.hand_over();
  int error = 0;
  std::thread client([&] { error = call() < 0 ? errno : 0; });
  const std::uint64_t request = kept.take_request(opcode);
  {
    const AskedBy asked(kept.state->request_id(request));
    carry_out();
  }
  meanwhile();
  kept.go_on();
  client.join();
  return error;
}

void remove_view(ModelPool& pool, const std::string& name) {
  const ViewName gone{name, {}};
  CHECK(pool.remove(std::span(&gone, 1), {.even_if_open = true}));
}

void make_view(ModelPool& pool, const std::string& name) { CHECK(pool.create_volume(name, 4096)); }

} // namespace

TEST_CASE("an unlink that comes again removes nothing that a command has made meanwhile") {
  with_mount([](Kept& kept, const std::string& directory) {
    ModelPool& pool = *kept.pool;
    make_view(pool, "v");
    const auto unlink_it = [&] { return ::unlink((directory + "/v").c_str()); };
    CHECK(outcome_of_resent(
              kept, FUSE_UNLINK, unlink_it, [&] { remove_view(pool, "v"); }, [&] { make_view(pool, "v"); }) ==
          0);
    CHECK(names_in(directory) == std::vector<std::string>{"v"});
    // Not carried out: it is now.
    CHECK(outcome_of_resent(
              kept, FUSE_UNLINK, unlink_it, [] {}, [] {}) == 0);
    CHECK(names_in(directory).empty());
    // Nor this one, and a command was quicker.
    make_view(pool, "v");
    CHECK(outcome_of_resent(
              kept, FUSE_UNLINK, unlink_it, [] {}, [&] { remove_view(pool, "v"); }) == ENOENT);
  });
}

TEST_CASE("a rename that comes again moves and replaces nothing that a command has made meanwhile") {
  with_mount([](Kept& kept, const std::string& directory) {
    ModelPool& pool = *kept.pool;
    make_view(pool, "a");
    const ObjectId moved = pool.find({"a", {}})->id;
    const auto rename_it = [&] { return ::rename((directory + "/a").c_str(), (directory + "/b").c_str()); };
    CHECK(outcome_of_resent(
              kept, FUSE_RENAME, rename_it,
              [&] {
                CHECK(pool.rename({"a", {}}, "b"));
              },
              [&] { make_view(pool, "a"); }) == 0);
    CHECK(pool.find({"b", {}})->id == moved);
    CHECK(names_in(directory) == std::vector<std::string>{"a", "b"});
    remove_view(pool, "b");
    // Carried out, and taken back by a command.
    CHECK(outcome_of_resent(
              kept, FUSE_RENAME, rename_it,
              [&] {
                CHECK(pool.rename({"a", {}}, "b"));
              },
              [&] {
                CHECK(pool.rename({"b", {}}, "a"));
              }) == 0);
    CHECK(names_in(directory) == std::vector<std::string>{"a"});
    CHECK(outcome_of_resent(
              kept, FUSE_RENAME, rename_it, [] {}, [] {}) == 0);
    CHECK(names_in(directory) == std::vector<std::string>{"b"});
  });
}

TEST_CASE("a file that was made before its creation came again is the one that is opened") {
  with_mount([](Kept& kept, const std::string& directory) {
    ModelPool& pool = *kept.pool;
    const auto create = [&] {
      const int fd = ::open((directory + "/v").c_str(), O_RDWR | O_CREAT | O_EXCL, 0640);
      return fd < 0 ? fd : ::close(fd);
    };
    CHECK(outcome_of_resent(
              kept, FUSE_CREATE, create, [&] { CHECK(pool.create_volume("v", 0)); }, [] {}) == 0);
    CHECK(pool.find({"v", {}})->mode == 0640);
    remove_view(pool, "v");
    // A command made it.
    CHECK(outcome_of_resent(
              kept, FUSE_CREATE, create, [] {}, [&] { CHECK(pool.create_volume("v", 0)); }) == EEXIST);
    CHECK(pool.find({"v", {}})->mode != 0640);
  });
}

namespace {

// A process that opens the file, and then waits to be killed.
class Opener {
 public:
  explicit Opener(const std::string& path) : pid_(::fork()) {
    if (pid_ != 0) return;
    ::_exit(::open(path.c_str(), O_RDWR) >= 0 ? ::pause() : 1);
  }
  ~Opener() { kill(); }
  void kill() {
    if (pid_ <= 0) return;
    CHECK(::kill(pid_, SIGKILL) == 0);
    CHECK(::waitpid(pid_, nullptr, 0) == pid_);
    pid_ = 0;
  }

 private:
  pid_t pid_;
};

} // namespace

TEST_CASE("a file that was opened for who was killed before he heard of it is closed") {
  with_mount([](Kept& kept, const std::string& directory) {
    make_view(*kept.pool, "v");
    const ObjectId id = kept.pool->find({"v", {}})->id;
    CHECK(names_in(directory) == std::vector<std::string>{"v"});
    kept.hand_over();
    Opener killed(directory + "/v");
    const std::uint64_t first = kept.take_request(FUSE_OPEN);
    REQUIRE(kept.state->add_handle(id, false, first));
    Opener waits(directory + "/v");
    const std::uint64_t second = kept.take_request(FUSE_OPEN);
    REQUIRE(kept.state->add_handle(id, false, second));
    kept.ask_again_and_die();
    killed.kill(); // the kernel has given up its request
    kept.go_on();
    CHECK(::access(directory.c_str(), F_OK) == 0);
    const auto opened_by = [&](std::uint64_t request) { return kept.state->handle_opened_by(request); };
    CHECK_FALSE(opened_by(first)); // that access() was the first request that had not come before
    for (int i = 0; i < 500 && opened_by(second); ++i) ::usleep(10000);
    CHECK(kept.state->handles().size() == 1);
    CHECK(kept.pool->find({"v", {}})->open_handles == 1);
  });
}

TEST_CASE("a long copy that is cut has the size that was copied, and one that goes on is shared to its end") {
  with_mount([](Kept& kept, const std::string& directory) {
    constexpr std::int64_t kSize = 6LL << 30;
    constexpr std::int64_t kChunk = (4LL << 30) - 4096; // the kernel's longest
    ModelPool& pool = *kept.pool;
    CHECK(pool.create_volume("from", kSize));
    const Fd from(directory + "/from", O_RDONLY);
    for (const bool goes_on : {false, true}) {
      const std::string name = goes_on ? "whole" : "cut";
      CHECK(pool.create_volume(name, 0));
      Fd to(directory + "/" + name, O_RDWR);
      REQUIRE((from.ok() && to.ok()));
      const auto copy = [&](off_t at) {
        off_t source = at;
        off_t target = at;
        return ::copy_file_range(from.get(), &source, to.get(), &target, kSize, 0);
      };
      CHECK(copy(0) == kChunk);
      kept.hand_over();
      kept.go_on();
      struct stat info = {};
      CHECK(::fstat(to.get(), &info) == 0);
      CHECK(info.st_size == kChunk);
      if (goes_on) CHECK(copy(kChunk) == kSize - kChunk);
      to.close();
      const auto size = [&] { return static_cast<std::int64_t>(pool.find({name, {}})->size_bytes); };
      const std::int64_t expected = goes_on ? kSize : kChunk;
      for (int i = 0; i < 500 && size() != expected; ++i) ::usleep(10000); // the release comes later
      CHECK(size() == expected);
      CHECK(kept.state->copies().empty());
    }
  });
}

TEST_CASE("writes that wait for room are left to the successor, and a hand-over does not wait for them") {
  with_mount([](Kept& kept, const std::string& directory) {
    constexpr unsigned kWriters = kThreadsOfAView + 8;
    const ObjectId id = kept.pool->create_volume("v", kWriters * kBlockBytes)->id;
    kept.pool->pause_writes(id);
    Writers writers(directory + "/v", kWriters);
    wait_for_writes(*kept.pool, kThreadsOfAView);
    kept.hand_over();
    CHECK(writers.answered() == 0);
    kept.pool->pause_writes(id); // as the successor's pool
    kept.go_on();
    wait_for_writes(*kept.pool, kThreadsOfAView);
    CHECK(writers.answered() == 0);
    kept.pool->let_writes_go();
    writers.join();
    CHECK(writers.errors() == std::vector<int>(kWriters, 0));
    for (unsigned i = 0; i < kWriters; ++i) {
      const Fd fd(directory + "/v", O_RDONLY);
      CHECK(read_at(fd, i * kBlockBytes, kBlockBytes) == filled(kBlockBytes, i + 1));
    }
  });
}

TEST_CASE("writes that wait for room are left to the successor of a session that fails") {
  with_mount([](Kept& kept, const std::string& directory) {
    constexpr unsigned kWriters = 24;
    const std::string path = directory + "/v";
    const ObjectId id = kept.pool->create_volume("v", kWriters * kBlockBytes)->id;
    kept.pool->pause_writes(id);
    Writers writers(path, kWriters);
    wait_for_writes(*kept.pool, kWriters);
    kept.break_channel();
    std::atomic<bool> failed{false};
    std::thread client([&] { // workers take requests in turn
      struct stat out {};
      while (!failed && ::stat(path.c_str(), &out) == 0) {}
    });
    CHECK(kept.serving->wait_for_failure());
    failed = true;
    CHECK(writers.answered() == 0);
    kept.pool->pause_writes(id); // as the successor's pool
    kept.go_on();
    client.join();
    wait_for_writes(*kept.pool, kWriters);
    kept.pool->let_writes_go();
    writers.join();
    CHECK(writers.errors() == std::vector<int>(kWriters, 0));
  });
}
