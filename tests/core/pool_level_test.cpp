// What snapshots turned out to hold, and groups of them: one moment across all forms of volumes, all or none
// after a crash, and a level that is never higher than what was confirmed.
#include <atomic>
#include <thread>

#include "core/log.h"
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kImageBytes = kMiB;

// An adopted volume a, a thin one b, and a clone c.
class GroupLab : public SmallPool {
 public:
  explicit GroupLab(std::uint64_t seed = 1) : SmallPool(64 * kMiB, seed) {
    auto image = env.open_file("/img", {.create = true});
    REQUIRE(image.has_value());
    REQUIRE((*image)->resize(kImageBytes).has_value());
    REQUIRE(pool->adopt({.path = "/img", .volume = "a"}).has_value());
    create("b", 8 * kMiB);
    REQUIRE(view("b")->write(kMiB, block_of(1, 4 * kMiB)).has_value());
    REQUIRE(snapshot("b@origin").has_value());
    REQUIRE(pool->clone({"b", "origin"}, "c").has_value());
  }
  Result<> group(const std::string& snapshot) {
    const ViewName names[] = {{"a", snapshot}, {"b", snapshot}, {"c", snapshot}};
    return pool->snapshot(names);
  }
  bool has(const std::string& name) { return pool->find(*parse_view_name(name)).has_value(); }
  ViewInfo info(const std::string& name) {
    const auto found = pool->find(*parse_view_name(name));
    REQUIRE(found.has_value());
    return *found;
  }
  SnapshotLevel level(const std::string& name) { return info(name).level; }
  Result<> raise(const std::string& name, SnapshotLevel to) {
    const LevelRaise raise{info(name).id, to};
    return pool->raise_levels(std::span(&raise, 1));
  }
};

std::uint64_t number_in(View& view) {
  std::uint64_t value = 0;
  const auto block = read_from(view, 0);
  std::memcpy(&value, block.data(), sizeof value);
  return value;
}

// Numbers to a, then b, then c, each after the one before was answered; none failed.
void write_in_turn(GroupLab& lab, const std::atomic<bool>& stop, std::atomic<bool>& failed) {
  const ViewHandle views[] = {lab.view("a"), lab.view("b"), lab.view("c")};
  auto block = block_of(0);
  for (std::uint64_t i = 1; !stop; ++i) {
    std::memcpy(block.data(), &i, sizeof i);
    for (const ViewHandle& view : views) {
      if (!view->write(0, block)) failed = true;
    }
  }
}

} // namespace

TEST_CASE("a level is raised, kept over a restart and a new name, and never lowered") {
  GroupLab lab;
  REQUIRE(lab.group("s").has_value());
  CHECK(lab.level("a@s") == SnapshotLevel::crash);
  REQUIRE(lab.raise("a@s", SnapshotLevel::app).has_value());
  REQUIRE(lab.raise("b@s", SnapshotLevel::fs).has_value());
  REQUIRE(lab.raise("a@s", SnapshotLevel::fs).has_value());
  REQUIRE(lab.pool->rename({"b", "s"}, "t").has_value());
  REQUIRE(lab.pool->rename({"a", {}}, "z").has_value());
  lab.reopen();
  CHECK(lab.level("z@s") == SnapshotLevel::app);
  CHECK(lab.level("b@t") == SnapshotLevel::fs);
  CHECK(lab.level("c@s") == SnapshotLevel::crash);
  CHECK(lab.findings().empty());
}

TEST_CASE("a volume has no level, and of a snapshot that is gone none is raised") {
  GroupLab lab;
  REQUIRE(lab.group("s").has_value());
  const auto refused = lab.raise("a", SnapshotLevel::fs);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().kind == ErrorKind::usage);
  const LevelRaise raises[] = {{lab.info("a@s").id, SnapshotLevel::fs},
                               {lab.info("b@s").id, SnapshotLevel::app}};
  REQUIRE(lab.remove("a@s").has_value());
  REQUIRE(lab.pool->raise_levels(raises).has_value());
  CHECK(lab.level("b@s") == SnapshotLevel::app);
  CHECK(lab.findings().empty());
}

TEST_CASE("a snapshot that is refreshed, split off or taken again starts as crash") {
  GroupLab lab;
  REQUIRE(lab.group("s").has_value());
  REQUIRE(lab.raise("b@s", SnapshotLevel::fs).has_value());
  REQUIRE(lab.pool->refresh({"b", "s"}).has_value());
  CHECK(lab.level("b@s") == SnapshotLevel::crash);
  REQUIRE(lab.raise("c@s", SnapshotLevel::app).has_value());
  REQUIRE(lab.remove("c@s").has_value());
  REQUIRE(lab.snapshot("c@s").has_value());
  CHECK(lab.level("c@s") == SnapshotLevel::crash);
  REQUIRE(lab.pool->snapshot_full({"b", "f"}, {}).has_value());
  REQUIRE(lab.raise("b@f", SnapshotLevel::fs).has_value());
  REQUIRE(lab.pool->split({"b", "f"}, "d").has_value());
  lab.reopen();
  CHECK(lab.level("b@s") == SnapshotLevel::crash);
  CHECK(lab.level("c@s") == SnapshotLevel::crash);
  CHECK(lab.info("d").kind == ViewKind::volume);
  CHECK(lab.findings().empty());
}

