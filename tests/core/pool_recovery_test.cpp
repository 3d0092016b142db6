// What fsync costs and what comes back after a crash: the journal under a whole pool.
#include <map>
#include <random>

#include "core/format.h"
#include "core/log.h"
#include "core/superblock.h"
#include "tests/support/seed.h"
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

// Where the frames of the journal lie on the only member, newest last.
std::vector<std::size_t> frames_on(const SparseBytes& member) {
  static constexpr char kMagic[] = "VSNAPJNL";
  std::vector<std::pair<std::uint64_t, std::size_t>> found;
  for (std::size_t at = format::kHeaderBytes; at + kBlockBytes <= member.size(); at += kBlockBytes) {
    if (std::memcmp(member.data() + at, kMagic, 8) != 0) continue;
    std::uint64_t number = 0;
    std::memcpy(&number, member.data() + at + 16, sizeof number);
    found.emplace_back(number, at);
  }
  std::sort(found.begin(), found.end());
  std::vector<std::size_t> places;
  for (const auto& [number, at] : found) places.push_back(at);
  return places;
}

void crash(SmallPool& lab, std::uint64_t seed) {
  lab.env.power_cut(seed);
  lab.pool.reset();
}

} // namespace

TEST_CASE("an fsync is a flush, and one write where the map changed") {
  SmallPool lab;
  lab.create("v", 4 * kMiB);
  ViewHandle v = lab.view("v");
  REQUIRE(v->write(0, block_of(1)).has_value());
  REQUIRE(v->fsync().has_value());
  REQUIRE(v->write(kBlockBytes, block_of(2)).has_value()); // a new place
  std::uint64_t before = lab.env.calls();
  REQUIRE(v->fsync().has_value());
  CHECK(lab.env.calls() == before + 2);
  REQUIRE(v->write(kBlockBytes, block_of(3)).has_value()); // in place
  before = lab.env.calls();
  REQUIRE(v->fsync().has_value());
  CHECK(lab.env.calls() == before + 1);
  before = lab.env.calls();
  REQUIRE(v->fsync().has_value());
  CHECK(lab.env.calls() == before);
}

TEST_CASE("sizes, times and attributes that fsync confirmed survive a power cut") {
  log::set_level(log::Level::off);
  SmallPool lab;
  lab.create("v", kMiB);
  const auto id = lab.pool->find({"v", {}})->id;
  {
    ViewHandle v = lab.view("v");
    REQUIRE(v->write(3 * kMiB + 5, block_of(7, 100)).has_value());
    REQUIRE(lab.pool->set_attributes(id, 0640, 7, 8, 123456789).has_value());
    REQUIRE(v->fsync().has_value());
  }
  crash(lab, 1);
  lab.open();
  const auto info = lab.pool->find({"v", {}});
  REQUIRE(info.has_value());
  CHECK(info->size_bytes == 3 * kMiB + 105);
  CHECK(info->mode == 0640);
  CHECK(info->uid == 7);
  CHECK(info->gid == 8);
  CHECK(info->modified_ns == 123456789);
  CHECK(read_from(*lab.view("v"), 3 * kMiB + 5, 100) == block_of(7, 100));
  CHECK(lab.findings().empty());
}

TEST_CASE("a volume that was shrunk and grew again keeps what was written since") {
  log::set_level(log::Level::off);
  SmallPool lab;
  lab.create("v", 4 * kMiB);
  const auto id = lab.pool->find({"v", {}})->id;
  {
    ViewHandle v = lab.view("v");
    REQUIRE(v->write(0, block_of(1, 4 * kMiB)).has_value());
    REQUIRE(lab.pool->resize(id, kMiB + 100, true).has_value());
    REQUIRE(v->write(2 * kMiB, block_of(9)).has_value());
    REQUIRE(v->fsync().has_value());
  }
  crash(lab, 2);
  lab.open();
  ViewHandle v = lab.view("v");
  CHECK(v->size_bytes() == 2 * kMiB + kBlockBytes);
  CHECK(read_from(*v, 2 * kMiB) == block_of(9));
  CHECK(read_from(*v, kMiB + 100, 1000) == block_of(0, 1000));
  CHECK(lab.findings().empty());
}

