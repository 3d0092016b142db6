// An environment whose files are in memory, and whose power can be cut.
//
// Faults it makes, and no others:
// 1. power_cut(): shared memory is gone; of the writes since a file's last successful flush, what each wrote
// to a page of 4 KiB is
//    kept, lost, or torn at a 512-byte sector, by the seed. All locks are gone, and files that are still
//    open answer EIO and change nothing. Files that were made but never flushed stay.
// 2. fail_from(n), fail_once(n): the n-th read, write or flush from now on answers EIO.
// 3. fail_flush_once(): the next flush answers EIO.
// 4. kill(), kill_at(n): the process that uses the environment dies, now or in the n-th read, write or flush
// from
//    now on; of that write some pages may be done. Nothing that was written is lost, but a later power cut
//    may still take it. Files and shared memory that it has open change nothing any more.
// 5. new_boot(): another boot id, with shared memory as it was.
// 6. no_shared_memory(true): none can be made.
// 7. no_space(true): every write answers that there is no space, as a file system with that errno does, and
//    changes nothing, until no_space(false).
// 8. no_direct_io(true): a file that is opened cannot be read past a page cache, until no_direct_io(false).
// 9. jump_wall_clock(ns): the wall clock jumps, forwards or backwards, but never before 1970, as the kernel
//    lets nobody set it. wild_wall_clock(true): it does so each time somebody looks, up to ten years, by the
//    seed. The monotonic clock never goes back; let_pass(ns): so much time passes at once.
// 10. read_only_files(true): no file can be opened for writing, until read_only_files(false).
// What it does not make: reads and writes that move less than was asked. They end below File, in
// core/env_posix.cpp; tests/core/env_posix_test.cpp makes them there.
// Threads: any; one mutex.
#pragma once

#include <atomic>
#include <cerrno>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "core/env.h"
#include "core/mutex.h"
#include "tests/support/sparse_bytes.h"

namespace vsnap {

class MemoryEnv final : public Env {
 public:
  explicit MemoryEnv(std::uint64_t seed = 1);
  ~MemoryEnv() override;

  Result<std::unique_ptr<File>> open_file(const std::string& path, OpenMode mode) override;
  Result<> remove_file(const std::string& path) override;
  [[nodiscard]] std::int64_t wall_clock_ns() override;
  [[nodiscard]] std::int64_t monotonic_ns() override;
  Uuid random_uuid() override;
  [[nodiscard]] std::string boot_id() override;
  [[nodiscard]] std::string host_name() override { return "host"; }

  Result<std::unique_ptr<SharedMemory>> make_shared_memory(const std::string& name,
                                                           std::size_t bytes) override;
  Result<std::unique_ptr<SharedMemory>> open_shared_memory(const std::string& name) override;
  void remove_shared_memory(const std::string& name) override;
  [[nodiscard]] std::vector<std::string> shared_memory_names(const std::string& prefix) override;

  static constexpr std::size_t kPageBytes = 4096;
  static constexpr std::size_t kSectorBytes = 512;
  static constexpr std::size_t kKept = ~std::size_t{0};
  // How many sectors are kept of the unsynced write to a page with this index, newest first; kKept: all.
  using Fates = std::function<std::size_t(std::size_t index)>;
  void power_cut(std::uint64_t seed);
  void power_cut(const Fates& fate);
  [[nodiscard]] std::size_t unsynced() const; // writes to pages that a power cut may lose
  // The same machine once more, as after a kill: files and shared memory, with nothing open.
  [[nodiscard]] std::unique_ptr<MemoryEnv> fork() const;
  // What is done to files, to be done again to a fork.
  struct Event {
    enum Kind { write, durable_write, flush, discard } kind = flush;
    std::string path;
    std::uint64_t offset = 0, length = 0;
    std::vector<std::byte> data;
  };
  void start_recording();
  [[nodiscard]] std::vector<Event> stop_recording();
  void replay(const Event& event);
  void kill();
  void kill_at(std::optional<std::uint64_t> nth); // nullopt: not any more
  void kill_at_own(std::uint64_t nth);            // counting the calls of this thread alone
  [[nodiscard]] bool killed() const;              // since kill_at()
  void new_boot();
  void no_shared_memory(bool none);
  void pass_time(std::int64_t by_ns); // on the monotonic clock
  void no_direct_io(bool none) { no_direct_.store(none); }
  void slow_durable_writes(bool slow) { slow_.store(slow); } // so that others come while one goes on
  void slow_flushes(bool slow) { slow_flushes_.store(slow); }
  // In each of them, before it is done. Before there are threads.
  void during_durable_writes(std::function<void()> then) { during_durable_write_ = std::move(then); }
  // Reads of that file take a while before they have the bytes; "": of none.
  void slow_reads_of(const std::string& path);
  void fail_from(std::optional<std::uint64_t> nth); // nullopt: no more faults
  void fail_once(std::uint64_t nth);
  void fail_flush_once();
  void read_only_files(bool read_only);
  void no_space(bool full, int errno_value = ENOSPC);
  void jump_wall_clock(std::int64_t by_ns);
  void wild_wall_clock(bool wild);
  void let_pass(std::int64_t ns);
  [[nodiscard]] std::uint64_t calls() const; // reads, writes and flushes so far
  // Direct access to a file's bytes, for damage.
  SparseBytes& bytes_of(const std::string& path);

