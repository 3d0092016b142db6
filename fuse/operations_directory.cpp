// The directory. An open one is a picture of the pool at the moment it was opened, so a listing is never
// torn.
#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "fuse/operations.h"
#include "fuse/reply.h"

namespace vsnap {
namespace {

struct DirectoryEntry {
  std::string name;
  std::uint64_t inode;
  mode_t type;
};
using Directory = std::vector<DirectoryEntry>;

Directory* directory_of(const fuse_file_info* fi) { return reinterpret_cast<Directory*>(fi->fh); }

void opendir(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  answer(req, [&](Operations& operations) -> Result<> {
    if (ino != FUSE_ROOT_ID) return refuse(ENOTDIR);
    auto directory = std::make_unique<Directory>();
    directory->push_back({".", FUSE_ROOT_ID, S_IFDIR});
    directory->push_back({"..", FUSE_ROOT_ID, S_IFDIR});
    for (const ViewInfo& info : operations.pool.list()) {
      directory->push_back({info.name.text(), info.id.value(), S_IFREG});
    }
    fi->fh = reinterpret_cast<std::uint64_t>(directory.get());
    if (fuse_reply_open(req, fi) == 0) (void)directory.release(); // the kernel has it until releasedir
    return {};
  });
}

// An offset is the number of entries that were given already.
void readdir(fuse_req_t req, fuse_ino_t, size_t size, off_t offset, fuse_file_info* fi) {
  answer(req, [&](Operations&) -> Result<> {
    const Directory& directory = *directory_of(fi);
    std::vector<char> buffer(size);
    std::size_t used = 0;
    for (auto i = static_cast<std::size_t>(std::max<off_t>(offset, 0)); i < directory.size(); ++i) {
      struct stat attributes{};
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
  const std::unique_ptr<Directory> closed(directory_of(fi));
  fuse_reply_err(req, 0);
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
