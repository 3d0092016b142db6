// One I/O call of the members fails, each in turn: errors are told, and what was confirmed is there
// afterwards.
#include <algorithm>
#include <random>
#include "core/log.h"

#include "core/format.h"
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

struct Confirmed { // what fsync or a command has answered with success
  bool first_write = false;
  bool snapshot = false;
  bool second_write = false;
};

// A little of everything. Goes on after errors, as a program would that ignores them.
Confirmed workload(SmallPool& lab) {
  Confirmed confirmed;
  const auto info = lab.pool->find({"v", {}});
  if (!info) return confirmed;
  const auto handle = lab.pool->open_view(info->id);
  if (!handle) return confirmed;
  View& v = **handle;
  bool written = true;
  for (std::uint64_t block = 0; block < 24; ++block)
    written = v.write(block * 3 * kBlockBytes, block_of(1)).has_value() && written;
  confirmed.first_write = v.fsync().has_value() && written;
  confirmed.snapshot = lab.snapshot("v@s").has_value() && confirmed.first_write;
  written = true;
  for (std::uint64_t block = 0; block < 12; ++block)
    written = v.write(block * 3 * kBlockBytes + 100, block_of(2, 700)).has_value() && written;
  const auto discarded = v.discard(0, 5 * kBlockBytes);
  confirmed.second_write = v.fsync().has_value() && written && discarded && confirmed.first_write;
  static_cast<void>(lab.snapshot("v@t"));
  static_cast<void>(lab.remove("v@t"));
  static_cast<void>(lab.pool->create_volume("w", kMiB));
  static_cast<void>(lab.pool->wait_for_removals({}));
  return confirmed;
}

std::vector<std::byte> merged_block(std::uint8_t below) {
  auto block = block_of(below);
  std::fill_n(block.begin() + 100, 700, std::byte{2});
  return block;
}

void verify(SmallPool& lab, const Confirmed& confirmed) {
  REQUIRE(lab.findings().empty());
  ViewHandle v = lab.view("v");
  for (std::uint64_t block = 0; block < 24; ++block) {
    const auto found = read_from(*v, block * 3 * kBlockBytes);
    const bool zeros = found == block_of(0);
    const bool first = found == block_of(1);
    const bool second = found == merged_block(1);
    const bool second_alone = found == merged_block(0); // the first write failed
    INFO("block " << block * 3);
    REQUIRE((zeros || first || second || second_alone));
    if (confirmed.first_write && block >= 2) REQUIRE((first || (second && block < 12)));
    if (confirmed.second_write) REQUIRE((block < 2 ? zeros : block < 12 ? second : first));
  }
  if (confirmed.snapshot) {
    ViewHandle s = lab.view("v@s");
    for (std::uint64_t block = 0; block < 24; ++block)
      REQUIRE(read_from(*s, block * 3 * kBlockBytes) == block_of(1));
  }
}

// The number of calls the workload makes when none of them fails.
std::uint64_t calls_of_workload() {
  SmallPool lab(16 * kMiB);
  lab.create("v", 2 * kMiB);
  const std::uint64_t before = lab.env.calls();
  const Confirmed confirmed = workload(lab);
  REQUIRE(confirmed.second_write);
  return lab.env.calls() - before;
}

enum class Fault { once, from_then_on };

void run(std::uint64_t nth, Fault fault, bool power_cut) {
  INFO("call " << nth << (fault == Fault::once ? " fails once" : " and all later ones fail")
               << (power_cut ? ", then the power is cut" : ""));
  SmallPool lab(16 * kMiB);
  lab.create("v", 2 * kMiB);
  if (fault == Fault::once)
    lab.env.fail_once(nth);
  else
    lab.env.fail_from(nth);
  const Confirmed confirmed = workload(lab);
  if (power_cut) lab.env.power_cut(nth);
  lab.pool.reset();
  lab.env.fail_from(std::nullopt);
  lab.open_checked();
  verify(lab, confirmed);
}

} // namespace

TEST_CASE("whichever call fails, once or for good, nothing that was confirmed is lost") {
  log::set_level(log::Level::off);
  const std::uint64_t calls = calls_of_workload();
  REQUIRE(calls > 50);
  for (std::uint64_t nth = 1; nth <= calls; ++nth) {
    run(nth, Fault::once, false);
    run(nth, Fault::from_then_on, false);
    run(nth, Fault::from_then_on, true);
  }
}

