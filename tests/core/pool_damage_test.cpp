// Damage of a member: one byte, one run of bytes, or its end. Nothing ever becomes wrong data; what a copy is
// kept of does no harm, and check --repair mends it.
//
// VSNAP_FLIPS: how many bytes (400 and 400 blocks); "all": every byte that says anything, ten minutes.
#include <algorithm>
#include <cstdlib>
#include <random>
#include <set>
#include <string_view>

#include "core/log.h"
#include "core/superblock.h"
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kVolumeBlocks = 256;

std::uint8_t stamp_of(std::uint64_t block, bool is_snapshot) {
  if (block % 3 == 2) return 0;
  return static_cast<std::uint8_t>(is_snapshot || block % 3 == 0 ? 1 + block % 100 : 101 + block % 100);
}

// A pool that was closed in order, and every place of it that is not zero and no data.
class Reference {
 public:
  explicit Reference(std::vector<std::string> members) : paths(std::move(members)) {
    std::vector<MemberSpec> specs;
    for (const std::string& path : paths) specs.push_back({path, 16 * kMiB});
    REQUIRE(Pool::create(env, {.name = "lab", .members = specs}).has_value());
    {
      auto pool = Pool::open(env, {.member_paths = paths});
      REQUIRE(pool.has_value());
      const auto info = (*pool)->create_volume("v", kVolumeBlocks * kBlockBytes);
      auto view = (*pool)->open_view(info->id);
      write(**view, true);
      const ViewName name{"v", "s"};
      REQUIRE((*pool)->snapshot(std::span(&name, 1)).has_value());
      write(**view, false);
      *view = ViewHandle();
      REQUIRE((*pool)->close().has_value());
    }
    for (const std::string& path : paths) sound.push_back(env.bytes_of(path));
  }

  void restore() {
    for (std::size_t i = 0; i < paths.size(); ++i) env.bytes_of(paths[i]) = sound[i];
  }
  // Of one member: its superblocks, and the metadata segments as far as anything stands there.
  [[nodiscard]] std::vector<std::uint64_t> places(std::size_t member) const {
    std::vector<std::uint64_t> found;
    const auto* const bytes = sound[member].data();
    const auto add_block = [&](std::uint64_t at) {
      if (std::all_of(bytes + at, bytes + at + kBlockBytes, [](std::byte b) { return b == std::byte{0}; }))
        return;
      for (std::uint64_t i = 0; i < kBlockBytes; ++i) found.push_back(at + i);
    };
    for (std::uint64_t at = 0; at < format::kHeaderBytes; at += kBlockBytes) add_block(at);
    const auto layout = decode_superblock(std::span(bytes, format::kSuperblockBytes)).value();
    for (const MetadataSegment& segment : layout.segments) {
      if (segment.run.start.member() != member) continue;
      for (std::uint64_t i = 0; i < segment.run.count.value(); ++i)
        add_block((segment.run.start.block() + i) * kBlockBytes);
    }
    return found;
  }
  void require_sound() {
    auto pool = Pool::open(env, {.member_paths = paths});
    INFO((pool ? "" : pool.error().message));
    REQUIRE(pool.has_value());
    for (const bool is_snapshot : {false, true}) {
      const auto info = (*pool)->find({"v", is_snapshot ? "s" : ""});
      REQUIRE(info.has_value());
      auto view = (*pool)->open_view(info->id);
      REQUIRE(view.has_value());
      std::vector<std::byte> out(kVolumeBlocks * kBlockBytes);
      REQUIRE((*view)->read(0, out).has_value());
      bool right = true;
      for (std::uint64_t block = 0; block < kVolumeBlocks; ++block) {
        const std::byte stamp{stamp_of(block, is_snapshot)};
        const auto* const at = out.data() + block * kBlockBytes;
        right = right && std::all_of(at, at + kBlockBytes, [&](std::byte b) { return b == stamp; });
      }
      REQUIRE(right);
    }
    REQUIRE((*pool)->close().has_value());
  }
  // What is left after a repair.
  std::vector<std::string> mend() {
    for (const bool repair : {true, false}) {
      auto pool = Pool::open(env, {.member_paths = paths, .for_check = true});
      INFO((pool ? "" : pool.error().message));
      REQUIRE(pool.has_value());
      const auto report = (*pool)->check(repair, {});
      INFO((report ? "" : report.error().message));
      REQUIRE(report.has_value());
      if (repair) continue;
      std::vector<std::string> left;
      for (const Finding& finding : report->findings) left.push_back(finding.what);
      return left;
    }
    return {};
  }

