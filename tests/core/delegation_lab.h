// A small pool whose members are direct, and hosts that have volumes of it delegated: what they read and
// write at its places, past the pool, and a keeper that answers for them from a thread of its own.
#pragma once

#include <deque>
#include <functional>
#include <thread>

#include "core/mutex.h"
#include "tests/core/refusal.h"
#include "tests/core/small_pool.h"

namespace vsnap {

class TestKeeper final : public DelegationKeeper {
 public:
  struct Recall {
    Delegation delegation;
    bool overdue = false;
  };
  // Called for each recall, by the keeper's thread.
  using Answer = std::function<void(const Recall&)>;
  explicit TestKeeper(Answer answer) : answer_(std::move(answer)), thread_([this] { run(); }) {}
  ~TestKeeper() override {
    {
      MutexLock lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }
  void recall(const Delegation& delegation, bool overdue) noexcept override {
    {
      MutexLock lock(mutex_);
      waiting_.push_back({delegation, overdue});
      told_.push_back({delegation, overdue});
    }
    wake_.notify_all();
  }
  [[nodiscard]] std::vector<Recall> told() {
    MutexLock lock(mutex_);
    return told_;
  }
  // Until that many were told; the last of them.
  Recall wait_for(std::size_t count) {
    MutexLock lock(mutex_);
    while (told_.size() < count) wake_.wait(mutex_);
    return told_[count - 1];
  }

 private:
  void run() {
    for (;;) {
      Recall next;
      {
        MutexLock lock(mutex_);
        while (waiting_.empty() && !stop_) wake_.wait(mutex_);
        if (stop_) return;
        next = waiting_.front();
        waiting_.pop_front();
      }
      answer_(next);
    }
  }

  const Answer answer_;
  Mutex mutex_;
  CondVar wake_;
  std::deque<Recall> waiting_ VSNAP_GUARDED_BY(mutex_);
  std::vector<Recall> told_ VSNAP_GUARDED_BY(mutex_);
  bool stop_ VSNAP_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

// v, with 16 blocks of content and a handle, as a host has it that is delegated it.
class DelegationLab : public SmallPool {
 public:
  static constexpr std::uint64_t kBlocks = 16;
  static constexpr std::uint64_t kSize = 4 * kMiB;
  explicit DelegationLab(std::uint64_t seed = 1, OpenPoolOptions options = {}) : SmallPool(32 * kMiB, seed) {
    create("v", kSize);
    fill("v", 1);
    for (std::uint8_t n = 1; n <= 2; ++n) {
      HostKey key{};
      key.fill(n);
      const char* const name = n == 1 ? "beta" : "gamma";
      REQUIRE(pool->invite(key, name, 1'000'000'000'000).has_value());
      const auto host = pool->join(key, name, key);
      REQUIRE(host.has_value());
      (n == 1 ? beta : gamma) = host->id;
    }
    reopen(options);
  }
  ~DelegationLab() {
    if (pool) pool->set_delegation_keeper(nullptr);
  }
  void reopen(OpenPoolOptions options = {}) {
    if (pool) REQUIRE(pool->close().has_value());
    open_again(options);
  }
  // Whatever became of the process before.
  void open_again(OpenPoolOptions options = {}) {
    pool.reset();
    options.direct = true;
    open(options);
    pool->set_delegation_keeper(keeper);
  }
  void use(DelegationKeeper* other) {
    keeper = other;
    pool->set_delegation_keeper(other);
  }
  // The blocks from the first one on.
  void fill(const std::string& name, std::uint8_t stamp, std::uint64_t blocks = kBlocks) {
    REQUIRE(view(name)->write(0, block_of(stamp, blocks * kBlockBytes)).has_value());
  }
  ObjectId id(const std::string& name) { return info(name).id; }
  ViewInfo info(const std::string& name) {
    const auto found = pool->find(*parse_view_name(name));
    INFO((found ? "" : found.error().message));
    REQUIRE(found.has_value());
    return *found;
  }
  bool has(const std::string& name) { return pool->find(*parse_view_name(name)).has_value(); }
  ViewHandle open_for(const std::string& name, std::uint64_t host) {
    auto handle = pool->open_view_for(id(name), host);
    INFO((handle ? "" : handle.error().message));
    REQUIRE(handle.has_value());
    return std::move(*handle);
  }
  std::optional<Delegation> ask(const std::string& name, std::uint64_t host, std::uint32_t handles = 1) {
    const auto given = pool->delegate(id(name), host, handles);
    INFO((given ? "" : given.error().message));
    REQUIRE(given.has_value());
    return *given;
  }
  Delegation give(const std::string& name, std::uint64_t host, std::uint32_t handles = 1) {
    const auto given = ask(name, host, handles);
    REQUIRE(given.has_value());
    return *given;
  }
  RegionMap map(const std::string& name) {
    auto exported = pool->export_map(id(name), RegionIndex(0));
    INFO((exported ? "" : exported.error().message));
    REQUIRE(exported.has_value());
    REQUIRE(exported->has_value());
    return **exported;
  }
  // As the host does it, by a file of its own; what it writes is durable.
  void write_at(Place place, std::uint8_t stamp) {
    const auto file = env.open_file(paths[place.member()], {});
    REQUIRE(file.has_value());
    REQUIRE((*file)->write_durably(place.block() * kBlockBytes, block_of(stamp)).has_value());
  }
  std::vector<std::byte> read_at(Place place) {
    std::vector<std::byte> block(kBlockBytes);
    const auto file = env.open_file(paths[place.member()], {});
    REQUIRE(file.has_value());
    REQUIRE((*file)->read_at(place.block() * kBlockBytes, block).has_value());
    return block;
  }
  std::vector<std::byte> content(const std::string& name, std::uint64_t block = 0) {
    return read_from(*view(name), block * kBlockBytes);
  }
  // The background's work is done: what is due has ended, within a time that no load makes too short.
  template <class Condition>
  bool eventually(Condition condition) {
    for (int i = 0; i < 60'000 && !condition(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return condition();
  }

  std::uint64_t beta = 0, gamma = 0;
  DelegationKeeper* keeper = nullptr;
};

} // namespace vsnap
