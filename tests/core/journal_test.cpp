// The journal on a member: what sync() confirmed is replayed, in order, after any crash.
#include "core/journal.h"

#include <random>
#include <thread>

#include "core/log.h"
#include "core/superblock.h"
#include "tests/core/memory_members.h"
#include "tests/support/seed.h"
#include "tests/support/catch.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kMember = 16ULL << 20;
constexpr std::uint64_t kSegmentBlocks = 64;
constexpr std::uint64_t kStart = format::kHeaderBlocks + 100;

// A member with a journal and the log before it; `applied` and `at` play the catalog.
class Lab {
 public:
  explicit Lab(std::vector<std::string> members_at = {"/a"}) : paths(std::move(members_at)) {
    create_members(env, "lab", paths, kMember);
    open();
  }
  void open() {
    journal.reset();
    members.reset();
    members = open_members(env, paths);
    log = std::make_unique<ChangeLog>(applied, ChangeLog::kMaxLimit, 1000);
    journal = std::make_unique<Journal>(*members, *log);
    journal->attach({Place(0, kStart), BlockCount(kSegmentBlocks)}, members->layout().pool_uuid);
  }
  Result<> replay() {
    return journal->replay(at, applied, [&](const LogRecord& record) -> Result<> {
      replayed.push_back(record.start);
      log->append(record, false);
      return {};
    });
  }
  // As after a crash: the records found.
  std::vector<std::uint64_t> reopen() {
    replayed.clear();
    open();
    const auto done = replay();
    INFO((done ? "" : done.error().message));
    REQUIRE(done.has_value());
    return replayed;
  }
  std::uint64_t append(std::uint64_t start) {
    MapChange c;
    c.branch = BranchId(1);
    c.start = BlockIndex(start % 1000 * kRegionBlocks + start / 1000);
    c.count = BlockCount(1);
    c.place = Place(0, start);
    c.born = Version(1);
    return log->append(c, false);
  }
  // Saves what `stamp` says to the place `block`, of one block.
  std::uint64_t save(std::uint64_t block, std::uint8_t stamp, std::uint32_t member = 0) {
    const std::vector<std::byte> content(kBlockBytes, std::byte{stamp});
    REQUIRE(members->write(Place(member, block), 0, content).has_value());
    MapChange c;
    c.branch = BranchId(1);
    c.start = BlockIndex(block);
    c.count = BlockCount(1);
    c.place = Place(member, block);
    c.born = Version(1);
    c.saves = true;
    c.checksum = crc32c(content);
    return log->append(c, false);
  }
  bool sync() {
    const auto done = journal->sync(log->last());
    REQUIRE(done.has_value());
    return *done;
  }
  void commit() {
    const Journal::Position line = journal->line();
    log->draw_line();
    applied = log->line(); // here the catalog becomes durable
    at = line;
    log->set_committed(applied);
    journal->trim(line);
  }
  SparseBytes& bytes() { return env.bytes_of("/a"); }
  static constexpr std::size_t kAt = kStart * kBlockBytes;

  const std::vector<std::string> paths;
  MemoryEnv env{1};
  std::unique_ptr<MemberSet> members;
  std::unique_ptr<ChangeLog> log;
  std::unique_ptr<Journal> journal;
  std::uint64_t applied = 0;
  Journal::Position at;
  std::vector<std::uint64_t> replayed;
};

} // namespace

TEST_CASE("what was synced is replayed, and nothing else") {
  Lab lab;
  REQUIRE(lab.replay().has_value());
  lab.append(10);
  lab.append(20);
  CHECK(lab.sync());
  lab.append(30);
  CHECK(lab.sync());
  lab.append(40); // nobody asked for it
  lab.env.power_cut(1);
  CHECK(lab.reopen().size() == 3);
  CHECK(lab.log->last() == 3);
}

TEST_CASE("a sync writes nothing when there is nothing new, and nothing again") {
  Lab lab;
  REQUIRE(lab.replay().has_value());
  lab.append(10);
  CHECK(lab.sync());
  const std::uint64_t calls = lab.env.calls();
  CHECK(lab.sync());
  CHECK(lab.env.calls() == calls);
  lab.append(20);
  lab.commit();
  CHECK(lab.sync());
  CHECK(lab.env.calls() == calls);
}

TEST_CASE("a commit takes what it covers out of the journal, and no more") {
  Lab lab;
  REQUIRE(lab.replay().has_value());
  lab.append(10);
  CHECK(lab.sync());
  lab.commit();
  CHECK(lab.reopen().empty());
  lab.append(20);
  CHECK(lab.sync());
  const Journal::Position line = lab.journal->line();
  lab.log->draw_line();
  lab.append(30); // beside the commit
  CHECK(lab.sync());
  lab.applied = lab.log->line();
  lab.at = line;
  CHECK(lab.reopen().size() == 1);
}

TEST_CASE("a frame that straddles the line of a commit is replayed in part") {
  Lab lab;
  REQUIRE(lab.replay().has_value());
  for (std::uint64_t i = 0; i < 10; ++i) lab.append(i);
  CHECK(lab.sync());
  lab.applied = 4; // an earlier batch of a commit that was cut short
  CHECK(lab.reopen().size() == 6);
}

