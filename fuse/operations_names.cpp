// Names: look up, make, rename, remove. A name that no view can have is ENOENT where one is looked for, and
// EINVAL or ENAMETOOLONG where one is to be made.
#include <fcntl.h>
#include <linux/fs.h>

#include "fuse/open_reply.h"
#include "fuse/operations.h"
#include "fuse/reply.h"

namespace vsnap {
namespace {

Result<ViewInfo> existing(Operations& operations, fuse_ino_t parent, const char* name) {
  const Result<ViewName> parsed = parse_view_name(name);
  if (parent != FUSE_ROOT_ID || !parsed) return refuse(ENOENT);
  return operations.pool.find(*parsed);
}

// A name for something new. Snapshots are not made by making a file.
Result<std::string> new_volume_name(fuse_ino_t parent, const char* name) {
  if (parent != FUSE_ROOT_ID) return refuse(ENOTDIR);
  VSNAP_TRY_ASSIGN(const ViewName parsed, parse_view_name(name));
  if (parsed.is_snapshot()) return refuse(EINVAL);
  return parsed.volume;
}

Result<ViewInfo> new_volume(Operations& operations, const std::string& name) {
  VSNAP_TRY_ASSIGN(const auto made_before, operations.carried_out());
  if (!made_before) {
    const AskedBy asked(operations.request_id());
    return operations.pool.create_volume(name, 0);
  }
  auto made = operations.pool.info(*made_before);
  if (!made) return refuse(ESTALE); // removed since, by a command: the kernel looks for the name anew
  return made;
}

Result<ViewInfo> make_volume(Operations& operations, fuse_req_t req, const std::string& name, mode_t mode) {
  VSNAP_TRY_ASSIGN(const ViewInfo made, new_volume(operations, name));
  const fuse_ctx& caller = *fuse_req_ctx(req);
  Result<> owned =
      operations.pool.set_attributes(made.id, mode & 0777U, caller.uid, caller.gid, std::nullopt);
  if (owned) return operations.pool.info(made.id);
  const ViewName undone{name, {}};
  const Result<RemovalPlan> removed = operations.pool.remove(std::span(&undone, 1), {});
  if (!removed) log::error("{}: made, but its owner could not be set, nor could it be removed", name);
  return Failure(std::move(owned).error());
}

fuse_entry_param entry_for(Operations& operations, const ViewInfo& info) {
  fuse_entry_param entry{};
  entry.ino = info.id.value();
  entry.attr = operations.describe(info);
  return entry;
}

void lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  answer(req, [&](Operations& operations) -> Result<> {
    VSNAP_TRY_ASSIGN(const ViewInfo info, existing(operations, parent, name));
    const fuse_entry_param entry = entry_for(operations, info);
    fuse_reply_entry(req, &entry);
    return {};
  });
}

void mknod(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, dev_t) {
  answer(req, [&](Operations& operations) -> Result<> {
    if (!S_ISREG(mode)) return refuse(EPERM);
    VSNAP_TRY_ASSIGN(const std::string volume, new_volume_name(parent, name));
    VSNAP_TRY_ASSIGN(const ViewInfo info, make_volume(operations, req, volume, mode));
    const fuse_entry_param entry = entry_for(operations, info);
    fuse_reply_entry(req, &entry);
    return {};
  });
}

// The kernel asks for this where it found no such name; another may have made it since.
void create(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* fi) {
  answer(req, [&](Operations& operations) -> Result<> {
    VSNAP_TRY_ASSIGN(const std::string volume, new_volume_name(parent, name));
    const RequestOrigin& request = current_request();
    const OpenFile* const opened_before =
        request.again ? operations.files.find_opened_by(request.id) : nullptr;
    Result<ViewInfo> info = opened_before != nullptr ? operations.pool.info(opened_before->view->id())
                                                     : make_volume(operations, req, volume, mode);
    if (!info && info.error().errno_value == EEXIST && (fi->flags & O_EXCL) == 0) {
      info = existing(operations, parent, name);
    }
    if (!info) return Failure(std::move(info).error());
    VSNAP_TRY_ASSIGN(const OpenFile* const file, open_file(operations, *info, fi->flags));
    VSNAP_TRY_ASSIGN(const ViewInfo opened, operations.pool.info(info->id));
    const fuse_entry_param entry = entry_for(operations, opened);
    const std::uint64_t number = file->number; // once answered, it may be closed at any time
    reply_create(req, entry, *file) ? operations.files.confirm(number) : operations.files.remove(number);
    return {};
  });
}

void unlink(fuse_req_t req, fuse_ino_t parent, const char* name) {
  answer(req, [&](Operations& operations) -> Result<> {
    VSNAP_TRY_ASSIGN(const auto done, operations.carried_out());
    if (!done) {
      const AskedBy asked(operations.request_id());
      VSNAP_TRY_ASSIGN(const ViewInfo info, existing(operations, parent, name));
      VSNAP_TRY(operations.pool.remove(std::span(&info.name, 1), {.even_if_open = true}));
    }
    fuse_reply_err(req, 0);
    return {};
  });
}

// Volume to volume, snapshot to snapshot of the same volume. An existing volume is replaced unless it has
// snapshots. Else EPERM: programs take EINVAL for a directory moved
// into itself.
Result<> rename_view(Operations& operations, const ViewName& from, const ViewName& to, unsigned flags) {
  if ((flags & ~static_cast<unsigned>(RENAME_NOREPLACE)) != 0) return refuse(EINVAL);
  if (from.is_snapshot() != to.is_snapshot()) return refuse(EPERM);
  if (from.is_snapshot() && from.volume != to.volume) return refuse(EPERM);
  VSNAP_TRY(operations.pool.find(from));
  if (from == to) return {};
  const bool replace = (flags & RENAME_NOREPLACE) == 0 && !to.is_snapshot();
  const AskedBy asked(operations.request_id());
  return operations.pool.rename(from, to.is_snapshot() ? to.snapshot : to.volume, replace);
}

void rename(fuse_req_t req, fuse_ino_t parent, const char* name, fuse_ino_t new_parent, const char* new_name,
            unsigned flags) {
  answer(req, [&](Operations& operations) -> Result<> {
    if (parent != FUSE_ROOT_ID || new_parent != FUSE_ROOT_ID) return refuse(ENOTDIR);
    const Result<ViewName> from = parse_view_name(name);
    if (!from) return refuse(ENOENT);
    VSNAP_TRY_ASSIGN(const ViewName to, parse_view_name(new_name));
    VSNAP_TRY_ASSIGN(const auto done, operations.carried_out());
    if (!done) VSNAP_TRY(rename_view(operations, *from, to, flags));
    fuse_reply_err(req, 0);
    return {};
  });
}

// The directory is flat, and a view has one name.
void mkdir(fuse_req_t req, fuse_ino_t, const char*, mode_t) { fuse_reply_err(req, EPERM); }
void rmdir(fuse_req_t req, fuse_ino_t, const char*) { fuse_reply_err(req, EPERM); }
void symlink(fuse_req_t req, const char*, fuse_ino_t, const char*) { fuse_reply_err(req, EPERM); }
void link(fuse_req_t req, fuse_ino_t, fuse_ino_t, const char*) { fuse_reply_err(req, EPERM); }

} // namespace

void add_name_operations(fuse_lowlevel_ops& table) {
  table.lookup = lookup;
  table.mknod = mknod;
  table.create = create;
  table.unlink = unlink;
  table.rename = rename;
  table.mkdir = mkdir;
  table.rmdir = rmdir;
  table.symlink = symlink;
  table.link = link;
}

} // namespace vsnap
