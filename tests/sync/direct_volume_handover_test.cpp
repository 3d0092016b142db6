// What was written to granted space, where handing it over fails, or takes long: the test is the coordinator,
// with real members.
#include <atomic>
#include <thread>

#include "tests/core/refusal.h"
#include "tests/sync/space_lab.h"

using namespace vsnap;
using namespace vsnap::test;

namespace {

constexpr std::uint64_t kWritten = 7; // a block

struct HandoverLab : SpaceLab {
  HandoverLab() {
    grant();
    REQUIRE(volume->write(kWritten * kBlockBytes, block_of(7)).value());
  }
  // Leaves what is pending to the next process, which it is for to begin().
  void be_killed() {
    far.commit_errno = EIO;
    CHECK_FALSE(end());
    far.commit_errno = 0;
  }
  void recall() { volumes->recalled(volume->given()); }
};

} // namespace

TEST_CASE("what is written while the map is fetched shows, however much else is fetched meanwhile") {
  SpaceLab lab;
  lab.grant();
  const std::uint64_t region = kRegionBlocks * kBlockBytes;
  REQUIRE(lab.volume->write(region, block_of(1)).value());                       // its map is there
  { const DirectVolume::Change change(*lab.volume, region + kBlockBytes, 512); } // but for this block
  const auto fetched = lab.far.fetched();
  lab.far.when_fetched = [&] { // and what is fetched is of before
    REQUIRE(lab.volume->write(region + 7 * kBlockBytes, block_of(7)).value());
    REQUIRE(lab.volume->flush().has_value());
    for (std::uint64_t other = 2; other < DirectVolume::kMaxRegions + 10; ++other)
      lab.read(other * region, 512);
  };
  CHECK(lab.read(region + kBlockBytes) == block_of(0));
  CHECK(lab.far.fetched() > fetched + DirectVolume::kMaxRegions);
  CHECK(lab.far_content(kRegionBlocks + 7) == block_of(7));
  CHECK(lab.read(region + 7 * kBlockBytes) == block_of(7));
}

TEST_CASE("who waits for what another hands over waits no longer than the lease lasts") {
  HandoverLab lab;
  lab.far.answers_commits = false;
  lab.recall();
  REQUIRE(becomes([&] { return lab.far.count("commit") == 1; })); // and hands over whatever the lease does
  Result<> flushed;
  Result<std::optional<std::size_t>> read;
  std::atomic<bool> is_over = false;
  std::thread other([&] {
    flushed = lab.volume->flush();
    std::vector<std::byte> out(kBlockBytes);
    read = lab.volume->read(kWritten * kBlockBytes, out);
    is_over = true;
  });
  lab.volumes->lease_lost();
  CHECK(becomes([&] { return is_over.load(); }));
  CHECK(lab.far.count("commit") == 1);
  lab.far.answer_commits();
  other.join();
  CHECK(refusal(flushed).kind == ErrorKind::no_answer);
  CHECK(refusal(read).errno_value == EIO);
  REQUIRE(becomes([&] { return lab.far.count("return") == 1; }));
  CHECK(lab.far_content(kWritten) == block_of(7));
}

TEST_CASE("a flush that fails when a volume is returned is told by the next fsync") {
  HandoverLab lab;
  REQUIRE(lab.volume->flush().has_value());
  REQUIRE(lab.volume->write(kWritten * kBlockBytes, block_of(8)).value()); // in its place
  const auto failures = lab.volume->flush_failures();
  lab.env.fail_flush_once();
  lab.recall();
  REQUIRE(becomes([&] { return lab.far.count("return") == 1; }));
  CHECK(lab.volume->flush_failures() > failures);
}

TEST_CASE("a volume is not returned as long as the coordinator fails to take what was written to it") {
  HandoverLab lab;
  const auto failures = lab.volume->flush_failures();
  lab.far.commit_errno = ENOSPC;
  lab.recall();
  REQUIRE(becomes([&] { return lab.far.count("commit") > 25; }));
  CHECK(lab.far.count("return") == 0);
  lab.far.commit_errno = 0;
  REQUIRE(becomes([&] { return lab.far.count("return") == 1; }));
  CHECK(lab.far_content(kWritten) == block_of(7));
  CHECK(lab.volume->flush_failures() == failures);
}

TEST_CASE("a volume is returned without what the coordinator refuses, and the next fsync says so") {
  HandoverLab lab;
  const auto failures = lab.volume->flush_failures();
  lab.far.commit_errno = ESTALE;
  lab.recall();
  REQUIRE(becomes([&] { return lab.far.count("return") == 1; }));
  CHECK(lab.far.count("commit") == 1);
  CHECK(lab.volume->flush_failures() > failures);
}

TEST_CASE("what the coordinator fails to take from a daemon that ends, it takes from the next one") {
  HandoverLab lab;
  lab.be_killed();
  CHECK(lab.far.count("return") == 0);
  lab.begin();
  REQUIRE(lab.volumes->await_left(std::chrono::seconds(20)));
  CHECK(lab.far_content(kWritten) == block_of(7));
  CHECK_FALSE(lab.volumes->has_lost(kVolume));
}

TEST_CASE("nothing is opened before what a killed daemon has written is handed over, or lost") {
  HandoverLab lab;
  lab.be_killed();
  lab.far.commit_errno = ENOSPC;
  lab.begin();
  const auto asked = lab.far.count("commit");
  REQUIRE(becomes([&] { return lab.far.count("commit") > asked + 2; }));
  CHECK_FALSE(lab.volumes->await_left({}));
  CHECK_FALSE(lab.volumes->has_lost(kVolume));
  lab.far.commit_errno = 0;
  REQUIRE(lab.volumes->await_left(std::chrono::seconds(20)));
  CHECK(lab.far_content(kWritten) == block_of(7));
}

TEST_CASE("a volume has lost what a killed daemon has written to it, and the coordinator refuses") {
  HandoverLab lab;
  lab.be_killed();
  lab.far.commit_errno = ESTALE;
  lab.begin();
  REQUIRE(lab.volumes->await_left(std::chrono::seconds(20)));
  CHECK(lab.volumes->has_lost(kVolume));
  CHECK_FALSE(lab.volumes->has_lost(ObjectId(kVolume.value() + 1)));
}

TEST_CASE("a volume has lost what a killed daemon has written to it, and cannot be flushed") {
  HandoverLab lab;
  lab.be_killed();
  const auto asked = lab.far.count("commit");
  lab.env.fail_flush_once();
  lab.begin();
  REQUIRE(lab.volumes->await_left(std::chrono::seconds(20)));
  CHECK(lab.volumes->has_lost(kVolume));
  CHECK(lab.far.count("commit") == asked);
}
