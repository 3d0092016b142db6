#include "core/change_log.h"

#include <thread>

#include "tests/support/catch.h"

using namespace vsnap;

namespace {

MapChange change(std::uint64_t start) {
  MapChange c;
  c.branch = BranchId(1);
  c.start = BlockIndex(start);
  c.count = BlockCount(1);
  c.place = Place(0, 100 + start);
  c.born = Version(1);
  return c;
}

} // namespace

TEST_CASE("numbers go on from what the catalog has") {
  ChangeLog log(41, 10, 10);
  CHECK(log.last() == 41);
  CHECK(log.append(change(0), false) == 42);
  CHECK(log.append(change(1), false) == 43);
  CHECK(log.last() == 43);
  CHECK(log.line() == 41);
  CHECK(log.committed() == 41);
}

TEST_CASE("a line parts the records of one commit from those of the next") {
  ChangeLog log(0, 10, 10);
  log.append(change(0), false);
  log.append(change(1), false);
  CHECK(log.draw_line() == 2);
  log.append(change(2), false);
  std::vector<std::uint64_t> starts;
  log.each(log.committed(), log.line(), [&](const LogRecord& record) { starts.push_back(record.start); });
  CHECK(starts == std::vector<std::uint64_t>{0, 1});
  log.set_committed(2);
  CHECK(log.committed() == 2);
  CHECK(log.last() == 3);
}

TEST_CASE("a copy leaves out what is committed") {
  ChangeLog log(0, 10, 10);
  for (std::uint64_t i = 0; i < 5; ++i) log.append(change(i), false);
  log.draw_line();
  log.set_committed(3);
  std::vector<LogRecord> records;
  log.copy(1, 5, records);
  REQUIRE(records.size() == 2);
  CHECK(records[0].sequence == 4);
  CHECK(records[1].sequence == 5);
}

TEST_CASE("a log is full at twice its limit, and at its limit beyond the line") {
  ChangeLog log(0, 4, 100);
  for (std::uint64_t i = 0; i < 3; ++i) log.append(change(i), false);
  CHECK_FALSE(log.full());
  log.append(change(3), false);
  CHECK(log.full());
  log.draw_line(); // a commit is under way
  CHECK_FALSE(log.full());
  for (std::uint64_t i = 4; i < 8; ++i) log.append(change(i), false);
  CHECK(log.full());
  log.set_committed(4);
  CHECK(log.full());
  log.draw_line();
  CHECK_FALSE(log.full());
}

TEST_CASE("what no commit could store counts") {
  ChangeLog log(0, 4, 100);
  for (std::uint64_t i = 0; i < 8; ++i) {
    log.append(change(i), false);
    log.draw_line(); // and the commit fails
    log.withdraw_line();
    CHECK(log.full() == (i >= 3));
  }
}

TEST_CASE("regions of a commit that failed count again, those of one that did not are forgotten") {
  ChangeLog log(0, 100, 4);
  log.append(change(0), true);
  log.append(change(kRegionBlocks), true);
  log.draw_line();
  log.append(change(2 * kRegionBlocks), true);
  CHECK_FALSE(log.full());
  log.withdraw_line();
  log.append(change(3 * kRegionBlocks), true);
  CHECK(log.full());
  log.set_committed(log.draw_line());
  log.append(change(4 * kRegionBlocks), true);
  log.draw_line();
  log.withdraw_line();
  CHECK_FALSE(log.full());
}

TEST_CASE("a log is full with records in too many regions, and asks for a commit before") {
  ChangeLog log(0, 100, 8);
  for (std::uint64_t i = 0; i < 8; ++i) {
    CHECK(log.wants_commit() == (i >= 2));
    CHECK_FALSE(log.full());
    log.append(change(i * kRegionBlocks), true);
  }
  CHECK(log.full());
  log.draw_line();
  CHECK_FALSE(log.wants_commit());
}

TEST_CASE("slots are used again, turn after turn") {
  ChangeLog log(0, ChangeLog::kMaxLimit, 100);
  for (std::uint64_t i = 1; i <= 3 * ChangeLog::kSlots; ++i) {
    log.append(change(i), false);
    if (i % 1000 != 0) continue;
    const std::uint64_t line = log.draw_line();
    log.each(log.committed(), line,
             [&](const LogRecord& record) { REQUIRE(record.start == record.sequence); });
    log.set_committed(line);
  }
}

TEST_CASE("records of several threads are whole when their number is reached") {
  ChangeLog log(0, ChangeLog::kMaxLimit, 100);
  constexpr std::uint64_t kEach = 20000;
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&log, t] {
      for (std::uint64_t i = 0; i < kEach; ++i) {
        MapChange c = change(i);
        c.place = Place(0, i);
        c.branch = BranchId(t + 1);
        log.append(c, false);
      }
    });
  }
  std::array<std::uint64_t, 3> seen{};
  std::uint64_t broken = 0;
  while (log.committed() < 3 * kEach) {
    const std::uint64_t line = log.draw_line();
    log.each(log.committed(), line, [&](const LogRecord& record) {
      std::uint64_t& next = seen[record.subject - 1];
      if (record.start != next || record.place != next) ++broken;
      ++next;
    });
    log.set_committed(line);
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(broken == 0);
}
