// The limit on the space that snapshots of a volume take: what counts, what is refused, what is dropped, and
// who waits.
#include <atomic>
#include <random>
#include <thread>

#include "core/log.h"
#include "core/snapshot_limit.h"
#include "core/wait_listener.h"
#include "tests/core/limit_lab.h"
#include "tests/support/seed.h"

using namespace vsnap;

namespace {

void require_full(const Result<>& result) {
  const Error error = refusal(result);
  REQUIRE(error.kind == ErrorKind::no_space);
  REQUIRE(error.errno_value == ENOSPC);
  REQUIRE(says(error, "lab/v: its snapshots use all of their"));
}

// A write in a thread of its own; the thread ends before the lab does.
class Writer {
 public:
  template <class Body>
  explicit Writer(Body body)
      : thread_([this, body] {
          body();
          done_ = true;
        }) {}
  ~Writer() { join(); }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  void join() {
    if (thread_.joinable()) thread_.join();
  }
  [[nodiscard]] bool done() const { return done_; }

 private:
  std::atomic<bool> done_{false};
  std::thread thread_;
};

// Of a writer.
struct Told final : WaitListener {
  void waits() noexcept override { ++begun; }
  void goes_on() noexcept override { ++ended; }
  std::atomic<unsigned> begun{0};
  std::atomic<unsigned> ended{0};
};

} // namespace

TEST_CASE("properties are kept in one way of writing each, and bad ones are refused with the good ones") {
  const std::pair<const char*, const char*> limits[] = {
      {"none", "none"}, {"4K", "4096"}, {"1.5M", "1572864"}, {"10%", "10%"}, {"1000%", "1000%"}};
  for (const auto& [given, kept] : limits) {
    CAPTURE(given);
    const auto checked = checked_property("snapshot-limit", given);
    REQUIRE(checked.has_value());
    CHECK(*checked == kept);
  }
  for (const char* const bad : {"", "0", "4095", "0%", "1001%", "%", "-1", "1.5%", "10 %", "all"}) {
    CAPTURE(bad);
    const Error error = refusal(checked_property("snapshot-limit", bad));
    CHECK(error.kind == ErrorKind::usage);
    CHECK(says(error, "or none"));
  }
  CHECK(says(refusal(checked_property("on-full", "panic")), "error, pause or drop-oldest"));
  CHECK(says(refusal(checked_property("colour", "red")), "snapshot-limit, on-full"));
}