TEST_CASE("after a failed flush every fsync fails until the pool has been checked") {
  log::set_level(log::Level::off);
  SmallPool lab;
  lab.create("v", kMiB);
  ViewHandle v = lab.view("v");
  REQUIRE(v->write(0, block_of(1)).has_value());
  lab.env.fail_flush_once();
  REQUIRE_FALSE(v->fsync().has_value());
  REQUIRE_FALSE(v->fsync().has_value());
  REQUIRE_FALSE(v->write(0, block_of(2)).has_value());
  REQUIRE(lab.pool->status().health != "ok");
  std::vector<std::byte> out(kBlockBytes); // it may be lost, and is an error from now on
  const auto lost = v->read(0, out);
  REQUIRE_FALSE(lost.has_value());
  REQUIRE(lost.error().errno_value == EIO);
  v = ViewHandle();
  lab.pool.reset();
  const auto refused = Pool::open(lab.env, {.member_paths = {"/a"}});
  REQUIRE_FALSE(refused.has_value());
  REQUIRE(refused.error().kind == ErrorKind::damaged);
  REQUIRE(refused.error().message.find("vsnap check lab") != std::string::npos);
  lab.open_checked();
  v = lab.view("v");
  REQUIRE(v->write(0, block_of(2)).has_value());
  REQUIRE(v->fsync().has_value());
}

TEST_CASE("after a failed flush a snapshot never read before shows what it has, and nothing younger") {
  SmallPool lab;
  lab.create("v", 64 * kMiB);
  ViewHandle v = lab.view("v");
  REQUIRE(v->write(0, block_of(1)).has_value());
  REQUIRE(v->write(40 * kMiB, block_of(1)).has_value()); // of another region
  REQUIRE(v->write(5 * kBlockBytes, block_of(1)).has_value());
  REQUIRE(v->discard(5 * kBlockBytes, kBlockBytes).has_value());
  REQUIRE(lab.snapshot("v@s").has_value());
  REQUIRE(v->write(0, block_of(2)).has_value());
  REQUIRE(v->write(kBlockBytes, block_of(2)).has_value());
  lab.env.fail_flush_once();
  REQUIRE_FALSE(v->fsync().has_value());
  ViewHandle s = lab.view("v@s");
  REQUIRE(read_from(*s, 0) == block_of(1));
  REQUIRE(read_from(*s, kBlockBytes) == block_of(0));
  REQUIRE(read_from(*s, 5 * kBlockBytes) == block_of(0));
  REQUIRE(read_from(*s, 40 * kMiB) == block_of(1));
  REQUIRE(s->seek_data(kBlockBytes).value() == 40 * kMiB);
}

TEST_CASE("a member that cannot be added leaves a pool that opens, whichever call fails and from then on") {
  log::set_level(log::Level::off);
  const bool once = GENERATE(true, false);
  bool added = false;
  for (std::uint64_t nth = 1; !added; ++nth) {
    CAPTURE(nth, once);
    MemoryEnv env(nth);
    const std::vector<MemberSpec> members = {{"/a", 16 * kMiB}, {"/b", 16 * kMiB}};
    REQUIRE(Pool::create(env, {.name = "lab", .members = members}).has_value());
    {
      auto pool = Pool::open(env, {.member_paths = {"/a", "/b"}});
      REQUIRE(pool.has_value());
      once ? env.fail_once(nth) : env.fail_from(nth);
      added = (*pool)->add_member({"/new", 16 * kMiB}, false).has_value();
      env.power_cut(nth);
    }
    env.fail_from(std::nullopt);
    const auto checks = [&](const std::vector<std::string>& paths) {
      const auto pool = Pool::open(env, {.member_paths = paths, .for_check = true});
      return pool.has_value() && (*pool)->check(true, {}).has_value();
    };
    REQUIRE((checks({"/a", "/b"}) || checks({"/a", "/b", "/new"})));
  }
}

TEST_CASE("a block that cannot be read is an error, never zeros") {
  SmallPool lab;
  lab.create("v", kMiB);
  ViewHandle v = lab.view("v");
  REQUIRE(v->write(0, block_of(1)).has_value());
  std::vector<std::byte> out(kBlockBytes);
  lab.env.fail_once(1);
  const auto read = v->read(0, out);
  REQUIRE_FALSE(read.has_value());
  REQUIRE(read.error().errno_value == EIO);
  REQUIRE(read_from(*v, 0) == block_of(1));
}

