// A host that is lost with a volume: it is fenced where there is a fence, and what it had is lost else.
#include "sync/host_delegations.h"

#include <chrono>

#include "core/log.h"
#include "tests/support/catch.h"
#include "tests/support/memory_env.h"
#include "tests/sync/slow_pool.h"

using namespace vsnap;
using namespace vsnap::test;

namespace {

constexpr std::int64_t kLease_ns = 3'000'000'000;
constexpr std::uint64_t kBeta = 7, kGamma = 9;
constexpr std::chrono::seconds kLongest(60); // before a test gives up

using Events = std::vector<std::string>;

// Another pool, which delegates whatever it is asked for, and notes what it is told.
class GivingPool final : public SlowPool {
 public:
  Result<std::optional<Delegation>> delegate(ObjectId volume, std::uint64_t host, std::uint32_t) override {
    return give(volume, host);
  }
  Delegation give(ObjectId volume, std::uint64_t host) {
    MutexLock lock(mutex_);
    given_.push_back({{given_.size() + 1, volume, host}, DelegationState::held, 0, {"v", {}}, {}});
    return given_.back().delegation;
  }
  std::vector<DelegationInfo> delegations() override {
    MutexLock lock(mutex_);
    return given_;
  }
  Result<> end_delegation(std::uint64_t host, std::uint64_t number) override {
    note(fmt::format("ended {}/{}", host, number));
    return {};
  }
  Result<> end_delegations(std::uint64_t host) override {
    note(fmt::format("ended {}", host));
    return {};
  }
  void lose_delegations(std::uint64_t host) override { note(fmt::format("lost {}", host)); }
  Result<Hosts> hosts() override {
    Hosts known;
    for (const auto& [id, name] : {std::pair(kBeta, "beta"), std::pair(kGamma, "gamma")}) {
      known.hosts.emplace_back();
      known.hosts.back().id = id;
      known.hosts.back().name = name;
    }
    return known;
  }

  // Returns as soon as there are so many.
  Events events(std::size_t count) {
    const auto until = std::chrono::steady_clock::now() + kLongest;
    MutexLock lock(mutex_);
    while (events_.size() < count && std::chrono::steady_clock::now() < until)
      noted_.wait_for(mutex_, kLongest);
    return events_;
  }

 private:
  void note(std::string event) {
    MutexLock lock(mutex_);
    events_.push_back(std::move(event));
    noted_.notify_all();
  }

  Mutex mutex_;
  CondVar noted_;
  std::vector<DelegationInfo> given_ VSNAP_GUARDED_BY(mutex_);
  Events events_ VSNAP_GUARDED_BY(mutex_);
};

// What a fence is asked, and says when the test wants.
class TestFence {
 public:
  explicit TestFence(bool works, bool answers = true) : works_(works), answers_(answers) {}

  Fence fence() {
    return [this](const std::string& host) {
      MutexLock lock(mutex_);
      asked_.push_back(host);
      changed_.notify_all();
      while (!answers_) changed_.wait(mutex_);
      return works_;
    };
  }
  void answer() {
    MutexLock lock(mutex_);
    answers_ = true;
    changed_.notify_all();
  }
  // Returns as soon as it was asked so often.
  Events asked(std::size_t count) {
    const auto until = std::chrono::steady_clock::now() + kLongest;
    MutexLock lock(mutex_);
    while (asked_.size() < count && std::chrono::steady_clock::now() < until)
      changed_.wait_for(mutex_, kLongest);
    return asked_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  const bool works_;
  bool answers_ VSNAP_GUARDED_BY(mutex_);
  Events asked_ VSNAP_GUARDED_BY(mutex_);
};

struct FenceLab {
  MemoryEnv env;
  GivingPool pool;
  TestFence fence;
  ViewHandle view;
  std::unique_ptr<HostDelegations> delegations;

