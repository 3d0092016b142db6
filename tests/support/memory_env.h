// An environment whose files are in memory, and whose power can be cut.
//
// Faults it makes, and no others:
// 1. power_cut(): of the writes since a file's last successful flush, what each wrote to a page of 4 KiB is
//    kept, lost, or torn at a 512-byte sector, by the seed. All locks are gone, and files that are still
//    open answer EIO and change nothing. Files that were made but never flushed stay.
// 2. fail_from(n), fail_once(n): the n-th read, write or flush from now on answers EIO.
// 3. fail_flush_once(): the next flush answers EIO.
// 4. no_space(true): every write answers ENOSPC and changes nothing, until no_space(false).
// Threads: any; one mutex.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "core/env.h"
#include "core/mutex.h"

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
  [[nodiscard]] std::string boot_id() override { return "boot"; }
  [[nodiscard]] std::string host_name() override { return "host"; }

  void power_cut(std::uint64_t seed);
  void fail_from(std::optional<std::uint64_t> nth); // nullopt: no more faults
  void fail_once(std::uint64_t nth);
  void fail_flush_once();
  void no_space(bool full);
  [[nodiscard]] std::uint64_t calls() const; // reads, writes and flushes so far
  // Direct access to a file's bytes, for damage.
  std::vector<std::byte>& bytes_of(const std::string& path);

 private:
  friend class MemoryFile;
  struct Undo {
    std::uint64_t offset = 0;
    std::vector<std::byte> before;
  };
  struct Content {
    std::vector<std::byte> bytes;
    std::vector<Undo> unsynced;
    bool locked = false;
    std::uint64_t number = 0;
  };
  [[nodiscard]] bool fails() VSNAP_REQUIRES(mutex_);

  mutable Mutex mutex_;
  std::map<std::string, std::shared_ptr<Content>> files_ VSNAP_GUARDED_BY(mutex_);
  std::mt19937_64 random_ VSNAP_GUARDED_BY(mutex_);
  std::int64_t now_ns_ VSNAP_GUARDED_BY(mutex_) = 1'700'000'000'000'000'000;
  std::uint64_t calls_ VSNAP_GUARDED_BY(mutex_) = 0;
  std::optional<std::uint64_t> fail_from_ VSNAP_GUARDED_BY(mutex_);
  std::optional<std::uint64_t> fail_once_ VSNAP_GUARDED_BY(mutex_);
  std::uint64_t power_ VSNAP_GUARDED_BY(mutex_) = 0; // how often it was cut
  bool fail_flush_ VSNAP_GUARDED_BY(mutex_) = false;
  bool no_space_ VSNAP_GUARDED_BY(mutex_) = false;
};

} // namespace vsnap
