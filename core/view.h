// An open view: anything that can be read as one disk. The I/O engine: turns reads and writes of a volume,
// snapshot or clone into reads and writes of members.
//
// Invariants
// 1. A write that returned is seen by every read that starts later. What fsync() confirmed survives a power
//    cut.
// 2. Of overlapping concurrent writes each block ends up with the content of one of them. A read that runs
//    beside a write may see either; never anything else.
// 3. A write touches the place of a block only where no other view can see it; else it goes to a new place,
//    and the old place stays as it is. Data reaches its place before the map says so. Of an adopted volume
//    the place stays, in its image, and the old content goes to a new place first (copy_out.h).
// 4. A snapshot never changes: write, discard and resize answer EROFS.
// Threads: every method may be called from any thread at any time. No call of a read waits for a write.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "core/description.h"
#include "core/error.h"

namespace vsnap {

class Pool;

enum class WriteWait : std::uint8_t {
  none,
  flush, // of members: it ends by itself, and no other write of the view is at one; or their I/O
  others, // of the view, which are at one; or for whoever makes room
};

class View {
 public:
  virtual ~View() = default;

  [[nodiscard]] virtual ObjectId id() const = 0;
  [[nodiscard]] virtual bool writable() const = 0;
  [[nodiscard]] virtual std::uint64_t size_bytes() const = 0;

  // Bytes read: fewer than asked for only at the end of the view. Unmapped ranges read as zeros.
  [[nodiscard]] virtual Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> out) = 0;
  // All of it, or an error (ENOSPC, EIO, EROFS, EFBIG). Past the end it makes the volume longer, as with any
  // file.
  [[nodiscard]] virtual Result<> write(std::uint64_t offset, std::span<const std::byte> data) = 0;
  // Gives the space back; reads as zeros. Never makes the volume longer. Zero-range is the same thing.
  [[nodiscard]] virtual Result<> discard(std::uint64_t offset, std::uint64_t length) = 0;
  // Takes space for every unmapped block of the range, so that later writes there cannot fail for lack of it;
  // it goes on reading as zeros. Longer volume where extend is set.
  [[nodiscard]] virtual Result<> reserve(std::uint64_t offset, std::uint64_t length, bool extend) = 0;
  // The first offset >= `offset` with data / in a hole; nullopt: none before the end (SEEK_DATA: ENXIO). The
  // end of the view counts as a hole, as in lseek(2).
  [[nodiscard]] virtual Result<std::optional<std::uint64_t>> seek_data(std::uint64_t offset) = 0;
  [[nodiscard]] virtual Result<std::optional<std::uint64_t>> seek_hole(std::uint64_t offset) = 0;
  // Everything that was written before the call is durable when it returns.
  [[nodiscard]] virtual Result<> fsync() = 0;

  // read(), or, where it would wait for a slow member, the start of it: nullopt, and `done` gets the result
  // later, in a thread that must not be kept waiting; perhaps before this returns. Until then `out` and the
  // view stay. Not called if this failed or gave a length.
  using ReadDone = std::function<void(Result<std::size_t>)>;
  [[nodiscard]] virtual Result<std::optional<std::size_t>> start_read(std::uint64_t offset,
                                                                      std::span<std::byte> out, ReadDone) {
    auto length = read(offset, out);
    if (!length) return Failure(std::move(length).error());
    return std::optional(*length);
  }
  // Whether start_read() is worth it: false where all members lie in memory.
  [[nodiscard]] virtual bool may_wait() const { return false; }
  // Whether reads, and whatever else looks at it, may wait for another host. A hint, cheap, without a lock.
  [[nodiscard]] virtual bool waits_for_host() const { return false; }
  // Another host may have taken it over: everything that is asked of it is EIO, for good.
  [[nodiscard]] virtual bool has_lapsed() const { return false; }
  // What a write may have to wait for besides its own device. A hint, cheap and without a lock.
  virtual WriteWait write_wait() const { return WriteWait::none; }
};

// An open file on a view: keeps it alive, and counts in ViewInfo::open_handles. Movable; closes when
// destroyed.
class ViewHandle {
 public:
  ViewHandle() = default;
  ViewHandle(Pool* pool, std::shared_ptr<View> view) : pool_(pool), view_(std::move(view)) {}
  ViewHandle(ViewHandle&& other) noexcept : pool_(other.pool_), view_(std::move(other.view_)) {
    other.pool_ = nullptr;
  }
  ViewHandle& operator=(ViewHandle&& other) noexcept;
  ~ViewHandle();
  View* operator->() const { return view_.get(); }
  View& operator*() const { return *view_; }
  explicit operator bool() const { return view_ != nullptr; }

 private:
  void close();
  Pool* pool_ = nullptr;
  std::shared_ptr<View> view_;
};

} // namespace vsnap
