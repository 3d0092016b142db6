// What FUSE itself allows: a daemon that shows one raw file, with the settings of vsnap's own mount (direct
// opens with parallel writes, the same threads, limits and capabilities) and nothing else. The benchmark's
// "limit".
//
//   plain_fuse RAW_FILE DIRECTORY [direct]     serves DIRECTORY/volume until it is unmounted, in the
//   foreground
//
// `direct`: the raw file is opened with O_DIRECT, and written from a bounce buffer.
#define FUSE_USE_VERSION 314
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

namespace {

constexpr fuse_ino_t kFile = 2;
constexpr const char* kName = "volume";
constexpr std::size_t kLargest = 1U << 20;
constexpr unsigned kThreads = 4;
constexpr unsigned kMaxBackground = 256;
constexpr std::uint32_t kParallelDirectWrites = 1U << 6;

int raw = -1;
bool bounce = false;

char* buffer() {
  thread_local char* const bytes = static_cast<char*>(std::aligned_alloc(4096, kLargest));
  return bytes;
}

struct stat attributes_of(fuse_ino_t ino) {
  struct stat out = {};
  out.st_ino = ino;
  if (ino == FUSE_ROOT_ID) {
    out.st_mode = S_IFDIR | 0755;
    out.st_nlink = 2;
    return out;
  }
  struct stat file = {};
  ::fstat(raw, &file);
  out.st_mode = S_IFREG | 0600;
  out.st_nlink = 1;
  out.st_size = file.st_size;
  out.st_blocks = file.st_blocks;
  return out;
}

void init(void*, fuse_conn_info* connection) {
  connection->want &=
      ~static_cast<unsigned>(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE |
                             FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_AUTO_INVAL_DATA);
  constexpr unsigned kWanted = FUSE_CAP_EXPLICIT_INVAL_DATA | FUSE_CAP_ASYNC_DIO | FUSE_CAP_ASYNC_READ |
                               FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_HANDLE_KILLPRIV;
  connection->want |= connection->capable & kWanted;
  connection->max_write = kLargest;
  connection->max_background = kMaxBackground;
  connection->congestion_threshold = kMaxBackground;
}

void lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  if (parent != FUSE_ROOT_ID || std::string_view(name) != kName) {
    fuse_reply_err(req, ENOENT);
    return;
  }
  fuse_entry_param entry = {};
  entry.ino = kFile;
  entry.attr = attributes_of(kFile);
  fuse_reply_entry(req, &entry);
}

void getattr(fuse_req_t req, fuse_ino_t ino, fuse_file_info*) {
  const struct stat out = attributes_of(ino);
  fuse_reply_attr(req, &out, 0);
}

void open(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  if (ino != kFile) {
    fuse_reply_err(req, EISDIR);
    return;
  }
  fuse_open_out out = {};
  out.open_flags = (fi->flags & O_DIRECT) != 0 ? FOPEN_DIRECT_IO | kParallelDirectWrites : FOPEN_KEEP_CACHE;
  fuse_reply_buf(req, reinterpret_cast<const char*>(&out), sizeof out);
}

void read(fuse_req_t req, fuse_ino_t, size_t size, off_t offset, fuse_file_info*) {
  const ssize_t got = ::pread(raw, buffer(), std::min(size, kLargest), offset);
  if (got < 0)
    fuse_reply_err(req, errno);
  else
    fuse_reply_buf(req, buffer(), static_cast<std::size_t>(got));
}

void write(fuse_req_t req, fuse_ino_t, const char* data, size_t size, off_t offset, fuse_file_info*) {
  if (bounce) {
    std::memcpy(buffer(), data, size);
    data = buffer();
  }
  const ssize_t put = ::pwrite(raw, data, size, offset);
  if (put < 0)
    fuse_reply_err(req, errno);
  else
    fuse_reply_write(req, static_cast<std::size_t>(put));
}

void fsync(fuse_req_t req, fuse_ino_t, int, fuse_file_info*) {
  fuse_reply_err(req, ::fdatasync(raw) == 0 ? 0 : errno);
}

void flush(fuse_req_t req, fuse_ino_t, fuse_file_info*) { fuse_reply_err(req, 0); }

// fio and cp may ask for these.
void setattr(fuse_req_t req, fuse_ino_t ino, struct stat*, int, fuse_file_info*) {
  const struct stat out = attributes_of(ino);
  fuse_reply_attr(req, &out, 0);
}

} // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: plain_fuse RAW_FILE DIRECTORY [direct]\n");
    return 2;
  }
  bounce = argc > 3 && std::string_view(argv[3]) == "direct";
  raw = ::open(argv[1], O_RDWR | O_CLOEXEC | (bounce ? O_DIRECT : 0));
  if (raw < 0) {
    std::perror(argv[1]);
    return 1;
  }
  fuse_lowlevel_ops table = {};
  table.init = init;
  table.lookup = lookup;
  table.getattr = getattr;
  table.setattr = setattr;
  table.open = open;
  table.read = read;
  table.write = write;
  table.fsync = fsync;
  table.flush = flush;
  char name[] = "plain_fuse";
  char* arguments[] = {name, nullptr};
  fuse_args args = FUSE_ARGS_INIT(1, arguments);
  fuse_session* const session = fuse_session_new(&args, &table, sizeof table, nullptr);
  if (session == nullptr || fuse_set_signal_handlers(session) != 0 ||
      fuse_session_mount(session, argv[2]) != 0)
    return 1;
  fuse_loop_config* const config = fuse_loop_cfg_create();
  fuse_loop_cfg_set_clone_fd(config, 1);
  fuse_loop_cfg_set_max_threads(config, kThreads);
  fuse_loop_cfg_set_idle_threads(config, kThreads);
  const int code = fuse_session_loop_mt(session, config);
  fuse_session_unmount(session);
  return code == 0 ? 0 : 1;
}