TEST_CASE("reserved blocks that were written come back as data, the others as zeros") {
  log::set_level(log::Level::off);
  SmallPool lab;
  lab.create("v", 4 * kMiB);
  {
    ViewHandle v = lab.view("v");
    REQUIRE(v->reserve(0, kMiB, false).has_value());
    REQUIRE(lab.pool->sync().has_value());
    lab.create("w", kMiB); // a commit: the reserved blocks are in the catalog
    REQUIRE(v->write(5 * kBlockBytes, block_of(5)).has_value());
    REQUIRE(v->reserve(2 * kMiB, kMiB, false).has_value());
    REQUIRE(v->write(2 * kMiB, block_of(6)).has_value()); // and these are not
    REQUIRE(v->fsync().has_value());
  }
  crash(lab, 3);
  lab.open();
  ViewHandle v = lab.view("v");
  CHECK(read_from(*v, 5 * kBlockBytes) == block_of(5));
  CHECK(read_from(*v, 6 * kBlockBytes) == block_of(0));
  CHECK(read_from(*v, 2 * kMiB) == block_of(6));
  CHECK(read_from(*v, 2 * kMiB + kBlockBytes) == block_of(0));
  CHECK(lab.findings().empty());
}

TEST_CASE("many small fsyncs turn the ring round, and commits make room") {
  log::set_level(log::Level::off);
  SmallPool lab;
  constexpr std::uint64_t kSize = 8 * kMiB;
  lab.create("v", kSize);
  std::vector<std::uint8_t> expected(kSize / kBlockBytes);
  std::mt19937_64 random(5);
  for (int round = 0; round < 6; ++round) {
    {
      ViewHandle v = lab.view("v");
      for (int i = 0; i < 300; ++i) { // of 128 frames
        const std::uint64_t block = random() % expected.size();
        if (random() % 4 == 0) {
          REQUIRE(v->discard(block * kBlockBytes, kBlockBytes).has_value());
          expected[block] = 0;
        } else {
          expected[block] = static_cast<std::uint8_t>(random() % 255 + 1);
          REQUIRE(v->write(block * kBlockBytes, block_of(expected[block])).has_value());
        }
        REQUIRE(v->fsync().has_value());
      }
    }
    crash(lab, random());
    lab.open();
    ViewHandle v = lab.view("v");
    for (std::uint64_t block = 0; block < expected.size(); ++block)
      REQUIRE(read_from(*v, block * kBlockBytes) == block_of(expected[block]));
  }
  CHECK(lab.findings().empty());
}

TEST_CASE("snapshots and clones stay apart from what the journal brings back to their base") {
  log::set_level(log::Level::off);
  SmallPool lab;
  lab.create("v", kMiB);
  {
    ViewHandle v = lab.view("v");
    REQUIRE(v->write(0, block_of(1)).has_value());
    REQUIRE(v->fsync().has_value());
    REQUIRE(lab.snapshot("v@s").has_value());
    REQUIRE(lab.pool->clone(*parse_view_name("v@s"), "c").has_value());
    REQUIRE(v->write(0, block_of(2)).has_value());
    ViewHandle c = lab.view("c");
    REQUIRE(c->discard(0, kBlockBytes).has_value());
    REQUIRE(v->fsync().has_value());
  }
  crash(lab, 4);
  lab.open();
  CHECK(read_from(*lab.view("v"), 0) == block_of(2));
  CHECK(read_from(*lab.view("v@s"), 0) == block_of(1));
  CHECK(read_from(*lab.view("c"), 0) == block_of(0));
  CHECK(lab.findings().empty());
}

TEST_CASE("a snapshot costs the same however much is pending, and holds all of it after a crash") {
  log::set_level(log::Level::off);
  SmallPool lab(128 * kMiB);
  lab.create("v", 64 * kMiB);
  const auto stamp = [](std::uint64_t block, int round) {
    return block_of(static_cast<std::uint8_t>(block % 100 + 1 + static_cast<unsigned>(round) * 100));
  };
  {
    ViewHandle v = lab.view("v");
    for (std::uint64_t block = 0; block < 400; ++block)
      REQUIRE(v->write(block * 2 * kBlockBytes, stamp(block, 0)).has_value());
    const std::uint64_t before = lab.env.calls();
    REQUIRE(lab.snapshot("v@s").has_value());
    CHECK(lab.env.calls() < before + 20);
    for (std::uint64_t block = 0; block < 400; block += 2)
      REQUIRE(v->write(block * 2 * kBlockBytes, stamp(block, 1)).has_value());
    REQUIRE(lab.snapshot("v@t").has_value());
    REQUIRE(v->discard(0, 64 * kMiB).has_value());
    REQUIRE(v->fsync().has_value());
  }
  crash(lab, 8);
  lab.open();
  ViewHandle v = lab.view("v");
  ViewHandle s = lab.view("v@s");
  ViewHandle t = lab.view("v@t");
  for (std::uint64_t block = 0; block < 400; ++block) {
    REQUIRE(read_from(*s, block * 2 * kBlockBytes) == stamp(block, 0));
    REQUIRE(read_from(*t, block * 2 * kBlockBytes) == stamp(block, block % 2 == 0 ? 1 : 0));
    REQUIRE(read_from(*v, block * 2 * kBlockBytes) == block_of(0));
  }
  CHECK(lab.findings().empty());
}

