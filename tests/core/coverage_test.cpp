// What only children see of a branch is given back once all of them have blocks of their own there.
#include <fmt/format.h>

#include <map>
#include <random>
#include <set>

#include "tests/support/seed.h"
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kBlocks = 48; // of each volume that are looked at

class FamilyLab : public SmallPool {
 public:
  using Content = std::vector<std::uint32_t>; // which write each block has; 0: none
  explicit FamilyLab(std::uint64_t seed) : SmallPool(64 * kMiB), random_(seed) {
    create("v0", 16 * kMiB);
    views_["v0"] = Content(kBlocks);
  }
  std::uint64_t any(std::uint64_t below) { return random_() % below; }
  std::string any_view(bool snapshots) {
    std::vector<std::string> names;
    for (const auto& [name, content] : views_) {
      if ((name.find('@') != std::string::npos) == snapshots) names.push_back(name);
    }
    return names.empty() ? "" : names[any(names.size())];
  }
  void write(const std::string& name) {
    const ViewHandle handle = view(name);
    const std::uint64_t from = any(kBlocks);
    const std::uint64_t to = std::min(kBlocks, from + 1 + any(12));
    const bool discard = any(8) == 0;
    for (std::uint64_t i = from; i < to; ++i) {
      views_[name][i] = discard ? 0 : next_++;
      if (discard) {
        REQUIRE(handle->discard(i * kBlockBytes, kBlockBytes).has_value());
      } else {
        REQUIRE(handle->write(i * kBlockBytes, content_of(views_[name][i])).has_value());
      }
    }
  }
  void snapshot_of(const std::string& volume) {
    const std::string name = fmt::format("{}@s{}", volume, next_++);
    REQUIRE(snapshot(name).has_value());
    views_[name] = views_[volume];
  }
  void clone_of(const std::string& name) {
    const std::string volume = fmt::format("v{}", next_++);
    REQUIRE(pool->clone(*parse_view_name(name), volume).has_value());
    views_[volume] = views_[name];
  }
  void roll_back_to(const std::string& name) {
    REQUIRE(pool->rollback(*parse_view_name(name), true, false).has_value());
    views_[parse_view_name(name)->volume] = views_[name];
  }
  void remove_view(const std::string& name) {
    REQUIRE(remove(name, {.recursive = true}).has_value());
    std::erase_if(views_, [&](const auto& v) { return v.first == name || v.first.starts_with(name + "@"); });
  }
  std::size_t volumes() const {
    return static_cast<std::size_t>(std::count_if(
        views_.begin(), views_.end(), [](const auto& v) { return v.first.find('@') == std::string::npos; }));
  }
  // Changes so much elsewhere in each volume that all that it starts from is swept.
  void sweep_all() {
    constexpr std::uint64_t kScratch = 4 * kMiB;
    for (const auto& [name, content] : views_) {
      if (name.find('@') != std::string::npos) continue;
      const ViewHandle handle = view(name);
      REQUIRE(handle->write(kScratch, block_of(7, kScratch)).has_value());
      static_cast<void>(pool->status()); // commits
      REQUIRE(handle->discard(kScratch, kScratch).has_value());
      static_cast<void>(pool->status());
    }
    REQUIRE(pool->wait_for_removals({}).has_value());
  }
  std::uint64_t data_blocks() { return pool->status().space.data_bytes / kBlockBytes; }
  void check_all() {
    std::set<std::uint32_t> seen;
    for (const auto& [name, content] : views_) {
      const ViewHandle handle = view(name);
      for (std::uint64_t i = 0; i < kBlocks; ++i) {
        INFO(name << " block " << i);
        REQUIRE(read_from(*handle, i * kBlockBytes) == content_of(content[i]));
        if (content[i] != 0) seen.insert(content[i]);
      }
    }
    REQUIRE(findings().empty());
    CHECK(data_blocks() == seen.size()); // nothing else is kept
  }

 private:
  static std::vector<std::byte> content_of(std::uint32_t write) {
    std::vector<std::byte> block(kBlockBytes);
    std::memcpy(block.data(), &write, sizeof write);
    return block;
  }
  std::mt19937_64 random_;
  std::uint32_t next_ = 1;
  std::map<std::string, Content> views_;
};

} // namespace

TEST_CASE("what only children see of a branch does not add up over rollbacks") {
  SmallPool lab(64 * kMiB);
  lab.create("v", 4 * kMiB);
  REQUIRE(lab.view("v")->write(0, block_of(1, 4 * kMiB)).has_value());
  for (std::uint8_t round = 2; round < 12; ++round) {
    REQUIRE(lab.snapshot("v@s").has_value());
    REQUIRE(lab.pool->rollback({"v", "s"}, true, false).has_value());
    REQUIRE(lab.remove("v@s").has_value());
    REQUIRE(lab.view("v")->write(0, block_of(round, 4 * kMiB)).has_value());
    static_cast<void>(lab.pool->status()); // commits
    REQUIRE(lab.pool->wait_for_removals({}).has_value());
    CHECK(lab.pool->status().space.data_bytes == 4 * kMiB);
    REQUIRE(read_from(*lab.view("v"), kMiB) == block_of(round));
  }
  CHECK(lab.findings().empty());
}

TEST_CASE("what only children see stays until the last of them has written there") {
  SmallPool lab(64 * kMiB);
  lab.create("v", 8 * kMiB);
  REQUIRE(lab.view("v")->write(0, block_of(1, 4 * kMiB)).has_value());
  REQUIRE(lab.snapshot("v@s").has_value());
  for (const char* const name : {"c", "d"}) REQUIRE(lab.pool->clone({"v", "s"}, name).has_value());
  const auto data_after = [&](const char* name, std::uint8_t stamp) {
    REQUIRE(lab.view(name)->write(0, block_of(stamp, 4 * kMiB)).has_value());
    static_cast<void>(lab.pool->status());
    REQUIRE(lab.pool->wait_for_removals({}).has_value());
    return lab.pool->status().space.data_bytes / kMiB;
  };
  REQUIRE(lab.remove("v@s").has_value());
  CHECK(data_after("v", 2) == 8);
  CHECK(data_after("c", 3) == 12);
  REQUIRE(read_from(*lab.view("d"), kMiB) == block_of(1));
  CHECK(data_after("d", 4) == 12);
  for (const auto& [name, stamp] : {std::pair{"v", 2}, {"c", 3}, {"d", 4}})
    REQUIRE(read_from(*lab.view(name), kMiB) == block_of(static_cast<std::uint8_t>(stamp)));
  CHECK(lab.findings().empty());
}

TEST_CASE("what only children see of any family of clones is given back to the block") {
  const std::uint64_t seed = test_seed();
  for (std::uint64_t round = 0; round < 30; ++round) {
    FamilyLab lab(seed + round);
    for (int operation = 0; operation < 120; ++operation) {
      const std::string volume = lab.any_view(false);
      const std::string snapshot = lab.any_view(true);
      const std::uint64_t what = lab.any(20);
      if (what < 8) lab.write(volume);
      if (what >= 8 && what < 12) lab.snapshot_of(volume);
      if (what >= 12 && what < 17 && snapshot.empty()) continue;
      if (what == 12 && lab.volumes() < 5) lab.clone_of(snapshot);
      if (what == 13) lab.roll_back_to(snapshot);
      if (what >= 14 && what < 17) lab.remove_view(snapshot);
      if (what == 17 && lab.volumes() > 1) lab.remove_view(volume);
      if (what == 18) lab.sweep_all();
      if (what == 19) lab.reopen();
    }
    lab.sweep_all();
    lab.check_all();
  }
}
