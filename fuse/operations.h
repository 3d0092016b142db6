// What the kernel asks for, answered from a pool. The state of one mount that all handlers share, and the
// table of the handlers. Inode numbers are object ids; the root directory is 1.
//
// Invariants
// 1. Nothing is cached by name or attribute (time-outs are 0), so a stat is always exact. Pages are cached
//    for handles that were not opened with O_DIRECT, and dropped when the content changes by other means than
//    its file.
// 2. A handler answers its request exactly once; see reply.h.
// 3. Data is read into a buffer of the worker, and written from the request's own: it is never copied, but
//    for requests that are set aside (set_aside.h).
// 4. A request that comes again, because a process died that had read it (request_channel.h), has the effect
//    of one. If it was carried out it is only answered. Of one that changes names the catalog says so
//    (request_note.h), whatever a command has made, removed or renamed since; of others the mount's state,
//    from their answer on, and until then they can be carried out twice.
// Threads: handlers run on any worker of the session, several at a time.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>
#include <atomic>

#include "core/pool.h"
#include "fuse/kernel_api.h"
#include "fuse/kernel_mount.h"
#include "fuse/notifier.h"
#include "fuse/open_directories.h"
#include "fuse/open_files.h"
#include "fuse/pending_reads.h"
#include "fuse/request_channel.h"
#include "fuse/set_aside.h"
#include "fuse/shared_copies.h"

namespace vsnap {

struct Operations {
  Operations(Pool& pool_of_mount, KernelMount& kernel_mount, uid_t owner, gid_t group)
      : pool(pool_of_mount),
        mount(kernel_mount),
        files(kernel_mount.state()),
        shared_copies(pool_of_mount, kernel_mount.state()),
        set_aside(kernel_mount.channels().size()),
        uid(owner),
        gid(group) {}

  static constexpr unsigned kMaxWriteBytes = 1U << 20;

  // The request that the calling thread is at was answered by a process that then died.
  [[nodiscard]] bool was_answered() const {
    const RequestOrigin& at = current_request();
    return at.again && mount.state().was_answered(at.id);
  }

  // That request, which changes names, as the pool is to note it.
  [[nodiscard]] RequestId request_id() const { return mount.state().request_id(current_request().id); }
  // As Pool::carried_out(); nullopt also where it comes for the first time.
  [[nodiscard]] Result<std::optional<ObjectId>> carried_out() const {
    if (!current_request().again) return std::nullopt;
    return pool.carried_out(request_id());
  }

  // Core gave up waiting for room (Pool::stop_waiting()) as the session hands over: the request stays
  // unanswered, and the successor gets it again.
  [[nodiscard]] bool is_for_successor(const Result<>& changed) const {
    return hands_over && !changed && changed.error().kind == ErrorKind::no_space;
  }
  // The same of what was asked of another host, which has not answered yet.
  [[nodiscard]] bool is_open_elsewhere(const Error& error) const {
    return hands_over && error.kind == ErrorKind::no_answer;
  }

  // stat of a view, and of the root directory.
  [[nodiscard]] struct stat describe(const ViewInfo& info);
  [[nodiscard]] struct stat describe_root() const;
  // As ftruncate(2); EROFS for a snapshot.
  Result<> set_size(ObjectId id, std::uint64_t size_bytes);

  Pool& pool;
  KernelMount& mount;
  Notifier notifier;
  OpenFiles files;
  OpenDirectories directories;
  SharedCopies shared_copies;
  PendingReads pending_reads;
  SetAside set_aside;
  const uid_t uid; // of whoever mounted
  const gid_t gid;
  std::atomic<bool> hands_over{false}; // see MountSession::was_handed_over()
  bool other_terms = false;           // the answer to INIT is not what the kernel was told at first
  bool over_ring = false;             // asked for; from INIT on, whether it is so (request_ring.h)
  std::atomic<pid_t> first_worker{0}; // the thread that answered INIT; it works as long as the session
};

[[nodiscard]] fuse_lowlevel_ops operation_table();
// The parts of the table, by subject.
void add_name_operations(fuse_lowlevel_ops& table);
void add_directory_operations(fuse_lowlevel_ops& table);
void add_data_operations(fuse_lowlevel_ops& table);

// Opens a view with open(2)'s flags, for the request that the calling thread is at; open_reply.h answers.
// EROFS for a snapshot to be written.
Result<OpenFile*> open_file(Operations& operations, const ViewInfo& info, int flags);

} // namespace vsnap
