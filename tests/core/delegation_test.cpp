// Delegations: when one is given, what its host may do, and what becomes of one whose host is lost.
#include "core/log.h"
#include "tests/core/delegation_lab.h"

using namespace vsnap;

namespace {

constexpr std::int64_t kLease = 10'000'000'000;

// Where recalls are answered at once.
struct GivingLab : DelegationLab {
  explicit GivingLab(OpenPoolOptions options = {}) : DelegationLab(1, std::move(options)) { use(&answering); }
  ~GivingLab() { pool->set_delegation_keeper(nullptr); } // before the keeper goes
  TestKeeper answering{[this](const TestKeeper::Recall& recall) {
    static_cast<void>(pool->end_delegation(recall.delegation.host, recall.delegation.number));
  }};
};

// Where the host beta was delegated v, wrote to it, and is lost. The background does what is left to be done.
struct LostLab : GivingLab {
  LostLab() : GivingLab({.background = true}) {
    log::set_level(log::Level::off);
    {
      const ViewHandle of_beta = open_for("v", beta);
      delegation = give("v", beta);
      place = map("v").front().place;
      write_at(place, 2);
    }
    pool->lose_delegations(beta);
    REQUIRE(eventually([&] { return has("v@lost-beta-1"); }));
  }
  ~LostLab() { log::set_level(log::Level::info); }
  bool is_clear() {
    return eventually([&] { return pool->delegations().empty() && !has("v@lost-beta-1"); });
  }
  Delegation delegation;
  Place place;
};

void require_lost(const Error& error) {
  REQUIRE(error.kind == ErrorKind::busy);
  REQUIRE(says(error,
               "lab/v: host beta was lost while it wrote to it (vsnap lock ls lab; vsnap lock break "
               "--fenced lab/v beta"));
}

} // namespace

TEST_CASE("a volume that one host has open is delegated to it") {
  GivingLab lab;
  const ViewHandle open = lab.open_for("v", lab.beta);
  const Delegation given = lab.give("v", lab.beta);
  CHECK(given.volume == lab.id("v"));
  CHECK(given.host == lab.beta);
  const auto all = lab.pool->delegations();
  REQUIRE(all.size() == 1);
  CHECK(all[0].delegation == given);
  CHECK(all[0].state == DelegationState::held);
  CHECK(all[0].volume.text() == "v");
  CHECK_FALSE(all[0].left.has_value());
  CHECK(lab.findings() == std::vector<std::string>());
}

TEST_CASE("what the kernel has cached of a volume is gone before its host hears of a delegation") {
  struct Watcher final : PoolObserver {
    void entry_changed(const std::string&) override {}
    void content_changed(ObjectId id) override { changed.push_back(id); }
    void settle() override { settled = changed.size(); }
    std::vector<ObjectId> changed;
    std::size_t settled = 0;
  };
  GivingLab lab;
  Watcher watcher;
  const ViewHandle open = lab.open_for("v", lab.beta);
  lab.pool->set_observer(&watcher);
  lab.give("v", lab.beta);
  lab.pool->set_observer(nullptr);
  CHECK(watcher.changed == std::vector<ObjectId>{lab.id("v")});
  CHECK(watcher.settled == 1);
}

TEST_CASE("the number of a delegation is never used again") {
  GivingLab lab;
  std::uint64_t last = 0;
  for (int i = 0; i < 3; ++i) {
    const ViewHandle open = lab.open_for("v", lab.beta);
    const Delegation given = lab.give("v", lab.beta);
    CHECK(given.number > last);
    last = given.number;
    REQUIRE(lab.pool->end_delegation(lab.beta, last).has_value());
    if (i == 1) {
      const Delegation another = lab.give("v", lab.beta); // before what is left to be done of that one
      CHECK(another.number > last);
      last = another.number;
      REQUIRE(lab.pool->end_delegations(lab.beta).has_value());
    }
  }
  lab.reopen();
  const ViewHandle open = lab.open_for("v", lab.beta);
  CHECK(lab.give("v", lab.beta).number > last);
}

