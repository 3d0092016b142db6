// First writes to granted space, and how they are handed over: the test is the coordinator, with real
// members.
#include <atomic>
#include <barrier>
#include <thread>

#include "tests/core/refusal.h"
#include "tests/sync/space_lab.h"

using namespace vsnap;
using namespace vsnap::test;

TEST_CASE("blocks are written for the first time without a message, and handed over by a flush") {
  SpaceLab lab;
  lab.grant();
  for (std::uint64_t block = 2; block < 100; ++block)
    REQUIRE(lab.volume->write(block * kBlockBytes, block_of(static_cast<std::uint8_t>(block))).value());
  CHECK(lab.far.count("grant") == 1);
  CHECK(lab.read(50 * kBlockBytes) == block_of(50));
  REQUIRE(lab.volume->write(50 * kBlockBytes, block_of(51)).value()); // in its place
  REQUIRE(lab.volume->flush().has_value());
  const auto commits = lab.far.count("commit");
  CHECK(lab.far_content(50) == block_of(51));
  CHECK(lab.far_content(99) == block_of(99));
  REQUIRE(lab.volume->write(50 * kBlockBytes, block_of(52)).value());
  REQUIRE(lab.volume->flush().has_value());
  CHECK(lab.far.count("commit") == commits);
  CHECK(lab.far_content(50) == block_of(52));
}

// A first write, which waits for space.
struct WaitingWrite {
  SpaceLab lab;
  Result<bool> written = false;
  std::atomic<bool> has_ended = false;
  std::thread writer;

  WaitingWrite() {
    lab.far.answers_grants = false;
    lab.take();
    writer = std::thread([this] {
      written = lab.volume->write(7 * kBlockBytes, block_of(7));
      has_ended = true;
    });
    REQUIRE(becomes([this] { return lab.far.count("grant") == 1; }));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    CHECK_FALSE(has_ended.load());
  }
  bool ends() {
    const bool done = becomes([this] { return has_ended.load(); });
    if (!done) lab.far.grant_now(0);
    writer.join();
    return done;
  }
};

TEST_CASE("a write waits for the space that has been asked for") {
  WaitingWrite waiting;
  waiting.lab.far.grant_now(1024);
  REQUIRE(waiting.ends());
  CHECK(waiting.written.value());
  CHECK(waiting.lab.read(7 * kBlockBytes) == block_of(7));
  CHECK(waiting.lab.far.count("grant") == 1);
}

TEST_CASE("a host that is granted less than it asks for asks again when half of that is used up") {
  SpaceLab lab;
  lab.grant();
  lab.far.space = 300;
  std::uint64_t block = 1;
  const auto write_until = [&](std::size_t grants) {
    while (lab.far.count("grant") < grants)
      REQUIRE(lab.volume->write(++block * kBlockBytes, block_of(1)).value());
  };
  write_until(2);
  const std::uint64_t then = block;
  write_until(4);
  CHECK(block - then > 300); // not with each write
}

TEST_CASE("a write for which there is no space is the coordinator's") {
  WaitingWrite waiting;
  waiting.lab.far.grant_now(0);
  REQUIRE(waiting.ends());
  CHECK_FALSE(waiting.written.value());
  CHECK_FALSE(
      waiting.lab.volume->write(8 * kBlockBytes, block_of(8)).value()); // it does not ask at once again
  CHECK(waiting.lab.far.count("grant") == 1);
}

TEST_CASE("a write that waits for space keeps no volume from being returned") {
  WaitingWrite waiting;
  waiting.lab.volumes->recalled(waiting.lab.volume->given());
  REQUIRE(waiting.ends());
  CHECK_FALSE(waiting.written.value());
  CHECK(becomes([&] { return waiting.lab.far.count("return") == 1; }));
  waiting.lab.far.grant_now(1024);
}

TEST_CASE("of a block that is written in part the rest is what it showed, and a snapshot's block stays") {
  SpaceLab lab;
  lab.grant();
  REQUIRE(lab.volume->write(kBlockBytes + 100, block_of(3, 200)).value());
  REQUIRE(lab.volume->write(4 * kBlockBytes + 100, block_of(4, 2 * kBlockBytes)).value());
  CHECK(lab.read(kBlockBytes, 100) == block_of(9, 100));
  CHECK(lab.read(kBlockBytes + 100, 200) == block_of(3, 200));
  CHECK(lab.read(kBlockBytes + 300, kBlockBytes - 300) == block_of(9, kBlockBytes - 300));
  CHECK(lab.read(4 * kBlockBytes, 100) == block_of(0, 100));
  CHECK(lab.read(4 * kBlockBytes + 100, 2 * kBlockBytes) == block_of(4, 2 * kBlockBytes));
  CHECK(lab.read(6 * kBlockBytes + 100, 300) == block_of(0, 300));
  CHECK(lab.stored(kOld) == block_of(9));
  REQUIRE(lab.volume->flush().has_value());
  CHECK(lab.far.place_of(1) != kOld);
}

