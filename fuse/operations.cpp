// Attributes and everything about the mount as a whole.
#include "fuse/operations.h"

#include <sys/statvfs.h>
#include <unistd.h>
#include <algorithm>
#include <csignal>
#include <limits>

#include "core/log.h"
#include "fuse/reply.h"
#include "fuse/request_ring.h"
#include "fuse/wake_signal.h"

namespace vsnap {
namespace {

constexpr std::int64_t kSecondNs = 1'000'000'000;
// The kernel counts asynchronous direct I/O as background requests: its default of 12 stops a submitter at
// depth 13. Those set aside (set_aside.h) count until they are answered, so that what one volume has under
// way must leave room for others; more than this would only queue up before requests that somebody waits for.
constexpr unsigned kMaxBackground = 4096;
constexpr unsigned kSnapshotModes = 0444;

timespec to_timespec(std::int64_t ns) {
  const std::int64_t seconds = ns / kSecondNs - (ns % kSecondNs < 0 ? 1 : 0);
  return {.tv_sec = seconds, .tv_nsec = ns - seconds * kSecondNs};
}

// A time farther away than 292 years from 1970 becomes the last one that can be kept.
std::int64_t to_ns(const timespec& time) {
  constexpr std::int64_t kFarthest = std::numeric_limits<std::int64_t>::max() / kSecondNs - 1;
  return std::clamp<std::int64_t>(time.tv_sec, -kFarthest, kFarthest) * kSecondNs + time.tv_nsec;
}

// Removed, but still open: it has lost its own part of the name.
bool is_unlinked(const ViewInfo& info) {
  return info.kind == ViewKind::snapshot ? info.name.snapshot.empty() : info.name.volume.empty();
}

void set_times(struct stat& attributes, std::int64_t ns) {
  attributes.st_atim = attributes.st_mtim = attributes.st_ctim = to_timespec(ns);
}

void init(void* userdata, fuse_conn_info* connection) {
  auto& operations = *static_cast<Operations*>(userdata);
  // splice costs more than it saves here. The writeback cache would keep writes from other users of the pool,
  // and AUTO_INVAL_DATA would drop all pages at each change of mtime: the notifier tells what to drop.
  connection->want &=
      ~static_cast<unsigned>(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE |
                             FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_AUTO_INVAL_DATA);
  // HANDLE_KILLPRIV is ours by construction: set-user-id bits are never stored.
  constexpr unsigned kWanted = FUSE_CAP_EXPLICIT_INVAL_DATA | FUSE_CAP_ASYNC_DIO | FUSE_CAP_ASYNC_READ |
                               FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_HANDLE_KILLPRIV;
  connection->want |= connection->capable & kWanted;
  operations.over_ring = negotiate_ring(*connection, operations.over_ring);
  connection->max_write = Operations::kMaxWriteBytes;
  connection->max_background = kMaxBackground;
  connection->congestion_threshold = kMaxBackground;
#if !VSNAP_PARALLEL_WRITE_FLAG
  if (!operations.mount.is_adopted())
    log::info("libfuse {} has no flag for parallel writes (3.17 has): vsnap sets it by itself",
              fuse_pkgversion());
#endif
  allow_wake_signal();
  operations.first_worker = ::gettid();
}

void getattr(fuse_req_t req, fuse_ino_t ino, fuse_file_info*) {
  answer(req, [&](Operations& operations) -> Result<> {
    struct stat attributes = operations.describe_root();
    if (ino != FUSE_ROOT_ID) {
      VSNAP_TRY_ASSIGN(const ViewInfo info, operations.pool.info(ObjectId(ino)));
      attributes = operations.describe(info);
    }
    fuse_reply_attr(req, &attributes, 0);
    return {};
  });
}

void setattr(fuse_req_t req, fuse_ino_t ino, struct stat* wanted, int which, fuse_file_info* fi) {
  answer(req, [&](Operations& operations) -> Result<> {
    if (ino == FUSE_ROOT_ID) return refuse(EPERM);
    const ObjectId id(ino);
    VSNAP_TRY_ASSIGN(const ViewInfo before, operations.pool.info(id));
    // Through an old handle of a draining image as before; by its name never.
    if (before.kind == ViewKind::snapshot && (!before.draining || fi == nullptr)) return refuse(EROFS);
    if (operations.was_answered()) which = 0;
    if ((which & FUSE_SET_ATTR_SIZE) != 0) {
      if (wanted->st_size < 0) return refuse(EINVAL);
      if (fi != nullptr) {
        VSNAP_TRY_ASSIGN(const OpenFile* const file, operations.files.find(fi->fh));
        if (file->view->has_lapsed()) return refuse(EIO);
      }
      VSNAP_TRY(operations.set_size(id, static_cast<std::uint64_t>(wanted->st_size)));
    }
    std::optional<std::uint32_t> mode, uid, gid;
    std::optional<std::int64_t> modified_ns;
    if ((which & FUSE_SET_ATTR_MODE) != 0) mode = wanted->st_mode & 0777U;
    if ((which & FUSE_SET_ATTR_UID) != 0) uid = wanted->st_uid;
    if ((which & FUSE_SET_ATTR_GID) != 0) gid = wanted->st_gid;
    if ((which & FUSE_SET_ATTR_MTIME_NOW) != 0) {
      modified_ns = Env::real().wall_clock_ns();
    } else if ((which & FUSE_SET_ATTR_MTIME) != 0) {
      modified_ns = to_ns(wanted->st_mtim);
    }
    if (mode || uid || gid || modified_ns) {
      VSNAP_TRY(operations.pool.set_attributes(id, mode, uid, gid, modified_ns));
    }
    VSNAP_TRY_ASSIGN(const ViewInfo after, operations.pool.info(id));
    const struct stat attributes = operations.describe(after);
    fuse_reply_attr(req, &attributes, 0);
    return {};
  });
}

// Asked only where the kernel does not check permissions itself, as it does with default_permissions.
void access(fuse_req_t req, fuse_ino_t ino, int mask) {
  answer(req, [&](Operations& operations) -> Result<> {
    if (ino != FUSE_ROOT_ID) {
      VSNAP_TRY_ASSIGN(const ViewInfo info, operations.pool.info(ObjectId(ino)));
      if ((mask & W_OK) != 0 && info.kind == ViewKind::snapshot) return refuse(EROFS);
    }
    fuse_reply_err(req, 0);
    return {};
  });
}

void statfs(fuse_req_t req, fuse_ino_t) {
  answer(req, [&](Operations& operations) -> Result<> {
    const SpaceInfo space = operations.pool.space();
    struct statvfs out = {};
    out.f_bsize = out.f_frsize = kBlockBytes; // loop devices take it as their discard granularity
    out.f_blocks = space.size_bytes / kBlockBytes;
    out.f_bfree = space.free_bytes / kBlockBytes;
    out.f_bavail = space.available_bytes / kBlockBytes;
    out.f_namemax = 2 * kMaxNameLength + 1; // VOLUME@SNAPSHOT
    fuse_reply_statfs(req, &out);
    return {};
  });
}

} // namespace

struct stat Operations::describe(const ViewInfo& info) {
  struct stat attributes = {};
  attributes.st_ino = info.id.value();
  attributes.st_mode = S_IFREG | (info.mode & (info.kind == ViewKind::snapshot ? kSnapshotModes : 0777U));
  attributes.st_nlink = is_unlinked(info) ? 0 : 1;
  attributes.st_uid = info.uid;
  attributes.st_gid = info.gid;
  attributes.st_size = static_cast<off_t>(shared_copies.size_so_far(info.id).value_or(info.size_bytes));
  attributes.st_blocks = static_cast<blkcnt_t>(info.used_bytes / 512);
  attributes.st_blksize = kBlockBytes;
  set_times(attributes, info.modified_ns);
  return attributes;
}

struct stat Operations::describe_root() const {
  struct stat attributes = {};
  attributes.st_ino = FUSE_ROOT_ID;
  attributes.st_mode = S_IFDIR | 0755;
  attributes.st_nlink = 2;
  attributes.st_uid = uid;
  attributes.st_gid = gid;
  attributes.st_blksize = kBlockBytes;
  set_times(attributes, notifier.directory_modified_ns());
  return attributes;
}

Result<> Operations::set_size(ObjectId id, std::uint64_t size_bytes) {
  shared_copies.settle(id);
  VSNAP_TRY_ASSIGN(const ViewInfo info, pool.info(id));
  if (info.kind == ViewKind::snapshot && !info.draining) return refuse(EROFS);
  if (size_bytes > kMaxVolumeBytes) return refuse(EFBIG);
  VSNAP_TRY(pool.resize(id, size_bytes, true));
  shared_copies.settle(id);
  return {};
}

fuse_lowlevel_ops operation_table() {
  fuse_lowlevel_ops table{};
  table.init = init;
  table.getattr = getattr;
  table.setattr = setattr;
  table.access = access;
  table.statfs = statfs;
  add_name_operations(table);
  add_directory_operations(table);
  add_data_operations(table);
  return table;
}

} // namespace vsnap
