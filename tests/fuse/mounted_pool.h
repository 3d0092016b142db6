// A ModelPool, mounted in a directory of its own and served by threads of this process, until it is
// destroyed. Nothing is left behind, also when the process dies: a child waits for that and unmounts.
// Threads: used by one test at a time.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "fuse/session.h"
#include "tests/support/catch.h"
#include "tests/support/model_pool.h"

namespace vsnap {

class MountedPool {
 public:
  // Null, with a warning that says why, where this machine cannot mount: the test ends there.
  static std::unique_ptr<MountedPool> make(unsigned threads = 0);
  ~MountedPool();
  MountedPool(const MountedPool&) = delete;
  MountedPool& operator=(const MountedPool&) = delete;

  [[nodiscard]] std::string path(const std::string& name = "") const { return directory_ + "/" + name; }
  ModelPool& pool() { return *pool_; }
  MountSession& session() { return *session_; }
  // A volume with `size_bytes` of pattern(offset).
  ViewInfo make_volume(const std::string& name, std::size_t size_bytes);

 private:
  MountedPool() = default;

  std::string directory_;
  int guardian_pipe_ = -1;
  pid_t guardian_ = -1;
  std::unique_ptr<ModelPool> pool_ = ModelPool::make("lab");
  std::unique_ptr<MountSession> session_;
  std::thread server_;
};

// A file descriptor that closes itself. The errno of a failed open is kept.
class Fd {
 public:
  Fd(const std::string& path, int flags, unsigned mode = 0600);
  ~Fd();
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool ok() const { return fd_ >= 0; }
  [[nodiscard]] int error() const { return error_; }
  void close();

 private:
  int fd_ = -1;
  int error_ = 0;
};

using Bytes = std::vector<std::byte>;
[[nodiscard]] std::byte pattern(std::uint64_t offset);
[[nodiscard]] Bytes pattern_bytes(std::uint64_t offset, std::size_t length);
[[nodiscard]] Bytes filled(std::size_t length, unsigned value);
// 4 KiB-aligned memory for O_DIRECT.
struct FreeBytes {
  void operator()(std::byte* bytes) const;
};
using AlignedBytes = std::unique_ptr<std::byte[], FreeBytes>;
[[nodiscard]] AlignedBytes aligned_bytes(std::size_t length, unsigned value = 0);

// pread until `length` bytes or the end; what came. pwrite of all, which must succeed.
[[nodiscard]] Bytes read_at(const Fd& fd, std::uint64_t offset, std::size_t length);
void write_at(const Fd& fd, std::uint64_t offset, const Bytes& data);
[[nodiscard]] Bytes read_file(const std::string& path);
[[nodiscard]] std::vector<std::string> names_in(const std::string& directory); // sorted, without . and ..
// Clients that write a block each to a file that is at least as long, past the page cache and at the same
// time. Joined when destroyed.
class Writers {
 public:
  Writers(const std::string& path, unsigned count);
  ~Writers() { join(); }
  Writers(const Writers&) = delete;
  Writers& operator=(const Writers&) = delete;
  void join();
  [[nodiscard]] unsigned answered() const { return answered_; }
  [[nodiscard]] const std::vector<int>& errors() const { return errors_; } // after join()

 private:
  const Fd fd_;
  std::vector<int> errors_; // 0: written
  std::atomic<unsigned> answered_{0};
  std::vector<std::thread> threads_;
};
inline constexpr unsigned kThreadsOfAView = 96; // SetAside::kMostAView
// Returns when so many writes to a paused view wait in the pool.
void wait_for_writes(ModelPool& pool, std::size_t count);

// The errno of a call that is to fail; 0 where it did not.
[[nodiscard]] inline int errno_of(long result) { return result < 0 ? errno : 0; }

} // namespace vsnap
