// A volume that is delegated to a host, which writes to granted space: the test is the coordinator, with real
// members.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <optional>
#include <utility>

#include "core/log.h"
#include "sync/direct_volumes.h"
#include "sync/space_messages.h"
#include "sync/wire.h"
#include "tests/core/small_pool.h"
#include "tests/sync/shared_lab.h"

namespace vsnap::test {

inline constexpr ObjectId kVolume(3);
inline constexpr std::uint64_t kSize = 1ULL << 40; // of the volume
inline constexpr std::uint64_t kSpace = 4000;      // the first granted block of the member
inline constexpr Place kOld(0, 7000);              // of a snapshot: block 1 of the volume lies there at first
inline const std::string kMemory = "vsnap-granted-test";

// What the coordinator knows of the volume, and the messages that come.
class Far final : public DirectVolume::Source {
 public:
  std::atomic<bool> answers_commits{true};
  std::atomic<bool> answers_grants{true};
  std::atomic<int> commit_errno{0};
  std::atomic<std::uint64_t> space{1024}; // blocks that are granted at once
  std::function<void()> when_asked;       // for space, by a write that has begun; once
  std::function<void()> when_fetched;     // a map, and before it is there; once

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
        if (!answers_grants) return held_grant_ = std::move(answered), void();
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
  void grant_now(std::uint64_t blocks) { // what was asked for; 0: there is none
    answers_grants = true;
    wire::LinkReply reply;
    Link::Answered answered;
    {
      MutexLock lock(mutex_);
      const PlaceRun run{Place(0, kSpace + given_), BlockCount(blocks)};
      given_ += blocks;
      if (blocks > 0) *reply.mutable_granted_space() = space_messages::to_wire(std::span(&run, 1));
      answered = std::move(held_grant_);
    }
    answered(reply);
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
    RegionMap map;
    {
      MutexLock lock(mutex_);
      ++fetched_;
      for (auto it = map_.lower_bound(first_block(region));
           it != map_.end() && region_of(it->first) == region; ++it)
        map.push_back({it->first, BlockCount(1), BlockKind::data, it->second, it->second != kOld});
    }
    if (when_fetched) std::exchange(when_fetched, {})();
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
  Link::Answered held_grant_ VSNAP_GUARDED_BY(mutex_);
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

} // namespace vsnap::test
