// Space that a host is granted with a delegated volume, and the changes that it hands over.
#include "core/log.h"
#include "tests/core/delegation_lab.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kFirst = 64; // a block of v that is not mapped

std::uint64_t count_of(const std::vector<PlaceRun>& runs) {
  std::uint64_t sum = 0;
  for (const PlaceRun& run : runs) sum += run.count.value();
  return sum;
}

MapRun run_at(std::uint64_t block, Place place, std::uint64_t count = 1) {
  return {BlockIndex(block), BlockCount(count), BlockKind::data, place, false};
}

// v is delegated to beta.
struct GrantLab : DelegationLab {
  explicit GrantLab(std::uint64_t seed = 1, OpenPoolOptions options = {})
      : DelegationLab(seed, std::move(options)) {
    use(&silent);
  }
  ~GrantLab() {
    open.reset();
    if (pool) pool->set_delegation_keeper(nullptr); // before the keeper goes
    keeper = nullptr;
  }
  void begin() {
    open.emplace(open_for("v", beta));
    delegation = give("v", beta);
  }
  std::vector<PlaceRun> grant(std::uint64_t wanted) {
    const auto granted = pool->grant_space(beta, delegation.number, BlockCount(wanted));
    INFO((granted ? "" : granted.error().message));
    REQUIRE(granted.has_value());
    return *granted;
  }
  Place grant_one() {
    const auto runs = grant(1);
    REQUIRE(count_of(runs) == 1);
    return runs.front().start;
  }
  Result<> commit(std::vector<MapRun> runs) { return pool->commit_blocks(beta, delegation.number, runs); }
  void hand_over(std::vector<MapRun> runs) {
    const auto done = commit(std::move(runs));
    INFO((done ? "" : done.error().message));
    REQUIRE(done.has_value());
  }
  int refused(std::vector<MapRun> runs) { return refusal(commit(std::move(runs))).errno_value; }
  void end() {
    open.reset();
    REQUIRE(pool->end_delegation(beta, delegation.number).has_value());
    pool->lose_delegations(gamma); // nothing is; so that what is left to be done is done now
  }
  std::uint64_t free_bytes() { return pool->space().free_bytes; }

  TestKeeper silent{[](const TestKeeper::Recall&) {}};
  std::optional<ViewHandle> open;
  Delegation delegation;
};

} // namespace

TEST_CASE("a host writes to places that it was granted, and its volume has them once they are handed over") {
  GrantLab lab;
  lab.begin();
  const std::uint64_t free = lab.free_bytes();
  const auto runs = lab.grant(32);
  REQUIRE(runs.size() == 1);
  REQUIRE(runs.front().count.value() == 32);
  CHECK(lab.free_bytes() == free - 32 * kBlockBytes);
  const Place place = runs.front().start;
  for (std::uint64_t i = 0; i < 3; ++i) lab.write_at(place + BlockCount(i), 7);
  CHECK(read_from(**lab.open, kFirst * kBlockBytes) == block_of(0));
  lab.hand_over({run_at(kFirst, place, 3)});
  CHECK(read_from(**lab.open, kFirst * kBlockBytes, 3 * kBlockBytes) == block_of(7, 3 * kBlockBytes));
  const RegionMap map = lab.map("v");
  CHECK(map.back() == MapRun{BlockIndex(kFirst), BlockCount(3), BlockKind::data, place, true});
  CHECK(lab.findings() == std::vector<std::string>());
  lab.end();
  CHECK(lab.free_bytes() == free - 3 * kBlockBytes);
  CHECK(lab.content("v", kFirst + 2) == block_of(7));
  CHECK(lab.findings() == std::vector<std::string>());
}