TEST_CASE("a write that fails is an error, in place and elsewhere") {
  SmallPool lab;
  lab.create("v", kMiB);
  ViewHandle v = lab.view("v");
  CHECK(read_from(*v, 0) == block_of(0)); // the map is loaded
  lab.env.fail_once(1);
  REQUIRE_FALSE(v->write(0, block_of(1)).has_value());
  CHECK(read_from(*v, 0) == block_of(0));
  REQUIRE(v->write(0, block_of(1)).has_value());
  lab.env.fail_once(1);
  REQUIRE_FALSE(v->write(0, block_of(2)).has_value());
  CHECK(read_from(*v, 0) == block_of(1));
}

TEST_CASE("what fsync confirmed survives power cuts that lose and tear everything else") {
  log::set_level(log::Level::off);
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    INFO("seed " << seed);
    SmallPool lab(16 * kMiB, seed);
    lab.create("v", 2 * kMiB);
    {
      ViewHandle v = lab.view("v");
      for (std::uint64_t i = 0; i < 20; ++i) REQUIRE(v->write(i * kBlockBytes, block_of(1)).has_value());
      REQUIRE(v->fsync().has_value());
      if (seed % 2 == 0) REQUIRE(lab.snapshot("v@s").has_value());
      for (std::uint64_t i = 0; i < 20; i += 2) REQUIRE(v->write(i * kBlockBytes, block_of(2)).has_value());
    }
    lab.env.power_cut(seed);
    lab.pool.reset();
    lab.open();
    REQUIRE(lab.findings().empty());
    ViewHandle v = lab.view("v");
    for (std::uint64_t i = 0; i < 20; ++i) {
      for (std::uint64_t sector = 0; sector < kBlockBytes; sector += 512) {
        const auto found = read_from(*v, i * kBlockBytes + sector, 512);
        REQUIRE((found == block_of(1, 512) || (i % 2 == 0 && found == block_of(2, 512))));
      }
    }
    if (seed % 2 == 0) {
      for (std::uint64_t i = 0; i < 20; ++i)
        REQUIRE(read_from(*lab.view("v@s"), i * kBlockBytes) == block_of(1));
    }
  }
}

TEST_CASE("a pool with one member from an earlier moment is refused, and loses nothing by it") {
  MemoryEnv env;
  REQUIRE(Pool::create(env, {.name = "lab", .members = {{"/a", 32 * kMiB}, {"/b", 32 * kMiB}}}).has_value());
  const OpenPoolOptions options{.member_paths = {"/a", "/b"}};
  const auto write = [&](std::uint8_t stamp) {
    auto pool = Pool::open(env, options);
    REQUIRE(pool.has_value());
    if (stamp == 1) REQUIRE((*pool)->create_volume("v", kMiB).has_value());
    const auto info = (*pool)->find({"v", {}});
    auto view = (*pool)->open_view(info->id);
    REQUIRE((*view)->write(0, block_of(stamp, kMiB)).has_value());
    REQUIRE((*view)->fsync().has_value());
    *view = ViewHandle();
    REQUIRE((*pool)->close().has_value());
  };
  write(1);
  const SparseBytes old[2] = {env.bytes_of("/a"), env.bytes_of("/b")};
  write(2); // in place: no map changes, and so no commit
  const SparseBytes now[2] = {env.bytes_of("/a"), env.bytes_of("/b")};
  for (int stale = 0; stale < 2; ++stale) {
    env.bytes_of("/a") = stale == 0 ? old[0] : now[0];
    env.bytes_of("/b") = stale == 1 ? old[1] : now[1];
    const auto refused = Pool::open(env, options);
    REQUIRE_FALSE(refused.has_value());
    CHECK(refused.error().kind == ErrorKind::damaged);
  }
  env.bytes_of("/a") = now[0];
  env.bytes_of("/b") = now[1];
  CHECK(Pool::open(env, options).has_value());
}