TEST_CASE("what is pending is handed over before the coordinator is asked for anything of it") {
  SpaceLab lab;
  lab.grant();
  REQUIRE(lab.volume->write(7 * kBlockBytes, block_of(7)).value());
  {
    DirectVolume::Change elsewhere(*lab.volume, 8 * kBlockBytes, kBlockBytes);
    REQUIRE(elsewhere.ready().has_value());
  }
  {
    DirectVolume::Change change(*lab.volume, 7 * kBlockBytes, 512);
    REQUIRE(change.ready().has_value());
    CHECK(lab.far_content(7) == block_of(7));
    lab.far.discard(7);
  }
  CHECK(lab.read(7 * kBlockBytes) == block_of(0));
  REQUIRE(lab.volume->write(8 * kBlockBytes, block_of(8)).value());
  {
    DirectVolume::Change change(*lab.volume, 0, DirectVolume::Change::kAll);
    REQUIRE(change.ready().has_value());
    CHECK(lab.far_content(8) == block_of(8));
  }
  CHECK(lab.read(8 * kBlockBytes) == block_of(8));
}

TEST_CASE("the coordinator is not asked for a change while it has not taken what was before") {
  SpaceLab lab;
  lab.grant();
  REQUIRE(lab.volume->write(7 * kBlockBytes, block_of(7)).value());
  lab.far.commit_errno = ENOSPC;
  {
    DirectVolume::Change change(*lab.volume, 7 * kBlockBytes, 512);
    CHECK(refusal(change.ready()).errno_value == EIO);
  }
  CHECK_FALSE(lab.volume->flush().has_value());
  CHECK(lab.read(7 * kBlockBytes) == block_of(7));
  lab.far.commit_errno = 0;
  REQUIRE(lab.volume->flush().has_value());
  CHECK(lab.far_content(7) == block_of(7));
}

