// The process dies (kill -9), the machine stays: what was answered is there when the pool is opened again,
// with or without fsync, whenever it happened.
#include <atomic>
#include <chrono>
#include <map>
#include <random>
#include <thread>

#include "core/log.h"
#include "tests/support/seed.h"
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

OpenPoolOptions with_tail() {
  OpenPoolOptions options;
  options.keep_tail = true;
  return options;
}

class KillLab : public SmallPool {
 public:
  explicit KillLab(std::uint64_t seed = 1, std::uint64_t size_bytes = 32 * kMiB)
      : SmallPool(size_bytes, seed) {
    log::set_level(log::Level::off);
    pool.reset();
    open(with_tail());
  }
  void kill() {
    env.kill();
    pool.reset();
  }
  [[nodiscard]] std::size_t tails() { return env.shared_memory_names("vsnap-tail-").size(); }
};

// A volume that is written, and what it may hold now: one content for each block, or two for the block of a
// change that was not answered.
struct Expected {
  std::map<std::uint64_t, std::uint8_t> blocks;
  std::optional<std::pair<std::uint64_t, std::uint8_t>> open; // asked for, not answered

  void require(View& view, std::uint64_t count) const {
    for (std::uint64_t block = 0; block < count; ++block) {
      CAPTURE(block);
      const auto found = read_from(view, block * kBlockBytes);
      const auto known = blocks.find(block);
      const auto old = block_of(known == blocks.end() ? 0 : known->second);
      CAPTURE(int(found[0]), int(old[0]));
      const bool is_old = found == old;
      const bool is_new = open && open->first == block && found == block_of(open->second);
      REQUIRE((is_old || is_new));
    }
  }
};

constexpr std::uint64_t kBlocks = 48;

// Random work until something fails; what is confirmed goes into `v` and `s`, a snapshot's content.
void work(KillLab& lab, std::mt19937_64& random, int operations, Expected& v, Expected& s, bool& snapshot) {
  auto found = lab.pool->find({"v", {}});
  if (!found) return;
  auto opened = lab.pool->open_view(found->id);
  if (!opened) return;
  View& view = **opened;
  for (int i = 0; i < operations; ++i) {
    const std::uint64_t block = random() % kBlocks;
    const std::uint64_t dice = random() % 20;
    Result<> done;
    if (dice < 12) {
      v.open = {block, static_cast<std::uint8_t>(random() % 255 + 1)};
      done = view.write(block * kBlockBytes, block_of(v.open->second));
    } else if (dice < 15) {
      v.open = {block, std::uint8_t{0}};
      done = view.discard(block * kBlockBytes, kBlockBytes);
    } else if (dice < 17) {
      done = view.fsync();
    } else if (!snapshot) {
      done = lab.snapshot("v@s");
      snapshot = done.has_value() && !lab.env.killed();
      if (snapshot) s = v;
    } else if (auto removed = lab.remove("v@s"); !removed) {
      snapshot = false; // perhaps
      return;
    } else {
      snapshot = false; // removed, or, if it died, perhaps
    }
    if (!done || lab.env.killed()) return; // whoever is dead has not answered, whatever it believes
    if (v.open) v.blocks[v.open->first] = v.open->second;
    v.open.reset();
  }
}

} // namespace

TEST_CASE("a killed daemon loses nothing that it answered, though nobody called fsync") {
  KillLab lab;
  lab.create("v", 4 * kMiB);
  {
    ViewHandle v = lab.view("v");
    REQUIRE(v->write(0, block_of(1)).has_value());
    REQUIRE(lab.snapshot("v@s").has_value());
    REQUIRE(v->write(0, block_of(2)).has_value());
    REQUIRE(v->write(5 * kMiB + 7, block_of(3, 100)).has_value()); // and its size
    REQUIRE(v->discard(kBlockBytes, kBlockBytes).has_value());
  }
  lab.kill();
  lab.open(with_tail());
  ViewHandle v = lab.view("v");
  CHECK(v->size_bytes() == 5 * kMiB + 107);
  CHECK(read_from(*v, 0) == block_of(2));
  CHECK(read_from(*v, 5 * kMiB + 7, 100) == block_of(3, 100));
  CHECK(read_from(*lab.view("v@s"), 0) == block_of(1));
  CHECK(lab.findings().empty());
}

