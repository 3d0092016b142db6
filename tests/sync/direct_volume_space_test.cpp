// First writes to granted space, and how they are handed over: the test is the coordinator, with real
// members.
#include <algorithm>
#include <atomic>
#include <barrier>
#include <functional>
#include <map>
#include <optional>
#include <thread>
#include <utility>

#include "core/log.h"
#include "sync/direct_volumes.h"
#include "sync/space_messages.h"
#include "sync/wire.h"
#include "tests/core/refusal.h"
#include "tests/core/small_pool.h"
#include "tests/sync/shared_lab.h"

using namespace vsnap;
using namespace vsnap::test;

namespace {

constexpr ObjectId kVolume(3);
constexpr std::uint64_t kSize = 1ULL << 40; // of the volume
constexpr std::uint64_t kSpace = 4000;      // the first granted block of the member
constexpr Place kOld(0, 7000);              // of a snapshot: block 1 of the volume lies there at first
const std::string kMemory = "vsnap-granted-test";

// What the coordinator knows of the volume, and the messages that come.
class Far final : public DirectVolume::Source {
 public:
  std::atomic<bool> answers_commits{true};
  std::atomic<int> commit_errno{0};
  std::atomic<std::uint64_t> space{1024}; // blocks that are granted at once
  std::function<void()> when_asked;       // for space, by a write that has begun; once

  void call(wire::LinkRequest request, Link::Answered answered) {
    wire::LinkReply reply;
    if (request.has_grant_space() && when_asked) std::exchange(when_asked, {})();
    {
      MutexLock lock(mutex_);
      if (request.has_take_volume()) {
        reply.mutable_taken_volume()->set_number(++number_);
        reply.mutable_taken_volume()->set_size_bytes(kSize);
      } else if (request.has_grant_space()) {
        note("grant");
        const std::uint64_t count = std::min(space.load(), request.grant_space().blocks());
        const PlaceRun run{Place(0, kSpace + given_), BlockCount(count)};
        given_ += count;
        if (count > 0) *reply.mutable_granted_space() = space_messages::to_wire(std::span(&run, 1));
      } else if (request.has_commit_blocks()) {
        note("commit");
        if (!answers_commits) return held_.emplace_back(std::move(request), std::move(answered)), void();
        commit(request, reply);
      } else if (request.has_return_volumes()) {
        note(request.return_volumes().all() ? "all" : "return");
      }
    }
    if (answered) answered(reply);
  }
  void answer_commits() {
    decltype(held_) held;
    {
      MutexLock lock(mutex_);
      answers_commits = true;
      held.swap(held_);
    }
    for (const auto& [request, answered] : held) {
      wire::LinkReply reply;
      {
        MutexLock lock(mutex_);
        commit(request, reply);
      }
      answered(reply);
    }
  }
  Result<std::optional<RegionMap>> fetch_volume_map(ObjectId, RegionIndex region) override {
    MutexLock lock(mutex_);
    ++fetched_;
    RegionMap map;
    for (auto it = map_.lower_bound(first_block(region)); it != map_.end() && region_of(it->first) == region;
         ++it)
      map.push_back({it->first, BlockCount(1), BlockKind::data, it->second, it->second != kOld});
    return map;
  }
  std::optional<Place> place_of(std::uint64_t block) {
    MutexLock lock(mutex_);
    const auto found = map_.find(BlockIndex(block));
    return found == map_.end() ? std::nullopt : std::optional(found->second);
  }
  void discard(std::uint64_t block) {
    MutexLock lock(mutex_);
    note("discard");
    map_.erase(BlockIndex(block));
  }
  std::vector<std::string> events() {
    MutexLock lock(mutex_);
    return events_;
  }
  std::size_t count(const std::string& event) {
    const auto all = events();
    return static_cast<std::size_t>(std::count(all.begin(), all.end(), event));
  }
  std::size_t fetched() {
    MutexLock lock(mutex_);
    return fetched_;
  }

