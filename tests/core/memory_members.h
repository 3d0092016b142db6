// Members in memory, for the tests of what lies directly on them.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/member_set.h"
#include "tests/support/catch.h"
#include "tests/support/memory_env.h"

namespace vsnap {

inline std::unique_ptr<File> new_file(MemoryEnv& env, const std::string& path, std::uint64_t size_bytes) {
  auto file = env.open_file(path, {.create = true, .exclusive_create = true});
  REQUIRE(file.has_value());
  REQUIRE((*file)->resize(size_bytes).has_value());
  return std::move(*file);
}

inline std::unique_ptr<MemberSet> create_members(MemoryEnv& env, const std::string& pool,
                                                 const std::vector<std::string>& paths,
                                                 std::uint64_t size_bytes = format::kMinMemberBytes) {
  std::vector<std::pair<std::string, std::unique_ptr<File>>> files;
  for (const std::string& path : paths) files.emplace_back(path, new_file(env, path, size_bytes));
  auto made = MemberSet::create(env, pool, std::move(files));
  REQUIRE(made.has_value());
  return std::move(*made);
}

inline std::unique_ptr<MemberSet> open_members(MemoryEnv& env, const std::vector<std::string>& paths) {
  auto opened = MemberSet::open(env, paths, "command", 0);
  INFO((opened ? "" : opened.error().message));
  REQUIRE(opened.has_value());
  return std::move(*opened);
}

} // namespace vsnap