  MemoryEnv env;
  std::vector<std::string> paths;
  std::vector<SparseBytes> sound;

 private:
  static void write(View& view, bool is_snapshot) {
    for (std::uint64_t block = 0; block < kVolumeBlocks; ++block) {
      const std::uint8_t stamp = stamp_of(block, is_snapshot);
      if (stamp != 0) REQUIRE(view.write(block * kBlockBytes, block_of(stamp)).has_value());
    }
  }
};

void flip(Reference& pool, std::size_t member, std::size_t length, const std::vector<std::uint64_t>& places,
          std::mt19937_64& random) {
  const char* const wanted = std::getenv("VSNAP_FLIPS");
  const bool all = wanted != nullptr && std::string_view(wanted) == "all" && length == 1;
  const std::size_t count = all                         ? places.size()
                            : wanted != nullptr && !all ? std::strtoull(wanted, nullptr, 10)
                                                        : 400;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t at = (all ? places[i] : places[random() % places.size()]) / length * length;
    pool.restore();
    for (std::size_t b = 0; b < length; ++b) pool.env.bytes_of(pool.paths[member])[at + b] ^= std::byte{0xff};
    INFO("seed " << Catch::rngSeed() << ": " << length << " bytes at " << at << " of member " << member);
    pool.require_sound();
    if (i % 4 != 0) continue;
    pool.restore();
    for (std::size_t b = 0; b < length; ++b) pool.env.bytes_of(pool.paths[member])[at + b] ^= std::byte{0xff};
    REQUIRE(pool.mend().empty());
    pool.require_sound();
  }
}

} // namespace

TEST_CASE("one damaged byte anywhere in the metadata does no harm, and is mended") {
  log::set_level(log::Level::off);
  Reference pool({"/a"});
  std::mt19937_64 random(Catch::rngSeed());
  const auto places = pool.places(0);
  REQUIRE(places.size() > 20 * kBlockBytes);
  flip(pool, 0, 1, places, random);
}

TEST_CASE("a damaged block anywhere in the metadata does no harm, and is mended") {
  log::set_level(log::Level::off);
  Reference pool({"/a"});
  std::mt19937_64 random(Catch::rngSeed());
  std::vector<std::uint64_t> blocks;
  for (const std::uint64_t at : pool.places(0)) {
    if (at % kBlockBytes == 0) blocks.push_back(at);
  }
  flip(pool, 0, kBlockBytes, blocks, random);
}

TEST_CASE("the catalog and its copy lie on different members, and either is enough") {
  log::set_level(log::Level::off);
  Reference pool({"/a", "/b"});
  const auto layout = decode_superblock(std::span(pool.sound[0].data(), format::kSuperblockBytes)).value();
  for (const MetadataFile damaged : {MetadataFile::catalog, MetadataFile::copy}) {
    pool.restore();
    std::set<std::uint32_t> members;
    for (const MetadataSegment& segment : layout.segments) {
      if (segment.file != damaged) continue;
      members.insert(segment.run.start.member());
      const std::uint64_t start = segment.run.start.block() * kBlockBytes;
      SparseBytes& bytes = pool.env.bytes_of(pool.paths[segment.run.start.member()]);
      for (std::uint64_t i = 0; i < segment.run.count.value() * kBlockBytes; ++i)
        bytes[start + i] = std::byte{0x5a};
    }
    REQUIRE(members.size() == 1);
    CHECK(*members.begin() == (damaged == MetadataFile::catalog ? 0 : 1));
    pool.require_sound();
    REQUIRE(pool.mend().empty());
    pool.require_sound();
  }
}

TEST_CASE("a member that was cut off is refused, whatever is missing") {
  log::set_level(log::Level::off);
  Reference pool({"/a", "/b"});
  for (std::uint64_t cut = kBlockBytes; cut <= 16 * kMiB;
       cut += cut < kMiB ? kBlockBytes : 64 * kBlockBytes) {
    INFO("without the last " << cut << " bytes");
    for (std::size_t member = 0; member < 2; ++member) {
      pool.restore();
      pool.env.bytes_of(pool.paths[member]).resize(16 * kMiB - cut);
      const auto opened = Pool::open(pool.env, {.member_paths = pool.paths});
      REQUIRE_FALSE(opened.has_value());
      const auto checked = Pool::open(pool.env, {.member_paths = pool.paths, .for_check = true});
      REQUIRE_FALSE(checked.has_value());
    }
  }
  pool.restore();
  pool.require_sound();
}
