// The directory.
#include <algorithm>
#include <utility>
#include <vector>

#include "fuse/operations.h"
#include "fuse/reply.h"

namespace vsnap {
namespace {

constexpr std::uint64_t kSelf = 1; // positions; those of views follow, as their ids do
constexpr std::uint64_t kParent = 2;

Directory picture_of(Pool& pool) {
  Directory entries{{".", FUSE_ROOT_ID, S_IFDIR, kSelf}, {"..", FUSE_ROOT_ID, S_IFDIR, kParent}};
  for (const ViewInfo& info : pool.list()) {
    entries.push_back({info.name.text(), info.id.value(), S_IFREG, kParent + info.id.value()});
  }
  std::sort(entries.begin(), entries.end(),
            [](const DirectoryEntry& a, const DirectoryEntry& b) { return a.position < b.position; });
  return entries;
}

void opendir(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  answer(req, [&](Operations& operations) -> Result<> {
    if (ino != FUSE_ROOT_ID) return refuse(ENOTDIR);
    fi->fh = operations.mount.state().next_directory();
    operations.directories.add(fi->fh, picture_of(operations.pool));
    if (fuse_reply_open(req, fi) != 0) operations.directories.remove(fi->fh); // else at releasedir
    return {};
  });
}

// An offset is the position of the entry that was given last.
void readdir(fuse_req_t req, fuse_ino_t, size_t size, off_t offset, fuse_file_info* fi) {
  answer(req, [&](Operations& operations) -> Result<> {
    auto directory = operations.directories.find(fi->fh);
    if (!directory) {
      operations.directories.add(fi->fh, picture_of(operations.pool));
      directory = operations.directories.find(fi->fh);
    }
    const auto last = static_cast<std::uint64_t>(std::max<off_t>(offset, 0));
    std::vector<char> buffer(size);
    std::size_t used = 0;
    auto entry = std::upper_bound(
        directory->begin(), directory->end(), last,
        [](std::uint64_t position, const DirectoryEntry& at) { return position < at.position; });
    for (; entry != directory->end(); ++entry) {
      struct stat attributes = {};
      attributes.st_ino = entry->inode;
      attributes.st_mode = entry->type;
      const std::size_t needed =
          fuse_add_direntry(req, buffer.data() + used, size - used, entry->name.c_str(), &attributes,
                            static_cast<off_t>(entry->position));
      if (needed > size - used) break;
      used += needed;
    }
    fuse_reply_buf(req, buffer.data(), used);
    return {};
  });
}

void releasedir(fuse_req_t req, fuse_ino_t, fuse_file_info* fi) {
  answer(req, [&](Operations& operations) -> Result<> {
    operations.directories.remove(fi->fh);
    fuse_reply_err(req, 0);
    return {};
  });
}

// Names are durable when the call that made them returns.
void fsyncdir(fuse_req_t req, fuse_ino_t, int, fuse_file_info*) { fuse_reply_err(req, 0); }

} // namespace

void add_directory_operations(fuse_lowlevel_ops& table) {
  table.opendir = opendir;
  table.readdir = readdir;
  table.releasedir = releasedir;
  table.fsyncdir = fsyncdir;
}

} // namespace vsnap
