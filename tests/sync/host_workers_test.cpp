// Whose work is begun, and when. Pieces of work wait until the test lets them end.
#include "sync/host_workers.h"

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>

#include "core/log.h"
#include "core/wait_listener.h"
#include "tests/support/catch.h"
#include "tests/sync/shared_lab.h"

namespace vsnap {
namespace {

using test::becomes;
using Lane = HostWorkers::Lane;

// What has begun, in order, and what may end.
class Desk {
 public:
  ~Desk() {
    end_all();
    workers.stop();
  }
  void put(Lane lane, std::uint64_t host, const std::string& name, bool waits = false) {
    REQUIRE(workers.put(lane, host, 1, [this, name, waits] { work(name, waits); }));
  }
  bool begins(const std::string& name) {
    return becomes([&] {
      MutexLock lock(mutex_);
      return std::find(begun_.begin(), begun_.end(), name) != begun_.end();
    });
  }
  bool has_begun(std::size_t count) {
    return becomes([&] { return begun().size() == count; });
  }
  std::vector<std::string> begun() {
    MutexLock lock(mutex_);
    return begun_;
  }
  void end(const std::string& name) {
    MutexLock lock(mutex_);
    may_end_.push_back(name);
    changed_.notify_all();
  }
  void end_all() {
    MutexLock lock(mutex_);
    all_may_end_ = true;
    changed_.notify_all();
  }
  HostWorkers workers;