TEST_CASE("a volume that somebody else has open is not delegated") {
  GivingLab lab;
  CHECK_FALSE(lab.ask("v", lab.beta, 0).has_value()); // nobody has
  const ViewHandle open = lab.open_for("v", lab.beta);
  {
    const ViewHandle another = lab.view("v");
    CHECK_FALSE(lab.ask("v", lab.beta).has_value());
  }
  CHECK_FALSE(lab.ask("v", lab.beta, 2).has_value());
  const Delegation given = lab.give("v", lab.beta);
  CHECK_FALSE(lab.ask("v", lab.gamma).has_value());
  CHECK_FALSE(lab.ask("v", lab.beta).has_value()); // it has it
  CHECK(lab.pool->delegations().size() == 1);
  CHECK(lab.pool->delegations()[0].delegation == given);
}

TEST_CASE("nothing is delegated without a keeper, nor through a page cache") {
  DelegationLab lab;
  {
    const ViewHandle open = lab.open_for("v", lab.beta);
    CHECK_FALSE(lab.ask("v", lab.beta).has_value());
  }
  TestKeeper idle([](const TestKeeper::Recall&) {});
  lab.use(&idle);
  {
    const ViewHandle open = lab.open_for("v", lab.beta);
    lab.give("v", lab.beta);
    REQUIRE(lab.pool->end_delegations(lab.beta).has_value());
  }
  REQUIRE(lab.pool->close().has_value());
  lab.env.no_direct_io(true);
  lab.open_again();
  const ViewHandle open = lab.open_for("v", lab.beta);
  CHECK_FALSE(lab.ask("v", lab.beta).has_value());
  lab.use(nullptr);
}

TEST_CASE("a member that is not direct ends what is read and written past the page cache") {
  GivingLab lab;
  const ViewHandle open = lab.open_for("v", lab.beta);
  lab.give("v", lab.beta);
  lab.env.no_direct_io(true);
  log::set_level(log::Level::off);
  REQUIRE(lab.pool->add_member({"/b", 32 * kMiB}, false).has_value());
  log::set_level(log::Level::info);
  CHECK_FALSE(lab.pool->export_map(lab.id("v"), RegionIndex(0)).value().has_value());
  REQUIRE(lab.pool->end_delegations(lab.beta).has_value());
  CHECK_FALSE(lab.ask("v", lab.beta).has_value());
}

TEST_CASE("what is unlinked, is a snapshot, or may move is not delegated") {
  GivingLab lab;
  REQUIRE(lab.snapshot("v@s").has_value());
  REQUIRE(lab.pool->clone({"v", "s"}, "c").has_value());
  {
    const ViewHandle snapshot = lab.open_for("v@s", lab.beta);
    CHECK_FALSE(lab.ask("v@s", lab.beta).has_value());
    const ViewHandle clone = lab.open_for("c", lab.beta);
    const auto flattened = lab.pool->flatten("c", [&](std::uint64_t, std::uint64_t) {
      CHECK_FALSE(lab.ask("c", lab.beta).has_value());
      return true;
    });
    REQUIRE(flattened.has_value());
    lab.give("c", lab.beta);
  }
  REQUIRE(lab.pool->snapshot_full({"v", "full"}, {}).has_value());
  REQUIRE(lab.pool->split({"v", "full"}, "w").has_value());
  {
    const ViewHandle copied = lab.open_for("w", lab.beta);
    CHECK_FALSE(lab.ask("w", lab.beta).has_value()); // its copy is under way
  }
  REQUIRE(lab.env.open_file("/img", {.create = true}).value()->resize(kMiB).has_value());
  REQUIRE(lab.pool->adopt({.path = "/img", .volume = "a"}).has_value());
  {
    const ViewHandle adopted = lab.open_for("a", lab.beta);
    CHECK_FALSE(lab.ask("a", lab.beta).has_value());
  }
  const ViewHandle open = lab.open_for("v", lab.beta);
  const ObjectId v = lab.id("v");
  REQUIRE(lab.pool->preserve({"v", "p"}).has_value());
  const ViewHandle second = lab.open_for("v", lab.beta);
  CHECK_FALSE(lab.ask("v", lab.beta).has_value()); // the first image shows through
  CHECK_FALSE(lab.pool->delegate(v, lab.beta, 1).value().has_value());
  REQUIRE(lab.remove("v", {.recursive = true, .even_if_open = true}).error().kind == ErrorKind::busy);
  lab.create("u", kMiB);
  const ViewHandle unlinked = lab.open_for("u", lab.beta);
  const ObjectId u = lab.id("u");
  REQUIRE(lab.remove("u", {.even_if_open = true}).has_value());
  CHECK_FALSE(lab.pool->delegate(u, lab.beta, 1).value().has_value());
}

