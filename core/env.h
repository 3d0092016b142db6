// The only way from `core` to files, clocks and randomness; tests put another one in its place that loses,
// tears and fails what the real one would keep.
//
// Invariants
// 1. A File is a member: an image file or a block device. Its size is fixed while it is open, but for
//    resize().
// 2. read_at / write_at move all bytes asked for or fail; nothing in between is reported as success.
// 3. What was written is durable only after a flush() that began later has returned success.
// 4. A read that is pending ends: its Done is called once. Until then its buffer and its File stay.
// 5. Shared memory keeps every byte stored in it when its maker dies, and none when the machine does.
// Threads: any thread may call any method of a File and of an Env at any time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"

namespace vsnap {

using Uuid = std::array<std::uint8_t, 16>;

// What a file or device looks like from outside, to see whether somebody else has changed it since.
struct FileStamp {
  std::uint64_t size_bytes = 0;
  std::uint64_t inode = 0;      // of a file
  std::int64_t modified_ns = 0; // of a file
  std::uint64_t content = 0;    // of a device: a hash of its first and last MiB
  std::uint64_t sectors = 0;    // of a device: written since boot
  std::string boot = {};        // of a device: which boot that was
  bool operator==(const FileStamp&) const = default;
};

class File {
 public:
  virtual ~File() = default;
  // offset and length in bytes. EIO where the file is shorter.
  [[nodiscard]] virtual Result<> read_at(std::uint64_t offset, std::span<std::byte> out) = 0;
  [[nodiscard]] virtual Result<> write_at(std::uint64_t offset, std::span<const std::byte> data) = 0;
  [[nodiscard]] virtual Result<> flush() = 0;
  // The same as write_at, and durable when it returns. Kind no_space: nothing was promised and nothing lost;
  // any other is that of a failed flush.
  [[nodiscard]] virtual Result<> write_durably(std::uint64_t offset, std::span<const std::byte> data) = 0;
  // What is in a cache and may be on no disk, as after a failed flush, is not read any more. Best effort.
  virtual void drop_cache() {}
  // Gives the bytes back to whatever is below (hole punch, discard). Contents are undefined afterwards. Best
  // effort.
  virtual void discard(std::uint64_t offset, std::uint64_t length) = 0;
  // Zeros instead of what is there. Where the file system or device can, the space goes back to it.
  [[nodiscard]] virtual Result<> zero(std::uint64_t offset, std::uint64_t length);
  // `durably`: after everything that was written, with the times, has reached the disk.
  [[nodiscard]] virtual Result<FileStamp> stamp(bool /*durably*/) { return FileStamp{size_bytes()}; }
  // Takes space for the bytes below, where they are a hole: writing them later needs none. Best effort.
  virtual void take_space(std::uint64_t, std::uint64_t) {}
  [[nodiscard]] virtual std::uint64_t size_bytes() const = 0;
  // What it takes of the file system that it lies on: of a sparse file less than its size. An estimate.
  [[nodiscard]] virtual std::uint64_t allocated_bytes() const { return size_bytes(); }
  [[nodiscard]] virtual Result<> resize(std::uint64_t size_bytes) = 0;
  // Two opens of the same file or device, by whatever path, give the same identity.
  [[nodiscard]] virtual std::string identity() const = 0;
  [[nodiscard]] virtual bool is_block_device() const = 0;
  // Takes the exclusive lock that only one process can hold. False: somebody else has it.
  [[nodiscard]] virtual Result<bool> try_lock() = 0;

  // Whoever gets it too holds the lock with this process, and after it (OpenMode::held). -1: there is none.
  [[nodiscard]] virtual int descriptor() const { return -1; }

  // Before other threads use it: from here on all I/O goes past the page cache. False: it cannot be had, and
  // nothing changed.
  [[nodiscard]] virtual bool bypass_page_cache() { return false; }

  // read_at(), or, where a thread would have to wait, the start of it: `pending`, and `done` is called later,
  // by a thread that must not be kept waiting; perhaps before this returns. Not called if this failed or
  // finished.
  enum class Progress { finished, pending };
  using Done = std::function<void(Result<>)>;
  [[nodiscard]] virtual Result<Progress> start_read(std::uint64_t offset, std::span<std::byte> out, Done) {
    if (auto read = read_at(offset, out); !read) return Failure(std::move(read).error());
    return Progress::finished;
  }
  // Whether start_read() can leave a read pending. Constant; false for what lies in memory.
  [[nodiscard]] virtual bool may_wait() const { return false; }
};

// Memory of this machine that has a name: it stays when the process that made it ends, until it is removed.
class SharedMemory {
 public:
  virtual ~SharedMemory() = default;
  [[nodiscard]] virtual std::span<std::byte> bytes() = 0; // aligned to a page
  // Until this object ends nobody else can: false: somebody else does.
  [[nodiscard]] virtual bool hold() = 0;
  // Its name is still its own: nobody removed it, or made another in its place.
  [[nodiscard]] virtual bool has_its_name() = 0;
};

class Env;
// Holds it, if need be after a second at most: a process that is being killed lets go of its descriptors one
// after the other, the lock of its members perhaps before this.
[[nodiscard]] bool hold_soon(Env& env, SharedMemory& memory);

struct OpenMode {
  bool create = false; // a missing regular file is made; an existing one is kept
  bool exclusive_create = false;
  bool read_only = false; // to look only: a device is not claimed, so also while somebody else has it open
  bool unclaimed = false; // to write as one of several: as above, but for writing
  // Descriptors of files that this process has open already: one of the same file is taken, a duplicate, with
  // the lock that it holds.
  std::span<const int> held = {};
};

class Env {
 public:
  virtual ~Env() = default;
  [[nodiscard]] virtual Result<std::unique_ptr<File>> open_file(const std::string& path, OpenMode mode) = 0;
  [[nodiscard]] virtual Result<> remove_file(const std::string& path) = 0;
  // The name under which a file or device is found again after a restart of the machine. Refused: what
  // somebody else is using, and, unless `any_name`, a device that has no such name.
  [[nodiscard]] virtual Result<std::string> find_image(const std::string& path, bool /*any_name*/) {
    return path;
  }
  // Nanoseconds since 1970, for people. May jump.
  [[nodiscard]] virtual std::int64_t wall_clock_ns() = 0;
  // Nanoseconds on a clock that never goes back and counts while suspended.
  [[nodiscard]] virtual std::int64_t monotonic_ns() = 0;
  virtual Uuid random_uuid() = 0;
  // Changes at each boot of the machine.
  [[nodiscard]] virtual std::string boot_id() = 0;
  [[nodiscard]] virtual std::string host_name() = 0;

  // Zeros, held by the caller, for its user alone, in place of what had the name before; storing to it never
  // fails. Kind no_space: there is not enough memory. An environment may have none of it.
  [[nodiscard]] virtual Result<std::unique_ptr<SharedMemory>> make_shared_memory(const std::string& name,
                                                                                 std::size_t /*bytes*/) {
    return system_failure(ENOTSUP, name);
  }
  // Kind not_found: nothing has the name.
  [[nodiscard]] virtual Result<std::unique_ptr<SharedMemory>> open_shared_memory(const std::string& name) {
    return system_failure(ENOENT, name);
  }
  virtual void remove_shared_memory(const std::string& /*name*/) {}
  [[nodiscard]] virtual std::vector<std::string> shared_memory_names(const std::string& /*prefix*/) {
    return {};
  }

  static Env& real();
};

[[nodiscard]] std::string to_string(const Uuid& uuid); // 8-4-4-4-12 lower-case hexadecimal

} // namespace vsnap