TEST_CASE("a volume is returned when what was written to it has been handed over") {
  SpaceLab lab;
  lab.grant();
  REQUIRE(lab.volume->write(7 * kBlockBytes, block_of(7)).value());
  lab.far.answers_commits = false;
  lab.volumes->recalled(lab.volume->given());
  REQUIRE(becomes([&] { return lab.far.count("commit") == 1; }));
  std::atomic<bool> has_read = false;
  std::thread reader([&] { // the coordinator would say what was there before
    std::vector<std::byte> out(kBlockBytes);
    CHECK_FALSE(lab.volume->read(7 * kBlockBytes, out).value());
    CHECK(lab.far_content(7) == block_of(7));
    has_read = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  CHECK(lab.far.count("return") == 0);
  CHECK_FALSE(has_read.load());
  lab.far.answer_commits();
  reader.join();
  CHECK(becomes([&] { return lab.far.count("return") == 1; }));
  CHECK(lab.far_content(7) == block_of(7));
}

TEST_CASE("a map that is fetched leaves what is pending as it is") {
  SpaceLab lab;
  lab.grant();
  lab.far.answers_commits = false;
  REQUIRE(lab.volume->write(7 * kBlockBytes, block_of(7)).value());
  { const DirectVolume::Change change(*lab.volume, 8 * kBlockBytes, kBlockBytes); } // is unknown from here on
  const auto fetched = lab.far.fetched();
  CHECK(lab.read(8 * kBlockBytes) == block_of(0));
  CHECK(lab.far.fetched() > fetched);
  CHECK(lab.read(7 * kBlockBytes) == block_of(7));
}

TEST_CASE("however much of the map is fetched, what is pending is known") {
  SpaceLab lab;
  lab.grant();
  lab.far.answers_commits = false;
  const std::uint64_t written = (kRegionBlocks + 7) * kBlockBytes;
  REQUIRE(lab.volume->write(written, block_of(7)).value());
  for (std::uint64_t region = 1; region < DirectVolume::kMaxRegions + 10; ++region)
    lab.read(region * kRegionBlocks * kBlockBytes, 512);
  const auto fetched = lab.far.fetched();
  CHECK(lab.read(written) == block_of(7));
  CHECK(lab.far.fetched() == fetched);
}

TEST_CASE("what the coordinator will not take any more is lost, and the next flush says so") {
  SpaceLab lab;
  lab.grant();
  REQUIRE(lab.volume->write(7 * kBlockBytes, block_of(7)).value());
  const auto failures = lab.volume->flush_failures();
  lab.far.commit_errno = ESTALE;
  CHECK(refusal(lab.volume->flush()).errno_value == EIO);
  CHECK(lab.volume->flush_failures() > failures);
  CHECK(lab.volume->given() == 0);
  std::vector<std::byte> out(kBlockBytes);
  CHECK_FALSE(lab.volume->read(7 * kBlockBytes, out).value());
}

TEST_CASE("what a daemon that was killed has written is handed over before the host gives all up") {
  SpaceLab lab;
  lab.grant();
  REQUIRE(lab.volume->write(7 * kBlockBytes, block_of(7)).value());
  lab.far.answers_commits = false;
  CHECK_FALSE(lab.end());
  CHECK(lab.far.count("return") == 0);
  lab.begin();
  REQUIRE(becomes([&] { return lab.far.count("commit") == 2; }));
  CHECK_FALSE(lab.end()); // killed as well, before that was answered
  lab.begin();
  const auto asked = lab.far.count("commit");
  REQUIRE(becomes([&] { return lab.far.count("commit") > asked; }));
  CHECK(lab.far.count("all") == 1); // the first process's
  lab.far.answer_commits();
  REQUIRE(lab.volumes->await_left(std::chrono::seconds(20)));
  CHECK(lab.far_content(7) == block_of(7));
  REQUIRE(becomes([&] { return lab.far.count("all") == 2; }));
  lab.grant(); // in memory of its own
  CHECK(lab.end());
  CHECK(lab.env.shared_memory_names(kMemory).empty());
}

TEST_CASE("without memory that outlives the daemon no space is used") {
  SpaceLab lab(false);
  lab.take();
  for (int i = 0; i < 20; ++i) CHECK_FALSE(lab.volume->write(0, block_of(1)).value());
  CHECK(lab.far.count("grant") == 0);
}

TEST_CASE("space is asked for ahead of need, and not again at once where there is none") {
  SpaceLab lab;
  lab.grant();
  const std::vector<std::byte> much = block_of(5, 256 * kBlockBytes);
  std::size_t here = 0;
  for (std::uint64_t i = 1; i < 100; ++i) {
    here += lab.volume->write(i * much.size(), much).value() ? 1 : 0;
    if (lab.far.count("grant") == 3) lab.far.space = 0;
  }
  CHECK(here >= 8);
  CHECK(here < 16);
  CHECK(lab.far.count("grant") < 20);
  lab.env.let_pass(1'000'000'000);
  lab.far.space = 1024;
  CHECK(becomes([&] { return lab.volume->write(much.size() * 200, much).value(); }));
}

TEST_CASE("a block that another write has given a place meanwhile is overwritten there") {
  SpaceLab lab;
  lab.grant();
  lab.far.space = 0;
  for (std::uint64_t i = 1; i <= 3; ++i) // then there is so little that more is asked for
    REQUIRE(lab.volume->write(i * 200 * kBlockBytes, block_of(3, 200 * kBlockBytes)).value());
  lab.env.let_pass(1'000'000'000);
  bool was_asked = false;
  lab.far.when_asked = [&] {
    was_asked = true;
    std::thread other([&] { CHECK(lab.volume->write(7 * kBlockBytes, block_of(8)).value()); });
    other.join();
    CHECK(lab.read(7 * kBlockBytes) == block_of(8));
  };
  REQUIRE(lab.volume->write(6 * kBlockBytes, block_of(7, 2 * kBlockBytes)).value());
  CHECK(was_asked);
  CHECK(lab.read(6 * kBlockBytes, 2 * kBlockBytes) == block_of(7, 2 * kBlockBytes));
  REQUIRE(lab.volume->flush().has_value());
  CHECK(lab.far_content(6) == block_of(7));
  CHECK(lab.far_content(7) == block_of(7));
}

TEST_CASE("of writes to one block at once each leaves it whole, and in one place") {
  SpaceLab lab;
  lab.grant();
  constexpr std::uint64_t kRounds = 80, kBlocks = 32;
  std::barrier round(2);
  std::vector<std::thread> writers;
  for (std::uint8_t stamp = 1; stamp <= 2; ++stamp) {
    writers.emplace_back([&lab, &round, stamp] {
      for (std::uint64_t at = 1; at < kRounds; ++at) {
        round.arrive_and_wait();
        CHECK(lab.volume->write(at * kBlocks * kBlockBytes, block_of(stamp, kBlocks * kBlockBytes))
                  .has_value());
        if (at % 16 == stamp) CHECK(lab.volume->flush().has_value());
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  REQUIRE(lab.volume->flush().has_value());
  for (std::uint64_t block = kBlocks; block < kRounds * kBlocks; ++block) {
    const auto here = lab.read(block * kBlockBytes);
    CHECK(here == block_of(std::to_integer<std::uint8_t>(here[0])));
    CHECK(lab.far_content(block) == here);
  }
}