TEST_CASE("a full ring says so, and has room again after a commit") {
  Lab lab;
  REQUIRE(lab.replay().has_value());
  std::uint64_t frames = 0;
  for (; frames < 1000; ++frames) {
    lab.append(frames);
    if (!lab.sync()) break;
  }
  CHECK(frames == kSegmentBlocks);
  CHECK(lab.journal->crowded());
  lab.commit();
  CHECK_FALSE(lab.journal->crowded());
  lab.append(5000);
  CHECK(lab.sync());
  CHECK(lab.reopen().size() == 1);
}

TEST_CASE("more records than a frame holds go into several") {
  Lab lab;
  REQUIRE(lab.replay().has_value());
  for (std::uint64_t i = 0; i < 3000; ++i) lab.append(i);
  CHECK(lab.sync());
  CHECK(lab.reopen().size() == 3000);
}

TEST_CASE("turn after turn of the ring, with commits and crashes in between") {
  const std::uint64_t seed = test_seed();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  Lab lab;
  REQUIRE(lab.replay().has_value());
  std::uint64_t confirmed = 0;
  for (int step = 0; step < 3000; ++step) {
    switch (random() % 8) {
      case 0:
        lab.commit();
        confirmed = std::max(confirmed, lab.applied);
        break;
      case 1: {
        lab.env.power_cut(random());
        const std::uint64_t last = lab.log->last();
        lab.reopen();
        REQUIRE(lab.log->last() >= confirmed);
        REQUIRE(lab.log->last() <= last);
        confirmed = lab.log->last();
        break;
      }
      default: {
        const std::uint64_t count = random() % 4 == 0 ? random() % 400 + 1 : random() % 3 + 1;
        for (std::uint64_t i = 0; i < count; ++i) lab.append(random() % 100000);
        if (lab.sync()) confirmed = lab.log->last();
      }
    }
  }
}

TEST_CASE("a frame that is torn was never there; one that is damaged is noticed by the next") {
  Lab lab;
  REQUIRE(lab.replay().has_value());
  for (std::uint64_t i = 0; i < 3; ++i) {
    lab.append(i);
    CHECK(lab.sync());
  }
  const SparseBytes good = lab.bytes();
  for (std::uint64_t frame = 0; frame < 3; ++frame) {
    for (const std::size_t byte : {0U, 9U, 13U, 17U, 30U, 63U, 64U, 100U, 4095U}) {
      lab.bytes() = good;
      lab.bytes()[Lab::kAt + frame * kBlockBytes + byte] ^= std::byte{4};
      lab.open();
      lab.replayed.clear();
      const auto done = lab.replay();
      CAPTURE(frame, byte);
      CHECK(done.has_value() == (frame == 2));
      CHECK(lab.replayed.size() == frame);
      if (!done) CHECK(done.error().kind == ErrorKind::damaged);
      if (done) continue;
      // Given up, what is left goes on.
      REQUIRE(lab.journal->reset().has_value());
      lab.at = lab.journal->line();
      lab.applied = lab.log->last();
      CHECK(lab.reopen().empty());
      lab.append(77);
      CHECK(lab.sync());
      CHECK(lab.reopen().size() == 1);
      lab.at = {};
      lab.applied = 0;
    }
  }
}

TEST_CASE("frames of another pool are nothing") {
  Lab lab;
  REQUIRE(lab.replay().has_value());
  lab.append(1);
  CHECK(lab.sync());
  lab.open();
  Uuid other = lab.members->layout().pool_uuid;
  other[3] ^= 1;
  lab.journal->attach({Place(0, kStart), BlockCount(kSegmentBlocks)}, other);
  lab.replayed.clear();
  REQUIRE(lab.replay().has_value());
  CHECK(lab.replayed.empty());
}

TEST_CASE("without room below, only a commit can help; the frame is written by a later sync") {
  Lab lab;
  REQUIRE(lab.replay().has_value());
  lab.append(1);
  lab.env.no_space(true);
  CHECK_FALSE(lab.sync());
  lab.env.no_space(false);
  CHECK(lab.sync());
  CHECK(lab.reopen().size() == 1);
}

TEST_CASE("after a failed write nothing is confirmed any more") {
  log::set_level(log::Level::off);
  Lab lab;
  REQUIRE(lab.replay().has_value());
  lab.append(1);
  lab.env.fail_once(1);
  CHECK_FALSE(lab.journal->sync(lab.log->last()).has_value());
  CHECK_FALSE(lab.journal->sync(lab.log->last()).has_value());
  CHECK(lab.members->flush_failed());
}