TEST_CASE("a delegated volume's map says what its host may overwrite") {
  GivingLab lab;
  REQUIRE(lab.snapshot("v@s").has_value());
  const ViewHandle open = lab.open_for("v", lab.beta);
  CHECK_FALSE(lab.pool->export_map(lab.id("v"), RegionIndex(0)).value().has_value()); // not delegated
  lab.give("v", lab.beta);
  REQUIRE(open->write(4 * kBlockBytes, block_of(5, 2 * kBlockBytes)).has_value());
  REQUIRE(open->discard(8 * kBlockBytes, kBlockBytes).has_value());
  REQUIRE(open->reserve(32 * kBlockBytes, kBlockBytes, false).has_value());
  const RegionMap map = lab.map("v");
  std::vector<bool> own(DelegationLab::kBlocks, false);
  std::vector<bool> mapped(DelegationLab::kBlocks, false);
  for (const MapRun& run : map) {
    REQUIRE(run.end().value() <= DelegationLab::kBlocks); // what is reserved is in no run
    for (std::uint64_t i = 0; i < run.count.value(); ++i) {
      own[run.start.value() + i] = run.own;
      mapped[run.start.value() + i] = true;
      CHECK(lab.read_at(run.place + BlockCount(i)) ==
            read_from(*open, (run.start.value() + i) * kBlockBytes));
    }
  }
  for (std::uint64_t block = 0; block < DelegationLab::kBlocks; ++block) {
    CAPTURE(block);
    CHECK(own[block] == (block == 4 || block == 5));
    CHECK(mapped[block] == (block != 8));
  }
}

TEST_CASE("what the host writes at the volume's places everybody sees later") {
  GivingLab lab;
  {
    const ViewHandle open = lab.open_for("v", lab.beta);
    lab.give("v", lab.beta);
    const MapRun run = lab.map("v").front();
    REQUIRE(run.own);
    lab.write_at(run.place, 77);
    CHECK(read_from(*open, 0) == block_of(77));
  }
  CHECK(lab.content("v") == block_of(77)); // who opens it takes it back
  CHECK(lab.pool->delegations().empty());
}

TEST_CASE("a power cut leaves a delegated volume the places that its host was told") {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    CAPTURE(seed);
    GivingLab lab;
    log::set_level(log::Level::off);
    REQUIRE(lab.pool->keep_snapshots_for(kLease).has_value());
    RegionMap told;
    {
      const ViewHandle open = lab.open_for("v", lab.beta);
      lab.give("v", lab.beta);
      for (std::uint64_t block = 20; block < 60; block += 3)
        REQUIRE(open->write(block * kBlockBytes, block_of(9)).has_value());
      told = lab.map("v");
      lab.env.power_cut([](std::size_t) { return std::size_t{0}; }); // nothing that is not flushed is kept
    }
    lab.open_again();
    REQUIRE(lab.pool->delegations().size() == 1);
    CHECK(lab.pool->delegations()[0].state == DelegationState::recalled);
    REQUIRE(lab.pool->end_delegations(lab.beta).has_value());
    const ViewHandle open = lab.open_for("v", lab.beta);
    lab.give("v", lab.beta);
    CHECK(lab.map("v") == told);
    CHECK(read_from(*open, 20 * kBlockBytes) == block_of(9));
    CHECK(lab.findings() == std::vector<std::string>());
    log::set_level(log::Level::info);
  }
}

