// A disk that takes its time: one file in memory over FUSE whose reads and writes are each answered so many
// microseconds after they came, any number of them at once. A loop device over it (losetup --direct-io=on) is
// the slow block device of the benchmarks and tests.
//
//   slow_file SIZE_MIB MICROSECONDS DIRECTORY [FILE]
//       serves DIRECTORY/disk in the foreground until unmounted, and then prints how many reads it had at a
//       time at the most. With FILE, of that size, it is that file by another way: what comes while this
//       process is stopped (SIGSTOP) is under way until it goes on.
#define FUSE_USE_VERSION 312
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <mutex>
#include <string_view>
#include <thread>

namespace {

using Clock = std::chrono::steady_clock;

constexpr fuse_ino_t kFile = 2;
constexpr const char* kName = "disk";
constexpr std::uint32_t kParallelDirectWrites = 1U << 6;

char* content = nullptr;
std::size_t size_bytes = 0;
std::chrono::microseconds delay{0};

struct Waiting {
  fuse_req_t req;
  off_t offset;
  std::size_t length;
  bool read;
  Clock::time_point due;
};

// All wait equally long, so they are answered in the order in which they came.
class Answers {
 public:
  void add(Waiting one) {
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back(one);
      reads_ += one.read ? 1U : 0U;
      most_reads_ = std::max(most_reads_, reads_);
    }
    changed_.notify_one();
  }
  void end() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_one();
  }
  std::size_t most_reads() {
    const std::lock_guard lock(mutex_);
    return most_reads_;
  }
  void run() {
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return ended_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const Waiting one = queue_.front();
      queue_.pop_front();
      lock.unlock();
      std::this_thread::sleep_until(one.due);
      if (one.read)
        fuse_reply_buf(one.req, content + one.offset, one.length);
      else
        fuse_reply_write(one.req, one.length);
      lock.lock();
      reads_ -= one.read ? 1U : 0U;
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Waiting> queue_;
  std::size_t reads_ = 0; // waiting now
  std::size_t most_reads_ = 0;
  bool ended_ = false;
};

Answers answers;

struct stat attributes_of(fuse_ino_t ino) {
  struct stat out = {};
  out.st_ino = ino;
  out.st_mode = ino == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0600;
  out.st_nlink = ino == FUSE_ROOT_ID ? 2 : 1;
  if (ino == kFile) out.st_size = static_cast<off_t>(size_bytes);
  return out;
}

void init(void*, fuse_conn_info* connection) {
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE);
  connection->want |= connection->capable & FUSE_CAP_ASYNC_DIO;
  connection->max_background = connection->congestion_threshold = 1024;
  connection->max_write = 1U << 20;
}

void lookup(fuse_req_t req, fuse_ino_t, const char* name) {
  if (std::string_view(name) != kName) {
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

void open(fuse_req_t req, fuse_ino_t, fuse_file_info*) {
  fuse_open_out out = {};
  out.open_flags = FOPEN_DIRECT_IO | kParallelDirectWrites;
  fuse_reply_buf(req, reinterpret_cast<const char*>(&out), sizeof out);
}

void read(fuse_req_t req, fuse_ino_t, size_t size, off_t offset, fuse_file_info*) {
  const std::size_t from = std::min(static_cast<std::size_t>(offset), size_bytes);
  answers.add({req, offset, std::min(size, size_bytes - from), true, Clock::now() + delay});
}

void write(fuse_req_t req, fuse_ino_t, const char* data, size_t size, off_t offset, fuse_file_info*) {
  if (static_cast<std::size_t>(offset) + size > size_bytes) {
    fuse_reply_err(req, ENOSPC);
    return;
  }
  std::memcpy(content + offset, data, size);
  answers.add({req, offset, size, false, Clock::now() + delay});
}

void fsync(fuse_req_t req, fuse_ino_t, int, fuse_file_info*) { fuse_reply_err(req, 0); }
void flush(fuse_req_t req, fuse_ino_t, fuse_file_info*) { fuse_reply_err(req, 0); }

// nullptr: errno says why. Without a path memory of its own.
char* map_content(const char* path) {
  const int fd = path != nullptr ? ::open(path, O_RDWR | O_CLOEXEC) : -1;
  if (path != nullptr && fd < 0) return nullptr;
  const int flags = path != nullptr ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
  void* const memory = ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<char*>(memory);
}

template <class Number>
bool parse(const char* text, Number& out) {
  const char* const end = text + std::strlen(text);
  return std::from_chars(text, end, out).ptr == end;
}

} // namespace

int main(int argc, char** argv) {
  long micros = 0;
  if (argc < 4 || argc > 5 || !parse(argv[1], size_bytes) || !parse(argv[2], micros)) {
    std::fprintf(stderr, "usage: slow_file SIZE_MIB MICROSECONDS DIRECTORY [FILE]\n");
    return 2;
  }
  size_bytes <<= 20;
  delay = std::chrono::microseconds(micros);
  content = map_content(argv[4]); // argv ends with a null pointer
  if (content == nullptr) {
    std::perror("slow_file: content");
    return 1;
  }
  fuse_lowlevel_ops table = {};
  table.init = init;
  table.lookup = lookup;
  table.getattr = getattr;
  table.open = open;
  table.read = read;
  table.write = write;
  table.fsync = fsync;
  table.flush = flush;
  char name[] = "slow_file";
  char* arguments[] = {name, nullptr};
  fuse_args args = FUSE_ARGS_INIT(1, arguments);
  fuse_session* const session = fuse_session_new(&args, &table, sizeof table, nullptr);
  if (session == nullptr || fuse_set_signal_handlers(session) != 0 ||
      fuse_session_mount(session, argv[3]) != 0)
    return 1;
  std::thread answering([] { answers.run(); });
  const int code = fuse_session_loop(session);
  answers.end();
  answering.join();
  fuse_session_unmount(session);
  std::printf("%zu reads at a time\n", answers.most_reads());
  return code == 0 ? 0 : 1;
}