  explicit FenceLab(bool works, bool answers = true) : fence(works, answers) {
    vsnap::log::set_level(vsnap::log::Level::off);
    const auto made = pool.create_volume("v", 1U << 20);
    REQUIRE(made.has_value());
    auto opened = pool.open_view(made->id);
    REQUIRE(opened.has_value());
    view = std::move(*opened);
  }
  ~FenceLab() { fence.answer(); }
  void start(bool with_fence = true) {
    auto started = HostDelegations::start(pool, env, kLease_ns, with_fence ? fence.fence() : Fence());
    REQUIRE(started.has_value());
    delegations = std::move(*started);
  }
  std::uint64_t take(std::uint64_t host) const {
    HostInfo info;
    info.id = host;
    info.name = host == kBeta ? "beta" : "gamma";
    const auto taken = delegations->take(info, *view, 1);
    REQUIRE(taken.has_value());
    return taken->number();
  }
  void is_lost(std::uint64_t host) const { delegations->session_over(host, Membership::End::lost); }
  void returns_all(std::uint64_t host) const {
    wire::ReturnVolumesRequest request;
    request.set_all(true);
    REQUIRE(delegations->give_back(host, request).has_value());
  }
};

} // namespace

TEST_CASE("of a host that was fenced all that it had ends, by number, and nothing is lost") {
  FenceLab lab(true);
  lab.start();
  CHECK(lab.take(kBeta) == 1);
  CHECK(lab.take(kGamma) == 2);
  CHECK(lab.take(kBeta) == 3);
  lab.is_lost(kBeta);
  CHECK(lab.pool.events(2) == Events{"ended 7/1", "ended 7/3"});
  lab.delegations.reset();
  CHECK(lab.pool.events(2).size() == 2);
  CHECK(lab.fence.asked(1) == Events{"beta"});
}

TEST_CASE("what a host had that could not be fenced is lost") {
  FenceLab lab(false);
  lab.start();
  CHECK(lab.take(kBeta) == 1);
  lab.is_lost(kBeta);
  CHECK(lab.pool.events(1) == Events{"lost 7"});
  CHECK(lab.fence.asked(1) == Events{"beta"});
}

TEST_CASE("without a fence what a host had is lost") {
  FenceLab lab(true);
  lab.start(false);
  CHECK(lab.take(kBeta) == 1);
  lab.is_lost(kBeta);
  CHECK(lab.pool.events(1) == Events{"lost 7"});
}

TEST_CASE("a host to which nothing is delegated is not fenced") {
  FenceLab lab(true);
  lab.start();
  CHECK(lab.take(kGamma) == 1);
  lab.is_lost(kBeta);
  CHECK(lab.pool.events(1) == Events{"lost 7"}); // of nothing
  lab.delegations.reset();
  CHECK(lab.fence.asked(0).empty());
}

TEST_CASE("a host is not fenced before its lease is over, and not if it has returned all by then") {
  FenceLab lab(true);
  lab.start();
  CHECK(lab.take(kBeta) == 1);
  CHECK(lab.take(kGamma) == 2);
  lab.delegations->session_over(kBeta, Membership::End::superseded);
  lab.delegations->session_over(kGamma, Membership::End::superseded);
  CHECK(lab.fence.asked(0).empty());
  lab.returns_all(kBeta);
  lab.env.let_pass(2 * kLease_ns);
  CHECK(lab.fence.asked(1) == Events{"gamma"});
  CHECK(lab.pool.events(2) == Events{"ended 7", "ended 9/2"});
}

TEST_CASE(
    "a host that comes back while it is being fenced gets nothing before, and keeps what it gets then") {
  const bool works = GENERATE(true, false);
  FenceLab lab(works, false);
  lab.start();
  CHECK(lab.take(kBeta) == 1);
  lab.is_lost(kBeta);
  REQUIRE(lab.fence.asked(1) == Events{"beta"});
  lab.delegations->session_began(kBeta);
  lab.returns_all(kBeta);
  CHECK(lab.take(kBeta) == 0);
  CHECK(lab.take(kGamma) == 2); // others do
  lab.fence.answer();
  const Events told = {"ended 7", works ? "ended 7/1" : "lost 7"};
  CHECK(lab.pool.events(2) == told);
  std::uint64_t number = 0;
  const auto until = std::chrono::steady_clock::now() + kLongest;
  while (number == 0 && std::chrono::steady_clock::now() < until) number = lab.take(kBeta);
  CHECK(number == 3);
  lab.delegations.reset();
  CHECK(lab.pool.events(2) == told);
}

TEST_CASE("hosts are fenced at the same time") {
  FenceLab lab(true, false);
  lab.start();
  CHECK(lab.take(kBeta) == 1);
  CHECK(lab.take(kGamma) == 2);
  lab.is_lost(kBeta);
  REQUIRE(lab.fence.asked(1).size() == 1);
  lab.is_lost(kGamma);
  CHECK(lab.fence.asked(2) == Events{"beta", "gamma"});
  lab.fence.answer();
  CHECK(lab.pool.events(2).size() == 2);
}

TEST_CASE("a host with a volume from a process before is fenced unless it has a session within a lease") {
  const bool works = GENERATE(true, false);
  FenceLab lab(works);
  lab.pool.give(lab.view->id(), kBeta);
  lab.pool.give(lab.view->id(), kGamma);
  lab.start();
  lab.delegations->session_began(kBeta);
  lab.env.let_pass(2 * kLease_ns);
  CHECK(lab.fence.asked(1) == Events{"gamma"});
  // Of one that is not fenced the pool knows by itself.
  if (works) CHECK(lab.pool.events(1) == Events{"ended 9/2"});
  lab.delegations.reset();
  CHECK(lab.pool.events(0) == (works ? Events{"ended 9/2"} : Events{}));
}