TEST_CASE("a snapshot is read at once, though what it holds is still pending") {
  SmallPool lab;
  lab.create("v", 4 * kMiB);
  ViewHandle v = lab.view("v");
  REQUIRE(v->write(0, block_of(1)).has_value());
  REQUIRE(lab.snapshot("v@s").has_value());
  REQUIRE(v->write(0, block_of(2)).has_value());
  CHECK(read_from(*lab.view("v@s"), 0) == block_of(1));
  CHECK(read_from(*v, 0) == block_of(2));
  CHECK(lab.findings().empty());
}

TEST_CASE("a snapshot whose confirmation fails was never there, and loses nothing of its base") {
  log::set_level(log::Level::off);
  for (std::uint64_t nth = 1; nth < 14; ++nth) {
    CAPTURE(nth);
    SmallPool lab;
    lab.create("v", 4 * kMiB);
    bool taken = false;
    {
      ViewHandle v = lab.view("v");
      REQUIRE(v->write(0, block_of(1)).has_value());
      REQUIRE(v->fsync().has_value());
      REQUIRE(v->write(kBlockBytes, block_of(2)).has_value());
      lab.env.fail_from(nth);
      taken = lab.snapshot("v@s").has_value();
    }
    lab.env.power_cut(nth);
    lab.env.fail_from(std::nullopt);
    lab.pool.reset();
    lab.open_checked();
    REQUIRE(read_from(*lab.view("v"), 0) == block_of(1));
    const auto now = read_from(*lab.view("v"), kBlockBytes);
    REQUIRE((now == block_of(2) || (!taken && now == block_of(0))));
    const bool there = lab.pool->find({"v", "s"}).has_value();
    REQUIRE((there || !taken));
    if (there) REQUIRE(read_from(*lab.view("v@s"), kBlockBytes) == now);
    REQUIRE(lab.findings().empty());
  }
}

TEST_CASE("a check of a pool that was cut off sees what the journal has") {
  log::set_level(log::Level::off);
  SmallPool lab;
  lab.create("v", kMiB);
  {
    ViewHandle v = lab.view("v");
    REQUIRE(v->write(0, block_of(1)).has_value());
    REQUIRE(v->fsync().has_value());
  }
  crash(lab, 5);
  lab.open_checked();
  CHECK(read_from(*lab.view("v"), 0) == block_of(1));
}

TEST_CASE("one damaged copy of the superblock takes nothing of what the journal has") {
  log::set_level(log::Level::off);
  for (const std::uint64_t offset : format::kSuperblockOffsets) {
    CAPTURE(offset);
    SmallPool lab;
    lab.create("v", kMiB);
    {
      ViewHandle v = lab.view("v");
      REQUIRE(v->write(0, block_of(1)).has_value());
      REQUIRE(v->fsync().has_value());
    }
    crash(lab, 7);
    lab.env.bytes_of("/a")[offset + 200] ^= std::byte{1};
    lab.open();
    CHECK(read_from(*lab.view("v"), 0) == block_of(1));
    CHECK(lab.findings().empty());
  }
}

