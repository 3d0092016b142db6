// Holds: a held snapshot stays, whoever asks.
#include "core/log.h"
#include "tests/core/limit_lab.h"

using namespace vsnap;

namespace {

void require_held(const Error& error) {
  REQUIRE(error.kind == ErrorKind::busy);
  REQUIRE(error.errno_value == EBUSY);
  REQUIRE(says(error, "lab/v@s: held by keep (vsnap release-hold lab/v@s keep)"));
}

} // namespace

TEST_CASE("a held snapshot is not removed by anybody") {
  LimitLab lab;
  REQUIRE(lab.snapshot("v@s").has_value());
  REQUIRE(lab.hold("v@s", "keep").has_value());
  require_held(refusal(lab.remove("v@s")));
  require_held(refusal(lab.remove("v@s", {.dry_run = true})));
  require_held(refusal(lab.remove("v@s", {.even_if_open = true}))); // as unlink(2)
  require_held(refusal(lab.remove("v", {.recursive = true})));
  require_held(refusal(lab.pool->refresh({"v", "s"})));
  lab.reopen();
  require_held(refusal(lab.remove("v@s")));
  REQUIRE(lab.release_hold("v@s", "keep").has_value());
  REQUIRE(lab.remove("v", {.recursive = true}).has_value());
  CHECK(lab.findings().empty());
}

TEST_CASE("a held full-sized snapshot is not split off") {
  LimitLab lab;
  REQUIRE(lab.pool->snapshot_full({"v", "s"}, {}).has_value());
  REQUIRE(lab.hold("v@s", "keep").has_value());
  require_held(refusal(lab.pool->split({"v", "s"}, "w")));
  REQUIRE(lab.release_hold("v@s", "keep").has_value());
  REQUIRE(lab.pool->split({"v", "s"}, "w").has_value());
}

TEST_CASE("a held snapshot is rolled back to and renamed, and keeps its holds") {
  LimitLab lab;
  REQUIRE(lab.snapshot("v@s").has_value());
  REQUIRE(lab.hold("v@s", "keep").has_value());
  REQUIRE(lab.pool->rollback({"v", "s"}, true, false).has_value());
  REQUIRE(lab.pool->rename({"v", "s"}, "t").has_value());
  REQUIRE(lab.info("v@t").holds.size() == 1);
  CHECK(lab.info("v@t").holds.front().tag == "keep");
  CHECK(refusal(lab.remove("v@t")).kind == ErrorKind::busy);
}

TEST_CASE("each of several holds keeps a snapshot, and all are named") {
  LimitLab lab;
  REQUIRE(lab.snapshot("v@s").has_value());
  REQUIRE(lab.hold("v@s", "one").has_value());
  REQUIRE(lab.hold("v@s", "two").has_value());
  CHECK(says(refusal(lab.remove("v@s")), "held by one, two"));
  REQUIRE(lab.release_hold("v@s", "one").has_value());
  CHECK(says(refusal(lab.remove("v@s")), "held by two"));
  REQUIRE(lab.release_hold("v@s", "two").has_value());
  REQUIRE(lab.remove("v@s").has_value());
}

TEST_CASE("several snapshots are held at one moment, or none of them") {
  LimitLab lab;
  REQUIRE(lab.snapshot("v@a").has_value());
  REQUIRE(lab.snapshot("v@b").has_value());
  REQUIRE(lab.hold("v@b", "keep").has_value());
  const std::vector<ViewName> both = {{"v", "a"}, {"v", "b"}};
  const Error held = refusal(lab.pool->hold(both, "keep"));
  CHECK(held.kind == ErrorKind::failed);
  CHECK(says(held, "lab/v@b: already held by keep"));
  CHECK(lab.info("v@a").holds.empty());
  CHECK(says(refusal(lab.pool->release_hold(both, "keep")), "lab/v@a: not held by keep"));
  CHECK(lab.info("v@b").holds.size() == 1);
  REQUIRE(lab.pool->hold(both, "two").has_value());
  CHECK(lab.info("v@b").holds.size() == 2);
}

TEST_CASE("only snapshots are held, by tags that are names") {
  LimitLab lab;
  REQUIRE(lab.snapshot("v@s").has_value());
  CHECK(refusal(lab.hold("v", "keep")).kind == ErrorKind::usage);
  CHECK(refusal(lab.hold("v@none", "keep")).kind == ErrorKind::not_found);
  for (const char* const bad : {"", "-x", ".", "a/b", "a b"}) {
    CAPTURE(bad);
    CHECK(refusal(lab.hold("v@s", bad)).kind == ErrorKind::usage);
  }
  CHECK(lab.info("v@s").holds.empty());
}

TEST_CASE("a preserved image can be held while programs still write to it") {
  LimitLab lab;
  {
    const ViewHandle old = lab.view("v");
    REQUIRE(lab.pool->preserve({"v", "s"}).has_value());
    REQUIRE(lab.hold("v@s", "keep").has_value());
    CHECK(lab.findings().empty());
  }
  lab.reopen();
  require_held(refusal(lab.remove("v@s")));
  CHECK(lab.findings().empty());
}

TEST_CASE("after a crash at any call a hold is there or not, and one that was confirmed keeps") {
  log::set_level(log::Level::off);
  const auto calls_of = [](LimitLab& lab) {
    const std::uint64_t before = lab.env.calls();
    REQUIRE(lab.hold("v@s", "keep").has_value());
    REQUIRE(lab.release_hold("v@s", "keep").has_value());
    return lab.env.calls() - before;
  };
  std::uint64_t calls = 0;
  {
    LimitLab lab;
    REQUIRE(lab.snapshot("v@s").has_value());
    calls = calls_of(lab);
  }
  REQUIRE(calls > 4);
  for (std::uint64_t nth = 1; nth <= calls; ++nth) {
    CAPTURE(nth);
    LimitLab lab(nth);
    REQUIRE(lab.snapshot("v@s").has_value());
    lab.env.kill_at(nth);
    const bool held = lab.hold("v@s", "keep").has_value() && !lab.env.killed();
    const bool asked = held;
    const bool released = held && lab.release_hold("v@s", "keep").has_value() && !lab.env.killed();
    lab.env.power_cut(nth);
    lab.pool.reset();
    lab.env.kill_at(std::nullopt);
    lab.open();
    REQUIRE(lab.findings().empty());
    const bool found = !lab.info("v@s").holds.empty();
    if (released) REQUIRE_FALSE(found);
    if (!asked && found) REQUIRE(refusal(lab.remove("v@s")).kind == ErrorKind::busy);
    REQUIRE(lab.remove("v@s").has_value() == !found);
  }
}