TEST_CASE("what a lost host still writes changes nothing that others have written since") {
  LostLab lab;
  REQUIRE(lab.has("v@lost-beta-1"));
  REQUIRE(lab.pool->delegations().size() == 1);
  const DelegationInfo info = lab.pool->delegations()[0];
  CHECK(info.state == DelegationState::lost);
  REQUIRE(info.left.has_value());
  CHECK(info.left->text() == "v@lost-beta-1");
  CHECK(lab.content("v") == block_of(2)); // what it wrote when it could
  lab.fill("v", 3, 1);
  CHECK(lab.read_at(lab.place) == block_of(2)); // another place
  lab.write_at(lab.place, 66);                  // and late
  CHECK(lab.content("v") == block_of(3));
  REQUIRE(lab.view("v")->discard(0, DelegationLab::kSize).has_value());
  REQUIRE(lab.pool->sync().has_value());
  lab.create("w", 8 * kMiB);
  REQUIRE(lab.view("w")->write(0, block_of(4, 8 * kMiB)).has_value());
  lab.write_at(lab.place, 67); // nobody was given the place meanwhile
  CHECK(read_from(*lab.view("w"), 0, 8 * kMiB) == block_of(4, 8 * kMiB));
  CHECK(lab.findings() == std::vector<std::string>());
}

TEST_CASE("as long as a host is lost nothing is made of its volume that it could change") {
  LostLab lab;
  lab.create("w", kMiB);
  require_lost(refusal(lab.snapshot("v@s")));
  require_lost(refusal(lab.pool->snapshot_full({"v", "s"}, {})));
  require_lost(refusal(lab.pool->preserve({"v", "s"})));
  require_lost(refusal(lab.pool->share_into(lab.id("v"), lab.id("w"))));
  require_lost(refusal(lab.pool->share_into(lab.id("v@lost-beta-1"), lab.id("w"))));
  require_lost(refusal(lab.pool->clone({"v", "lost-beta-1"}, "c")));
  require_lost(refusal(lab.pool->rollback({"v", "lost-beta-1"}, false, false))); // it keeps the state before
  CHECK_FALSE(lab.has("v@s"));
  REQUIRE(lab.pool->end_delegation(lab.beta, lab.delegation.number).has_value());
  REQUIRE(lab.snapshot("v@s").has_value());
}

TEST_CASE("what a lost host left is removed by nobody") {
  LostLab lab;
  const ViewName left{"v", "lost-beta-1"};
  const auto require_kept = [](const Error& error) {
    REQUIRE(error.kind == ErrorKind::busy);
    REQUIRE(
        says(error, "lab/v@lost-beta-1: keeps what a lost host may still write to v (vsnap lock ls lab)"));
  };
  require_kept(refusal(lab.remove("v@lost-beta-1")));
  require_kept(refusal(lab.remove("v@lost-beta-1", {.even_if_open = true})));
  require_kept(refusal(lab.remove("v", {.recursive = true})));
  require_kept(refusal(lab.pool->release_hold(std::span(&left, 1), "lost")));
  CHECK(says(refusal(lab.pool->refresh(left)), "lost"));
  CHECK(lab.has("v@lost-beta-1"));
}

TEST_CASE("a volume whose host was lost is written, and delegated to another host") {
  LostLab lab;
  // What it would be rolled back to may still change.
  CHECK(says(refusal(lab.pool->rollback({"v", "lost-beta-1"}, true, false)), "lost"));
  CHECK(lab.content("v") == block_of(2));
  {
    const ViewHandle open = lab.open_for("v", lab.gamma);
    lab.give("v", lab.gamma);
    CHECK_FALSE(lab.map("v").front().own);
    REQUIRE(open->write(0, block_of(5)).has_value());
    const MapRun run = lab.map("v").front();
    CHECK(run.own);
    CHECK(run.place != lab.place);
  }
  REQUIRE(lab.pool->end_delegation(lab.beta, lab.delegation.number).has_value());
  REQUIRE(lab.eventually([&] { return !lab.has("v@lost-beta-1"); }));
  CHECK(lab.content("v") == block_of(5));
  CHECK(lab.content("v", 1) == block_of(1));
  CHECK(lab.findings() == std::vector<std::string>());
}