TEST_CASE(
    "what came back after a kill is durable before anything else: a power cut cannot take it any more") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    KillLab lab(seed);
    lab.create("v", 4 * kMiB);
    {
      ViewHandle v = lab.view("v");
      for (std::uint64_t block = 0; block < 30; ++block)
        REQUIRE(v->write(block * kBlockBytes, block_of(static_cast<std::uint8_t>(block + 1))).has_value());
    }
    lab.kill();
    lab.open(with_tail());
    lab.env.power_cut(seed);
    lab.pool.reset();
    lab.open(with_tail());
    ViewHandle v = lab.view("v");
    for (std::uint64_t block = 0; block < 30; ++block)
      REQUIRE(read_from(*v, block * kBlockBytes) == block_of(static_cast<std::uint8_t>(block + 1)));
    REQUIRE(lab.findings().empty());
  }
}

TEST_CASE("a tail is never used after a power cut, nor in another boot") {
  KillLab lab;
  lab.create("v", kMiB);
  {
    ViewHandle v = lab.view("v");
    REQUIRE(v->write(0, block_of(1)).has_value());
    REQUIRE(v->fsync().has_value());
    REQUIRE(v->write(kBlockBytes, block_of(2)).has_value());
  }
  lab.env.kill();
  lab.env.new_boot();
  lab.pool.reset();
  lab.open(with_tail());
  CHECK(read_from(*lab.view("v"), 0) == block_of(1));
  CHECK(read_from(*lab.view("v"), kBlockBytes) == block_of(0));
  CHECK(lab.findings().empty());
}

TEST_CASE("a tail is never used once a flush has failed, whoever noticed it") {
  for (const bool at_recovery : {false, true}) {
    CAPTURE(at_recovery);
    KillLab lab;
    lab.create("v", kMiB);
    {
      ViewHandle v = lab.view("v");
      REQUIRE(v->write(0, block_of(1)).has_value());
      REQUIRE(v->fsync().has_value());
      REQUIRE(v->write(kBlockBytes, block_of(2)).has_value());
      if (!at_recovery) {
        lab.env.fail_flush_once();
        REQUIRE_FALSE(v->fsync().has_value());
      }
    }
    lab.kill();
    OpenPoolOptions options = with_tail();
    options.member_paths = lab.paths;
    if (at_recovery) {
      lab.env.fail_flush_once();
      REQUIRE_FALSE(Pool::open(lab.env, options).has_value());
    }
    const auto refused = Pool::open(lab.env, options); // also after a kill in the very moment
    REQUIRE_FALSE(refused.has_value());
    CHECK(refused.error().kind == ErrorKind::damaged);
    lab.open_checked();
    lab.pool.reset();
    lab.open(with_tail());
    CHECK(read_from(*lab.view("v"), 0) == block_of(1));
    CHECK(read_from(*lab.view("v"), kBlockBytes) == block_of(0));
    CHECK(lab.findings().empty());
  }
}

TEST_CASE("a tail is used once: whoever opens the pool next, and closes it or is cut off, ends it") {
  for (const bool keep : {false, true}) {
    CAPTURE(keep);
    KillLab lab;
    lab.create("v", kMiB);
    REQUIRE(lab.view("v")->write(0, block_of(1)).has_value());
    lab.kill();
    REQUIRE(lab.tails() == 1);
    OpenPoolOptions options;
    options.keep_tail = keep;
    lab.open(options); // a command, or another daemon
    REQUIRE(lab.tails() == (keep ? 1 : 0));
    REQUIRE(lab.view("v")->write(0, block_of(2)).has_value());
    REQUIRE(lab.view("v")->write(kBlockBytes, block_of(3)).has_value());
    REQUIRE(lab.pool->close().has_value());
    lab.pool.reset();
    REQUIRE(lab.tails() == 0);
    lab.open(with_tail());
    CHECK(read_from(*lab.view("v"), 0) == block_of(2));
    CHECK(read_from(*lab.view("v"), kBlockBytes) == block_of(3));
    CHECK(lab.findings().empty());
  }
}

TEST_CASE("without memory for a tail the pool works, and says what it cannot keep") {
  KillLab lab;
  lab.pool.reset();
  lab.env.no_shared_memory(true);
  lab.open(with_tail());
  lab.env.no_shared_memory(false);
  lab.create("v", kMiB);
  {
    ViewHandle v = lab.view("v");
    REQUIRE(v->write(0, block_of(1)).has_value());
    REQUIRE(v->fsync().has_value());
    REQUIRE(v->write(kBlockBytes, block_of(2)).has_value());
  }
  lab.kill();
  lab.open(with_tail());
  CHECK(read_from(*lab.view("v"), 0) == block_of(1));
  CHECK(lab.findings().empty());
}

