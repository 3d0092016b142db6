// Delegations through crashes at any call: what a host was given stays known until it is certain that nothing
// of it is under way.
#include "core/log.h"
#include "tests/core/delegation_lab.h"

using namespace vsnap;

namespace {

struct Progress {
  std::optional<Delegation> given; // the host was told
  Place place;
  bool exported = false;
  bool lost = false;
  bool ended = false; // and nothing is left to be done
};

// One life of a delegation, up to where the process dies.
Progress live(DelegationLab& lab) {
  Progress progress;
  const auto alive = [&](bool done) { return done && !lab.env.killed(); };
  {
    auto open = lab.pool->open_view_for(lab.id("v"), lab.beta);
    if (!alive(open.has_value())) return progress;
    const auto given = lab.pool->delegate(lab.id("v"), lab.beta, 1);
    if (!alive(given.has_value() && given->has_value())) return progress;
    progress.given = **given;
    if (!alive((*open)->write(0, block_of(2)).has_value())) return progress;
    const auto map = lab.pool->export_map(lab.id("v"), RegionIndex(0));
    if (!alive(map.has_value() && map->has_value())) return progress;
    progress.exported = true;
    progress.place = (*map)->front().place;
  }
  lab.pool->lose_delegations(lab.beta);
  progress.lost = alive(lab.has("v@lost-beta-1"));
  if (!progress.lost) return progress;
  static_cast<void>(lab.pool->end_delegations(lab.beta));
  lab.pool->lose_delegations(lab.beta); // nothing is; so that what is left to be done is done now
  progress.ended = alive(lab.pool->delegations().empty() && !lab.has("v@lost-beta-1"));
  return progress;
}

// After the crash, once nobody is to be waited for any more.
void check_kept(DelegationLab& lab, const Progress& progress) {
  REQUIRE(lab.findings() == std::vector<std::string>());
  const auto all = lab.pool->delegations();
  if (progress.given && !progress.lost) REQUIRE(all.size() == 1);
  if (progress.ended) REQUIRE(all.empty());
  if (all.empty()) {
    REQUIRE_FALSE(lab.has("v@lost-beta-1"));
  } else {
    REQUIRE(all[0].state == DelegationState::lost);
    REQUIRE(all[0].left->text() == "v@lost-beta-1");
    REQUIRE(lab.info("v@lost-beta-1").holds.size() == 1);
    REQUIRE(refusal(lab.remove("v@lost-beta-1")).kind == ErrorKind::busy);
  }
  if (progress.exported && !all.empty()) {
    lab.write_at(progress.place, 55); // late
    REQUIRE(lab.content("v") == block_of(55));
    lab.fill("v", 3);
    lab.write_at(progress.place, 56);
    REQUIRE(lab.content("v") == block_of(3));
  }
  REQUIRE(lab.pool->end_delegations(lab.beta).has_value());
  lab.reopen();
  REQUIRE(lab.pool->delegations().empty());
  REQUIRE_FALSE(lab.has("v@lost-beta-1"));
  REQUIRE(lab.remove("v").has_value());
  REQUIRE(lab.findings() == std::vector<std::string>());
}

void crash_everywhere(const std::function<void(DelegationLab&, std::uint64_t)>& crash) {
  log::set_level(log::Level::off);
  TestKeeper silent([](const TestKeeper::Recall&) {});
  std::uint64_t calls = 0;
  {
    DelegationLab lab;
    lab.use(&silent);
    const std::uint64_t before = lab.env.calls();
    REQUIRE(live(lab).ended);
    calls = lab.env.calls() - before;
    lab.keeper = nullptr;
    lab.pool.reset();
  }
  REQUIRE(calls > 12);
  for (std::uint64_t nth = 1; nth <= calls; ++nth) {
    CAPTURE(nth);
    DelegationLab lab(nth);
    lab.use(&silent);
    lab.env.kill_at(nth);
    const Progress progress = live(lab);
    crash(lab, nth);
    lab.pool.reset();
    lab.env.kill_at(std::nullopt);
    lab.keeper = nullptr;
    lab.open_again();
    check_kept(lab, progress);
  }
  log::set_level(log::Level::info);
}

} // namespace

TEST_CASE("a host's delegation is known after a kill at any call of its life") {
  crash_everywhere([](DelegationLab&, std::uint64_t) {});
}

TEST_CASE("a host's delegation is known after a power cut at any call of its life") {
  crash_everywhere([](DelegationLab& lab, std::uint64_t nth) { lab.env.power_cut(nth); });
}
