// What is said of volumes that are delegated to hosts, and how what a host was lost with ends.
#include "sync/view_exports.h"

#include <algorithm>
#include <tuple>

#include "core/log.h"
#include "sync/host_list.h"
#include "sync/space_messages.h"
#include "sync/wire.h"
#include "tests/support/catch.h"
#include "tests/sync/slow_pool.h"

using namespace vsnap;
using namespace vsnap::test;

namespace {

constexpr std::int64_t kLease_ns = 3'000'000'000;
constexpr std::uint64_t kBeta = 7, kRevoked = 8;

// Another pool, of which volumes are delegated as the test says.
class DelegatedPool final : public SlowPool {
 public:
  using SlowPool::SlowPool;
  std::vector<DelegationInfo> given;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ended; // host, number

  std::vector<DelegationInfo> delegations() override { return given; }
  Result<> end_delegation(std::uint64_t host, std::uint64_t number) override {
    ended.emplace_back(host, number);
    return {};
  }
  Result<std::vector<PlaceRun>> grant_space(std::uint64_t host, std::uint64_t number,
                                            BlockCount wanted) override {
    asked = {host, number, wanted.value()};
    return std::vector<PlaceRun>(has_space ? 1 : 0, {Place(0, 70), wanted});
  }
  Result<> commit_blocks(std::uint64_t host, std::uint64_t number, std::span<const MapRun> runs) override {
    if (number != 1) return failure(ErrorKind::failed, ESTALE, "the volume is not delegated");
    asked = {host, number, runs.size()};
    committed.assign(runs.begin(), runs.end());
    return {};
  }
  std::tuple<std::uint64_t, std::uint64_t, std::uint64_t> asked; // host, number, how much
  std::vector<MapRun> committed;
  bool has_space = true;
  Result<Hosts> hosts() override {
    Hosts known;
    known.hosts.emplace_back();
    known.hosts.back().id = kBeta;
    known.hosts.back().name = "beta";
    return known;
  }
};

struct LockLab {
  DelegatedPool pool;
  std::unique_ptr<ViewExports> exports;
  ObjectId volume;

  LockLab() {
    vsnap::log::set_level(vsnap::log::Level::off);
    const auto made = pool.create_volume("v", 1U << 20);
    REQUIRE(made.has_value());
    volume = made->id;
    auto started = ViewExports::start(pool, Env::real(), kLease_ns);
    REQUIRE(started.has_value());
    exports = std::move(*started);
  }
  void give(std::uint64_t number, std::uint64_t host, DelegationState state, const std::string& left = {}) {
    DelegationInfo info{{number, volume, host}, state, 1'700'000'000'000'000'000, {"v", {}}, {}};
    if (!left.empty()) info.left = ViewName{"v", left};
    pool.given.push_back(info);
  }
  void open_at_beta() {
    exports->session_began(kBeta, 1);
    wire::LinkRequest request;
    request.mutable_open_view()->set_view(volume.value());
    request.mutable_open_view()->set_number(1);
    HostInfo beta;
    beta.id = kBeta;
    REQUIRE(exports->serve(beta, request).has_opened());
  }
  wire::ControlReply ask(wire::ControlRequest request) const {
    request.set_version(wire::kProtocolVersion);
    auto reply = exports->answer(request);
    REQUIRE(reply.has_value());
    return *reply;
  }
  wire::LockList locks() const {
    wire::ControlRequest request;
    request.mutable_list_locks();
    return ask(request).locks();
  }
  wire::ControlReply fence(const std::string& host, bool dry_run = false) const {
    wire::ControlRequest request;
    wire::BreakLockRequest& lock = *request.mutable_break_lock();
    *lock.mutable_volume() = wire::to_wire(ViewName{"v", {}});
    lock.set_host(host);
    lock.set_fenced(true);
    lock.set_dry_run(dry_run);
    return ask(request);
  }
};

} // namespace

TEST_CASE("of a volume that is delegated the line of its host says so") {
  LockLab lab;
  lab.open_at_beta();
  CHECK(lab.locks().locks(0).mode() == wire::LOCK_ASKS);
  lab.give(1, kBeta, DelegationState::held);
  CHECK(lab.locks().locks(0).mode() == wire::LOCK_DELEGATED);
  lab.pool.given[0].state = DelegationState::recalled;
  const wire::LockList list = lab.locks();
  REQUIRE(list.locks_size() == 1);
  CHECK(list.locks(0).mode() == wire::LOCK_RECALLED);
  CHECK(list.locks(0).host() == "beta");
  CHECK(list.locks(0).handles() == 1);
  CHECK_FALSE(list.locks(0).is_ending());
}

TEST_CASE("what a host holds is counted: what it has open, what is delegated to it, what it was lost with") {
  LockLab lab;
  CHECK(lab.exports->open_by_hosts().empty());
  lab.open_at_beta();
  lab.give(1, kBeta, DelegationState::held);
  lab.give(2, kBeta, DelegationState::recalled);
  lab.give(3, kBeta, DelegationState::lost, "lost-beta-1");
  lab.give(4, kRevoked, DelegationState::lost, "lost-old-host-1");
  auto held = host_list::held_of(lab.pool);
  for (const auto& [host, count] : lab.exports->open_by_hosts()) held[host].open = count;
  const wire::HostList list = host_list::of(*lab.pool.hosts(), held, 0);
  REQUIRE(list.hosts_size() == 1);
  CHECK(list.hosts(0).open() == 1);
  CHECK(list.hosts(0).delegated() == 2);
  CHECK(list.hosts(0).lost() == 1);
  lab.exports->session_over(kBeta, 1, Membership::End::left);
  CHECK(lab.exports->open_by_hosts().empty());
}