TEST_CASE("when a lost host is back, or fenced, nothing is left of it") {
  for (const bool all : {false, true}) {
    CAPTURE(all);
    LostLab lab;
    lab.fill("v", 3, 1);
    REQUIRE(lab.pool->end_delegation(lab.gamma, lab.delegation.number).has_value()); // not that host's
    REQUIRE(lab.pool->delegations().size() == 1);
    REQUIRE((all ? lab.pool->end_delegations(lab.beta)
                 : lab.pool->end_delegation(lab.beta, lab.delegation.number))
                .has_value());
    REQUIRE(lab.is_clear());
    CHECK(lab.content("v") == block_of(3));
    CHECK(lab.findings() == std::vector<std::string>());
    REQUIRE(lab.pool->wait_for_removals({}).has_value());
    CHECK(lab.pool->disk_usage()->rows.front().frees_bytes == DelegationLab::kBlocks * kBlockBytes);
    REQUIRE(lab.remove("v").has_value());
  }
}

TEST_CASE("what a lost host left goes once nobody reads it any more") {
  LostLab lab;
  {
    const ViewHandle reader = lab.view("v@lost-beta-1");
    REQUIRE(lab.pool->end_delegations(lab.beta).has_value());
    REQUIRE(lab.is_clear());
    CHECK(read_from(*reader, 0) == block_of(2)); // as a file that was unlinked
  }
  CHECK(lab.findings() == std::vector<std::string>());
  REQUIRE(lab.remove("v").has_value());
}

TEST_CASE("what a lost host left stays as a snapshot where somebody else holds it") {
  LostLab lab;
  const ViewName left{"v", "lost-beta-1"};
  REQUIRE(lab.pool->hold(std::span(&left, 1), "keep").has_value());
  REQUIRE(lab.pool->end_delegations(lab.beta).has_value());
  REQUIRE(lab.eventually([&] { return lab.pool->delegations().empty(); }));
  REQUIRE(lab.eventually([&] { return lab.info("v@lost-beta-1").holds.size() == 1; }));
  REQUIRE(lab.pool->release_hold(std::span(&left, 1), "keep").has_value());
  REQUIRE(lab.remove("v@lost-beta-1").has_value());
}

TEST_CASE("the limit on a volume's snapshots keeps none from being made of a lost host's blocks") {
  GivingLab lab;
  log::set_level(log::Level::off);
  REQUIRE(lab.pool->set_properties("v", {{"snapshot-limit", std::to_string(kMiB)}}).has_value());
  REQUIRE(lab.snapshot("v@s").has_value());
  lab.create("x", kMiB); // so that it has counted
  lab.fill("v", 2);
  REQUIRE(lab.pool->set_properties("v", {{"snapshot-limit", std::to_string(kBlockBytes)}}).has_value());
  CHECK(refusal(lab.snapshot("v@t")).kind == ErrorKind::no_space);
  const ViewHandle open = lab.open_for("v", lab.beta);
  lab.give("v", lab.beta);
  lab.pool->lose_delegations(lab.beta);
  CHECK(lab.has("v@lost-beta-1"));
  log::set_level(log::Level::info);
}

TEST_CASE("a host that is lost again and again leaves snapshots of different names") {
  LostLab lab;
  {
    const ViewHandle open = lab.open_for("v", lab.beta);
    lab.give("v", lab.beta);
  }
  lab.pool->lose_delegations(lab.beta);
  REQUIRE(lab.eventually([&] { return lab.has("v@lost-beta-2"); }));
  CHECK(lab.has("v@lost-beta-1"));
  REQUIRE(lab.pool->end_delegations(lab.beta).has_value());
  REQUIRE(lab.eventually([&] { return !lab.has("v@lost-beta-2"); }));
  REQUIRE(lab.is_clear());
}