TEST_CASE("callers at the same time share frames, and each is confirmed") {
  Lab lab;
  REQUIRE(lab.replay().has_value());
  std::atomic<std::uint64_t> unconfirmed{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::uint64_t i = 0; i < 500; ++i) {
        const std::uint64_t wanted = lab.append(t * 1000 + i);
        for (;;) {
          const auto done = lab.journal->sync(wanted);
          if (!done) ++unconfirmed;
          if (!done || *done) break;
          std::this_thread::yield(); // until the commits have made room
        }
      }
    });
  }
  std::thread committer([&] {
    while (!stop) lab.commit();
  });
  for (std::thread& thread : threads) thread.join();
  stop = true;
  committer.join();
  CHECK(unconfirmed == 0);
  lab.env.power_cut(3);
  const std::uint64_t last = lab.log->last();
  lab.reopen();
  CHECK(lab.log->last() == last);
}

TEST_CASE("saves and their frame share a flush, with records that name no data") {
  Lab lab;
  REQUIRE(lab.replay().has_value());
  REQUIRE(lab.members->flush_members().has_value());
  for (std::uint8_t round = 0; round < 3; ++round) {
    lab.env.start_recording();
    const std::uint64_t first = lab.save(1000 + round * 2U, round);
    lab.log->append(size_record(ObjectId(2), round, 0, 0), false);
    const std::uint64_t last = lab.save(1001 + round * 2U, round);
    REQUIRE(lab.journal->needs_no_flush(last));
    const auto done = lab.journal->sync_and_flush(first);
    REQUIRE((done && *done));
    CHECK(lab.journal->durable() == last); // that of whoever comes next, too
    CHECK(lab.journal->flushed() == last);
    std::vector<MemoryEnv::Event::Kind> kinds;
    for (const MemoryEnv::Event& event : lab.env.stop_recording()) kinds.push_back(event.kind);
    using Kind = MemoryEnv::Event::Kind;
    CHECK(kinds == std::vector<Kind>{Kind::write, Kind::write, Kind::write, Kind::flush});
  }
  lab.env.power_cut(1);
  CHECK(lab.reopen() == std::vector<std::uint64_t>{1000, 0, 1001, 1002, 1, 1003, 1004, 2, 1005});
}

TEST_CASE("a record with data that was not flushed keeps saves from going before their flush") {
  Lab lab;
  REQUIRE(lab.replay().has_value());
  const std::uint64_t before = lab.save(1000, 1);
  const std::uint64_t data = lab.append(1001);
  const std::uint64_t after = lab.save(1002, 2);
  CHECK_FALSE(lab.journal->needs_no_flush(after));
  CHECK_FALSE(lab.journal->needs_no_flush(data));
  REQUIRE(lab.members->flush_members().has_value());
  REQUIRE(*lab.journal->sync(data));
  CHECK(lab.journal->needs_no_flush(before));
  CHECK(lab.journal->needs_no_flush(after));
  lab.append(1003); // beyond it
  CHECK_FALSE(lab.journal->needs_no_flush(after));
  CHECK(lab.journal->flushed() == data);
}

TEST_CASE("of a power cut between a frame and its flush: saves count that have their copies, and no others") {
  using Fate = std::size_t;
  for (const bool frame_there : {false, true}) {
    for (unsigned there = 0; there < 4; ++there) {
      Lab lab;
      REQUIRE(lab.replay().has_value());
      lab.save(999, 9);
      REQUIRE(*lab.journal->sync_and_flush(lab.log->last()));
      lab.save(1000, 1);
      lab.save(1001, 2);
      lab.env.kill_at(2); // the flush; the write of the frame was the first call
      CHECK_FALSE(lab.journal->sync_and_flush(lab.log->last()).has_value());
      lab.env.power_cut([&](std::size_t newest) -> Fate { // frame, second copy, first copy
        const bool kept = newest == 0 ? frame_there : newest == 1 ? (there & 2U) != 0 : (there & 1U) != 0;
        return kept ? MemoryEnv::kKept : 0;
      });
      lab.env.kill_at(std::nullopt);
      std::vector<std::uint64_t> expected{999};
      if (frame_there) expected.push_back((there & 1U) != 0 ? 1000 : 0);
      if (frame_there) expected.push_back((there & 2U) != 0 ? 1001 : 0);
      CHECK(lab.reopen() == expected);
      CHECK(lab.log->last() == expected.size()); // their numbers are used
    }
  }
}

TEST_CASE("a save on another member than its frame is durable once both were flushed") {
  for (const bool cut_off : {false, true}) {
    CAPTURE(cut_off);
    Lab lab({"/a", "/b"});
    REQUIRE(lab.replay().has_value());
    REQUIRE(lab.members->flush_members().has_value());
    lab.save(1000, 1);
    lab.save(1001, 2, 1);
    if (cut_off) lab.env.kill_at(3); // after the write of the frame and the flush of its member
    const auto done = lab.journal->sync_and_flush(lab.log->last());
    CHECK(done.has_value() != cut_off);
    CHECK(lab.journal->durable() == (cut_off ? 0 : 2));
    lab.env.power_cut([](std::size_t) { return std::size_t{0}; });
    lab.env.kill_at(std::nullopt);
    CHECK(lab.reopen() == std::vector<std::uint64_t>{1000, cut_off ? 0U : 1001U});
  }
}