TEST_CASE("a limit in per cent is of the size that the volume has, without overflow") {
  const auto of = [](const char* value, std::uint64_t size) {
    return snapshot_settings({{"snapshot-limit", value}}).limit_of(size);
  };
  CHECK(of("20%", 100'000) == 20'000U);
  CHECK(of("33%", 100'010) == 33'003U);
  CHECK(of("1%", 0) == kBlockBytes); // room for something
  CHECK(of("1%", 4096) == kBlockBytes);
  CHECK(of("1000%", kMaxVolumeBytes) == kMaxVolumeBytes);
  CHECK(of("4096", 1) == 4096U);
  CHECK_FALSE(of("none", 1000).has_value());
}

TEST_CASE("what snapshots have no room to keep is not overwritten, and everything else can be written") {
  LimitLab lab;
  lab.limit(40);
  REQUIRE(lab.snapshot("v@s").has_value());
  REQUIRE(lab.write(0, 40, 2).has_value());
  CHECK(lab.figure() == 40);
  require_full(lab.write(40, 1, 2));
  CHECK(read_from(*lab.view("v"), 40 * kBlockBytes) == block_of(1));
  REQUIRE(lab.write(0, 40, 3).has_value());                 // its own
  REQUIRE(lab.write(LimitLab::kBlocks, 20, 3).has_value()); // new
  CHECK(lab.figure() == 40);
  CHECK(lab.figure() == lab.freed_with_all());
  CHECK(read_from(*lab.view("v@s"), 0) == block_of(1));
  CHECK(lab.findings().empty());
}

TEST_CASE("a write that is larger than the room goes as far as there is some") {
  LimitLab lab;
  lab.limit(10);
  REQUIRE(lab.snapshot("v@s").has_value());
  require_full(lab.write(LimitLab::kBlocks - 20, 40, 2));
  CHECK(lab.figure() == 10);
  CHECK(lab.counted() == lab.freed_with_all());
}

TEST_CASE("a file system that is out of quota is not taken for the limit") {
  CHECK(SnapshotLimit::refused(SnapshotLimit::refusal().value()));
  const Error none = system_failure(EDQUOT, "/a").value();
  CHECK(none.kind == ErrorKind::no_space);
  CHECK(none.errno_value == ENOSPC);
  CHECK_FALSE(SnapshotLimit::refused(none));
  LimitLab lab;
  lab.limit(10);
  REQUIRE(lab.snapshot("v@s").has_value());
  lab.env.no_space(true, EDQUOT);
  const Error error = refusal(lab.write(0, 1, 2));
  lab.env.no_space(false);
  CHECK(error.kind == ErrorKind::no_space);
  CHECK(error.errno_value == ENOSPC);
  CHECK_FALSE(says(error, "use all of their"));
  CHECK(read_from(*lab.view("v"), 0) == block_of(1));
}

TEST_CASE("a count and a mark that is passed are told once, and counts that lead to nothing become rarer") {
  SnapshotLimit limit;
  CHECK_FALSE(limit.wants_count());
  limit.set(100, OnFull::error);
  const auto count = [&](std::uint64_t exact) { REQUIRE(limit.end_count(limit.begin_count(), exact)); };
  const auto guess = [&](std::uint64_t blocks) {
    REQUIRE(limit.take(blocks) == blocks);
    limit.note_guess();
  };
  REQUIRE(limit.wants_count()); // nobody has
  CHECK(limit.tell_mark() == 0);
  count(70);
  guess(5);
  CHECK_FALSE(limit.wants_count()); // below the marks
  unsigned looks = 0;
  for (unsigned round = 0, expected = 0; round < 4; ++round, expected = 2 * expected + 1) {
    CAPTURE(round);
    guess(limit.figure() < 80 ? 80 - static_cast<std::uint64_t>(limit.figure()) : 1);
    for (looks = 0; !limit.wants_count(); ++looks) REQUIRE(looks < 100);
    CHECK(looks == expected);
    CHECK(limit.tell_mark() == 0); // it is not certain
    count(70);
    CHECK(limit.tell_mark() == 0);
  }
  limit.add(15);
  CHECK(limit.tell_mark() == 80);
  CHECK(limit.tell_mark() == 0);
  guess(5);
  CHECK_FALSE(limit.wants_count()); // that mark was told
  guess(5);
  CHECK(limit.wants_count()); // the next one
  count(96);
  CHECK(limit.tell_mark() == 95);
  count(10);
  CHECK(limit.tell_mark() == 0);
  count(80);
  CHECK(limit.tell_mark() == 80); // anew
}

TEST_CASE("that a limit is reached is told again after it was raised") {
  SnapshotLimit limit;
  limit.set(10, OnFull::error);
  REQUIRE(limit.end_count(limit.begin_count(), 10));
  CHECK(limit.tell_full());
  CHECK_FALSE(limit.tell_full());
  limit.set(10, OnFull::pause); // still full
  CHECK_FALSE(limit.tell_full());
  limit.set(11, OnFull::pause);
  REQUIRE(limit.take(1) == 1);
  CHECK(limit.tell_full());
}

TEST_CASE("what snapshots use is told when it was counted, and not before") {
  LimitLab lab;
  lab.limit(100);
  REQUIRE(lab.snapshot("v@s").has_value());
  REQUIRE(lab.write(0, 90, 2).has_value());
  lab.reopen();
  CHECK(lab.info("v").snapshot_space->limit_bytes == 100 * kBlockBytes);
  CHECK_FALSE(lab.info("v").snapshot_space->used_bytes.has_value());
  CHECK(lab.counted() == 90);
}

TEST_CASE("a discard is never refused, and what it leaves to snapshots counts") {
  LimitLab lab;
  lab.limit(10);
  REQUIRE(lab.snapshot("v@s").has_value());
  REQUIRE(lab.view("v")->discard(100, 50 * kBlockBytes).has_value()); // zeros at both ends
  CHECK(lab.figure() == 51);
  CHECK(lab.figure() == lab.freed_with_all());
  require_full(lab.write(100, 1, 2));
  REQUIRE(lab.pool->resize("v", 10 * kBlockBytes + 100, true).has_value());
  CHECK(lab.counted() == lab.freed_with_all());
}

TEST_CASE("room comes with a removal, a higher limit and none") {
  LimitLab lab;
  lab.limit(10);
  REQUIRE(lab.snapshot("v@s").has_value());
  REQUIRE(lab.write(0, 10, 2).has_value());
  require_full(lab.write(10, 1, 2));
  lab.limit(11);
  REQUIRE(lab.write(10, 1, 2).has_value());
  require_full(lab.write(11, 1, 2));
  REQUIRE(lab.remove("v@s").has_value()); // what is being swept does not count
  REQUIRE(lab.snapshot("v@t").has_value());
  REQUIRE(lab.write(0, 11, 3).has_value());
  require_full(lab.write(11, 1, 3));
  REQUIRE(lab.set("v", {{"snapshot-limit", "none"}}).has_value());
  CHECK_FALSE(lab.info("v").snapshot_space.has_value());
  REQUIRE(lab.write(11, 30, 3).has_value());
  lab.limit(11);
  CHECK(lab.figure() == 41);
}

TEST_CASE("a snapshot that would have no room at all is refused") {
  LimitLab lab;
  lab.limit(10);
  REQUIRE(lab.snapshot("v@s").has_value());
  REQUIRE(lab.write(0, 10, 2).has_value());
  require_full(lab.snapshot("v@t"));
  CHECK_FALSE(lab.has("v@t"));
  REQUIRE(lab.remove("v@s").has_value());
  REQUIRE(lab.snapshot("v@t").has_value());
}

TEST_CASE("nothing is dropped for a group of snapshots that is refused") {
  log::set_level(log::Level::off);
  LimitLab lab;
  lab.create("w", 4 * kMiB);
  REQUIRE(lab.write(0, 20, 1, "w").has_value());
  lab.limit(10, "drop-oldest");
  lab.limit(10, "error", "w");
  REQUIRE(lab.snapshot("v@a").has_value());
  REQUIRE(lab.write(0, 5, 2).has_value());
  REQUIRE(lab.snapshot("v@b").has_value());
  REQUIRE(lab.write(10, 5, 2).has_value()); // no more room
  REQUIRE(lab.snapshot("w@s").has_value());
  const ViewName taken[] = {{"v", "c"}, {"w", "s"}};
  CHECK(says(refusal(lab.pool->snapshot(taken)), "w@s"));
  CHECK(lab.has("v@a"));
  const ViewName missing[] = {{"v", "c"}, {"x", "c"}};
  CHECK(refusal(lab.pool->snapshot(missing)).kind == ErrorKind::not_found);
  CHECK(lab.has("v@a"));
  const ViewName both[] = {{"v", "c"}, {"w", "c"}};
  REQUIRE(lab.write(0, 10, 2, "w").has_value());
  CHECK(says(refusal(lab.pool->snapshot(both)), "lab/w: its snapshots use all of their"));
  CHECK(lab.has("v@a"));
  lab.limit(11, "error", "w");
  REQUIRE(lab.pool->snapshot(both).has_value());
  CHECK_FALSE(lab.has("v@a"));
  CHECK(lab.has("v@b"));
  CHECK(lab.has("w@c"));
}

TEST_CASE(
    "the oldest snapshots are dropped where that is asked for, but none that is open, held or the last") {
  log::set_level(log::Level::off);
  LimitLab lab;
  lab.limit(10, "drop-oldest");
  for (const char* const name : {"v@open", "v@held", "v@cloned"}) REQUIRE(lab.snapshot(name).has_value());
  REQUIRE(lab.write(0, 4, 2).has_value());
  REQUIRE(lab.snapshot("v@a").has_value());
  REQUIRE(lab.write(0, 3, 3).has_value()); // what a alone shows
  REQUIRE(lab.snapshot("v@b").has_value());
  const ViewHandle open = lab.view("v@open");
  REQUIRE(lab.hold("v@held", "keep").has_value());
  REQUIRE(lab.pool->clone({"v", "cloned"}, "c").has_value());
  REQUIRE(lab.write(100, 3, 2).has_value());
  CHECK(lab.counted() == 10);
  REQUIRE(lab.write(103, 3, 2).has_value());
  require_full(lab.write(106, 1, 2));
  for (const char* const name : {"v@open", "v@held", "v@cloned", "v@b"}) CHECK(lab.has(name));
  CHECK_FALSE(lab.has("v@a"));
  CHECK(lab.counted() == 10);
}

TEST_CASE("a write goes on in the place of a snapshot that was dropped for it") {
  log::set_level(log::Level::off);
  LimitLab lab;
  lab.limit(10, "drop-oldest");
  for (std::uint8_t i = 0; i < 20; ++i) {
    CAPTURE(int(i));
    REQUIRE(lab.snapshot("v@s" + std::to_string(i)).has_value());
    REQUIRE(lab.write(i * 4U, 4, 9).has_value());
    CHECK(lab.counted() <= 10);
  }
  CHECK_FALSE(lab.has("v@s0"));
  CHECK(lab.has("v@s19"));
  CHECK(lab.counted() == lab.freed_with_all());
  REQUIRE(lab.write(100, 2, 9).has_value());
  REQUIRE(lab.snapshot("v@next").has_value()); // drops first
  CHECK(lab.findings().empty());
}

TEST_CASE("a clone does not pay for what it shares with its origin") {
  LimitLab lab;
  REQUIRE(lab.snapshot("v@s").has_value());
  REQUIRE(lab.pool->clone({"v", "s"}, "c").has_value());
  lab.limit(10, "error", "c");
  REQUIRE(lab.snapshot("c@t").has_value());
  REQUIRE(lab.write(0, 100, 2, "c").has_value());
  CHECK(lab.counted("c") == 0);
  REQUIRE(lab.snapshot("c@u").has_value());
  REQUIRE(lab.write(0, 10, 3, "c").has_value());
  CHECK(lab.counted("c") == 10);
  const Error error = refusal(lab.write(10, 1, 3, "c"));
  CHECK(error.errno_value == ENOSPC);
  REQUIRE(lab.write(200, 10, 3, "c").has_value()); // the origin's still
  CHECK(lab.counted("c") == 10);
}

TEST_CASE("what snapshots keep goes on counting after a rollback") {
  for (const bool discard : {false, true}) {
    CAPTURE(discard);
    LimitLab lab;
    lab.limit(100);
    REQUIRE(lab.snapshot("v@a").has_value());
    REQUIRE(lab.write(0, 20, 2).has_value());
    REQUIRE(lab.snapshot("v@b").has_value());
    REQUIRE(lab.write(0, 5, 3).has_value());
    CHECK(lab.figure() == 25);
    REQUIRE(lab.pool->rollback({"v", "a"}, discard, false).has_value());
    // a's is what v sees; b keeps its 20 blocks, and what was before, unless it is discarded, 5 more.
    CHECK(lab.counted() == (discard ? 20U : 25U));
    REQUIRE(lab.write(0, 30, 4).has_value()); // 30 blocks of a, which a keeps now
    CHECK(lab.figure() == (discard ? 50U : 55U));
    CHECK(lab.counted() == (discard ? 50U : 55U));
    require_full(lab.write(30, 60, 4));
    CHECK(lab.counted() == 100);
    lab.reopen();
    CHECK(lab.counted() == 100);
    CHECK(lab.findings().empty());
  }
}

TEST_CASE("a volume that was rolled back has an exact figure, as long as it knows what it began with") {
  LimitLab lab;
  lab.limit(100);
  REQUIRE(lab.snapshot("v@a").has_value());
  REQUIRE(lab.write(0, 20, 2).has_value());
  REQUIRE(lab.pool->rollback({"v", "a"}, false, false).has_value());
  REQUIRE(lab.pool->clone({"v", "a"}, "c").has_value());
  REQUIRE(lab.snapshot("c@t").has_value());
  lab.limit(100, "error", "c");
  CHECK(lab.counted() == 20);
  const auto calls_of_count = [&] {
    const std::uint64_t before = lab.env.calls();
    lab.pool->count_snapshot_space(Pool::Figures::exact);
    return lab.env.calls() - before;
  };
  REQUIRE(lab.write(0, 10, 3).has_value());
  REQUIRE(lab.view("v")->discard(20 * kBlockBytes, 10 * kBlockBytes).has_value());
  CHECK(calls_of_count() == 0); // or what was written would have been committed
  CHECK(lab.figure() == 40);
  REQUIRE(lab.write(0, 10, 3, "c").has_value()); // of its origin
  CHECK(calls_of_count() > 0);
  CHECK(lab.figure("c") == 0);
}

TEST_CASE("nobody is refused for what a volume alone saw of the state that it was rolled back to") {
  LimitLab lab;
  lab.limit(20);
  REQUIRE(lab.snapshot("v@a").has_value());
  REQUIRE(lab.write(0, 10, 2).has_value());
  REQUIRE(lab.snapshot("v@b").has_value());
  REQUIRE(lab.pool->rollback({"v", "a"}, true, false).has_value());
  REQUIRE(lab.remove("v@a").has_value());
  CHECK(lab.counted() == 10);                // of b
  REQUIRE(lab.write(0, 10, 3).has_value());  // nobody's any more
  REQUIRE(lab.write(10, 10, 3).has_value()); // of b
  CHECK(lab.counted() == 20);
  require_full(lab.write(20, 1, 3));
}

TEST_CASE("volumes are removed while their snapshots are counted") {
  log::set_level(log::Level::off);
  LimitLab lab;
  std::atomic<bool> done{false};
  Writer counter([&] {
    while (!done) lab.pool->count_snapshot_space(Pool::Figures::exact);
  });
  bool ok = true;
  for (int i = 0; i < 150 && ok; ++i) {
    const std::string name = "r" + std::to_string(i);
    ok = lab.pool->create_volume(name, kMiB).has_value() && lab.write(0, 4, 1, name).has_value() &&
         lab.set(name, {{"snapshot-limit", "1M"}}).has_value() && lab.snapshot(name + "@s").has_value() &&
         lab.pool->rollback({name, "s"}, true, false).has_value() &&
         lab.remove(name, {.recursive = true}).has_value() && lab.pool->wait_for_removals({}).has_value();
  }
  done = true;
  counter.join();
  CHECK(ok);
  CHECK(lab.findings().empty());
}

TEST_CASE("the figure is what goes with all snapshots, whatever was done") {
  log::set_level(log::Level::off);
  const std::uint64_t seed = test_seed();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  LimitLab lab(seed);
  lab.limit(60, "error");
  std::uint64_t refused = 0;
  for (int i = 0; i < 600; ++i) {
    CAPTURE(i);
    const std::uint64_t at = random() % 200;
    const std::uint64_t count = 1 + random() % 20;
    const std::string snapshot = "v@s" + std::to_string(random() % 5);
    switch (random() % 10) {
      case 0:
        static_cast<void>(lab.snapshot(snapshot));
        break;
      case 1:
        static_cast<void>(lab.remove(snapshot));
        break;
      case 2:
        REQUIRE(lab.view("v")->discard(at * kBlockBytes, count * 1000).has_value());
        break;
      case 3:
        REQUIRE(lab.view("v")->reserve(at * kBlockBytes, count * kBlockBytes, false).has_value());
        break;
      case 4:
        if (i % 5 == 0) lab.reopen();
        break;
      case 5:
        lab.limit(40 + random() % 60, random() % 2 == 0 ? "error" : "drop-oldest");
        break;
      default:
        refused += lab.write(at, count, static_cast<std::uint8_t>(random())) ? 0 : 1;
    }
    const std::uint64_t all = lab.freed_with_all();
    REQUIRE(lab.counted() == all);
  }
  CHECK(refused > 0);
  CHECK(lab.findings().empty());
}

TEST_CASE("a figure that was counted beside writers is right") {
  log::set_level(log::Level::off);
  LimitLab lab;
  lab.limit(100'000);
  for (int round = 0; round < 300; ++round) {
    REQUIRE(lab.counted() == 0);
    REQUIRE(lab.snapshot("v@s" + std::to_string(round)).has_value());
    {
      const ViewHandle v = lab.view("v");
      std::atomic<bool> failed{false};
      std::atomic<unsigned> written{0};
      const auto write = [&](std::uint64_t from) {
        for (std::uint64_t block = from; block < LimitLab::kBlocks; block += 2) {
          if (!v->write(block * kBlockBytes, block_of(3))) failed = true;
          ++written;
        }
      };
      Writer even([&] { write(0); });
      Writer odd([&] { write(1); });
      while (written < 10 + static_cast<unsigned>(round) / 4) std::this_thread::yield();
      // One count: another one would put right what it got wrong.
      REQUIRE(lab.set("v", {{"snapshot-limit", "none"}}).has_value());
      lab.limit(100'000);
      even.join();
      odd.join();
      REQUIRE_FALSE(failed);
    }
    const std::uint64_t kept_up = lab.figure();
    REQUIRE(kept_up == lab.freed_with_all());
    REQUIRE(lab.remove("v@s" + std::to_string(round)).has_value());
    REQUIRE(lab.pool->wait_for_removals({}).has_value());
  }
}

TEST_CASE("a write waits for room where that is asked for, and holds up nobody else") {
  log::set_level(log::Level::off);
  LimitLab lab;
  lab.create("w", 4 * kMiB);
  lab.limit(10, "pause");
  REQUIRE(lab.snapshot("v@s").has_value());
  CHECK(lab.view("v")->write_wait() == WriteWait::others);
  CHECK(lab.view("w")->write_wait() == WriteWait::none);
  REQUIRE(lab.write(0, 10, 2).has_value());
  const ViewHandle v = lab.view("v");
  std::atomic<bool> ok{false};
  Told told;
  Writer writer([&] {
    const ListenToWaits listens(told);
    ok = v->write(10 * kBlockBytes, block_of(2, 5 * kBlockBytes)).has_value();
  });
  // Everything goes on beside it.
  for (std::uint8_t i = 0; i < 20; ++i) {
    REQUIRE(lab.write(i, 1, i, "w").has_value());
    REQUIRE(lab.write(0, 1, i).has_value());
    REQUIRE(read_from(*v, 0) == block_of(i));
  }
  REQUIRE(lab.snapshot("w@s").has_value());
  REQUIRE(lab.pool->rename({"w", {}}, "x").has_value());
  require_full(lab.snapshot("v@t"));
  REQUIRE(lab.pool->sync().has_value());
  while (told.begun == told.ended && !writer.done()) std::this_thread::yield();
  CHECK_FALSE(writer.done());
  SECTION("until a snapshot is removed") { REQUIRE(lab.remove("v@s").has_value()); }
  SECTION("until the limit is higher") { lab.limit(15, "pause"); }
  SECTION("until there is none") { REQUIRE(lab.set("v", {{"snapshot-limit", "none"}}).has_value()); }
  writer.join();
  CHECK(ok);
  CHECK(told.begun > 0);
  CHECK(told.begun == told.ended);
  CHECK(read_from(*v, 14 * kBlockBytes) == block_of(2));
}

TEST_CASE("a write that waits is refused when it is to wait no more") {
  log::set_level(log::Level::off);
  LimitLab lab;
  lab.limit(10, "pause");
  REQUIRE(lab.snapshot("v@s").has_value());
  REQUIRE(lab.write(0, 10, 2).has_value());
  const ViewHandle v = lab.view("v");
  Result<> written;
  Writer writer([&] { written = v->write(10 * kBlockBytes, block_of(2)); });
  SECTION("by the policy") { REQUIRE(lab.set("v", {{"on-full", "error"}}).has_value()); }
  SECTION("by the end") {
    lab.pool->stop_waiting();
    writer.join();
    require_full(written);
    written = v->write(10 * kBlockBytes, block_of(2)); // nor does the next
  }
  writer.join();
  require_full(written);
}

TEST_CASE("a pool is closed while writes wait for room") {
  log::set_level(log::Level::off);
  LimitLab lab;
  lab.limit(10, "pause");
  REQUIRE(lab.snapshot("v@s").has_value());
  REQUIRE(lab.write(0, 10, 2).has_value());
  Result<> written;
  {
    ViewHandle v = lab.view("v");
    Writer writer([&] { written = v->write(10 * kBlockBytes, block_of(2)); });
    lab.pool->stop_waiting();
    writer.join();
  }
  require_full(written);
  lab.reopen();
  CHECK(read_from(*lab.view("v"), 10 * kBlockBytes) == block_of(1));
  CHECK(lab.counted() == 10);
}

TEST_CASE("of an adopted volume everything that must be saved counts") {
  log::set_level(log::Level::off);
  LimitLab lab;
  auto file = lab.env.open_file("/img", {.create = true});
  REQUIRE(file.has_value());
  REQUIRE((*file)->resize(4 * kMiB).has_value());
  REQUIRE((*file)->write_at(0, block_of(1, 2 * kMiB)).has_value()); // and then zeros, which count for nothing
  file->reset();
  REQUIRE(lab.pool->adopt({.path = "/img", .volume = "a"}).has_value());
  lab.limit(40, "error", "a");
  REQUIRE(lab.snapshot("a@s").has_value());
  REQUIRE(lab.write(0, 40, 2, "a").has_value());
  CHECK(lab.figure("a") == 40);
  CHECK(lab.counted("a") == lab.freed_with_all("a"));
  CHECK(refusal(lab.write(40, 1, 2, "a")).errno_value == ENOSPC);
  CHECK(read_from(*lab.view("a"), 40 * kBlockBytes) == block_of(1));
  REQUIRE(lab.write(600, 40, 2, "a").has_value());
  CHECK(lab.figure("a") == 40);
  CHECK(refusal(lab.view("a")->discard(50 * kBlockBytes, 10 * kBlockBytes)).errno_value == ENOSPC);
  REQUIRE(lab.write(0, 40, 3, "a").has_value());
  // A rollback takes what it needs.
  REQUIRE(lab.pool->rollback({"a", "s"}, false, false).has_value());
  CHECK((read_from(*lab.view("a"), 0) == block_of(1)));
  CHECK((read_from(*lab.view("a"), 600 * kBlockBytes) == block_of(0)));
  CHECK(lab.counted("a") == 120); // 40 of the snapshot, and all that the state before had written
  REQUIRE(lab.set("a", {{"on-full", "drop-oldest"}, {"snapshot-limit", "50%"}}).has_value());
  CHECK(lab.info("a").snapshot_space->limit_bytes == 2 * kMiB);
  REQUIRE(lab.pool->release("a", {.keep_snapshots = true}, {}).has_value());
  CHECK(lab.pool->properties("a")->front().value == "50%");
  CHECK(lab.counted("a") == lab.freed_with_all("a"));
  CHECK(lab.findings().empty());
}

TEST_CASE("properties stay with the volume, whatever becomes of it, and go with it") {
  LimitLab lab;
  const auto value = [&](const std::string& volume) { return lab.pool->properties(volume)->front().value; };
  CHECK(value("v") == "none");
  CHECK_FALSE(lab.pool->properties("v")->front().is_set);
  REQUIRE(lab.set("v", {{"snapshot-limit", "20%"}, {"on-full", "pause"}}).has_value());
  CHECK(lab.pool->properties("v")->front().is_set);
  REQUIRE(lab.snapshot("v@s").has_value());
  REQUIRE(lab.pool->rename({"v", {}}, "w").has_value());
  CHECK(value("w") == "20%");
  REQUIRE(lab.pool->rollback({"w", "s"}, false, false).has_value());
  {
    const ViewHandle old = lab.view("w");
    REQUIRE(lab.pool->preserve({"w", "p"}).has_value());
    CHECK(value("w") == "20%");
    REQUIRE(old->write(0, block_of(7, kBlockBytes)).has_value());
  }
  lab.reopen();
  CHECK(value("w") == "20%");
  CHECK(lab.pool->properties("w")->back().value == "pause");
  CHECK(lab.info("w").snapshot_space->limit_bytes == 204 * kBlockBytes);
  CHECK(refusal(lab.set("w", {{"on-full", "error"}, {"colour", "red"}})).kind == ErrorKind::usage);
  CHECK(lab.pool->properties("w")->back().value == "pause"); // all or nothing
  REQUIRE(lab.remove("w", {.recursive = true}).has_value());
  lab.create("w", kMiB);
  CHECK(value("w") == "none");
  CHECK(lab.findings().empty());
}

TEST_CASE("no snapshot is dropped where that makes no room") {
  LimitLab lab;
  lab.limit(4, "drop-oldest");
  for (const char* const name : {"v@a", "v@b", "v@c"}) REQUIRE(lab.snapshot(name).has_value());
  REQUIRE(lab.write(0, 4, 2).has_value()); // all three show what was there, and c is the newest
  CHECK(refusal(lab.write(4, 1, 2)).errno_value == ENOSPC);
  for (const char* const name : {"v@a", "v@b", "v@c"}) CHECK(lab.has(name));
  std::uint64_t fresh = LimitLab::kBlocks;
  const auto calls_of_refusal = [&] {
    REQUIRE(lab.write(fresh++, 1, 2).has_value()); // so that a look at the index has something to commit
    const std::uint64_t before = lab.env.calls();
    CHECK(refusal(lab.write(4, 1, 2)).errno_value == ENOSPC);
    return lab.env.calls() - before;
  };
  CHECK(calls_of_refusal() == 0); // nobody looks again, as nothing has changed
  REQUIRE(lab.remove("v@c").has_value());
  CHECK(calls_of_refusal() > 0); // b is the newest now
  for (const char* const name : {"v@a", "v@b"}) REQUIRE(lab.remove(name).has_value());
  REQUIRE(lab.write(4, 1, 2).has_value());
}

TEST_CASE("a limit that is nearly reached shows") {
  LimitLab lab;
  lab.limit(100);
  REQUIRE(lab.snapshot("v@s").has_value());
  REQUIRE(lab.write(0, 79, 2).has_value());
  CHECK(lab.info("v").state.empty());
  CHECK(lab.pool->status().health == "ok");
  REQUIRE(lab.write(79, 4, 2).has_value());
  CHECK(lab.info("v").state.empty()); // nothing is under way
  CHECK(lab.pool->status().health.starts_with("warning: snapshots of lab/v use 83 % of their limit"));
}

TEST_CASE("after a crash at any call a limit and what was dropped for it are as before or after") {
  log::set_level(log::Level::off);
  struct Confirmed {
    bool set = false, dropped = false;
  };
  const auto work = [](LimitLab& lab, Confirmed& confirmed) {
    const auto answered = [&](bool done) { return done && !lab.env.killed(); };
    confirmed.set = answered(
        lab.pool->set_properties("v", {{"snapshot-limit", "32768"}, {"on-full", "drop-oldest"}}).has_value());
    if (!confirmed.set) return;
    const auto v = lab.pool->find({"v", {}});
    const auto handle = v ? lab.pool->open_view(v->id) : Result<ViewHandle>(Failure(v.error()));
    if (!handle) return;
    confirmed.dropped = answered((*handle)->write(0, block_of(2, 12 * kBlockBytes)).has_value());
  };
  const auto make = [](LimitLab& lab) {
    REQUIRE(lab.snapshot("v@a").has_value());
    REQUIRE(lab.write(100, 6, 9).has_value());
    REQUIRE(lab.snapshot("v@b").has_value());
    REQUIRE(lab.pool->sync().has_value());
    lab.pool.reset();
    lab.open({.keep_tail = true});
  };
  std::uint64_t calls = 0;
  {
    LimitLab lab;
    make(lab);
    const std::uint64_t before = lab.env.calls();
    Confirmed confirmed;
    work(lab, confirmed);
    REQUIRE(confirmed.set);
    REQUIRE_FALSE(lab.has("v@a"));
    calls = lab.env.calls() - before;
  }
  REQUIRE(calls > 10);
  for (const bool power : {false, true}) {
    for (std::uint64_t nth = 1; nth <= calls; ++nth) {
      CAPTURE(power, nth);
      LimitLab lab(nth);
      make(lab);
      Confirmed confirmed;
      lab.env.kill_at(nth);
      work(lab, confirmed);
      if (power)
        lab.env.power_cut(nth);
      else if (!lab.env.killed())
        lab.env.kill();
      lab.pool.reset();
      lab.env.kill_at(std::nullopt);
      lab.open({.keep_tail = true});
      REQUIRE(lab.findings().empty());
      const auto properties = *lab.pool->properties("v");
      if (confirmed.set) REQUIRE(properties.front().value == "32768");
      REQUIRE(properties.front().is_set == properties.back().is_set);
      REQUIRE(lab.has("v@b"));
      if (properties.front().is_set) REQUIRE(lab.counted() == lab.freed_with_all());
      REQUIRE(read_from(*lab.view("v@b"), 0) == block_of(1));
      if (lab.has("v@a")) REQUIRE(read_from(*lab.view("v@a"), 100 * kBlockBytes) == block_of(1));
    }
  }
}
