// The directory.
#include <algorithm>
#include <utility>
#include <vector>

#include "fuse/operations.h"
#include "fuse/reply.h"

namespace vsnap {
namespace {

const Directory& directory_of(const fuse_file_info* fi) {
  return *reinterpret_cast<const Directory*>(fi->fh);
}

void opendir(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  answer(req, [&](Operations& operations) -> Result<> {
    if (ino != FUSE_ROOT_ID) return refuse(ENOTDIR);
    Directory entries{{".", FUSE_ROOT_ID, S_IFDIR}, {"..", FUSE_ROOT_ID, S_IFDIR}};
    for (const ViewInfo& info : operations.pool.list()) {
      entries.push_back({info.name.text(), info.id.value(), S_IFREG});
    }
    const Directory& directory = operations.directories.add(std::move(entries));
    fi->fh = reinterpret_cast<std::uint64_t>(&directory);
    if (fuse_reply_open(req, fi) != 0) operations.directories.remove(directory); // else at releasedir
    return {};
  });
}

// An offset is the number of entries that were given already.
void readdir(fuse_req_t req, fuse_ino_t, size_t size, off_t offset, fuse_file_info* fi) {
  answer(req, [&](Operations&) -> Result<> {
    const Directory& directory = directory_of(fi);
    std::vector<char> buffer(size);
    std::size_t used = 0;
    for (auto i = static_cast<std::size_t>(std::max<off_t>(offset, 0)); i < directory.size(); ++i) {
      struct stat attributes = {};
      attributes.st_ino = directory[i].inode;
      attributes.st_mode = directory[i].type;
      const std::size_t needed =
          fuse_add_direntry(req, buffer.data() + used, size - used, directory[i].name.c_str(), &attributes,
                            static_cast<off_t>(i + 1));
      if (needed > size - used) break;
      used += needed;
    }
    fuse_reply_buf(req, buffer.data(), used);
    return {};
  });
}

void releasedir(fuse_req_t req, fuse_ino_t, fuse_file_info* fi) {
  answer(req, [&](Operations& operations) -> Result<> {
    operations.directories.remove(directory_of(fi));
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