TEST_CASE("what a host is lost with has a line of its own, and names the snapshot that keeps it") {
  LockLab lab;
  lab.give(1, kBeta, DelegationState::lost, "lost-beta-1");
  lab.give(2, kRevoked, DelegationState::lost, "lost-old-host-1");
  lab.open_at_beta(); // again
  const wire::LockList list = lab.locks();
  REQUIRE(list.locks_size() == 3);
  CHECK(list.locks(0).mode() == wire::LOCK_ASKS);
  CHECK(list.locks(0).handles() == 1);
  for (const int lost : {1, 2}) {
    CHECK(list.locks(lost).mode() == wire::LOCK_LOST);
    CHECK(list.locks(lost).handles() == 0);
    CHECK(list.locks(lost).is_ending());
  }
  CHECK(wire::from_wire(list.locks(1).left()).text() == "v@lost-beta-1");
  CHECK(list.locks(1).host() == "beta");
  CHECK(list.locks(2).host() == "old-host"); // which nobody else knows any more
}

TEST_CASE("what a fenced host was lost with ends, of that host and volume alone") {
  LockLab lab;
  lab.give(1, kBeta, DelegationState::lost, "lost-beta-1");
  lab.give(2, kRevoked, DelegationState::lost, "lost-old-host-1");
  lab.give(3, kBeta, DelegationState::recalled);
  lab.give(4, kBeta, DelegationState::lost, "lost-beta-1");
  lab.pool.given.back().volume = {"w", {}};
  CHECK(lab.fence("gamma").error().kind() == wire::ERROR_NOT_FOUND);
  CHECK(lab.fence("beta", true).locks().locks_size() == 2);
  CHECK(lab.pool.ended.empty());
  const wire::ControlReply reply = lab.fence("beta");
  REQUIRE(reply.locks().locks_size() == 2);
  CHECK(wire::from_wire(reply.locks().locks(0).left()).text() == "v@lost-beta-1");
  CHECK(lab.pool.ended ==
        std::vector{std::pair{kBeta, std::uint64_t{1}}, std::pair{kBeta, std::uint64_t{3}}});
  REQUIRE(lab.fence("old-host").has_locks());
  CHECK(lab.pool.ended.back() == std::pair{kRevoked, std::uint64_t{2}});
}

TEST_CASE("the pool is asked for space, and gets what was written to it, in the name of the host that asks") {
  LockLab lab;
  HostInfo beta;
  beta.id = kBeta;
  wire::LinkRequest grant;
  grant.mutable_grant_space()->set_number(1);
  CHECK(lab.exports->serve(beta, grant).error().errno_value() == EINVAL); // nothing
  grant.mutable_grant_space()->set_blocks(~0ULL);
  const auto granted = space_messages::from_wire(lab.exports->serve(beta, grant).granted_space());
  CHECK(lab.pool.asked == std::tuple{kBeta, std::uint64_t{1}, space_messages::kMaxGranted});
  CHECK(granted.value() == std::vector<PlaceRun>{{Place(0, 70), BlockCount(space_messages::kMaxGranted)}});
  lab.pool.has_space = false;
  CHECK(lab.exports->serve(beta, grant).granted_space().places_size() == 0);
  const std::vector<MapRun> runs = {{BlockIndex(3), BlockCount(2), BlockKind::data, Place(0, 70), true},
                                    {BlockIndex(9), BlockCount(1), BlockKind::data, Place(0, 72), true}};
  wire::LinkRequest commit;
  *commit.mutable_commit_blocks() = space_messages::to_wire(1, runs);
  CHECK(lab.exports->serve(beta, commit).has_done());
  CHECK(lab.pool.committed == runs);
  CHECK(lab.pool.asked == std::tuple{kBeta, std::uint64_t{1}, std::uint64_t{2}});
  lab.pool.committed.clear();
  commit.mutable_commit_blocks()->add_starts(1);
  CHECK(lab.exports->serve(beta, commit).error().errno_value() == EINVAL);
  CHECK(lab.pool.committed.empty());
  *commit.mutable_commit_blocks() = space_messages::to_wire(2, runs);
  CHECK(lab.exports->serve(beta, commit).error().errno_value() == ESTALE);
}

TEST_CASE("a host that has a session is not taken for fenced") {
  LockLab lab;
  lab.give(1, kBeta, DelegationState::lost, "lost-beta-1");
  lab.open_at_beta();
  for (const bool dry_run : {true, false})
    CHECK(lab.fence("beta", dry_run).error().kind() == wire::ERROR_BUSY);
  CHECK(lab.pool.ended.empty());
  lab.exports->session_over(kBeta, 1, Membership::End::lost);
  CHECK(lab.fence("beta").has_locks());
  CHECK(lab.pool.ended.size() == 1);
}
