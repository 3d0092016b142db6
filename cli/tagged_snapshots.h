// What hold and release-hold take: snapshots of one pool, and a tag after them.
#pragma once

#include <string>
#include <vector>

#include "core/error.h"
#include "sync/protocol.pb.h"

namespace vsnap::cli {

struct TaggedSnapshots {
  std::string pool;
  wire::HoldRequest request;
  std::vector<std::string> names; // POOL/VOLUME@SNAPSHOT
};
[[nodiscard]] Result<TaggedSnapshots> tagged_snapshots(const std::vector<std::string>& words,
                                                       const std::string& command);

} // namespace vsnap::cli
