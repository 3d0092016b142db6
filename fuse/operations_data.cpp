// Open files and the data in them.
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include "fuse/open_reply.h"
#include "fuse/operations.h"
#include "fuse/reply.h"
#include "fuse/request_ring.h"

namespace vsnap {
namespace {

Result<OpenFile*> file_of(Operations& operations, const fuse_file_info* fi) {
  return operations.files.find(fi->fh);
}

// `body`, as of SetAside: by the worker, or, where it may last, by a thread of the view.
template <class Body>
Result<> aside_if(bool may_last, fuse_req_t req, Operations& operations, ObjectId view, Body body) {
  if (may_last && !operations.over_ring && operations.set_aside.put(req, view, {}, body)) return {};
  return body(operations, std::span<const std::byte>());
}

Result<> open_and_answer(fuse_req_t req, Operations& operations, const ViewInfo& info, int flags) {
  VSNAP_TRY_ASSIGN(const OpenFile* const file, open_file(operations, info, flags));
  const std::uint64_t number = file->number; // once answered, it may be closed at any time
  reply_open(req, *file) ? operations.files.confirm(number) : operations.files.remove(number);
  return {};
}

void open(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  answer(req, [&](Operations& operations) -> Result<> {
    VSNAP_TRY_ASSIGN(const ViewInfo info, operations.pool.info(ObjectId(ino)));
    return aside_if(info.changes_elsewhere || operations.pool.is_delegated(info.id), req, operations, info.id,
                    [req, info, flags = fi->flags](Operations& here, std::span<const std::byte>) {
                      return open_and_answer(req, here, info, flags);
                    });
  });
}

void release(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  answer(req, [&](Operations& operations) -> Result<> {
    operations.shared_copies.settle(ObjectId(ino));
    operations.files.remove(fi->fh);
    fuse_reply_err(req, 0);
    return {};
  });
}

// close(2) promises nothing about durability, as with a disk.
void flush(fuse_req_t req, fuse_ino_t, fuse_file_info*) { fuse_reply_err(req, 0); }

void fsync(fuse_req_t req, fuse_ino_t, int, fuse_file_info* fi) {
  answer(req, [&](Operations& operations) -> Result<> {
    VSNAP_TRY_ASSIGN(const OpenFile* const file, file_of(operations, fi));
    View& view = *file->view;
    return aside_if(view.waits_for_host(), req, operations, view.id(),
                    [req, &view](Operations&, std::span<const std::byte>) -> Result<> {
                      VSNAP_TRY(view.fsync());
                      fuse_reply_err(req, 0);
                      return {};
                    });
  });
}

Result<> read_and_answer(fuse_req_t req, View& view, std::uint64_t at, std::size_t size) {
  std::span<std::byte> buffer = reply_space(req);
  buffer = buffer.size() >= size ? buffer.first(size) : ReadBuffer::of_worker(size).first(size);
  VSNAP_TRY_ASSIGN(const std::size_t length, view.read(at, buffer));
  fuse_reply_buf(req, reinterpret_cast<const char*>(buffer.data()), length);
  return {};
}

void read(fuse_req_t req, fuse_ino_t, size_t size, off_t offset, fuse_file_info* fi) {
  answer(req, [&](Operations& operations) -> Result<> {
    VSNAP_TRY_ASSIGN(const OpenFile* const file, file_of(operations, fi));
    View& view = *file->view;
    const auto at = static_cast<std::uint64_t>(offset);
    if (view.waits_for_host()) {
      const SetAside::Stay stay(operations.set_aside, view.write_wait() == WriteWait::flush);
      return aside_if(!stay.granted(), req, operations, view.id(),
                      [req, &view, at, size](Operations&, std::span<const std::byte>) {
                        return read_and_answer(req, view, at, size);
                      });
    }
    if (view.may_wait() && !operations.over_ring) return operations.pending_reads.read(req, view, at, size);
    return read_and_answer(req, view, at, size);
  });
}

// By a worker, or by a thread of the view. `past_cache`: not from the kernel's pages.
Result<> carry_out_write(fuse_req_t req, Operations& operations, const OpenFile& file, ObjectId id,
                         std::uint64_t at, std::span<const std::byte> data, bool past_cache) {
  const std::uint64_t cached_opens = file.inode->cached_opens();
  operations.shared_copies.settle(id);
  auto written = file.view->write(at, data);
  if (operations.is_for_successor(written)) {
    fuse_reply_none(req);
    return {};
  }
  VSNAP_TRY(std::move(written));
  operations.shared_copies.settle(id);
  // Not every kernel drops its pages again after a direct write (6.1 only does before, and so does any after
  // one of a loop device, which does not wait for it): a cached read beside the write may have brought old
  // ones back, and the write must not return before they are gone.
  if (past_cache && file.inode->cached_since(cached_opens)) {
    operations.notifier.reply_after_invalidation(req, id, at, data.size());
  } else {
    fuse_reply_write(req, data.size());
  }
  return {};
}

// `body`, as of SetAside, by the worker or by a thread of the view.
template <class Body>
Result<> here_or_aside(fuse_req_t req, Operations& operations, View& view, std::span<const std::byte> data,
                       Body body) {
  SetAside& set_aside = operations.set_aside;
  const WriteWait wait = operations.over_ring ? WriteWait::none : view.write_wait();
  const SetAside::Stay stay(set_aside, wait == WriteWait::flush);
  if (wait != WriteWait::none && !stay.granted() && set_aside.put(req, view.id(), data, body)) return {};
  return body(operations, data);
}

void write(fuse_req_t req, fuse_ino_t ino, const char* data, size_t size, off_t offset, fuse_file_info* fi) {
  answer(req, [&](Operations& operations) -> Result<> {
    VSNAP_TRY_ASSIGN(const OpenFile* const file, file_of(operations, fi));
    if (operations.was_answered()) {
      fuse_reply_write(req, size);
      return {};
    }
    const ObjectId id(ino);
    const auto at = static_cast<std::uint64_t>(offset);
    const auto bytes = std::as_bytes(std::span(data, size));
    // A loop device writes past the cache through a file that was not opened so. The kernel names an owner of
    // locks with each write that does not come from its pages, and with no other.
    const bool past_cache = file->direct || fi->lock_owner != 0;
    return here_or_aside(req, operations, *file->view, bytes,
                         [req, file, id, at, past_cache](Operations& here, std::span<const std::byte> all) {
                           return carry_out_write(req, here, *file, id, at, all, past_cache);
                         });
  });
}

Result<> allocate(Operations& operations, View& view, int mode, std::uint64_t offset, std::uint64_t length) {
  switch (mode) {
    case 0:
    case FALLOC_FL_KEEP_SIZE:
      return view.reserve(offset, length, mode == 0);
    case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
    case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE:
      return view.discard(offset, length);
    case FALLOC_FL_ZERO_RANGE:
      VSNAP_TRY(view.discard(offset, length));
      if (view.size_bytes() >= offset + length) return {};
      // The kernel lets nobody else change the size meanwhile.
      return operations.set_size(view.id(), offset + length);
    default:
      return refuse(EOPNOTSUPP);
  }
}

Result<> carry_out_allocate(fuse_req_t req, Operations& operations, View& view, int mode,
                            std::uint64_t offset, std::uint64_t length) {
  operations.shared_copies.settle(view.id());
  auto changed = allocate(operations, view, mode, offset, length);
  if (operations.is_for_successor(changed)) {
    fuse_reply_none(req);
    return {};
  }
  VSNAP_TRY(std::move(changed));
  operations.shared_copies.settle(view.id());
  fuse_reply_err(req, 0);
  return {};
}

void fallocate(fuse_req_t req, fuse_ino_t, int mode, off_t offset, off_t length, fuse_file_info* fi) {
  answer(req, [&](Operations& operations) -> Result<> {
    VSNAP_TRY_ASSIGN(const OpenFile* const file, file_of(operations, fi));
    View& view = *file->view;
    if (offset < 0 || length <= 0) return refuse(EINVAL);
    if (!view.writable()) return refuse(EROFS);
    if (static_cast<std::uint64_t>(length) > kMaxVolumeBytes - static_cast<std::uint64_t>(offset)) {
      return refuse(EFBIG);
    }
    if (operations.was_answered()) {
      fuse_reply_err(req, 0);
      return {};
    }
    const auto from = static_cast<std::uint64_t>(offset);
    const auto size = static_cast<std::uint64_t>(length);
    return here_or_aside(req, operations, view, {}, [=, &view](Operations& here, std::span<const std::byte>) {
      return carry_out_allocate(req, here, view, mode, from, size);
    });
  });
}

void lseek(fuse_req_t req, fuse_ino_t, off_t offset, int whence, fuse_file_info* fi) {
  answer(req, [&](Operations& operations) -> Result<> {
    if (whence != SEEK_DATA && whence != SEEK_HOLE) return refuse(EINVAL);
    if (offset < 0) return refuse(ENXIO);
    VSNAP_TRY_ASSIGN(const OpenFile* const file, file_of(operations, fi));
    View& view = *file->view;
    const auto from = static_cast<std::uint64_t>(offset);
    VSNAP_TRY_ASSIGN(const auto found, whence == SEEK_DATA ? view.seek_data(from) : view.seek_hole(from));
    if (!found) return refuse(ENXIO);
    fuse_reply_lseek(req, static_cast<off_t>(*found));
    return {};
  });
}

void copy_file_range(fuse_req_t req, fuse_ino_t, off_t from_offset, fuse_file_info* from, fuse_ino_t,
                     off_t to_offset, fuse_file_info* to, size_t length, int flags) {
  answer(req, [&](Operations& operations) -> Result<> {
    if (flags != 0) return refuse(EINVAL);
    VSNAP_TRY_ASSIGN(const OpenFile* const source_file, file_of(operations, from));
    VSNAP_TRY_ASSIGN(const OpenFile* const target_file, file_of(operations, to));
    View& target = *target_file->view;
    if (!target.writable()) return refuse(EROFS);
    const auto copied =
        operations.shared_copies.copy(*source_file->view, target, static_cast<std::uint64_t>(from_offset),
                                      static_cast<std::uint64_t>(to_offset), length);
    if (!copied) return refuse(EXDEV); // the kernel copies by itself then
    fuse_reply_write(req, *copied);
    return {};
  });
}

} // namespace

Result<OpenFile*> open_file(Operations& operations, const ViewInfo& info, int flags) {
  const RequestOrigin& request = current_request();
  if (OpenFile* const file = request.again ? operations.files.find_opened_by(request.id) : nullptr)
    return file;
  const bool to_write = (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0;
  // ESTALE: the kernel looks the name up again, and finds the volume that has it now.
  if (to_write && info.kind == ViewKind::snapshot) return refuse(info.moved_lately ? ESTALE : EROFS);
  VSNAP_TRY_ASSIGN(ViewHandle view, operations.pool.open_view(info.id));
  if ((flags & O_TRUNC) != 0 && view->size_bytes() != 0) VSNAP_TRY(operations.set_size(info.id, 0));
  const bool direct =
      (flags & O_DIRECT) != 0 || operations.over_ring || info.shows_draining || info.changes_elsewhere;
  return operations.files.add(std::move(view), direct, request.id);
}

void add_data_operations(fuse_lowlevel_ops& table) {
  table.open = open;
  table.release = release;
  table.flush = flush;
  table.fsync = fsync;
  table.read = read;
  table.write = write;
  table.fallocate = fallocate;
  table.lseek = lseek;
  table.copy_file_range = copy_file_range;
}

} // namespace vsnap