TEST_CASE("renaming over a volume is one step: after a power cut there is the old or the new one") {
  log::set_level(log::Level::off);
  for (std::uint64_t nth = 1; nth < 60; ++nth) {
    INFO("call " << nth);
    SmallPool lab(16 * kMiB);
    lab.create("old", kMiB);
    lab.create("new", kMiB);
    REQUIRE(lab.view("old")->write(0, block_of(1)).has_value());
    REQUIRE(lab.view("new")->write(0, block_of(2)).has_value());
    REQUIRE(lab.pool->sync().has_value());
    lab.env.fail_from(nth);
    const bool done = lab.pool->rename({"new", {}}, "old", true).has_value();
    lab.env.power_cut(nth);
    lab.pool.reset();
    lab.env.fail_from(std::nullopt);
    lab.open_checked();
    const bool renamed = !lab.pool->find({"new", {}}).has_value();
    CHECK((renamed || !done));
    REQUIRE(read_from(*lab.view("old"), 0) == block_of(renamed ? 2 : 1));
    if (!renamed) REQUIRE(read_from(*lab.view("new"), 0) == block_of(2));
    CHECK(lab.findings().empty());
  }
}

TEST_CASE("members of another pool at the known paths are refused, and never destroyed") {
  SmallPool lab;
  const std::string uuid = to_string(lab.pool->status().uuid);
  REQUIRE(lab.pool->close().has_value());
  lab.pool.reset();
  const std::string other = "00000000-0000-4000-8000-000000000000";
  const auto refused = Pool::open(lab.env, {.member_paths = {"/a"}, .expected_uuid = other});
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().kind == ErrorKind::damaged);
  CHECK_FALSE(Pool::destroy(lab.env, {"/a"}, other).has_value());
  CHECK(Pool::open(lab.env, {.member_paths = {"/a"}, .expected_uuid = uuid}).has_value());
}

TEST_CASE("a damaged byte of the catalog never becomes wrong data") {
  log::set_level(log::Level::off);
  MemoryEnv env;
  REQUIRE(Pool::create(env, {.name = "lab", .members = {{"/a", 16 * kMiB}}}).has_value());
  const OpenPoolOptions options{.member_paths = {"/a"}};
  {
    auto pool = Pool::open(env, options);
    REQUIRE(pool.has_value());
    const auto info = (*pool)->create_volume("v", 2 * kMiB);
    auto view = (*pool)->open_view(info->id);
    for (std::uint64_t i = 0; i < 512; i += 2)
      REQUIRE((*view)->write(i * kBlockBytes, block_of(1)).has_value());
    *view = ViewHandle();
    const ViewName name{"v", "s"};
    REQUIRE((*pool)->snapshot(std::span(&name, 1)).has_value());
    REQUIRE((*pool)->close().has_value());
  }
  SparseBytes sound = env.bytes_of("/a");
  // Without the copy of the catalog, which would be read instead: see pool_damage_test.cpp.
  const auto layout = decode_superblock(std::span(sound.data(), format::kSuperblockBytes)).value();
  for (const MetadataSegment& segment : layout.segments) {
    if (segment.file != MetadataFile::copy) continue;
    for (std::uint64_t i = 0; i < bytes(segment.run.count); ++i)
      sound[segment.run.start.block() * kBlockBytes + i] = std::byte{0};
  }
  // The metadata segments: what is neither header nor a block of ones.
  std::vector<std::uint64_t> places;
  for (std::uint64_t at = format::kHeaderBytes; at < sound.size(); at += kBlockBytes) {
    const auto* const block = sound.data() + at;
    if (block[0] != std::byte{1} &&
        std::any_of(block, block + kBlockBytes, [](std::byte b) { return b != std::byte{0}; }))
      places.push_back(at);
  }
  REQUIRE(places.size() > 10);
  std::mt19937_64 random(Catch::rngSeed());
  int refused = 0;
  for (int round = 0; round < 300; ++round) {
    env.bytes_of("/a") = sound;
    const std::uint64_t at = places[random() % places.size()] + random() % kBlockBytes;
    const std::size_t length = round % 3 == 0 ? 512 - at % 512 : 1;
    for (std::size_t i = 0; i < length; ++i) env.bytes_of("/a")[at + i] ^= std::byte{0xff};
    INFO("seed " << Catch::rngSeed() << " round " << round << ": " << length << " bytes at " << at);
    auto pool = Pool::open(env, options);
    if (!pool) {
      ++refused;
      REQUIRE(pool.error().kind == ErrorKind::damaged);
      continue;
    }
    for (const char* name : {"v", "v@s"}) {
      const auto info = (*pool)->find(*parse_view_name(name));
      REQUIRE(info.has_value());
      auto view = (*pool)->open_view(info->id);
      std::vector<std::byte> out(kBlockBytes);
      for (std::uint64_t i = 0; view && i < 512; ++i) {
        const auto got = (*view)->read(i * kBlockBytes, out);
        REQUIRE((!got || out == block_of(i % 2 == 0 ? 1 : 0)));
        refused += got ? 0 : 1;
      }
    }
  }
  REQUIRE(refused > 0);
}

