// The members of a pool that another host has open: read here, and nothing else. They are not claimed.
//
// Invariants
// 1. A file is a member only if its superblock says so: of that pool, at that place of its roster.
// 2. Reads go past the page cache where that can be had: what is in this host's may be older than what the
//    other host wrote.
// Threads: any. Members come, and do not go.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/description.h"
#include "core/env.h"
#include "core/mutex.h"
#include "core/units.h"

namespace vsnap {

class SharedMembers {
 public:
  // `paths`: where members may be; one that is none is passed over.
  SharedMembers(Env& env, Uuid pool_uuid, std::vector<std::string> paths);
  // All members that `roster` names must be there, or become so. Kind not_found: names one that is not.
  [[nodiscard]] Result<> require(std::span<const MemberInfo> roster) VSNAP_EXCLUDES(mutex_);
  // From `offset_bytes` into the place on. Kind not_found: there is no such member here.
  [[nodiscard]] Result<> read(Place place, std::uint64_t offset_bytes, std::span<std::byte> out)
      VSNAP_EXCLUDES(mutex_);

 private:
  struct Member {
    Uuid uuid{};
    std::string path;
    std::shared_ptr<File> file;
  };
  void look_for_members() VSNAP_REQUIRES(mutex_);
  [[nodiscard]] Result<> add(const std::string& path) VSNAP_REQUIRES(mutex_);

  Env& env_;
  const Uuid pool_uuid_;
  const std::vector<std::string> paths_;
  Mutex mutex_;
  std::vector<Member> members_ VSNAP_GUARDED_BY(mutex_); // by index; without a file: not found yet
};

} // namespace vsnap