 private:
  friend class MemoryFile;
  struct Undo {
    std::uint64_t offset = 0;
    std::vector<std::byte> before;
  };
  struct Content {
    SparseBytes bytes;
    std::vector<Undo> unsynced;
    std::string path;
    bool locked = false;
    std::uint64_t number = 0;
    std::int64_t modified_ns = 0; // by its user; a power cut leaves it
  };
  friend class MemorySegment;
  struct Segment;
  [[nodiscard]] bool fails() VSNAP_REQUIRES(mutex_);
  void jump(std::int64_t by_ns) VSNAP_REQUIRES(mutex_);
  void die() VSNAP_REQUIRES(mutex_);
  void note(Event::Kind kind, const Content& content, std::uint64_t offset, std::uint64_t length,
            std::span<const std::byte> data) VSNAP_REQUIRES(mutex_);

  std::atomic<bool> slow_{false}, slow_flushes_{false}, no_direct_{false};
  std::function<void()> during_durable_write_;
  mutable Mutex mutex_;
  std::map<std::string, std::shared_ptr<Content>> files_ VSNAP_GUARDED_BY(mutex_);
  std::mt19937_64 random_ VSNAP_GUARDED_BY(mutex_);
  std::int64_t monotonic_ns_ VSNAP_GUARDED_BY(mutex_) = 1'000'000'000'000;
  std::int64_t wall_ns_ VSNAP_GUARDED_BY(mutex_) = 1'700'000'000'000'000'000;
  bool wild_ VSNAP_GUARDED_BY(mutex_) = false;
  std::uint64_t calls_ VSNAP_GUARDED_BY(mutex_) = 0;
  std::optional<std::uint64_t> fail_from_ VSNAP_GUARDED_BY(mutex_);
  std::optional<std::uint64_t> fail_once_ VSNAP_GUARDED_BY(mutex_);
  std::optional<std::uint64_t> kill_in_ VSNAP_GUARDED_BY(mutex_); // calls of kill_thread_
  std::thread::id kill_thread_ VSNAP_GUARDED_BY(mutex_);
  std::optional<std::uint64_t> kill_at_ VSNAP_GUARDED_BY(mutex_);
  bool killed_ VSNAP_GUARDED_BY(mutex_) = false;
  std::map<std::string, std::shared_ptr<Segment>> shared_ VSNAP_GUARDED_BY(mutex_);
  bool no_shared_ VSNAP_GUARDED_BY(mutex_) = false;
  bool recording_ VSNAP_GUARDED_BY(mutex_) = false;
  std::vector<Event> events_ VSNAP_GUARDED_BY(mutex_);
  std::uint64_t boot_ VSNAP_GUARDED_BY(mutex_) = 1;
  std::uint64_t power_ VSNAP_GUARDED_BY(mutex_) = 0; // how often it was cut, or its user killed
  std::string slow_reads_ VSNAP_GUARDED_BY(mutex_);
  bool fail_flush_ VSNAP_GUARDED_BY(mutex_) = false;
  bool read_only_files_ VSNAP_GUARDED_BY(mutex_) = false;
  std::optional<int> no_space_ VSNAP_GUARDED_BY(mutex_); // the errno
};

} // namespace vsnap
