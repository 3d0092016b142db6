// The members of a pool that another host has open, read and written here, too. They are not claimed.
//
// Invariants
// 1. Nothing is written but what a caller asks for: data, into places that the other host has left to this
//    one alone until it has been told that nothing is under way any more. Never into a member's header, nor
//    past its end as it was when it was opened.
// 2. A file is a member only if its superblock says so: of that pool, at that place of its roster; and if it
//    shows the mark that the other host has just written to the real one (member_mark.h), not a copy.
// 3. That is looked at anew in each session, before anything is read in it: whoever has the pool open then
//    may have other files open. Within one the other host keeps its files open, and so does this one.
// 4. Reads and writes go past the page cache: what is in this host's may be older than what the other host
//    wrote, and what it wrote back later could undo that. A member of which that cannot be had is left to the
//    other host, like one that is not here.
// 5. A file is opened for writing only once it is known to be a member: others are but looked at.
// 6. What was written is durable once a flush() that began later has succeeded, also if its member has been
//    exchanged since. After one that failed nobody knows what the device has lost of the writes before it,
//    whatever it says later: no flush() succeeds any more, and nothing is written here. What is in doubt is
//    only data, old or new, of blocks that were overwritten in their place.
// Threads: any. look_mutex_ is held while the other host is asked.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
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
  // The same. Blocks in whole: the rest of one that is written in part is written as it was read before.
  [[nodiscard]] Result<> write(Place place, std::uint64_t offset_bytes, std::span<const std::byte> data)
      VSNAP_EXCLUDES(mutex_);
  // Of all writes that had ended when it began, also those of the process before; of members without any
  // since the last it asks nothing.
  [[nodiscard]] Result<> flush() VSNAP_EXCLUDES(mutex_);

 private:
  // What changes in it is guarded by mutex_.
  struct OpenFile {
    std::unique_ptr<File> file;
    bool writable = false;
    std::uint32_t writing = 0; // under way
    std::uint64_t written = 0; // ended
    std::uint64_t flushed = 0; // of those
  };
  using OpenFilePtr = std::shared_ptr<OpenFile>;
  struct Member {
    Uuid uuid{};
    std::string path;
    OpenFilePtr open; // nullptr: it is not here
  };
  using Members = std::vector<Member>; // by index
  [[nodiscard]] Result<> look(MemberSource& source) VSNAP_REQUIRES(look_mutex_) VSNAP_EXCLUDES(mutex_);
  void find_missing(const std::vector<std::string>& paths, Members& found) VSNAP_REQUIRES(look_mutex_);
  [[nodiscard]] Result<> add(const std::string& path, Members& found) VSNAP_REQUIRES(look_mutex_);
  // The same file, to be written; or else as it is.
  [[nodiscard]] OpenFilePtr for_writing(const std::string& path, std::unique_ptr<File> read_only);
  [[nodiscard]] bool is_complete(const Members& found) VSNAP_REQUIRES(look_mutex_);
  [[nodiscard]] bool shows_mark(File& file) VSNAP_REQUIRES(look_mutex_);
  void set_members(Members members) VSNAP_REQUIRES(look_mutex_) VSNAP_EXCLUDES(mutex_);
  void tell_what_is_wrong() VSNAP_REQUIRES(look_mutex_);
  // nullptr: it is not here.
  [[nodiscard]] OpenFilePtr file_of(Place place) VSNAP_REQUIRES(mutex_);
  [[nodiscard]] Result<OpenFilePtr> begin_write(Place place, std::uint64_t end_bytes) VSNAP_EXCLUDES(mutex_);
  struct FlushPart {
    OpenFilePtr open;
    std::uint64_t written = 0; // that it makes durable
    Result<> flushed;
  };
  [[nodiscard]] std::vector<FlushPart> begin_flush() VSNAP_REQUIRES(mutex_);
  [[nodiscard]] Result<> end_flush(std::vector<FlushPart> parts) VSNAP_REQUIRES(mutex_);
  void forget_flushed() VSNAP_REQUIRES(mutex_); // of retired_

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
  std::vector<OpenFilePtr> retired_ VSNAP_GUARDED_BY(mutex_); // no members any more, but written before
  // One at a time: the kernel tells of what was lost once, to one of those that flush a file at that time.
  bool flushing_ VSNAP_GUARDED_BY(mutex_) = false;
  CondVar flush_ended_;
  std::optional<Error> flush_error_ VSNAP_GUARDED_BY(mutex_); // the first
};

} // namespace vsnap
