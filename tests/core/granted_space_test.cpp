// What hosts were granted, against a map of each single place.
#include "core/granted_space.h"

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <set>

#include "tests/support/catch.h"
#include "tests/support/seed.h"

using namespace vsnap;

namespace {

PlaceRun run_at(std::uint64_t block, std::uint64_t count) { return {Place(0, block), BlockCount(count)}; }

class Shadowed {
 public:
  explicit Shadowed(std::uint64_t seed) : random_(seed) {}
  void step() {
    const PlaceRun run = run_at(random_() % kBlocks, 1 + random_() % 12);
    const std::uint64_t delegation = 1 + random_() % kDelegations;
    switch (random_() % 16) {
      case 0:
        return end(delegation);
      case 1:
        return forget(run);
      case 2:
      case 3:
      case 4:
      case 5:
        return add(delegation, run);
      case 6:
      case 7:
        return put_back_or_settle(delegation, run, true);
      case 8:
      case 9:
      case 10:
        return put_back_or_settle(delegation, run, false);
      default:
        return take(delegation, run);
    }
  }
  void check() {
    std::uint64_t all = 0;
    for (std::uint64_t delegation = 1; delegation <= kDelegations; ++delegation) {
      std::set<std::uint64_t> expected;
      bool left = false;
      for (const auto& [block, place] : places_) {
        if (place.delegation != delegation) continue;
        expected.insert(block);
        left = left || !place.taken;
      }
      CHECK(blocks_of(space_.outstanding(delegation)) == expected);
      CHECK(space_.blocks(delegation) == expected.size());
      CHECK(space_.has_left(delegation) == left);
      all += expected.size();
      std::set<std::uint64_t> others;
      for (std::uint64_t block = 0; block < kBlocks; ++block) {
        if (!expected.contains(block)) others.insert(block);
      }
      CHECK(blocks_of(space_.unknown(delegation, run_at(0, kBlocks))) == others);
    }
    CHECK(space_.blocks() == all);
  }

 private:
  static constexpr std::uint64_t kBlocks = 120;
  static constexpr std::uint64_t kDelegations = 3;
  struct Granted {
    std::uint64_t delegation = 0;
    bool taken = false;
  };

  // Each place once.
  static std::set<std::uint64_t> blocks_of(const std::vector<PlaceRun>& runs) {
    std::set<std::uint64_t> blocks;
    for (const PlaceRun& run : runs) {
      for (std::uint64_t i = 0; i < run.count.value(); ++i)
        REQUIRE(blocks.insert(run.start.block() + i).second);
    }
    return blocks;
  }
  template <class Which>
  bool all_of(PlaceRun run, Which which) const {
    for (std::uint64_t i = 0; i < run.count.value(); ++i) {
      const auto found = places_.find(run.start.block() + i);
      if (!which(found == places_.end() ? std::nullopt : std::optional(found->second))) return false;
    }
    return true;
  }
  template <class Change>
  void each(PlaceRun run, Change change) {
    for (std::uint64_t i = 0; i < run.count.value(); ++i) change(run.start.block() + i);
  }
  void add(std::uint64_t delegation, PlaceRun run) {
    if (!all_of(run, [](const auto& place) { return !place; })) return;
    space_.add(delegation, run);
    each(run, [&](std::uint64_t block) { places_[block] = {delegation, false}; });
  }
  void take(std::uint64_t delegation, PlaceRun run) {
    const bool all_left = all_of(
        run, [&](const auto& place) { return place && place->delegation == delegation && !place->taken; });
    REQUIRE(space_.take(delegation, run) == all_left);
    if (all_left) each(run, [&](std::uint64_t block) { places_[block].taken = true; });
  }
  void put_back_or_settle(std::uint64_t delegation, PlaceRun run, bool put_back) {
    if (!all_of(run,
                [&](const auto& place) { return place && place->delegation == delegation && place->taken; }))
      return;
    if (put_back) {
      REQUIRE(space_.put_back(delegation, run));
      return each(run, [&](std::uint64_t block) { places_[block].taken = false; });
    }
    space_.settle(delegation, run);
    each(run, [&](std::uint64_t block) { places_.erase(block); });
  }
  void forget(PlaceRun run) {
    space_.forget_taken(std::span(&run, 1));
    each(run, [&](std::uint64_t block) {
      if (const auto found = places_.find(block); found != places_.end() && found->second.taken)
        places_.erase(found);
    });
  }
  void end(std::uint64_t delegation) {
    std::set<std::uint64_t> left;
    for (const auto& [block, place] : places_) {
      if (place.delegation == delegation && !place.taken) left.insert(block);
    }
    CHECK(blocks_of(space_.end(delegation)) == left);
    std::erase_if(places_, [&](const auto& place) { return place.second.delegation == delegation; });
    CHECK_FALSE(space_.put_back(delegation, run_at(0, 1)));
  }

  std::mt19937_64 random_;
  GrantedSpace space_;
  std::map<std::uint64_t, Granted> places_; // that are granted
};

} // namespace

TEST_CASE("each granted place is left or taken, for one delegation") {
  const std::uint64_t seed = test_seed();
  INFO("VSNAP_TEST_SEED=" << seed);
  Shadowed shadowed(seed);
  for (int i = 0; i < 4000; ++i) {
    shadowed.step();
    if (i % 8 == 0) shadowed.check();
  }
}

TEST_CASE("granted runs that touch are one") {
  GrantedSpace space;
  space.add(1, run_at(10, 5));
  space.add(1, run_at(20, 5));
  CHECK(space.outstanding(1).size() == 2);
  space.add(1, run_at(15, 5));
  CHECK(space.outstanding(1) == std::vector{run_at(10, 15)});
  REQUIRE(space.take(1, run_at(12, 3)));
  REQUIRE(space.put_back(1, run_at(12, 3)));
  CHECK(space.outstanding(1) == std::vector{run_at(10, 15)});
}

TEST_CASE("granted runs of two members never touch") {
  GrantedSpace space;
  space.add(1, {Place(0, 10), BlockCount(5)});
  space.add(1, {Place(1, 10), BlockCount(5)});
  CHECK(space.outstanding(1).size() == 2);
  CHECK_FALSE(space.take(1, {Place(2, 10), BlockCount(1)}));
  CHECK(space.unknown(1, {Place(1, 12), BlockCount(6)}) ==
        std::vector{PlaceRun{Place(1, 15), BlockCount(3)}});
}