 private:
  void note(const char* event) VSNAP_REQUIRES(mutex_) { events_.emplace_back(event); }
  void commit(const wire::LinkRequest& request, wire::LinkReply& reply) VSNAP_REQUIRES(mutex_) {
    if (commit_errno != 0) {
      wire::Error& error = *reply.mutable_error();
      error.set_errno_value(commit_errno);
      return;
    }
    const auto runs = space_messages::from_wire(request.commit_blocks());
    REQUIRE(runs.has_value());
    for (const MapRun& run : *runs) {
      for (std::uint64_t i = 0; i < run.count.value(); ++i)
        map_[run.start + BlockCount(i)] = run.place + BlockCount(i);
    }
    reply.mutable_done();
  }
  Mutex mutex_;
  std::uint64_t number_ VSNAP_GUARDED_BY(mutex_) = 0;
  std::uint64_t given_ VSNAP_GUARDED_BY(mutex_) = 0;
  std::size_t fetched_ VSNAP_GUARDED_BY(mutex_) = 0;
  std::map<BlockIndex, Place> map_ VSNAP_GUARDED_BY(mutex_) = {{BlockIndex(1), kOld}};
  std::vector<std::string> events_ VSNAP_GUARDED_BY(mutex_);
  std::vector<std::pair<wire::LinkRequest, Link::Answered>> held_ VSNAP_GUARDED_BY(mutex_);
};

class SpaceLab : public SmallPool, private MemberSource {
 public:
  explicit SpaceLab(bool has_memory = true) {
    vsnap::log::set_level(vsnap::log::Level::off);
    env.no_shared_memory(!has_memory);
    stamp(kOld, 9);
    begin();
  }
  ~SpaceLab() {
    far.answer_commits();
    end();
  }
  // A daemon of the host.
  void begin() {
    members = std::make_unique<SharedMembers>(env, pool->status().uuid, paths);
    REQUIRE(members->require(++session_, *this).has_value());
    volumes = std::make_unique<DirectVolumes>(env, *members, far, kMemory);
    volumes->lease_lasts(1'000'000'000'000'000, 1'000'000'000'000'000);
    REQUIRE(volumes
                ->start([this](wire::LinkRequest request, Link::Answered answered) {
                  far.call(std::move(request), std::move(answered));
                })
                .has_value());
    volumes->session_began();
    volume = volumes->opened(kVolume);
  }
  void take() {
    REQUIRE(becomes([this] {
      volumes->wish(kVolume);
      return volume->given() != 0;
    }));
  }
  // It is taken, and has space.
  void grant() {
    take();
    REQUIRE(becomes([this] { return volume->write(0, block_of(1)).value(); }));
  }
  bool end() {
    volume.reset();
    if (!volumes) return true;
    volumes->closed(kVolume);
    const bool done = volumes->close();
    volumes.reset();
    return done;
  }
  void stamp(Place place, std::uint8_t stamp) {
    const auto block = block_of(stamp);
    std::memcpy(env.bytes_of("/a").data() + place.block() * kBlockBytes, block.data(), block.size());
  }
  std::vector<std::byte> stored(Place place) {
    const auto* from = env.bytes_of("/a").data() + place.block() * kBlockBytes;
    return {from, from + kBlockBytes};
  }
  // Of the coordinator, who has to have it by then.
  std::vector<std::byte> far_content(std::uint64_t block) {
    const auto place = far.place_of(block);
    return place ? stored(*place) : block_of(0);
  }
  std::vector<std::byte> read(std::uint64_t offset, std::size_t length = kBlockBytes) {
    std::vector<std::byte> out(length);
    env.let_pass(1'000'000'000); // a map is not fetched anew all the time
    const auto done = volume->read(offset, out);
    REQUIRE(done.has_value());
    REQUIRE(*done == length);
    return out;
  }

  Far far;
  std::unique_ptr<SharedMembers> members;
  std::unique_ptr<DirectVolumes> volumes;
  std::shared_ptr<DirectVolume> volume;

 private:
  Result<PoolStatus> fetch_members() override {
    PoolStatus status = pool->status();
    VSNAP_TRY_ASSIGN(status.mark, pool->mark_members());
    return status;
  }
  std::uint64_t session_ = 0;
};

} // namespace

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
