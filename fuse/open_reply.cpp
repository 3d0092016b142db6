#include "fuse/open_reply.h"

namespace vsnap {

#if VSNAP_PARALLEL_WRITE_FLAG

namespace {

fuse_file_info handle_info(const OpenFile& file) {
  fuse_file_info out{};
  out.fh = file.number;
  out.direct_io = out.parallel_direct_writes = file.direct;
  out.keep_cache = !file.direct;
  return out;
}

} // namespace

bool reply_open(fuse_req_t req, const OpenFile& file) {
  const fuse_file_info info = handle_info(file);
  return fuse_reply_open(req, &info) == 0;
}

bool reply_create(fuse_req_t req, const fuse_entry_param& entry, const OpenFile& file) {
  const fuse_file_info info = handle_info(file);
  return fuse_reply_create(req, &entry, &info) == 0;
}

#else // laid out here, because the library cannot set the bit for parallel writes

namespace {

fuse_open_out open_out(const OpenFile& file) {
  fuse_open_out out{};
  out.fh = file.number;
  out.open_flags = file.direct ? FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES : FOPEN_KEEP_CACHE;
  return out;
}

// The time-outs stay 0, as they are in the entry.
fuse_entry_out entry_out(const struct stat& attributes) {
  fuse_entry_out out{};
  out.nodeid = attributes.st_ino;
  out.attr.ino = attributes.st_ino;
  out.attr.size = static_cast<std::uint64_t>(attributes.st_size);
  out.attr.blocks = static_cast<std::uint64_t>(attributes.st_blocks);
  out.attr.atime = out.attr.mtime = out.attr.ctime = static_cast<std::uint64_t>(attributes.st_mtim.tv_sec);
  out.attr.atimensec = out.attr.mtimensec = out.attr.ctimensec =
      static_cast<std::uint32_t>(attributes.st_mtim.tv_nsec);
  out.attr.mode = attributes.st_mode;
  out.attr.nlink = static_cast<std::uint32_t>(attributes.st_nlink);
  out.attr.uid = attributes.st_uid;
  out.attr.gid = attributes.st_gid;
  out.attr.blksize = static_cast<std::uint32_t>(attributes.st_blksize);
  return out;
}

} // namespace

bool reply_open(fuse_req_t req, const OpenFile& file) {
  const fuse_open_out out = open_out(file);
  return fuse_reply_buf(req, reinterpret_cast<const char*>(&out), sizeof out) == 0;
}

bool reply_create(fuse_req_t req, const fuse_entry_param& entry, const OpenFile& file) {
  struct {
    fuse_entry_out entry;
    fuse_open_out open;
  } out{entry_out(entry.attr), open_out(file)};
  static_assert(sizeof out == sizeof(fuse_entry_out) + sizeof(fuse_open_out));
  return fuse_reply_buf(req, reinterpret_cast<const char*>(&out), sizeof out) == 0;
}

#endif

} // namespace vsnap