TEST_CASE("losses are counted where something that was answered may be gone, and nowhere else") {
  KillLab lab;
  lab.create("v", kMiB);
  const auto write = [&] { REQUIRE(lab.view("v")->write(0, block_of(1)).has_value()); };
  write();
  lab.kill();
  lab.open(with_tail());
  CHECK(lab.pool->losses() == 0); // the tail had it
  write();
  REQUIRE(lab.pool->close().has_value());
  lab.pool.reset();
  lab.open(with_tail());
  CHECK(lab.pool->losses() == 0); // the catalog has it
  for (std::uint64_t round = 1; round < 3; ++round) {
    write();
    lab.env.power_cut(round);
    lab.pool.reset();
    lab.open(with_tail());
    CHECK(lab.pool->losses() == round);
  }
  lab.env.no_shared_memory(true);
  REQUIRE(lab.pool->close().has_value());
  for (std::uint64_t losses : {2, 3, 4}) { // without a tail a kill is enough
    lab.pool.reset();
    lab.open(with_tail());
    CHECK(lab.pool->losses() == losses);
    lab.kill();
  }
}

TEST_CASE("killed at any call of a workload, and again at any call of the recovery") {
  const std::uint64_t seed = test_seed();
  CAPTURE(seed);
  for (std::uint64_t round = 0; round < 300; ++round) {
    CAPTURE(round);
    std::mt19937_64 random(seed + round);
    KillLab lab(seed + round, 24 * kMiB);
    lab.create("v", kBlocks * kBlockBytes);
    Expected v, s;
    bool snapshot = false;
    for (int life = 0; life < 4; ++life) {
      CAPTURE(life);
      lab.env.kill_at(1 + random() % 60);
      const bool had = snapshot;
      work(lab, random, 60, v, s, snapshot);
      const bool died = lab.env.killed();
      if (!died) lab.env.kill();
      lab.pool.reset();
      for (std::uint64_t most = 40;; most *= 2) { // the recovery
        lab.env.kill_at(1 + random() % most);
        OpenPoolOptions options = with_tail();
        options.member_paths = lab.paths;
        auto opened = Pool::open(lab.env, options);
        if (lab.env.killed()) continue;
        lab.env.kill_at(std::nullopt);
        INFO((opened ? "" : opened.error().message));
        REQUIRE(opened.has_value());
        lab.pool = std::move(*opened);
        break;
      }
      REQUIRE(lab.findings().empty());
      v.require(*lab.view("v"), kBlocks);
      const bool there = lab.pool->find({"v", "s"}).has_value();
      if (snapshot) REQUIRE(there);
      if (!there) {
        snapshot = false;
      } else if (snapshot) {
        s.require(*lab.view("v@s"), kBlocks);
      } else { // taken but not answered, or its removal was not: nothing is known of it but that it can go
        REQUIRE((died || had));
        REQUIRE(lab.remove("v@s").has_value());
      }
      // What was not answered is what it is now.
      if (v.open) {
        const auto now = read_from(*lab.view("v"), v.open->first * kBlockBytes);
        v.blocks[v.open->first] = static_cast<std::uint8_t>(now[0]);
        v.open.reset();
      }
    }
  }
}

TEST_CASE("killed at any call while the catalog and its copy grow, the copy is whole all the same") {
  log::set_level(log::Level::off);
  for (const bool at_opening : {false, true}) {
    bool died = true;
    for (std::uint64_t nth = 1; died; ++nth) {
      CAPTURE(at_opening, nth);
      SmallPool lab(16 * kMiB);
      if (at_opening) { // a pool from before there were copies
        lab.pool.reset();
        auto members = MemberSet::open(lab.env, lab.paths, "test", 0);
        REQUIRE(members.has_value());
        for (const MetadataSegment& segment : (*members)->layout().segments) {
          if (segment.file != MetadataFile::copy) continue;
          const auto zeros = block_of(0, bytes(segment.run.count));
          REQUIRE((*members)->write(segment.run.start, 0, zeros).has_value());
        }
        REQUIRE((*members)->update_layout([](Superblock& layout) {
          std::erase_if(layout.segments,
                        [](const MetadataSegment& s) { return s.file == MetadataFile::copy; });
          layout.incompat &= ~format::kFeatureCopy;
        }));
        members->reset();
        lab.env.kill_at(nth);
        static_cast<void>(Pool::open(lab.env, {.member_paths = lab.paths}));
      } else {
        lab.env.kill_at(nth);
        static_cast<void>(lab.pool->add_member({"/b", 64 * kMiB}, false));
        static_cast<void>(lab.pool->create_volume("v", kMiB));
      }
      died = lab.env.killed();
      if (!died) lab.env.kill();
      lab.pool.reset();
      lab.env.kill_at(std::nullopt);
      auto opened = Pool::open(lab.env, {.member_paths = lab.paths});
      if (!opened) opened = Pool::open(lab.env, {.member_paths = {"/a", "/b"}});
      INFO((opened ? "" : opened.error().message));
      REQUIRE(opened.has_value());
      lab.pool = std::move(*opened);
      REQUIRE(lab.findings().empty());
    }
  }
}

