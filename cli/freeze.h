// vsnap snapshot --freeze: what uses the volumes stands still while their snapshots are taken, and what that
// makes of each of them is recorded.
//
// Invariants
// 1. Whatever is to be found out, opened or refused is so before anything is frozen.
// 2. A snapshot has the level crash until everything was seen to be frozen still, after the snapshot was
//    confirmed; then it gets a higher one, under the number it had in that moment.
// 3. Nothing is printed while something is frozen: a terminal or a file may be, too.
// Threads: the main thread only.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/pool_access.h"

namespace vsnap::cli {

struct FreezeArguments {
  bool freeze = false;
  std::string limit; // seconds, as given
  std::vector<std::string> agents;
};

// Of options that do not go together, and a limit that is none.
[[nodiscard]] Result<> check(const FreezeArguments& arguments);

// Calls `take`, which asks the pool for the snapshots, with or without a freeze around it; the level that
// each has then. An error after they were taken says so.
[[nodiscard]] Result<std::vector<SnapshotLevel>> take_snapshots(PoolAccess& access, const std::string& pool,
                                                                const std::vector<ViewName>& names,
                                                                const FreezeArguments& arguments,
                                                                const CommonOptions& common,
                                                                const std::function<Result<>()>& take);

} // namespace vsnap::cli
