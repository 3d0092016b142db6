// Delegations are taken back by whoever needs the volume, and waited for.
#include <atomic>

#include "core/log.h"
#include "core/pause.h"
#include "tests/core/delegation_lab.h"

using namespace vsnap;

namespace {

constexpr std::int64_t kReturn = 5'000'000'000; // so long the host takes, where it matters
constexpr std::int64_t kLease = 10'000'000'000;
constexpr std::uint8_t kLastWrite = 99;

// A host that has v delegated and writes its first block once more before it returns it.
struct RecallLab : DelegationLab {
  explicit RecallLab(OpenPoolOptions options = {}) : DelegationLab(1, std::move(options)) {
    use(&host);
    open = open_for("v", beta);
    give("v", beta);
    place = map("v").front().place;
  }
  ~RecallLab() {
    open = {};
    if (pool) pool->set_delegation_keeper(nullptr);
  }
  [[nodiscard]] std::size_t recalls() { return host.told().size(); }
  ViewHandle open;
  Place place;
  TestKeeper host{[this](const TestKeeper::Recall& recall) {
    write_at(place, kLastWrite);
    static_cast<void>(pool->end_delegation(recall.delegation.host, recall.delegation.number));
  }};
};

struct Taker {
  const char* what;
  std::function<Result<>(RecallLab&)> run;
  const char* sees; // what was made, with all that the host wrote; or nullptr
};

template <class T>
Result<> only(const Result<T>& result) {
  return result ? Result<>() : Failure(result.error());
}

std::vector<Taker> takers() {
  using Lab = RecallLab;
  return {
      {"open", [](Lab& l) { return only(l.pool->open_view(l.id("v"))); }, "v"},
      {"open for another host", [](Lab& l) { return only(l.pool->open_view_for(l.id("v"), l.gamma)); }, "v"},
      {"snapshot", [](Lab& l) { return l.snapshot("v@s"); }, "v@s"},
      {"full snapshot",
       [](Lab& l) {
         return l.pool->snapshot_full({"v", "s"}, {});
       },
       "v@s"},
      {"preserve",
       [](Lab& l) {
         return only(l.pool->preserve({"v", "s"}));
       },
       "v@s"},
      {"share from", [](Lab& l) { return l.pool->share_into(l.id("v"), l.id("empty")); }, "empty"},
      {"shrink", [](Lab& l) { return l.pool->resize("v", 2 * kMiB, true); }, "v"},
      {"grow", [](Lab& l) { return l.pool->resize("v", 8 * kMiB, false); }, "v"},
      {"unlink", [](Lab& l) { return only(l.remove("v", {.even_if_open = true})); }, nullptr},
      {"rename over",
       [](Lab& l) {
         return l.pool->rename({"empty", {}}, "v", true);
       },
       nullptr},
      {"remove",
       [](Lab& l) {
         l.open = {};
         return only(l.remove("v"));
       },
       nullptr},
  };
}

} // namespace

TEST_CASE("whoever needs a delegated volume takes it back first") {
  for (const Taker& taker : takers()) {
    CAPTURE(taker.what);
    RecallLab lab;
    lab.create("empty", DelegationLab::kSize);
    REQUIRE(lab.recalls() == 0);
    const auto done = taker.run(lab);
    INFO((done ? "" : done.error().message));
    REQUIRE(done.has_value());
    CHECK(lab.recalls() == 1);
    CHECK_FALSE(lab.host.told().front().overdue);
    if (taker.sees != nullptr) CHECK(lab.content(taker.sees) == block_of(kLastWrite));
    CHECK(lab.pool->delegations().empty());
    CHECK(lab.findings() == std::vector<std::string>());
  }
}

TEST_CASE("what an operation holds up is noted, with the hosts that had to return something") {
  for (const Taker& taker : takers()) {
    CAPTURE(taker.what);
    if (std::string_view(taker.what).starts_with("open") || taker.sees == nullptr) continue;
    if (std::string_view(taker.what) == "share from") continue; // no command's
    RecallLab lab;
    lab.create("empty", DelegationLab::kSize);
    TestKeeper host([&](const TestKeeper::Recall& recall) {
      lab.env.pass_time(kReturn);
      static_cast<void>(lab.pool->end_delegation(recall.delegation.host, recall.delegation.number));
    });
    lab.use(&host);
    const std::int64_t began_ns = lab.env.monotonic_ns();
    const PauseNote note;
    REQUIRE(taker.run(lab).has_value());
    const bool draws_line = std::string_view(taker.what).find("row") == std::string_view::npos &&
                            std::string_view(taker.what) != "shrink";
    CHECK(note.pause().hosts == (draws_line ? 2 : 1)); // beta, and this one
    CHECK(note.pause().held_ns >= kReturn);
    CHECK(note.pause().held_ns <= lab.env.monotonic_ns() - began_ns);
    lab.use(&lab.host);
  }
}

