// The catalog's two files, the SQLite database and its WAL, as runs of blocks on the members ("segments"),
// offered to SQLite as a VFS. There is no third file: temporary tables stay in memory and exclusive locking
// needs no shared memory.
//
// Invariants
// 1. The bytes of a file are those of its segments in the order of the superblock's table; capacity = their
//    sum.
// 2. A segment is in the superblock of every member, durably, before a byte is written into it.
// 3. Segments never shrink and never move.
// 4. Every page of the database carries a CRC-32C of its content and number in its last 8 bytes, which SQLite
//    leaves to us ("reserved space"). A page that does not agree with it is SQLITE_CORRUPT, never data.
//    (Pages in the WAL have SQLite's own.)
// 5. A file without its magic number in the first bytes counts as empty, any other as long as its capacity:
//    SQLite knows by itself how much of a database or WAL is valid.
// 6. SQLite writes in small pieces, each of which would wait for the member file's lock among the data's
//    writes; so what follows on from what was written last is gathered in memory and goes to the members in
//    one piece. Reads, and what a file's size says, are as if it had gone at once; what is gathered is not
//    durable. sync() writes it before it flushes. Segments are added before bytes are gathered for them, so
//    that SQLite hears of a full pool from the write itself.
// 7. Gathered bytes that could not be written are an error to the call that would have written them. The
//    catalog keeps them, and tries again with the next call that needs them gone. The WAL forgets them: they
//    belong to a transaction that fails with this error, and must not come to be after it has. From then on
//    the WAL fails to sync, and to be read or written behind the place where they began, until SQLite starts
//    anew at or before that place.
// 8. Whoever syncs the database has its pages in their copy as well (catalog_copy.h). One that is damaged or
//    cannot be read is read from there, with a line in the log.
// Threads: SQLite calls are serialised by the Database's lock, which guards what is gathered; grow() and the
// figures may be asked from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/allocator.h"
#include "core/error.h"
#include "core/member_set.h"
#include "core/superblock.h"

struct sqlite3_vfs;

namespace vsnap {

class CatalogCopy;

class MetadataVfs {
 public:
  MetadataVfs(MemberSet& members, Allocator& allocator);
  ~MetadataVfs(); // after the Database is closed
  MetadataVfs(const MetadataVfs&) = delete;
  MetadataVfs& operator=(const MetadataVfs&) = delete;

  // Takes over the segments of the layout and finds out which file is empty.
  [[nodiscard]] Result<> load();
  [[nodiscard]] const std::string& vfs_name() const { return name_; }
  static constexpr const char* kDatabaseFile = "catalog.db";
  static constexpr int kReservedBytes = 8; // of each page; whoever makes the database has to tell SQLite

  // One more segment of up to `wanted` blocks; no_space if not even a small one is free.
  [[nodiscard]] Result<> grow(MetadataFile file, BlockCount wanted);
  [[nodiscard]] std::uint64_t capacity_bytes(MetadataFile file) const;

  // Makes the copy of the catalog reach as far as the database, where space is not short; it begins with
  // kFeatureCopy. Under the Database's lock.
  void extend_copy();

  // For the VFS callbacks.
  class Stream;
  Stream& stream(MetadataFile file);
  CatalogCopy& copy() { return *copy_; }
  [[nodiscard]] bool reads_around_missing() const { return members_.frozen(); }
  [[nodiscard]] Result<> sync_database();

 private:
  MemberSet& members_;
  Allocator& allocator_;
  std::string name_;
  std::unique_ptr<sqlite3_vfs> vfs_;
  std::unique_ptr<Stream> streams_[4]; // by MetadataFile; none of the journal, which is no file of SQLite's
  std::unique_ptr<CatalogCopy> copy_;
};

// One of the two files.
class MetadataVfs::Stream {
 public:
  static constexpr std::size_t kGatheredBytes = 1U << 20; // at most

  Stream(MetadataVfs& owner, MetadataFile file) : owner_(owner), file_(file) {}
  // False: it begins like a database of ours, and is damaged.
  [[nodiscard]] Result<bool> load(const std::vector<MetadataSegment>& segments);
  // Bytes beyond the end read as zeros; `read_short` says so.
  [[nodiscard]] Result<bool> read(std::uint64_t offset, std::span<std::byte> out);
  [[nodiscard]] Result<> write(std::uint64_t offset, std::span<const std::byte> data);
  [[nodiscard]] Result<> truncate(std::uint64_t size_bytes);
  [[nodiscard]] Result<> sync();
  // SQLite is done with the file: a WAL that is not synced by now is one that SQLite gave up.
  [[nodiscard]] Result<> close();
  void append(PlaceRun run);
  void drop_last(); // run; nothing of it is in use
  [[nodiscard]] MetadataFile file() const { return file_; }
  [[nodiscard]] MetadataVfs& owner() const { return owner_; }
  [[nodiscard]] std::optional<std::uint32_t> first_member() const; // where it begins
  [[nodiscard]] const MissingMember* missing_start() const;        // nullptr: that is there
  void set_size(std::uint64_t size_bytes) { size_bytes_ = size_bytes; }
  [[nodiscard]] std::uint64_t size_bytes() const { return size_bytes_.load(); }
  [[nodiscard]] std::uint64_t capacity_bytes() const { return capacity_bytes_.load(); }

 private:
  template <class Piece>
  [[nodiscard]] Result<> for_pieces(std::uint64_t offset, std::uint64_t length, Piece piece);
  [[nodiscard]] Result<> write_through(std::uint64_t offset, std::span<const std::byte> data);
  [[nodiscard]] Result<> write_gathered();
  [[nodiscard]] Result<> check_lost(std::uint64_t end) const; // may bytes before `end` be relied upon?
  MetadataVfs& owner_;
  MetadataFile file_;
  mutable Mutex mutex_;
  std::vector<PlaceRun> runs_ VSNAP_GUARDED_BY(mutex_);
  std::atomic<std::uint64_t> size_bytes_{0};
  std::atomic<std::uint64_t> capacity_bytes_{0};
  // Under the Database's lock.
  std::uint64_t gathered_at_ = 0;
  std::vector<std::byte> gathered_;
  std::optional<std::uint64_t> lost_from_; // a WAL's bytes from here on are not what SQLite wrote, ...
  Error lost_why_{};                       // ... because of this
};

} // namespace vsnap
