// A small pool with a volume of which full-sized snapshots are taken, and what they must show then.
#pragma once

#include "tests/core/small_pool.h"

namespace vsnap {

inline constexpr std::uint64_t kRegionBytes = kRegionBlocks * kBlockBytes;

// v, with a block in every MiB of two regions and 2 MiB next to each other, preserved as v@f; then
// overwritten.
class FullLab : public SmallPool {
 public:
  static constexpr std::uint64_t kSize = 2 * kRegionBytes;
  explicit FullLab(std::uint64_t seed = 1, std::uint64_t pool_bytes = 48 * kMiB)
      : SmallPool(pool_bytes, seed) {
    create("v", kSize);
    ViewHandle v = view("v");
    for (std::uint64_t at = 0; at < kSize; at += kMiB) REQUIRE(v->write(at, block_of(stamp(at))).has_value());
    REQUIRE(v->write(kRegionBytes, block_of(200, 2 * kMiB)).has_value());
    REQUIRE(v->reserve(kRegionBytes + 5 * kMiB + kBlockBytes, kBlockBytes, false).has_value());
  }
  static std::uint8_t stamp(std::uint64_t at) { return static_cast<std::uint8_t>(1 + at / kMiB); }
  static ViewName name(const std::string& text) { return *parse_view_name(text); }
  Result<> full(const std::string& text = "v@f", Pool::FullSnapshotOptions options = {}) {
    return pool->snapshot_full(name(text), options);
  }
  // Up to so many pieces; whether the copy is complete then.
  bool copy(int pieces, const std::string& text = "v@f") {
    int left = pieces;
    const auto done =
        pool->wait_for_copy(name(text), [&](std::uint64_t, std::uint64_t) { return --left >= 0; });
    if (!done) REQUIRE(done.error().errno_value == ECANCELED);
    return done.has_value();
  }
  void finish(const std::string& text = "v@f") {
    const auto done = pool->wait_for_copy(name(text), {});
    INFO((done ? "" : done.error().message));
    REQUIRE(done.has_value());
  }
  void overwrite() {
    ViewHandle v = view("v");
    for (std::uint64_t at = 0; at < kSize; at += kMiB) REQUIRE(v->write(at, block_of(250)).has_value());
  }
  void check_content(const std::string& text) {
    ViewHandle f = view(text);
    for (std::uint64_t at = 0; at < kSize; at += kMiB) {
      CAPTURE(at);
      const bool in_run = at >= kRegionBytes && at < kRegionBytes + 2 * kMiB;
      REQUIRE(read_from(*f, at) == block_of(in_run ? 200 : stamp(at)));
      REQUIRE(read_from(*f, at + kBlockBytes) == block_of(in_run ? 200 : 0));
    }
  }
  ViewInfo info(const std::string& text) {
    const auto found = pool->find(name(text));
    REQUIRE(found.has_value());
    return *found;
  }
  // Nothing is lost to all: with the last volume every block of data goes.
  void check_nothing_is_left() {
    for (const ViewInfo& view : pool->list()) {
      if (view.kind == ViewKind::volume) REQUIRE(remove(view.name.volume, {.recursive = true}).has_value());
    }
    REQUIRE(pool->wait_for_removals({}).has_value());
    REQUIRE(pool->space().data_bytes == 0);
    REQUIRE(findings().empty());
  }
};

} // namespace vsnap