TEST_CASE("volumes of one snapshot are taken back from all their hosts at once") {
  RecallLab lab;
  lab.create("w", DelegationLab::kSize);
  const ViewHandle w = lab.open_for("w", lab.gamma);
  std::vector<Delegation> told;
  TestKeeper hosts([&](const TestKeeper::Recall& recall) {
    told.push_back(recall.delegation);
    if (told.size() < 2) return; // none is returned before both are told
    for (const Delegation& each : told) static_cast<void>(lab.pool->end_delegation(each.host, each.number));
  });
  lab.use(&hosts);
  lab.give("w", lab.gamma);
  const PauseNote note;
  const ViewName names[] = {{"v", "s"}, {"w", "s"}};
  REQUIRE(lab.pool->snapshot(names).has_value());
  CHECK(hosts.told().size() == 2);
  CHECK(note.pause().hosts == 3);
  lab.use(&lab.host);
}

TEST_CASE("where nothing is held, nothing is noted; and nothing of another thread's") {
  RecallLab lab;
  lab.open = {};
  REQUIRE(lab.pool->open_view(lab.id("v")).has_value()); // takes it back
  {
    const PauseNote note;
    REQUIRE(lab.pool->resize("v", 2 * kMiB, true).has_value());
    CHECK(note.pause() == Pause{});
    std::thread([&] { REQUIRE(lab.snapshot("v@s").has_value()); }).join();
    CHECK(note.pause() == Pause{});
    REQUIRE(lab.snapshot("v@t").has_value());
    CHECK(note.pause().hosts == 1);
  }
  REQUIRE(lab.snapshot("v@u").has_value()); // nobody asks
}

TEST_CASE("a snapshot that is refreshed has what the host wrote last") {
  RecallLab lab;
  REQUIRE(lab.snapshot("v@s").has_value());
  lab.give("v", lab.beta);
  REQUIRE(lab.open->write(0, block_of(7)).has_value()); // a place of its own again
  lab.place = lab.map("v").front().place;
  REQUIRE(lab.pool->refresh({"v", "s"}).has_value());
  CHECK(lab.recalls() == 2);
  CHECK(lab.content("v@s") == block_of(kLastWrite));
}

TEST_CASE("a volume whose host has closed it is rolled back once it is returned") {
  RecallLab lab;
  REQUIRE(lab.snapshot("v@s").has_value());
  lab.fill("v", 3, 1);
  lab.give("v", lab.beta);
  lab.place = lab.map("v").front().place;
  CHECK(refusal(lab.pool->rollback({"v", "s"}, false, false)).kind == ErrorKind::busy); // it is open
  CHECK(lab.recalls() == 1);
  lab.open = {};
  REQUIRE(lab.pool->rollback({"v", "s"}, false, false).has_value());
  CHECK(lab.recalls() == 2);
  CHECK(lab.content("v@before-rollback-1") == block_of(kLastWrite));
}

TEST_CASE(
    "an empty volume that gets another's content is taken back, and so are clones of what is flattened") {
  RecallLab lab;
  lab.create("empty", DelegationLab::kSize);
  REQUIRE(lab.snapshot("v@s").has_value());
  REQUIRE(lab.pool->clone({"v", "s"}, "c").has_value());
  REQUIRE(lab.snapshot("c@s").has_value());
  REQUIRE(lab.pool->clone({"c", "s"}, "d").has_value());
  const ViewHandle empty = lab.open_for("empty", lab.gamma);
  const ViewHandle c = lab.open_for("c", lab.gamma);
  const ViewHandle d = lab.open_for("d", lab.gamma);
  lab.give("empty", lab.gamma);
  lab.give("c", lab.gamma);
  lab.give("d", lab.gamma);
  const std::size_t before = lab.recalls();
  REQUIRE(lab.pool->share_into(lab.id("v@s"), lab.id("empty")).has_value());
  CHECK(lab.recalls() == before + 1);
  REQUIRE(lab.pool->flatten("c", {}).has_value());
  CHECK(lab.recalls() == before + 3); // c, and d that looks through it
  CHECK(lab.pool->delegations().empty());
}

TEST_CASE("what needs no standstill takes nothing back") {
  RecallLab lab;
  const ViewHandle another = lab.open_for("v", lab.beta); // that host's own
  REQUIRE(lab.open->write(kMiB, block_of(4)).has_value());
  REQUIRE(lab.open->discard(0, kBlockBytes).has_value());
  REQUIRE(lab.pool->rename({"v", {}}, "w").has_value());
  REQUIRE(lab.pool->set_properties("w", {{"snapshot-limit", "none"}}).has_value());
  lab.create("x", kMiB);
  REQUIRE(lab.snapshot("x@s").has_value());
  REQUIRE(lab.pool->sync().has_value());
  CHECK(lab.recalls() == 0);
  REQUIRE(lab.pool->delegations().size() == 1);
  CHECK(lab.pool->delegations()[0].state == DelegationState::held);
  CHECK(lab.pool->delegations()[0].volume.text() == "w");
}