TEST_CASE("a size whose commit found no space is stored by the next one") {
  log::set_level(log::Level::off);
  SmallPool lab;
  lab.create("v", kMiB);
  {
    ViewHandle v = lab.view("v");
    REQUIRE(v->write(kMiB, block_of(7)).has_value()); // makes it longer
    lab.env.no_space(true);
    const auto synced = v->fsync();
    REQUIRE_FALSE(synced.has_value());
    REQUIRE(synced.error().errno_value == ENOSPC);
    lab.env.no_space(false);
    REQUIRE(v->fsync().has_value());
  }
  lab.env.power_cut(1);
  lab.pool.reset();
  lab.open();
  ViewHandle v = lab.view("v");
  CHECK(v->size_bytes() == kMiB + kBlockBytes);
  CHECK(read_from(*v, kMiB) == block_of(7));
}

TEST_CASE("changes that cannot be committed for want of space are bounded, and none is lost") {
  log::set_level(log::Level::off);
  SmallPool lab(64 * kMiB);
  constexpr std::uint64_t kBlocks = 32 * kMiB / kBlockBytes;
  lab.create("v", 32 * kMiB);
  {
    ViewHandle v = lab.view("v");
    for (std::uint64_t at = 0; at < 32 * kMiB; at += kMiB)
      REQUIRE(v->write(at, block_of(1, kMiB)).has_value());
    REQUIRE(v->fsync().has_value());
    lab.env.no_space(true);
    // Each leaves a record, and writes nothing.
    std::uint64_t refused = kBlocks;
    for (std::uint64_t block = 0; block < kBlocks && refused == kBlocks; block += 2)
      if (!v->discard(block * kBlockBytes, kBlockBytes)) refused = block;
    REQUIRE(refused < kBlocks);
    const auto again = v->discard((refused + 2) * kBlockBytes, kBlockBytes);
    REQUIRE_FALSE(again.has_value());
    CHECK(again.error().errno_value == ENOSPC);
    lab.env.no_space(false);
    REQUIRE(v->discard(refused * kBlockBytes, kBlockBytes).has_value());
    REQUIRE(v->fsync().has_value());
    for (std::uint64_t block = 0; block < kBlocks; ++block) {
      const bool hole = block % 2 == 0 && block <= refused;
      REQUIRE(read_from(*v, block * kBlockBytes) == block_of(hole ? 0 : 1));
    }
  }
  lab.reopen();
  CHECK(lab.findings().empty());
}

TEST_CASE("a pool that is refused until it was checked is not changed by the attempt") {
  log::set_level(log::Level::off);
  SmallPool lab;
  lab.create("v", 4 * kMiB);
  {
    ViewHandle v = lab.view("v");
    REQUIRE(v->write(0, block_of(1, 4 * kMiB)).has_value());
    REQUIRE(v->fsync().has_value());
    v = ViewHandle();
    REQUIRE(lab.remove("v").has_value()); // something for a sweep to do
    lab.create("w", kMiB);
    v = lab.view("w");
    REQUIRE(v->write(0, block_of(2)).has_value());
    lab.env.fail_flush_once();
    REQUIRE_FALSE(v->fsync().has_value());
  }
  lab.pool.reset();
  const SparseBytes before = lab.env.bytes_of("/a");
  REQUIRE_FALSE(Pool::open(lab.env, {.member_paths = {"/a"}}).has_value());
  SparseBytes after = lab.env.bytes_of("/a");
  // But for the owner's record.
  std::copy_n(before.begin() + format::kOwnerRecordOffset, format::kOwnerRecordBytes,
              after.begin() + format::kOwnerRecordOffset);
  const auto differs = std::mismatch(before.begin(), before.end(), after.begin()).first - before.begin();
  CHECK(differs == static_cast<std::ptrdiff_t>(before.size()));
  lab.open_checked();
}