TEST_CASE("writes beside a snapshot that is never confirmed belong to the volume all the same") {
  const std::uint64_t seed = test_seed();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 150; ++round) {
    CAPTURE(round);
    std::atomic<std::uint64_t> writes{0};
    std::atomic<bool> writing{false};
    KillLab lab(seed + static_cast<std::uint64_t>(round), 24 * kMiB);
    lab.create("v", kBlocks * kBlockBytes);
    std::vector<std::uint8_t> answered(kBlocks);
    // So that writes go on beside each step, where nothing holds them; not to all blocks.
    constexpr std::uint64_t kMeanwhile = kBlocks * 2 / 3;
    lab.env.during_durable_writes([&] {
      const std::uint64_t before = writes;
      const auto enough = std::chrono::steady_clock::now() + std::chrono::milliseconds(5);
      while (writing && writes < before + kMeanwhile && std::chrono::steady_clock::now() < enough)
        std::this_thread::sleep_for(std::chrono::microseconds(20));
    });
    {
      ViewHandle v = lab.view("v");
      for (std::uint64_t block = 0; block < kBlocks; ++block)
        REQUIRE(v->write(block * kBlockBytes, block_of(1)).has_value());
      std::fill(answered.begin(), answered.end(), std::uint8_t{1});
      std::atomic<bool> stop{false};
      writing = true;
      std::thread writer([&] {
        for (std::uint64_t i = 0; !stop; ++i) {
          const auto stamp = static_cast<std::uint8_t>(2 + i / kBlocks % 250);
          if (!v->write(i % kBlocks * kBlockBytes, block_of(stamp)) || lab.env.killed()) break;
          answered[i % kBlocks] = stamp;
          ++writes;
        }
        writing = false;
      });
      lab.env.kill_at_own(1 + random() % 12); // at each step of a snapshot, while the writer goes on
      for (int i = 0; !lab.env.killed() && i < 20; ++i)
        static_cast<void>(lab.snapshot("v@s" + std::to_string(i)));
      stop = true;
      writer.join();
    }
    lab.pool.reset();
    lab.env.kill_at(std::nullopt);
    lab.open(with_tail());
    const auto findings = lab.findings();
    for (const std::string& what : findings) UNSCOPED_INFO(what);
    REQUIRE(findings.empty());
    ViewHandle v = lab.view("v");
    unsigned unanswered = 0;
    for (std::uint64_t block = 0; block < kBlocks; ++block) {
      if (read_from(*v, block * kBlockBytes) == block_of(answered[block])) continue;
      REQUIRE(++unanswered == 1); // the write under way
    }
  }
}

// pool_test "[.measure]" -s: what the longest tail costs that there can be, at random blocks.
TEST_CASE("recovery of the longest tail", "[.measure]") {
  KillLab lab(1, 64ULL << 30);
  constexpr std::uint64_t kSize = 16ULL << 30;
  lab.create("v", kSize);
  std::mt19937_64 random(1);
  std::uint64_t pending = 0;
  {
    ViewHandle v = lab.view("v");
    for (std::uint64_t i = 0; i < 240'000; ++i) {
      REQUIRE(v->write(random() % (kSize / kBlockBytes) * kBlockBytes, block_of(1)).has_value());
      ++pending;
    }
  }
  lab.kill();
  const auto begin = std::chrono::steady_clock::now();
  lab.open(with_tail());
  const auto took = std::chrono::steady_clock::now() - begin;
  std::printf("%llu writes, recovered in %lld ms\n", static_cast<unsigned long long>(pending),
              static_cast<long long>(std::chrono::duration_cast<std::chrono::milliseconds>(took).count()));
  CHECK(lab.findings().empty());
}