TEST_CASE("a snapshot of a clone's origin that goes leaves the clone's delegation") {
  RecallLab lab;
  REQUIRE(lab.snapshot("v@s").has_value());
  lab.give("v", lab.beta);
  CHECK_FALSE(lab.map("v").front().own);
  REQUIRE(lab.remove("v@s").has_value());
  CHECK(lab.recalls() == 1); // the snapshot's
  CHECK(lab.map("v").front().own);
  CHECK(lab.pool->delegations().size() == 1);
}

TEST_CASE("a keeper that does not answer is told again that it is overdue") {
  TestKeeper silent([](const TestKeeper::Recall&) {});
  DelegationLab lab;
  lab.use(&silent);
  const ViewHandle open = lab.open_for("v", lab.beta);
  const Delegation given = lab.give("v", lab.beta);
  std::atomic<bool> drawn{false};
  std::thread taker([&] { drawn = lab.snapshot("v@s").has_value(); });
  const TestKeeper::Recall first = silent.wait_for(1);
  lab.env.let_pass(6'000'000'000);
  const TestKeeper::Recall second = silent.wait_for(2);
  CHECK_FALSE(lab.ask("v", lab.beta).has_value()); // a configuration operation is under way
  CHECK_FALSE(lab.pool->export_map(lab.id("v"), RegionIndex(0)).value().has_value());
  CHECK(lab.pool->delegations().at(0).state == DelegationState::recalled);
  REQUIRE(lab.pool->end_delegation(given.host, given.number).has_value());
  taker.join();
  CHECK(first.delegation == given);
  CHECK_FALSE(first.overdue);
  CHECK(second.delegation == given);
  CHECK(second.overdue);
  CHECK(drawn);
  lab.use(nullptr);
}

TEST_CASE("who waits for a host that is lost is told so, or has the volume") {
  log::set_level(log::Level::off);
  TestKeeper silent([](const TestKeeper::Recall&) {});
  DelegationLab lab;
  lab.use(&silent);
  {
    ViewHandle open = lab.open_for("v", lab.beta);
    lab.give("v", lab.beta);
  }
  std::optional<Result<>> drawn;
  std::optional<Result<ViewHandle>> opened;
  std::thread draws([&] { drawn = lab.snapshot("v@s"); });
  std::thread opens([&, v = lab.id("v")] { opened = lab.pool->open_view(v); });
  static_cast<void>(silent.wait_for(2));
  lab.pool->lose_delegations(lab.beta);
  draws.join();
  opens.join();
  CHECK(says(refusal(*drawn), "lab/v: host beta was lost while it wrote to it"));
  REQUIRE(opened->has_value());
  CHECK(lab.has("v@lost-beta-1"));
  REQUIRE((**opened)->write(0, block_of(8)).has_value());
  opened.reset();
  lab.use(nullptr);
  log::set_level(log::Level::info);
}

TEST_CASE("a host is lost while somebody waits for another one") {
  log::set_level(log::Level::off);
  TestKeeper silent([](const TestKeeper::Recall&) {});
  DelegationLab lab(1, {.background = true});
  lab.use(&silent);
  lab.create("w", kMiB);
  {
    const ViewHandle v = lab.open_for("v", lab.beta);
    const ViewHandle w = lab.open_for("w", lab.gamma);
    lab.give("v", lab.beta);
    lab.give("w", lab.gamma);
  }
  std::optional<Result<>> drawn;
  std::thread draws([&] { drawn = lab.snapshot("v@s"); });
  static_cast<void>(silent.wait_for(1)); // and holds the configuration lock
  lab.pool->lose_delegations(lab.gamma);
  lab.pool->lose_delegations(lab.beta);
  draws.join();
  CHECK(says(refusal(*drawn), "host beta was lost"));
  REQUIRE(lab.eventually([&] { return lab.has("v@lost-beta-1") && lab.has("w@lost-gamma-1"); }));
  lab.use(nullptr);
  log::set_level(log::Level::info);
}

TEST_CASE("without anybody who could return it, nobody waits for a delegation") {
  TestKeeper silent([](const TestKeeper::Recall&) {});
  DelegationLab lab;
  lab.use(&silent);
  {
    const ViewHandle open = lab.open_for("v", lab.beta);
    lab.give("v", lab.beta);
  }
  REQUIRE(lab.pool->keep_snapshots_for(kLease).has_value());
  lab.use(nullptr);
  for (int i = 0; i < 2; ++i) { // of this process, or by a command after it
    for (const Error& error : {refusal(lab.snapshot("v@s")), refusal(lab.pool->open_view(lab.id("v"))),
                               refusal(lab.remove("v"))}) {
      CHECK(error.kind == ErrorKind::busy);
      CHECK(says(error, "lab/v: host beta may still write to it"));
    }
    lab.reopen();
  }
}

TEST_CASE("what a process before this one gave is waited for until its host returns it") {
  for (const bool all : {false, true}) {
    CAPTURE(all);
    TestKeeper silent([](const TestKeeper::Recall&) {});
    DelegationLab lab;
    lab.use(&silent);
    REQUIRE(lab.pool->keep_snapshots_for(kLease).has_value());
    Delegation given;
    {
      const ViewHandle open = lab.open_for("v", lab.beta);
      given = lab.give("v", lab.beta);
    }
    lab.reopen({.background = true});
    REQUIRE(lab.pool->delegations().size() == 1);
    CHECK(lab.pool->delegations()[0].delegation == given);
    CHECK(lab.pool->delegations()[0].state == DelegationState::recalled);
    const ViewHandle open = lab.open_for("v", lab.beta); // the host's own programs
    CHECK_FALSE(lab.ask("v", lab.beta).has_value());
    std::atomic<bool> done{false};
    std::thread taker([&] { done = lab.snapshot("v@s").has_value(); });
    static_cast<void>(silent.wait_for(1));
    REQUIRE((all ? lab.pool->end_delegations(lab.beta) : lab.pool->end_delegation(lab.beta, given.number))
                .has_value());
    taker.join();
    CHECK(done);
    CHECK_FALSE(lab.has("v@lost-beta-1"));
    REQUIRE(lab.eventually([&] { return lab.pool->delegations().empty(); }));
    CHECK(lab.findings() == std::vector<std::string>());
    lab.use(nullptr);
  }
}

TEST_CASE("what a process before this one gave is lost once its promise has run out") {
  log::set_level(log::Level::off);
  TestKeeper silent([](const TestKeeper::Recall&) {});
  DelegationLab lab;
  lab.use(&silent);
  REQUIRE(lab.pool->keep_snapshots_for(kLease).has_value());
  Place place;
  {
    const ViewHandle open = lab.open_for("v", lab.beta);
    lab.give("v", lab.beta);
    place = lab.map("v").front().place;
  }
  lab.reopen({.background = true});
  std::optional<Result<ViewHandle>> opened;
  std::thread opens([&, v = lab.id("v")] { opened = lab.pool->open_view(v); });
  static_cast<void>(silent.wait_for(1));
  lab.env.let_pass(2 * kLease);
  opens.join();
  REQUIRE(opened->has_value());
  REQUIRE(lab.has("v@lost-beta-1"));
  REQUIRE((**opened)->write(0, block_of(5)).has_value());
  CHECK(lab.read_at(place) == block_of(1));
  opened.reset();
  lab.reopen({.background = true}); // it is lost for good
  REQUIRE(lab.pool->delegations().size() == 1);
  CHECK(lab.pool->delegations()[0].state == DelegationState::lost);
  CHECK(says(refusal(lab.snapshot("v@s")), "host beta was lost"));
  REQUIRE(lab.pool->end_delegations(lab.beta).has_value());
  REQUIRE(lab.eventually([&] { return !lab.has("v@lost-beta-1"); }));
  lab.use(nullptr);
  log::set_level(log::Level::info);
}

TEST_CASE("delegations and whoever takes them back meet at any moment") {
  DelegationLab lab(1, {.background = true});
  TestKeeper answering([&](const TestKeeper::Recall& recall) {
    static_cast<void>(lab.pool->end_delegation(recall.delegation.host, recall.delegation.number));
  });
  lab.use(&answering);
  std::atomic<bool> stop{false};
  std::atomic<int> given{0};
  std::atomic<bool> failed{false};
  const ObjectId v = lab.id("v");
  std::thread host([&] {
    while (!stop) {
      const auto open = lab.pool->open_view_for(v, lab.beta);
      const auto delegation = lab.pool->delegate(v, lab.beta, 1);
      if (!open || !delegation) failed = true;
      if (!delegation || !*delegation) continue;
      ++given;
      if (!lab.pool->export_map(v, RegionIndex(0))) failed = true;
    }
  });
  for (int i = 0; i < 200; ++i) {
    // Now and then it is certain that there is one.
    if (i % 4 == 0 && !lab.eventually([&] { return !lab.pool->delegations().empty(); })) break;
    if (i % 8 < 4) {
      if (!lab.pool->open_view(v)) failed = true;
    } else if (!lab.snapshot("v@s") || !lab.remove("v@s")) {
      failed = true;
    }
  }
  stop = true;
  host.join();
  CHECK(given >= 40);
  CHECK_FALSE(failed);
  CHECK(lab.findings() == std::vector<std::string>());
  lab.use(nullptr);
}
