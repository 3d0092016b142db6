// Power cuts in places where the order of records, frames and commits matters.
#include <atomic>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "core/log.h"
#include "tests/support/seed.h"
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

void crash(SmallPool& lab, std::uint64_t seed) {
  lab.env.power_cut(seed);
  lab.pool.reset();
}

} // namespace

TEST_CASE("a pool that found no room for a journal keeps what fsync confirmed all the same") {
  log::set_level(log::Level::off);
  SmallPool lab(32 * kMiB, 1, SmallPool::Journal::none);
  lab.create("v", 4 * kMiB);
  {
    ViewHandle v = lab.view("v");
    REQUIRE(v->write(0, block_of(1)).has_value());
    const std::uint64_t before = lab.env.calls();
    REQUIRE(v->fsync().has_value());
    REQUIRE(lab.env.calls() > before + 2); // a commit: or the test would not test it
    REQUIRE(v->write(kBlockBytes, block_of(2)).has_value());
  }
  crash(lab, 1);
  lab.open();
  CHECK(read_from(*lab.view("v"), 0) == block_of(1));
  CHECK(lab.findings().empty());
}

TEST_CASE("a snapshot that is cut off at any point is there with all it holds, or not at all") {
  log::set_level(log::Level::off);
  for (const auto journal : {SmallPool::Journal::made, SmallPool::Journal::none}) {
    for (std::uint64_t nth = 1; nth < 40; ++nth) {
      CAPTURE(nth, journal == SmallPool::Journal::none);
      SmallPool lab(32 * kMiB, nth, journal);
      lab.create("v", 4 * kMiB);
      bool taken = false;
      {
        ViewHandle v = lab.view("v");
        for (std::uint64_t block = 0; block < 40; ++block)
          REQUIRE(v->write(block * 2 * kBlockBytes, block_of(1)).has_value());
        REQUIRE(v->fsync().has_value());
        REQUIRE(v->write(0, block_of(2)).has_value()); // in place
        REQUIRE(v->write(kBlockBytes, block_of(2)).has_value());
        lab.env.fail_from(nth);
        taken = lab.snapshot("v@s").has_value();
        for (std::uint64_t block = 0; block < 40; ++block) // beyond the line
          static_cast<void>(v->write(block * 2 * kBlockBytes, block_of(3)));
        static_cast<void>(v->fsync());
      }
      lab.env.power_cut(nth);
      lab.env.fail_from(std::nullopt);
      lab.pool.reset();
      lab.open_checked();
      const bool there = lab.pool->find({"v", "s"}).has_value();
      REQUIRE((there || !taken));
      if (taken) REQUIRE(read_from(*lab.view("v@s"), 0) == block_of(2));
      if (there) {
        ViewHandle s = lab.view("v@s");
        REQUIRE(read_from(*s, kBlockBytes) == block_of(2));
        for (std::uint64_t block = 1; block < 40; ++block)
          REQUIRE(read_from(*s, block * 2 * kBlockBytes) == block_of(1));
      }
      ViewHandle v = lab.view("v");
      for (std::uint64_t block = 1; block < 40; ++block) {
        const auto now = read_from(*v, block * 2 * kBlockBytes);
        REQUIRE((now == block_of(1) || now == block_of(3)));
      }
      REQUIRE(lab.findings().empty());
    }
  }
}

TEST_CASE("writers that extend a volume side by side: what fsync confirmed is within its size") {
  log::set_level(log::Level::off);
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    CAPTURE(seed);
    SmallPool lab(32 * kMiB, seed);
    lab.create("v", kBlockBytes);
    std::mutex mutex;
    std::map<std::uint64_t, std::uint8_t> confirmed;
    std::atomic<std::uint64_t> next{1};
    {
      ViewHandle v = lab.view("v");
      std::vector<std::thread> threads;
      for (unsigned t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
          const auto stamp = static_cast<std::uint8_t>(t + 1);
          for (int i = 0; i < 25; ++i) {
            const std::uint64_t offset = next.fetch_add(1) * 3 * kBlockBytes;
            if (!v->write(offset, block_of(stamp)) || !v->fsync()) return;
            const std::scoped_lock lock(mutex);
            confirmed[offset] = stamp;
          }
        });
      }
      for (std::thread& thread : threads) thread.join();
    }
    REQUIRE(confirmed.size() == 100);
    crash(lab, seed);
    lab.open();
    ViewHandle v = lab.view("v");
    REQUIRE(v->size_bytes() == confirmed.rbegin()->first + kBlockBytes);
    for (const auto& [offset, stamp] : confirmed) REQUIRE(read_from(*v, offset) == block_of(stamp));
    REQUIRE(lab.findings().empty());
  }
}

TEST_CASE("commits that bring nothing leave the frames of the ring where recovery looks for them") {
  log::set_level(log::Level::off);
  std::mt19937_64 random(9);
  SmallPool lab(24 * kMiB); // the smallest journal
  lab.create("v", 4 * kMiB);
  std::map<std::uint64_t, std::uint8_t> expected;
  for (int round = 0; round < 60; ++round) {
    {
      ViewHandle v = lab.view("v");
      for (std::uint64_t i = random() % 12; i > 0; --i) {
        const std::uint64_t offset = random() % 1024 * kBlockBytes;
        const auto stamp = static_cast<std::uint8_t>(random() % 255 + 1);
        REQUIRE(v->discard(offset, kBlockBytes).has_value());
        REQUIRE(v->write(offset, block_of(stamp)).has_value());
        REQUIRE(v->fsync().has_value());
        expected[offset] = stamp;
      }
      for (std::uint64_t i = random() % 3; i > 0; --i) {
        lab.create("w", kMiB); // transactions without records
        REQUIRE(lab.remove("w").has_value());
      }
    }
    if (random() % 3 != 0) continue;
    crash(lab, random());
    lab.open();
    ViewHandle v = lab.view("v");
    for (const auto& [offset, stamp] : expected) REQUIRE(read_from(*v, offset) == block_of(stamp));
  }
  CHECK(lab.findings().empty());
}

TEST_CASE("a volume that is removed beside a change of its attributes stays removed") {
  log::set_level(log::Level::off);
  SmallPool lab;
  lab.create("v", kMiB);
  lab.create("w", kMiB);
  const auto id = lab.pool->find({"v", {}})->id;
  REQUIRE(lab.pool->set_attributes(id, 0600, 1, 2, 3).has_value());
  REQUIRE(lab.remove("v").has_value());
  {
    ViewHandle w = lab.view("w");
    REQUIRE(w->write(0, block_of(1)).has_value());
    REQUIRE(w->fsync().has_value());
  }
  crash(lab, 3);
  lab.open();
  CHECK_FALSE(lab.pool->find({"v", {}}).has_value());
  CHECK(read_from(*lab.view("w"), 0) == block_of(1));
  CHECK(lab.findings().empty());
}

TEST_CASE("a snapshot that finds no space below the members is refused, and the pool goes on") {
  log::set_level(log::Level::off);
  SmallPool lab;
  lab.create("v", kMiB);
  ViewHandle v = lab.view("v");
  REQUIRE(v->write(0, block_of(1)).has_value());
  lab.env.no_space(true);
  const auto refused = lab.snapshot("v@s");
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().kind == ErrorKind::no_space);
  lab.env.no_space(false);
  REQUIRE(v->write(kBlockBytes, block_of(2)).has_value());
  REQUIRE(v->fsync().has_value());
  REQUIRE(lab.snapshot("v@s").has_value());
  CHECK(read_from(*lab.view("v@s"), kBlockBytes) == block_of(2));
  CHECK(lab.findings().empty());
}
