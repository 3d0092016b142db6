// A small pool with a volume whose snapshots have a limit.
#pragma once

#include "tests/core/refusal.h"
#include "tests/core/small_pool.h"

namespace vsnap {

class LimitLab : public SmallPool {
 public:
  static constexpr std::uint64_t kBlocks = 256; // of v that have content
  explicit LimitLab(std::uint64_t seed = 1, std::uint64_t pool_bytes = 32 * kMiB)
      : SmallPool(pool_bytes, seed) {
    create("v", 4 * kMiB);
    REQUIRE(write(0, kBlocks, 1).has_value());
  }
  static ViewName name(const std::string& text) { return *parse_view_name(text); }
  Result<> write(std::uint64_t block, std::uint64_t count, std::uint8_t stamp,
                 const std::string& volume = "v") {
    return view(volume)->write(block * kBlockBytes, block_of(stamp, count * kBlockBytes));
  }
  Result<> set(const std::string& volume, const Properties& properties) {
    return pool->set_properties(volume, properties);
  }
  // In blocks.
  void limit(std::uint64_t blocks, const std::string& on_full = "error", const std::string& volume = "v") {
    const auto done =
        set(volume, {{"snapshot-limit", std::to_string(blocks * kBlockBytes)}, {"on-full", on_full}});
    INFO((done ? "" : done.error().message));
    REQUIRE(done.has_value());
  }
  ViewInfo info(const std::string& text) {
    const auto found = pool->find(name(text));
    INFO((found ? "" : found.error().message));
    REQUIRE(found.has_value());
    return *found;
  }
  // As it is kept up; and as it is counted.
  std::uint64_t figure(const std::string& volume = "v") {
    const auto space = info(volume).snapshot_space;
    REQUIRE(space.has_value());
    REQUIRE(space->used_bytes.has_value());
    return *space->used_bytes / kBlockBytes;
  }
  std::uint64_t counted(const std::string& volume = "v") {
    pool->count_snapshot_space(Pool::Figures::exact);
    return figure(volume);
  }
  // What goes with all snapshots of a volume, which is what they keep beside it; of one that was not rolled
  // back.
  std::uint64_t freed_with_all(const std::string& volume = "v") {
    std::vector<ViewName> names;
    for (const ViewInfo& view : pool->list()) {
      if (view.kind == ViewKind::snapshot && view.name.volume == volume) names.push_back(view.name);
    }
    if (names.empty()) return 0;
    const auto plan = pool->remove(names, {.dry_run = true});
    INFO((plan ? "" : plan.error().message));
    REQUIRE(plan.has_value());
    return plan->frees_bytes / kBlockBytes;
  }
  bool has(const std::string& text) { return pool->find(name(text)).has_value(); }
  Result<> hold(const std::string& text, const std::string& tag) {
    const ViewName snapshot = name(text);
    return pool->hold(std::span(&snapshot, 1), tag);
  }
  Result<> release_hold(const std::string& text, const std::string& tag) {
    const ViewName snapshot = name(text);
    return pool->release_hold(std::span(&snapshot, 1), tag);
  }
};

} // namespace vsnap
