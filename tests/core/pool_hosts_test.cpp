// Who shares a pool: invitations, each for one host and for a while, the hosts that came in by them, and the
// epoch of their coordinator.
#include "tests/core/refusal.h"
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

constexpr std::int64_t kHour = 3'600'000'000'000;

HostKey key(std::uint8_t number) {
  HostKey made{};
  made.fill(number);
  return made;
}

struct SharedPool : SmallPool {
  [[nodiscard]] Hosts all() const {
    auto found = pool->hosts();
    REQUIRE(found.has_value());
    return *found;
  }
  std::vector<std::string> findings() {
    const auto report = pool->check(false, {});
    REQUIRE(report.has_value());
    std::vector<std::string> found;
    for (const Finding& finding : report->findings) found.push_back(finding.what);
    return found;
  }
};

} // namespace

TEST_CASE("each start of a coordinator has a higher epoch than any before") {
  SharedPool lab;
  const auto first = lab.pool->begin_reign();
  REQUIRE(first.has_value());
  const auto second = lab.pool->begin_reign();
  REQUIRE(second.has_value());
  CHECK(*second == *first + 1);
  lab.reopen();
  CHECK(lab.pool->begin_reign().value() == *second + 1);
}

TEST_CASE("an epoch that was told survives a power cut") {
  SharedPool lab;
  const std::uint64_t told = lab.pool->begin_reign().value();
  const auto left = lab.env.fork();
  left->power_cut(7);
  auto opened = Pool::open(*left, {.member_paths = lab.paths});
  REQUIRE(opened.has_value());
  CHECK((*opened)->begin_reign().value() > told);
}

TEST_CASE("a host comes in once by an invitation, and stays over a restart") {
  SharedPool lab;
  REQUIRE(lab.pool->invite(key(1), "", kHour).has_value());
  REQUIRE(lab.all().invitations.size() == 1);
  const auto host = lab.pool->join(key(1), "beta", key(9));
  REQUIRE(host.has_value());
  CHECK(host->name == "beta");
  CHECK(refusal(lab.pool->join(key(1), "gamma", key(8))).errno_value == EACCES);
  lab.reopen();
  REQUIRE(lab.all().hosts.size() == 1);
  CHECK(lab.all().hosts.front() == *host);
  CHECK(lab.all().invitations.empty());
  CHECK(lab.findings().empty());
}

TEST_CASE("an invitation may say which name the host has") {
  SharedPool lab;
  REQUIRE(lab.pool->invite(key(1), "beta", kHour).has_value());
  CHECK(lab.pool->join(key(1), "other", key(9)).value().name == "beta");
  CHECK(refusal(lab.pool->invite(key(2), "beta", kHour)).errno_value == EEXIST);
}

TEST_CASE("an invitation that has expired brings nobody in, and goes") {
  SharedPool lab;
  REQUIRE(lab.pool->invite(key(1), "", kHour).has_value());
  REQUIRE(lab.pool->invite(key(2), "", 3 * kHour).has_value());
  lab.env.jump_wall_clock(2 * kHour);
  CHECK(refusal(lab.pool->join(key(1), "beta", key(9))).errno_value == EACCES);
  CHECK(lab.all().hosts.empty());
  REQUIRE(lab.pool->begin_reign().has_value());
  REQUIRE(lab.all().invitations.size() == 1);
  CHECK(lab.all().invitations.front().key == key(2));
}

TEST_CASE("names and keys of hosts are each there once") {
  SharedPool lab;
  for (std::uint8_t n = 1; n <= 3; ++n) REQUIRE(lab.pool->invite(key(n), "", kHour).has_value());
  REQUIRE(lab.pool->join(key(1), "beta", key(11)).has_value());
  CHECK(refusal(lab.pool->join(key(2), "beta", key(12))).errno_value == EEXIST);
  CHECK(refusal(lab.pool->join(key(2), "../x", key(12))).kind == ErrorKind::usage);
  CHECK(lab.all().invitations.size() == 2); // neither used it up
  // The same host once more stays what it is.
  CHECK(lab.pool->join(key(3), "gamma", key(11)).value().name == "beta");
  CHECK(lab.all().hosts.size() == 1);
}

TEST_CASE("a revoked host is gone for good, and its number is not used again") {
  SharedPool lab;
  REQUIRE(lab.pool->invite(key(1), "", kHour).has_value());
  const HostInfo host = lab.pool->join(key(1), "beta", key(9)).value();
  CHECK(refusal(lab.pool->revoke("bete", false)).message.find("did you mean beta?") != std::string::npos);
  CHECK(lab.pool->revoke("beta", true).value().hosts.size() == 1);
  CHECK(lab.all().hosts.size() == 1); // that was a dry run
  CHECK(lab.pool->revoke("beta", false).value().hosts.front() == host);
  lab.reopen();
  CHECK(lab.all().hosts.empty());
  REQUIRE(lab.pool->invite(key(2), "beta", kHour).has_value());
  CHECK(lab.pool->join(key(2), "", key(9)).value().id > host.id);
}

TEST_CASE("an invitation is revoked by the name that it gives") {
  SharedPool lab;
  REQUIRE(lab.pool->invite(key(1), "beta", kHour).has_value());
  CHECK(lab.pool->revoke("beta", false).value().invitations.size() == 1);
  CHECK(refusal(lab.pool->join(key(1), "", key(9))).errno_value == EACCES);
}

TEST_CASE("no more hosts share a pool than fit") {
  SharedPool lab;
  for (std::size_t n = 0; n < kMaxHosts; ++n) {
    HostKey one{};
    one[0] = static_cast<std::uint8_t>(n);
    REQUIRE(lab.pool->invite(one, "", kHour).has_value());
  }
  CHECK(refusal(lab.pool->invite(key(7), "", kHour)).kind == ErrorKind::no_space);
  lab.env.jump_wall_clock(2 * kHour);
  CHECK(lab.pool->invite(key(7), "", kHour).has_value());
}
