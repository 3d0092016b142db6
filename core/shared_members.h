// The members of a pool that another host has open: read here, and nothing else. They are not claimed.
//
// Invariants
// 1. A file is a member only if its superblock says so: of that pool, at that place of its roster; and if it
//    shows the mark that the other host has just written to the real one (member_mark.h), not a copy.
// 2. That is looked at anew in each session, before anything is read in it: whoever has the pool open then
//    may have other files open. Within one the other host keeps its files open, and so does this one.
// 3. Reads go past the page cache: what is in this host's may be older than what the other host wrote. A
//    member of which that cannot be had is left to the other host, like one that is not here.
// Threads: any. look_mutex_ is held while the other host is asked.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/description.h"
#include "core/env.h"
#include "core/mutex.h"
#include "core/units.h"

namespace vsnap {

// The host that has the pool open.
class MemberSource {
 public:
  virtual ~MemberSource() = default;
  // The status of the pool with a mark that all members in it show by now.
  [[nodiscard]] virtual Result<PoolStatus> fetch_members() = 0;
};

class SharedMembers {
 public:
  static constexpr std::chrono::seconds kLookAgain{5};
  using Search = std::function<std::vector<std::string>()>;

  // `paths`: where members may be, and then what `search` finds; one that is none is passed over.
  SharedMembers(Env& env, Uuid pool_uuid, std::vector<std::string> paths, Search search = {});
  // All members must be here, but for those that are left to the other host. Kind not_found: names one that
  // is not, and what is there in its place.
  [[nodiscard]] Result<> require(std::uint64_t session, MemberSource& source) VSNAP_EXCLUDES(look_mutex_);
  // Before a map of the session is used. Sessions have higher numbers than those before. Kind no_answer.
  [[nodiscard]] Result<> look_in(std::uint64_t session, MemberSource& source) VSNAP_EXCLUDES(look_mutex_);
  // After a read that found no member: it may be here by now. Not more often than each kLookAgain.
  void look_again(MemberSource& source) VSNAP_EXCLUDES(look_mutex_);
  // From `offset_bytes` into the place on. Kind not_found: the other host has to be asked.
  [[nodiscard]] Result<> read(Place place, std::uint64_t offset_bytes, std::span<std::byte> out)
      VSNAP_EXCLUDES(mutex_);

 private:
  struct Member {
    Uuid uuid{};
    std::string path;
    std::shared_ptr<File> file; // nullptr: it is not here
  };
  using Members = std::vector<Member>; // by index
  [[nodiscard]] Result<> look(MemberSource& source) VSNAP_REQUIRES(look_mutex_) VSNAP_EXCLUDES(mutex_);
  void find_missing(const std::vector<std::string>& paths, Members& found) VSNAP_REQUIRES(look_mutex_);
  [[nodiscard]] Result<> add(const std::string& path, Members& found) VSNAP_REQUIRES(look_mutex_);
  [[nodiscard]] bool is_complete(const Members& found) VSNAP_REQUIRES(look_mutex_);
  [[nodiscard]] bool shows_mark(File& file) VSNAP_REQUIRES(look_mutex_);
  void set_members(Members members) VSNAP_REQUIRES(look_mutex_) VSNAP_EXCLUDES(mutex_);
  void tell_what_is_wrong() VSNAP_REQUIRES(look_mutex_);

  Env& env_;
  const Uuid pool_uuid_;
  const std::vector<std::string> paths_;
  const Search search_;
  std::atomic<std::int64_t> looked_ns_{0};                  // last
  Mutex look_mutex_;                                        // before mutex_: one look after the other
  std::uint64_t session_ VSNAP_GUARDED_BY(look_mutex_) = 0; // that members were looked at in
  PoolStatus known_ VSNAP_GUARDED_BY(look_mutex_);          // as the other host said
  // By index, of members that are not read here: why not.
  std::map<std::uint32_t, std::string> wrong_ VSNAP_GUARDED_BY(look_mutex_);
  std::map<std::uint32_t, std::string> left_ VSNAP_GUARDED_BY(look_mutex_); // to the other host
  std::string told_ VSNAP_GUARDED_BY(look_mutex_);                          // of that, last
  Mutex mutex_;                                                             // a leaf
  Members members_ VSNAP_GUARDED_BY(mutex_);
};

} // namespace vsnap