 private:
  void work(const std::string& name, bool waits) {
    std::optional<Waits> waiting;
    if (waits) waiting.emplace();
    MutexLock lock(mutex_);
    begun_.push_back(name);
    while (!all_may_end_ && std::find(may_end_.begin(), may_end_.end(), name) == may_end_.end())
      changed_.wait(mutex_);
  }
  Mutex mutex_;
  CondVar changed_;
  std::vector<std::string> begun_ VSNAP_GUARDED_BY(mutex_);
  std::vector<std::string> may_end_ VSNAP_GUARDED_BY(mutex_);
  bool all_may_end_ VSNAP_GUARDED_BY(mutex_) = false;
};

TEST_CASE("lasting work takes half of the places, and quick work goes on") {
  Desk desk;
  for (std::uint64_t host = 1; host <= HostWorkers::kMaxBusy; ++host)
    desk.put(Lane::lasting, host, "lasting" + std::to_string(host));
  REQUIRE(desk.has_begun(HostWorkers::kMaxLasting));
  for (std::uint64_t host = 1; host <= HostWorkers::kMaxBusy - HostWorkers::kMaxLasting; ++host)
    desk.put(Lane::quick, host, "quick" + std::to_string(host));
  REQUIRE(desk.has_begun(HostWorkers::kMaxBusy));
  desk.put(Lane::quick, 20, "later");
  desk.end("quick1");
  REQUIRE(desk.begins("later"));
  CHECK(desk.begun().size() == HostWorkers::kMaxBusy + 1);
}

TEST_CASE("quick work does not keep lasting work out") {
  Desk desk;
  for (std::uint64_t host = 1; host <= HostWorkers::kMaxBusy + 4; ++host)
    desk.put(Lane::quick, host, "quick" + std::to_string(host));
  REQUIRE(desk.has_begun(HostWorkers::kMaxBusy));
  desk.put(Lane::lasting, 1, "lasting");
  desk.end("quick1");
  REQUIRE(desk.begins("lasting"));
  CHECK(desk.begun().size() == HostWorkers::kMaxBusy + 1);
}

TEST_CASE("hosts take turns, and the work of each is begun in order") {
  Desk desk;
  const std::vector<std::string> first{"w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8"};
  for (std::uint64_t host = 1; host <= first.size(); ++host)
    desk.put(Lane::quick, 100 + host, first[host - 1]);
  REQUIRE(desk.has_begun(first.size()));
  for (const char* const name : {"a1", "a2", "a3", "a4"}) desk.put(Lane::quick, 1, name);
  desk.put(Lane::quick, 2, "b1");
  desk.put(Lane::quick, 3, "c1");
  for (std::size_t i = 0; i < 3; ++i) {
    desk.end(first[i]);
    REQUIRE(desk.has_begun(first.size() + i + 1));
  }
  const std::vector<std::string> begun = desk.begun();
  CHECK(std::vector<std::string>(begun.begin() + 8, begun.end()) ==
        std::vector<std::string>{"a1", "b1", "c1"});
  desk.end(first[3]); // only the last place is free now, and all that have something waiting are busy
  desk.end(first[4]);
  REQUIRE(desk.begins("a2"));
  CHECK(desk.begun().size() == 12);
}

TEST_CASE("the last place is for a host that has nothing under way") {
  Desk desk;
  for (std::size_t i = 0; i < 2 * HostWorkers::kMaxBusy; ++i)
    desk.put(Lane::lasting, 1, "a" + std::to_string(i));
  REQUIRE(desk.has_begun(HostWorkers::kMaxLasting - 1));
  desk.put(Lane::lasting, 2, "b");
  REQUIRE(desk.begins("b"));
  CHECK(desk.begun().size() == HostWorkers::kMaxLasting);
}

TEST_CASE("work that waits in core gives its place to other work, up to a bound") {
  Desk desk;
  std::uint64_t host = 0;
  for (; host < HostWorkers::kMaxPaused; ++host)
    desk.put(Lane::quick, host, "waits" + std::to_string(host), true);
  REQUIRE(desk.has_begun(HostWorkers::kMaxPaused));
  for (std::size_t i = 0; i < HostWorkers::kMaxBusy; ++i, ++host)
    desk.put(Lane::quick, host, "waits" + std::to_string(host), true);
  REQUIRE(desk.has_begun(HostWorkers::kMaxPaused + HostWorkers::kMaxBusy));
  desk.put(Lane::quick, host, "after");
  desk.put(Lane::lasting, host, "lasting");
  for (std::size_t i = 0; i < 2; ++i) desk.end("waits" + std::to_string(HostWorkers::kMaxPaused + i));
  REQUIRE(desk.begins("after"));
  REQUIRE(desk.begins("lasting"));
}

TEST_CASE("too much is refused, and what was refused takes nobody's turn") {
  Desk desk;
  for (std::uint64_t host = 1; host <= HostWorkers::kMaxBusy; ++host)
    desk.put(Lane::quick, host, "w" + std::to_string(host));
  REQUIRE(desk.has_begun(HostWorkers::kMaxBusy));
  CHECK_FALSE(desk.workers.put(Lane::quick, 1, HostWorkers::kMaxWaitingBytes + 1, [] {}));
  REQUIRE(desk.workers.put(Lane::quick, 1, HostWorkers::kMaxWaitingBytes, [] {}));
  CHECK_FALSE(desk.workers.put(Lane::lasting, 2, 1, [] {}));
  for (std::size_t i = 1; i < HostWorkers::kMaxWaiting; ++i)
    REQUIRE(desk.workers.put(Lane::quick, 1 + i % 3, 0, [] {}));
  CHECK_FALSE(desk.workers.put(Lane::quick, 3, 0, [] {}));
  desk.end_all();
  REQUIRE(becomes([&] { return desk.workers.put(Lane::quick, 1, HostWorkers::kMaxWaitingBytes, [] {}); }));
}

TEST_CASE("at the end what was begun ends, and the rest is forgotten") {
  Desk desk;
  for (std::uint64_t host = 1; host <= 2 * HostWorkers::kMaxBusy; ++host)
    desk.put(Lane::quick, host, "w" + std::to_string(host));
  REQUIRE(desk.has_begun(HostWorkers::kMaxBusy));
  std::thread ending([&] { desk.workers.stop(); });
  while (desk.workers.put(Lane::quick, 1, HostWorkers::kMaxWaitingBytes + 1, [] {}) == false)
    std::this_thread::yield(); // until it takes no more
  desk.end_all();
  ending.join();
  CHECK(desk.begun().size() == HostWorkers::kMaxBusy);
}

TEST_CASE("work that throws ends like any other") {
  log::set_level(log::Level::off);
  Desk desk;
  for (std::size_t i = 0; i < 2 * HostWorkers::kMaxBusy; ++i)
    REQUIRE(desk.workers.put(Lane::quick, 1, 1, [] { throw std::runtime_error("in a test"); }));
  desk.put(Lane::quick, 2, "after");
  CHECK(desk.begins("after"));
}

} // namespace
} // namespace vsnap