TEST_CASE("a damaged journal is refused; a repair gives up what came after the damage") {
  log::set_level(log::Level::off);
  SmallPool lab;
  lab.create("v", kMiB);
  {
    ViewHandle v = lab.view("v");
    for (std::uint64_t i = 0; i < 3; ++i) {
      REQUIRE(v->write(i * kBlockBytes, block_of(static_cast<std::uint8_t>(i + 1))).has_value());
      REQUIRE(v->fsync().has_value());
    }
  }
  crash(lab, 6);
  const auto frames = frames_on(lab.env.bytes_of("/a"));
  REQUIRE(frames.size() >= 3);
  lab.env.bytes_of("/a")[frames[frames.size() - 2] + 70] ^= std::byte{1};
  const auto refused = Pool::open(lab.env, {.member_paths = {"/a"}});
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().kind == ErrorKind::damaged);
  CHECK(refused.error().message.find("check --repair") != std::string::npos);
  {
    auto opened = Pool::open(lab.env, {.member_paths = {"/a"}, .for_check = true});
    REQUIRE(opened.has_value());
    const auto report = (*opened)->check(false, {});
    REQUIRE(report.has_value());
    REQUIRE(report->findings.size() == 1);
    CHECK_FALSE(report->findings[0].repaired);
  }
  lab.open_checked();
  ViewHandle v = lab.view("v");
  CHECK(read_from(*v, 0) == block_of(1));
  CHECK(read_from(*v, kBlockBytes) == block_of(0));
  CHECK(read_from(*v, 2 * kBlockBytes) == block_of(0));
  CHECK(lab.findings().empty());
}

TEST_CASE("a flipped byte anywhere in a journal never becomes wrong data") {
  log::set_level(log::Level::off);
  SmallPool lab;
  lab.create("v", kMiB);
  {
    ViewHandle v = lab.view("v");
    for (std::uint64_t i = 0; i < 2; ++i) {
      REQUIRE(v->write(i * kBlockBytes, block_of(static_cast<std::uint8_t>(i + 1))).has_value());
      REQUIRE(v->fsync().has_value());
    }
  }
  crash(lab, 7);
  const SparseBytes good = lab.env.bytes_of("/a");
  const auto frames = frames_on(good);
  REQUIRE(frames.size() >= 2);
  std::uint64_t refused = 0;
  for (std::size_t i = 0; i < 2 * kBlockBytes; i += i % kBlockBytes < 200 ? 1 : 97) {
    const std::size_t frame = frames[frames.size() - 2 + i / kBlockBytes];
    lab.env.bytes_of("/a") = good;
    lab.env.bytes_of("/a")[frame + i % kBlockBytes] ^= std::byte{0x10};
    const auto opened = Pool::open(lab.env, {.member_paths = {"/a"}});
    if (!opened) {
      ++refused;
      REQUIRE(opened.error().kind == ErrorKind::damaged);
      continue;
    }
    // The last frame is as good as one that was never finished.
    lab.pool.reset();
    const auto info = (*opened)->find({"v", {}});
    REQUIRE(info.has_value());
    auto v = (*opened)->open_view(info->id);
    REQUIRE(v.has_value());
    REQUIRE(read_from(**v, 0) == block_of(1));
    const auto second = read_from(**v, kBlockBytes);
    REQUIRE((second == block_of(2) || second == block_of(0)));
  }
  CHECK(refused > 100);
}

TEST_CASE("a pool that is all but full of scattered blocks recovers what was confirmed, crash after crash") {
  log::set_level(log::Level::off);
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    SmallPool lab(24 * kMiB, seed);
    constexpr std::uint64_t kBlocks = 128 * kMiB / kBlockBytes;
    lab.create("v", kBlocks * kBlockBytes);
    std::map<std::uint64_t, std::uint8_t> confirmed;
    for (int round = 0; round < 8; ++round) {
      {
        ViewHandle v = lab.view("v");
        bool full = false;
        for (int batch = 0; batch < 30 && !full; ++batch) {
          std::map<std::uint64_t, std::uint8_t> written;
          for (int i = 0; i < 40; ++i) {
            const std::uint64_t block = random() % (kBlocks / 3) * 3; // no two next to each other
            if (confirmed.contains(block)) continue;                  // in place, so it may be torn
            const auto stamp = static_cast<std::uint8_t>(random() % 255 + 1);
            if (!v->write(block * kBlockBytes, block_of(stamp))) {
              full = true;
              break;
            }
            written[block] = stamp;
          }
          if (!v->fsync()) break;
          confirmed.merge(written);
        }
      }
      crash(lab, random());
      lab.open();
      ViewHandle v = lab.view("v");
      for (const auto& [block, stamp] : confirmed)
        REQUIRE(read_from(*v, block * kBlockBytes) == block_of(stamp));
      const auto findings = lab.findings();
      for (const std::string& what : findings) UNSCOPED_INFO(what);
      REQUIRE(findings.empty());
    }
    REQUIRE(confirmed.size() > 1000);
  }
}
