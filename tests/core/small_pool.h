// A small pool in memory, for the tests of the whole engine.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "core/format.h"
#include "core/member_set.h"
#include "core/pool.h"
#include "tests/support/catch.h"
#include "tests/support/memory_env.h"

namespace vsnap {

inline constexpr std::uint64_t kMiB = 1ULL << 20;

class SmallPool {
 public:
  enum class Journal { made, none }; // none: as if there had been no room for one
  explicit SmallPool(std::uint64_t size_bytes = 32 * kMiB, std::uint64_t seed = 1,
                     Journal journal = Journal::made)
      : env(seed) {
    const auto made = Pool::create(env, {.name = "lab", .members = {{"/a", size_bytes}}});
    INFO((made ? "" : made.error().message));
    REQUIRE(made.has_value());
    open();
    if (journal == Journal::none) drop_journal();
  }
  // As a pool from before there were journals, which finds no room for one.
  void drop_journal() {
    pool.reset();
    auto members = MemberSet::open(env, paths, "test", 0);
    REQUIRE(members.has_value());
    const auto dropped = (*members)->update_layout([](Superblock& layout) {
      std::erase_if(layout.segments,
                    [](const MetadataSegment& s) { return s.file == MetadataFile::journal; });
      layout.incompat &= ~format::kFeatureJournal;
    });
    REQUIRE(dropped.has_value());
    members->reset();
    env.no_space(true);
    open();
    env.no_space(false);
  }
  void open(OpenPoolOptions options = {}) {
    options.member_paths = paths;
    auto opened = Pool::open(env, options);
    INFO((opened ? "" : opened.error().message));
    REQUIRE(opened.has_value());
    pool = std::move(*opened);
  }
  // After a failure that a check has to look at first.
  void open_checked() {
    {
      auto opened = Pool::open(env, {.member_paths = paths, .for_check = true});
      INFO((opened ? "" : opened.error().message));
      REQUIRE(opened.has_value());
      const auto report = (*opened)->check(true, {});
      REQUIRE(report.has_value());
      for (const Finding& finding : report->findings) {
        INFO(finding.what);
        REQUIRE(finding.repaired);
      }
      REQUIRE((*opened)->close().has_value());
    }
    open();
  }
  void reopen() {
    REQUIRE(pool->close().has_value());
    pool.reset();
    open();
  }
  ViewHandle view(const std::string& name) {
    const auto info = pool->find(*parse_view_name(name));
    REQUIRE(info.has_value());
    auto handle = pool->open_view(info->id);
    REQUIRE(handle.has_value());
    return std::move(*handle);
  }
  void create(const std::string& name, std::uint64_t size) {
    REQUIRE(pool->create_volume(name, size).has_value());
  }
  Result<> snapshot(const std::string& name) {
    const ViewName view_name = *parse_view_name(name);
    return pool->snapshot(std::span(&view_name, 1));
  }
  Result<RemovalPlan> remove(const std::string& name, Pool::RemoveOptions options = {}) {
    const ViewName view_name = *parse_view_name(name);
    return pool->remove(std::span(&view_name, 1), options);
  }
  std::vector<std::string> findings() {
    std::vector<std::string> what;
    const auto report = pool->check(false, {});
    if (!report) return {report.error().message};
    for (const Finding& finding : report->findings) what.push_back(finding.what);
    return what;
  }

  MemoryEnv env;
  std::vector<std::string> paths = {"/a"};
  std::unique_ptr<Pool> pool;
};

inline std::vector<std::byte> block_of(std::uint8_t stamp, std::size_t size = kBlockBytes) {
  return std::vector<std::byte>(size, std::byte{stamp});
}
inline std::vector<std::byte> read_from(View& view, std::uint64_t offset, std::size_t size = kBlockBytes) {
  std::vector<std::byte> out(size);
  const auto read = view.read(offset, out);
  REQUIRE(read.has_value());
  out.resize(*read);
  return out;
}

} // namespace vsnap
