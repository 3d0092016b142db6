// vsnap snapshot --full: preserves one volume, and gets the copy of it going.
// Threads: the main thread only.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/freeze.h"

namespace vsnap::cli {

struct FullSnapshotArguments {
  bool full = false;
  std::vector<std::string> to;
  std::string bwlimit;
  bool wait = false;
};

[[nodiscard]] Result<int> take_full_snapshot(const CommonOptions& common, const std::string& target,
                                             const FullSnapshotArguments& arguments,
                                             const FreezeArguments& freeze);

} // namespace vsnap::cli