TEST_CASE("a rollback leaves the snapshot's level, and what it keeps of the state before is crash") {
  GroupLab lab;
  REQUIRE(lab.snapshot("b@s").has_value());
  REQUIRE(lab.raise("b@s", SnapshotLevel::fs).has_value());
  REQUIRE(lab.pool->rollback({"b", "s"}, false, false).has_value());
  CHECK(lab.level("b@s") == SnapshotLevel::fs);
  CHECK(lab.level("b@before-rollback-1") == SnapshotLevel::crash);
}

TEST_CASE("a group across forms is one moment, also beside a flatten and a full copy") {
  GroupLab lab;
  constexpr unsigned kGroups = 80;
  std::atomic<bool> stop{false};
  std::atomic<bool> failed{false};
  std::atomic<bool> flattened{false};
  REQUIRE(lab.pool->snapshot_full({"b", "f"}, {}).has_value());
  std::thread writer([&] { write_in_turn(lab, stop, failed); });
  std::thread copier([&] {
    flattened = lab.pool->flatten("c", {}).has_value() && lab.pool->wait_for_copy({"b", "f"}, {}).has_value();
  });
  while (!failed && number_in(*lab.view("c")) == 0) std::this_thread::yield(); // it has been round once
  unsigned taken = 0;
  while (taken < kGroups && lab.group("s" + std::to_string(taken)).has_value()) ++taken;
  stop = true;
  writer.join();
  copier.join();
  REQUIRE(taken == kGroups);
  REQUIRE_FALSE(failed);
  REQUIRE(flattened);
  for (unsigned i = 0; i < kGroups; ++i) {
    const std::string snapshot = "@s" + std::to_string(i);
    const std::uint64_t a = number_in(*lab.view("a" + snapshot));
    const std::uint64_t b = number_in(*lab.view("b" + snapshot));
    const std::uint64_t c = number_in(*lab.view("c" + snapshot));
    INFO("group " << i << ": " << a << ", " << b << " and " << c);
    REQUIRE((a == b || a == b + 1));
    REQUIRE((b == c || b == c + 1));
    REQUIRE((a == c || a == c + 1));
  }
  REQUIRE(number_in(*lab.view("c@s" + std::to_string(kGroups - 1))) > 0);
  REQUIRE(lab.findings().empty());
}

TEST_CASE("a crash at any call leaves a whole group or none, and no level that was not confirmed") {
  log::set_level(log::Level::off);
  for (const bool power : {false, true}) {
    CAPTURE(power);
    bool through = false;
    for (std::uint64_t nth = 1; !through; ++nth) {
      REQUIRE(nth < 10'000);
      CAPTURE(nth);
      GroupLab lab(nth);
      lab.pool.reset();
      lab.open({.keep_tail = true});
      for (const char* const name : {"a", "b", "c"})
        REQUIRE(lab.view(name)->write(0, block_of(9)).has_value());
      lab.env.kill_at(nth);
      const bool taken = lab.group("s").has_value() && !lab.env.killed();
      bool raised = false;
      if (taken) {
        const LevelRaise raises[] = {{lab.info("a@s").id, SnapshotLevel::fs},
                                     {lab.info("b@s").id, SnapshotLevel::app}};
        raised = lab.pool->raise_levels(raises).has_value() && !lab.env.killed();
      }
      through = raised;
      if (power)
        lab.env.power_cut(nth);
      else if (!lab.env.killed())
        lab.env.kill();
      lab.pool.reset();
      lab.env.kill_at(std::nullopt);
      lab.open({.keep_tail = true});
      const bool there = lab.has("a@s");
      REQUIRE(lab.has("b@s") == there);
      REQUIRE(lab.has("c@s") == there);
      if (taken) REQUIRE(there);
      if (!there) continue;
      for (const char* const name : {"a@s", "b@s", "c@s"})
        REQUIRE(read_from(*lab.view(name), 0) == block_of(9));
      const bool is_raised = lab.level("a@s") == SnapshotLevel::fs;
      if (raised) REQUIRE(is_raised);
      if (!taken) REQUIRE_FALSE(is_raised);
      REQUIRE(lab.level("a@s") == (is_raised ? SnapshotLevel::fs : SnapshotLevel::crash));
      REQUIRE(lab.level("b@s") == (is_raised ? SnapshotLevel::app : SnapshotLevel::crash));
      REQUIRE(lab.level("c@s") == SnapshotLevel::crash);
      REQUIRE(lab.findings().empty());
    }
  }
}