TEST_CASE("what is handed over outlives a power cut, and what is not is free in the end") {
  GrantLab lab;
  REQUIRE(lab.pool->keep_snapshots_for(10'000'000'000).has_value()); // so long it is not lost
  lab.begin();
  const Place place = lab.grant(8).front().start;
  lab.write_at(place, 7);
  lab.hand_over({run_at(kFirst, place)});
  lab.env.kill_at(1);
  lab.open.reset();
  lab.pool.reset();
  lab.env.power_cut(1);
  lab.env.kill_at(std::nullopt);
  lab.open_again();
  REQUIRE(lab.pool->delegations().size() == 1);
  lab.create("w", 32 * kMiB); // takes all that is free
  log::set_level(log::Level::off);
  static_cast<void>(lab.view("w")->write(0, block_of(3, 32 * kMiB)));
  log::set_level(log::Level::info);
  lab.write_at(place + BlockCount(1), 8);
  lab.hand_over({run_at(kFirst, place), run_at(kFirst + 1, place + BlockCount(1))});
  REQUIRE(lab.remove("w").has_value());
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  lab.end();
  CHECK(lab.content("v", kFirst) == block_of(7));
  CHECK(lab.content("v", kFirst + 1) == block_of(8));
  CHECK(lab.findings() == std::vector<std::string>());
  REQUIRE(lab.view("v")->discard(kFirst * kBlockBytes, 2 * kBlockBytes).has_value());
  REQUIRE(lab.pool->sync().has_value());
  lab.reopen();
  CHECK(lab.pool->space().data_bytes == DelegationLab::kBlocks * kBlockBytes);
}

TEST_CASE("a change that is handed over again is as good as done") {
  GrantLab lab;
  lab.begin();
  const Place place = lab.grant(4).front().start;
  lab.hand_over({run_at(kFirst, place, 2)});
  lab.hand_over({run_at(kFirst, place, 2)});
  lab.hand_over({run_at(kFirst + 1, place + BlockCount(1), 3)}); // a part of it is new
  CHECK(lab.map("v").back().count.value() == 4);
  CHECK(lab.findings() == std::vector<std::string>());
}

TEST_CASE("a place that was not granted, or is another block's, is refused") {
  GrantLab lab;
  lab.begin();
  const Place own = lab.map("v").front().place;
  const auto runs = lab.grant(4);
  const Place place = runs.front().start;
  CHECK(lab.refused({run_at(kFirst, own)}) == EINVAL);
  CHECK(lab.refused({run_at(kFirst, Place(0, 5000))}) == EINVAL); // free
  CHECK(lab.refused({run_at(kFirst, Place(0, 1))}) == EINVAL);    // the superblock's
  CHECK(lab.refused({run_at(kFirst, Place(3, 100))}) == EINVAL);  // there is no such member
  CHECK(lab.refused({run_at(kFirst, place, 5)}) == EINVAL);
  CHECK(lab.refused({run_at(kFirst, Place(Place::kFirstBase, kFirst))}) == EINVAL);
  lab.hand_over({run_at(kFirst, place)});
  CHECK(lab.refused({run_at(kFirst + 1, place)}) == EINVAL); // is the other block's
  // Of another volume
  lab.create("w", kMiB);
  const ViewHandle w = lab.open_for("w", lab.gamma);
  const Delegation other = lab.give("w", lab.gamma);
  const MapRun foreign = run_at(0, place + BlockCount(1));
  CHECK(refusal(lab.pool->commit_blocks(lab.gamma, other.number, std::span(&foreign, 1))).errno_value ==
        EINVAL);
  CHECK(refusal(lab.pool->commit_blocks(lab.gamma, lab.delegation.number, std::span(&foreign, 1)))
            .errno_value == ESTALE);
  CHECK(lab.findings() == std::vector<std::string>());
}

TEST_CASE("of changes of which one is refused none is made") {
  GrantLab lab;
  lab.begin();
  const Place place = lab.grant(4).front().start;
  const std::uint64_t end = DelegationLab::kSize / kBlockBytes;
  const MapRun good = run_at(kFirst, place);
  CHECK(lab.refused({good, run_at(end, place + BlockCount(1))}) == EINVAL);
  CHECK(lab.refused({good, run_at(end - 1, place + BlockCount(1), 2)}) == EINVAL);
  CHECK(lab.refused({good, run_at(kFirst + 1, place)}) == EINVAL);
  CHECK(lab.refused({good, run_at(kFirst, place + BlockCount(1))}) == EINVAL);
  CHECK(lab.refused({good, run_at(kFirst + 1, place + BlockCount(1), 0)}) == EINVAL);
  CHECK(lab.refused({good, run_at(kFirst + 1, place + BlockCount(1), 4)}) == EINVAL);
  MapRun hole = run_at(kFirst + 1, Place());
  hole.kind = BlockKind::hole;
  CHECK(lab.refused({good, hole}) == EINVAL);
  CHECK(lab.map("v").back().end().value() == DelegationLab::kBlocks);
  lab.hand_over({good, run_at(end - 1, place + BlockCount(1))});
}

TEST_CASE("a block that was reserved, or the volume's own, gets the granted place, and its old one is free") {
  GrantLab lab;
  lab.begin();
  REQUIRE((*lab.open)->reserve(kFirst * kBlockBytes, 2 * kBlockBytes, false).has_value());
  REQUIRE(lab.pool->sync().has_value());
  const Place place = lab.grant(8).front().start;
  for (std::uint64_t i = 0; i < 4; ++i) lab.write_at(place + BlockCount(i), 9);
  lab.hand_over({run_at(kFirst, place, 2), run_at(0, place + BlockCount(2), 2)});
  CHECK(read_from(**lab.open, 0, 2 * kBlockBytes) == block_of(9, 2 * kBlockBytes));
  CHECK(read_from(**lab.open, kFirst * kBlockBytes) == block_of(9));
  lab.end();
  lab.reopen();
  CHECK(lab.findings() == std::vector<std::string>());
  CHECK(lab.pool->space().data_bytes == (DelegationLab::kBlocks + 2) * kBlockBytes);
}

TEST_CASE("what snapshots see stays where it is when a host hands a new place over") {
  GrantLab lab;
  REQUIRE(lab.snapshot("v@s").has_value());
  lab.begin();
  const Place place = lab.grant(2).front().start;
  lab.write_at(place, 9);
  lab.hand_over({run_at(0, place)});
  CHECK(read_from(**lab.open, 0) == block_of(9));
  CHECK(lab.content("v@s") == block_of(1));
  lab.end();
  CHECK(lab.findings() == std::vector<std::string>());
  CHECK(lab.pool->space().data_bytes == (DelegationLab::kBlocks + 1) * kBlockBytes);
}

TEST_CASE("space is granted with a delegation that is held, and handed over as long as it stands") {
  GrantLab lab;
  lab.begin();
  const Place place = lab.grant(4).front().start;
  const auto none = [&](std::uint64_t host, std::uint64_t number) {
    return lab.pool->grant_space(host, number, BlockCount(1)).value().empty();
  };
  CHECK(none(lab.gamma, lab.delegation.number));
  CHECK(none(lab.beta, lab.delegation.number + 1));
  CHECK_FALSE(none(lab.beta, lab.delegation.number));
  // A snapshot recalls it, and waits with the configuration lock.
  Result<> drawn;
  std::thread config([&] { drawn = lab.snapshot("v@s"); });
  lab.silent.wait_for(1);
  CHECK(none(lab.beta, lab.delegation.number));
  lab.write_at(place, 7);
  lab.hand_over({run_at(kFirst, place)});
  lab.open.reset();
  REQUIRE(lab.pool->end_delegation(lab.beta, lab.delegation.number).has_value());
  config.join();
  REQUIRE(drawn.has_value());
  CHECK(lab.refused({run_at(kFirst + 1, place + BlockCount(1))}) == ESTALE);
  CHECK(lab.content("v@s", kFirst) == block_of(7));
  lab.reopen();
  CHECK(lab.findings() == std::vector<std::string>());
}

TEST_CASE("what a lost host was granted is nobody else's until it is back, and nothing more is taken of it") {
  log::set_level(log::Level::off);
  GrantLab lab;
  lab.begin();
  const Place place = lab.grant(8).front().start;
  lab.write_at(place, 7);
  lab.hand_over({run_at(kFirst, place)});
  lab.open.reset();
  lab.pool->lose_delegations(lab.beta);
  REQUIRE(lab.has("v@lost-beta-1"));
  CHECK(lab.refused({run_at(kFirst + 1, place + BlockCount(1))}) == ESTALE);
  CHECK(lab.refused({run_at(kFirst, place)}) == ESTALE);
  CHECK(lab.pool->grant_space(lab.beta, lab.delegation.number, BlockCount(1)).value().empty());
  for (const bool crash : {false, true}) {
    CAPTURE(crash);
    if (crash) {
      lab.env.kill_at(1);
      lab.pool.reset();
      lab.env.kill_at(std::nullopt);
      lab.open_again();
    }
    lab.create("w", 32 * kMiB);
    {
      const ViewHandle w = lab.view("w");
      std::uint64_t blocks = 0;
      while (w->write(blocks * kBlockBytes, block_of(3)).has_value()) ++blocks;
      for (std::uint64_t i = 0; i < 8; ++i) lab.write_at(place + BlockCount(i), 8); // late
      for (std::uint64_t i = 0; i < blocks; ++i) {
        if (read_from(*w, i * kBlockBytes) != block_of(3)) FAIL("block " << i << " of w");
      }
    }
    REQUIRE(lab.remove("w").has_value());
    REQUIRE(lab.pool->wait_for_removals({}).has_value());
  }
  CHECK(lab.findings() == std::vector<std::string>());
  REQUIRE(lab.pool->end_delegations(lab.beta).has_value());
  lab.pool->lose_delegations(lab.gamma);
  CHECK_FALSE(lab.has("v@lost-beta-1"));
  CHECK(lab.findings() == std::vector<std::string>());
  CHECK(lab.pool->space().data_bytes == (DelegationLab::kBlocks + 1) * kBlockBytes);
  log::set_level(log::Level::info);
}

TEST_CASE("nothing is granted where a write may have to be refused") {
  GrantLab lab;
  log::set_level(log::Level::off);
  SECTION("a limit on what snapshots take") {
    REQUIRE(lab.pool->set_properties("v", {{"snapshot-limit", std::to_string(kMiB)}}).has_value());
    lab.begin();
    CHECK(lab.grant(1).empty());
  }
  SECTION("one delegation has no more than its share") {
    lab.begin();
    std::uint64_t sum = 0;
    for (std::uint64_t got = 1; got > 0; sum += got) got = count_of(lab.grant(1000));
    CHECK(sum == 32 * kMiB / kBlockBytes / 16);
    const std::uint64_t free = lab.free_bytes();
    lab.end();
    CHECK(lab.free_bytes() == free + sum * kBlockBytes);
  }
  SECTION("a pool that is nearly full") {
    lab.create("w", 32 * kMiB);
    {
      const ViewHandle w = lab.view("w");
      for (std::uint64_t at = 0; lab.free_bytes() > 4 * kMiB + 8 * kBlockBytes; at += kBlockBytes)
        REQUIRE(w->write(at, block_of(3)).has_value());
      REQUIRE(lab.pool->sync().has_value());
      lab.begin();
      CHECK(count_of(lab.grant(100)) <= 8);
      CHECK(lab.free_bytes() >= 4 * kMiB);
    }
  }
  log::set_level(log::Level::info);
}

TEST_CASE("a write that finds the pool full recalls what hosts have left of it") {
  GrantLab lab;
  log::set_level(log::Level::off);
  lab.begin();
  const Place place = lab.grant(64).front().start;
  lab.create("w", 32 * kMiB);
  const ViewHandle w = lab.view("w");
  std::uint64_t blocks = 0;
  Result<> written;
  while ((written = w->write(blocks * kBlockBytes, block_of(3)))) ++blocks;
  CHECK(written.error().kind == ErrorKind::no_space);
  REQUIRE(lab.silent.told().size() == 1);
  CHECK(lab.silent.told().front().delegation == lab.delegation);
  // The host hands over what it has, and returns it.
  lab.hand_over({run_at(kFirst, place)});
  lab.end();
  for (int i = 0; i < 32; ++i, ++blocks) REQUIRE(w->write(blocks * kBlockBytes, block_of(3)).has_value());
  log::set_level(log::Level::info);
}

TEST_CASE("places that were handed over and freed can be granted again, to whomever") {
  GrantLab lab;
  lab.begin();
  lab.create("w", kMiB);
  std::optional<ViewHandle> w = lab.open_for("w", lab.gamma);
  const Delegation other = lab.give("w", lab.gamma);
  for (std::uint64_t round = 0; round < 40; ++round) {
    CAPTURE(round);
    const auto runs = lab.grant(128);
    REQUIRE(count_of(runs) == 128);
    std::uint64_t block = kFirst;
    for (const PlaceRun& run : runs) {
      lab.hand_over({run_at(block, run.start, run.count.value())});
      block += run.count.value();
    }
    REQUIRE((*lab.open)->discard(kFirst * kBlockBytes, 128 * kBlockBytes).has_value());
    const auto others = lab.pool->grant_space(lab.gamma, other.number, BlockCount(8));
    REQUIRE(others.has_value());
    REQUIRE(count_of(*others) == 8);
    const MapRun run = run_at(round * 2, others->front().start, 2);
    REQUIRE(lab.pool->commit_blocks(lab.gamma, other.number, std::span(&run, 1)).has_value());
    REQUIRE(lab.findings().empty()); // and what was freed is free
  }
  lab.end();
  w.reset();
  REQUIRE(lab.pool->end_delegations(lab.gamma).has_value());
  lab.reopen();
  CHECK(lab.findings() == std::vector<std::string>());
  CHECK(lab.pool->space().data_bytes == (DelegationLab::kBlocks + 80) * kBlockBytes);
}

TEST_CASE("space is granted, and handed over, without a journal") {
  GrantLab lab;
  lab.pool->set_delegation_keeper(nullptr);
  lab.drop_journal();
  lab.env.no_space(true);
  lab.open_again();
  lab.env.no_space(false);
  lab.begin();
  const Place place = lab.grant(1).front().start;
  lab.write_at(place, 7);
  lab.hand_over({run_at(kFirst, place)});
  lab.end();
  CHECK(lab.content("v", kFirst) == block_of(7));
  CHECK(lab.findings() == std::vector<std::string>());
}

namespace {

// What a host that writes to granted places knows of it.
struct Story {
  std::optional<Delegation> given;
  std::vector<PlaceRun> granted;
  std::uint64_t handed_over = 0; // blocks, durably
  bool ended = false;
};

// Blocks from kFirst on are handed over one by one, and the last one is discarded again.
Story live(GrantLab& lab) {
  Story story;
  const auto alive = [&](bool done) { return done && !lab.env.killed(); };
  auto open = lab.pool->open_view_for(lab.id("v"), lab.beta);
  if (!alive(open.has_value())) return story;
  const auto given = lab.pool->delegate(lab.id("v"), lab.beta, 1);
  if (!alive(given.has_value() && given->has_value())) return story;
  story.given = **given;
  for (std::uint64_t i = 0; i < 6; ++i) {
    if (i % 3 == 0) {
      const auto more = lab.pool->grant_space(lab.beta, story.given->number, BlockCount(3));
      if (!alive(more.has_value() && count_of(*more) == 3)) return story;
      for (const PlaceRun& run : *more) {
        for (std::uint64_t at = 0; at < run.count.value(); ++at)
          story.granted.push_back({run.start + BlockCount(at), BlockCount(1)});
      }
    }
    const MapRun run = run_at(kFirst + i, story.granted[i].start);
    if (!alive(lab.pool->commit_blocks(lab.beta, story.given->number, std::span(&run, 1)).has_value()))
      return story;
    story.handed_over = i + 1;
  }
  story.granted.pop_back(); // a host writes no more to what it discards
  if (!alive((*open)->discard((kFirst + 5) * kBlockBytes, kBlockBytes).has_value())) return story;
  if (!alive((*open)->fsync().has_value())) return story;
  { const ViewHandle closed = std::move(*open); }
  static_cast<void>(lab.pool->end_delegations(lab.beta));
  lab.pool->lose_delegations(lab.gamma); // nothing is; so that what is left to be done is done now
  story.ended = alive(lab.pool->delegations().empty());
  return story;
}

void check_story(GrantLab& lab, const Story& story) {
  REQUIRE(lab.findings() == std::vector<std::string>());
  // Somebody else takes all that is free, and the host still writes to what it was granted.
  lab.create("w", 32 * kMiB);
  {
    const ViewHandle w = lab.view("w");
    std::uint64_t blocks = 0;
    while (w->write(blocks * kBlockBytes, block_of(3)).has_value()) ++blocks;
    if (!lab.pool->delegations().empty()) {
      for (std::size_t i = 0; i < story.granted.size(); ++i)
        lab.write_at(story.granted[i].start, static_cast<std::uint8_t>(100 + i));
      // What it has not handed over yet, and once more what was under way
      for (std::uint64_t i = story.handed_over; i < story.granted.size(); ++i) {
        const MapRun run = run_at(kFirst + i, story.granted[i].start);
        const auto done = lab.pool->commit_blocks(lab.beta, story.given->number, std::span(&run, 1));
        INFO((done ? "" : done.error().message));
        REQUIRE(done.has_value());
      }
      const ViewHandle v = lab.open_for("v", lab.beta);
      for (std::uint64_t i = 0; i < story.granted.size(); ++i) {
        CAPTURE(i);
        REQUIRE(read_from(*v, (kFirst + i) * kBlockBytes) == block_of(static_cast<std::uint8_t>(100 + i)));
      }
    }
    for (std::uint64_t i = 0; i < blocks; ++i) {
      if (read_from(*w, i * kBlockBytes) != block_of(3)) FAIL("block " << i << " of w");
    }
  }
  REQUIRE(lab.remove("w").has_value());
  REQUIRE(lab.pool->end_delegations(lab.beta).has_value());
  lab.reopen();
  REQUIRE(lab.pool->delegations().empty());
  REQUIRE(lab.findings() == std::vector<std::string>());
  REQUIRE(lab.remove("v").has_value());
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  REQUIRE(lab.pool->space().data_bytes == 0);
}

void crash_everywhere(const std::function<void(GrantLab&, std::uint64_t)>& crash) {
  log::set_level(log::Level::off);
  std::uint64_t calls = 0;
  {
    GrantLab lab;
    REQUIRE(lab.pool->keep_snapshots_for(10'000'000'000).has_value());
    const std::uint64_t before = lab.env.calls();
    REQUIRE(live(lab).ended);
    calls = lab.env.calls() - before;
  }
  REQUIRE(calls > 12);
  for (std::uint64_t nth = 1; nth <= calls; ++nth) {
    CAPTURE(nth);
    GrantLab lab(nth);
    REQUIRE(lab.pool->keep_snapshots_for(10'000'000'000).has_value());
    lab.env.kill_at(nth);
    const Story story = live(lab);
    crash(lab, nth);
    lab.pool.reset();
    lab.env.kill_at(std::nullopt);
    lab.open_again();
    check_story(lab, story);
  }
  log::set_level(log::Level::info);
}

} // namespace

TEST_CASE("granted space through a kill at any call") {
  crash_everywhere([](GrantLab&, std::uint64_t) {});
}

TEST_CASE("granted space through a power cut at any call") {
  crash_everywhere([](GrantLab& lab, std::uint64_t nth) { lab.env.power_cut(nth); });
}
