#include "core/metadata_vfs.h"

#include <sqlite3.h>

#include <fmt/format.h>
#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "core/assert.h"
#include "core/catalog_copy.h"
#include "core/format.h"
#include "core/log.h"
#include "core/planted.h"

namespace vsnap {
namespace {

constexpr std::string_view kDatabaseMagic = "SQLite format 3";
constexpr std::array<unsigned char, 3> kWalMagic = {0x37, 0x7f, 0x06}; // 0x377f0682 or 0x377f0683
constexpr std::size_t kPageBytes = 4096;
constexpr std::uint64_t kCopyShare = 4;    // of the free space it takes at most a part like this
constexpr std::size_t kReservedField = 20; // of the database header: how many bytes a page leaves to the VFS
constexpr std::uint64_t kSmallestSegment = 16; // blocks
// Of a segment so much is there from the start: a removal must not need space below the members.
constexpr std::uint64_t kTakenBlocks = (4ULL << 20) / kBlockBytes;

bool is_page(MetadataFile file, std::uint64_t offset, std::size_t size) {
  return file == MetadataFile::catalog && offset % kPageBytes == 0 && size == kPageBytes;
}

} // namespace

// ---- streams ----

Result<bool> MetadataVfs::Stream::load(const std::vector<MetadataSegment>& segments) {
  for (const MetadataSegment& segment : segments) {
    if (segment.file == file_) append(segment.run);
  }
  if (capacity_bytes() == 0) return true;
  std::array<std::byte, kReservedField + 1> start{};
  size_bytes_ = capacity_bytes();
  if (file_ == MetadataFile::copy) return true;
  if (const auto* const missing = missing_start(); missing != nullptr && file_ == MetadataFile::wal) {
    size_bytes_ = 0;
    if (owner_.members_.was_closed() || planted(Fault::wal_done_without)) return true;
    return failure(ErrorKind::damaged,
                   fmt::format("the last changes of the catalog are on {}, as the pool was not closed before "
                               "it was lost (bring it back)",
                               missing->text()));
  }
  if (auto got = read(0, start); !got && file_ != MetadataFile::catalog) return Failure(got.error());
  const bool there = file_ == MetadataFile::catalog
                         ? std::memcmp(start.data(), kDatabaseMagic.data(), kDatabaseMagic.size()) == 0
                         : std::memcmp(start.data(), kWalMagic.data(), kWalMagic.size()) == 0;
  const bool odd = file_ == MetadataFile::catalog && start[kReservedField] != std::byte{kReservedBytes};
  if (!there || odd) size_bytes_ = 0;
  return !(there && odd);
}

const MissingMember* MetadataVfs::Stream::missing_start() const {
  MutexLock lock(mutex_);
  return owner_.members_.missing_at(runs_.front().start);
}

std::optional<std::uint32_t> MetadataVfs::Stream::first_member() const {
  MutexLock lock(mutex_);
  if (runs_.empty()) return std::nullopt;
  return runs_.front().start.member();
}

void MetadataVfs::Stream::append(PlaceRun run) {
  MutexLock lock(mutex_);
  runs_.push_back(run);
  capacity_bytes_ += bytes(run.count);
}

void MetadataVfs::Stream::drop_last() {
  MutexLock lock(mutex_);
  capacity_bytes_ -= bytes(runs_.back().count);
  runs_.pop_back();
}

template <class Piece>
Result<> MetadataVfs::Stream::for_pieces(std::uint64_t offset, std::uint64_t length, Piece piece) {
  std::vector<PlaceRun> runs;
  {
    MutexLock lock(mutex_);
    runs = runs_;
  }
  std::uint64_t done = 0;
  std::uint64_t run_start = 0;
  for (const PlaceRun& run : runs) {
    const std::uint64_t run_end = run_start + bytes(run.count);
    while (done < length && offset + done < run_end) {
      const std::uint64_t at = offset + done - run_start;
      const std::uint64_t size = std::min(length - done, run_end - (offset + done));
      VSNAP_TRY(piece(run.start + BlockCount(at / kBlockBytes), at % kBlockBytes, done, size));
      done += size;
    }
    run_start = run_end;
    if (done == length) return {};
  }
  return failure(ErrorKind::damaged, "the catalog reaches beyond its segments");
}

Result<bool> MetadataVfs::Stream::read(std::uint64_t offset, std::span<std::byte> out) {
  const std::uint64_t size = size_bytes();
  const std::uint64_t there = offset >= size ? 0 : std::min<std::uint64_t>(out.size(), size - offset);
  std::fill(out.begin() + static_cast<std::ptrdiff_t>(there), out.end(), std::byte{0});
  if (there > 0) {
    VSNAP_TRY(check_lost(offset + there));
    if (offset < gathered_at_ + gathered_.size() && gathered_at_ < offset + there)
      VSNAP_TRY(write_gathered());
    VSNAP_TRY(for_pieces(offset, there,
                         [&](Place place, std::uint64_t in_block, std::uint64_t done, std::uint64_t n) {
                           return owner_.members_.read(place, in_block, out.subspan(done, n));
                         }));
  }
  return there == out.size();
}

Result<> MetadataVfs::Stream::write(std::uint64_t offset, std::span<const std::byte> data) {
  const std::uint64_t end = offset + data.size();
  if (lost_from_ && offset <= *lost_from_) lost_from_.reset(); // the transaction that lost them is undone
  VSNAP_TRY(check_lost(end));
  if (file_ == MetadataFile::wal) VSNAP_TRY(owner_.members_.mark_in_use());
  while (end > capacity_bytes()) {
    // A quarter more each time keeps the table of segments short.
    const std::uint64_t missing = blocks_for(end - capacity_bytes()).value();
    const std::uint64_t quarter = capacity_bytes() / kBlockBytes / 4;
    VSNAP_TRY(owner_.grow(file_, BlockCount(std::max<std::uint64_t>({missing, quarter, 256}))));
  }
  const bool follows = gathered_.empty() || offset == gathered_at_ + gathered_.size();
  if (!follows || gathered_.size() + data.size() > kGatheredBytes) VSNAP_TRY(write_gathered());
  if (data.size() > kGatheredBytes) {
    VSNAP_TRY(write_through(offset, data));
  } else {
    if (gathered_.empty()) gathered_at_ = offset;
    gathered_.insert(gathered_.end(), data.begin(), data.end());
  }
  if (end > size_bytes_) size_bytes_ = end;
  return {};
}

Result<> MetadataVfs::Stream::write_through(std::uint64_t offset, std::span<const std::byte> data) {
  return for_pieces(offset, data.size(),
                    [&](Place place, std::uint64_t in_block, std::uint64_t done, std::uint64_t n) {
                      return owner_.members_.write(place, in_block, data.subspan(done, n));
                    });
}

Result<> MetadataVfs::Stream::write_gathered() {
  if (gathered_.empty()) return {};
  auto written = write_through(gathered_at_, gathered_);
  if (!written && file_ == MetadataFile::wal) {
    lost_from_ = gathered_at_;
    lost_why_ = written.error();
  }
  if (written || file_ == MetadataFile::wal) gathered_.clear();
  return written;
}

Result<> MetadataVfs::Stream::check_lost(std::uint64_t end) const {
  if (!lost_from_ || end <= *lost_from_) return {};
  return Failure(lost_why_);
}

Result<> MetadataVfs::Stream::truncate(std::uint64_t size) {
  VSNAP_TRY(write_gathered());
  if (size == 0 && size_bytes() > 0) {
    // Without its magic number the file counts as empty at the next open.
    const std::vector<std::byte> zeros(kBlockBytes);
    VSNAP_TRY(write_through(0, zeros));
  }
  if (lost_from_ && size <= *lost_from_) lost_from_.reset();
  if (size < size_bytes_) size_bytes_ = size;
  return {};
}

Result<> MetadataVfs::Stream::sync() {
  VSNAP_TRY(write_gathered());
  VSNAP_TRY(check_lost(std::numeric_limits<std::uint64_t>::max()));
  return owner_.members_.flush_data();
}

Result<> MetadataVfs::Stream::close() {
  if (file_ == MetadataFile::wal) gathered_.clear();
  return write_gathered();
}

// ---- SQLite's callbacks ----

namespace {

struct VfsFile {
  sqlite3_file base;
  MetadataVfs::Stream* stream;
};

MetadataVfs::Stream& stream_of(sqlite3_file* file) { return *reinterpret_cast<VfsFile*>(file)->stream; }

int code_of(const Error& error, int otherwise) {
  if (error.kind == ErrorKind::no_space) return SQLITE_FULL;
  log::error("catalog: {}", error.message);
  return otherwise;
}

int file_close(sqlite3_file* file) {
  const auto done = stream_of(file).close();
  return done ? SQLITE_OK : code_of(done.error(), SQLITE_IOERR_CLOSE);
}

// A page of the database, or a part of the first one: that SQLite reads before it looks whether the WAL has a
// newer one, so it gets it even if it is damaged.
int read_page(MetadataVfs::Stream& stream, std::uint64_t offset, std::span<std::byte> out) {
  std::array<std::byte, kPageBytes> page;
  const std::uint64_t number = offset / kPageBytes;
  const auto read = stream.read(number * kPageBytes, page);
  if (read && !*read) {
    std::fill(out.begin(), out.end(), std::byte{0});
    return SQLITE_IOERR_SHORT_READ;
  }
  const auto raw = page;
  bool good = read && is_sealed(page, number, 0);
  if (!good && stream.owner().copy().read(number, page)) {
    if (read || !stream.owner().reads_around_missing()) {
      log::error("catalog: page {} is damaged, and read from its copy (vsnap check --repair mends it)",
                 number + 1);
    }
    good = true;
  }
  if (good) {
    std::copy_n(page.begin() + static_cast<std::ptrdiff_t>(offset % kPageBytes), out.size(), out.begin());
    return SQLITE_OK;
  }
  if (!read) return code_of(read.error(), SQLITE_IOERR_READ);
  if (out.size() < kPageBytes) {
    std::copy_n(raw.begin() + static_cast<std::ptrdiff_t>(offset % kPageBytes), out.size(), out.begin());
    return SQLITE_OK;
  }
  log::error("catalog: page {} is damaged: its checksum does not agree", number + 1);
  return SQLITE_CORRUPT;
}

int file_read(sqlite3_file* file, void* out, int amount, sqlite3_int64 offset) {
  MetadataVfs::Stream& stream = stream_of(file);
  const auto at = static_cast<std::uint64_t>(offset);
  const std::span<std::byte> data(static_cast<std::byte*>(out), static_cast<std::size_t>(amount));
  if (stream.file() == MetadataFile::catalog && at / kPageBytes == (at + data.size() - 1) / kPageBytes)
    return read_page(stream, at, data);
  const auto read = stream.read(at, data);
  if (!read) return code_of(read.error(), SQLITE_IOERR_READ);
  return *read ? SQLITE_OK : SQLITE_IOERR_SHORT_READ;
}

int file_write(sqlite3_file* file, const void* data, int amount, sqlite3_int64 offset) {
  MetadataVfs::Stream& stream = stream_of(file);
  const auto at = static_cast<std::uint64_t>(offset);
  std::span<const std::byte> bytes(static_cast<const std::byte*>(data), static_cast<std::size_t>(amount));
  std::array<std::byte, kPageBytes> page;
  if (is_page(stream.file(), at, bytes.size())) {
    std::copy(bytes.begin(), bytes.end(), page.begin());
    seal_page(page, at / kPageBytes, 0);
    stream.owner().copy().note_written(at / kPageBytes);
    bytes = page;
  }
  const auto written = stream.write(at, bytes);
  return written ? SQLITE_OK : code_of(written.error(), SQLITE_IOERR_WRITE);
}

int file_truncate(sqlite3_file* file, sqlite3_int64 size) {
  const auto done = stream_of(file).truncate(static_cast<std::uint64_t>(size));
  return done ? SQLITE_OK : code_of(done.error(), SQLITE_IOERR_TRUNCATE);
}

int file_sync(sqlite3_file* file, int) {
  MetadataVfs::Stream& stream = stream_of(file);
  const auto done = stream.file() == MetadataFile::catalog ? stream.owner().sync_database() : stream.sync();
  return done ? SQLITE_OK : code_of(done.error(), SQLITE_IOERR_FSYNC);
}

int file_size(sqlite3_file* file, sqlite3_int64* size) {
  *size = static_cast<sqlite3_int64>(stream_of(file).size_bytes());
  return SQLITE_OK;
}

// One process, one connection: the pool's lock stands for all of SQLite's.
int file_lock(sqlite3_file*, int) { return SQLITE_OK; }
int file_check_lock(sqlite3_file*, int* held) {
  *held = 0;
  return SQLITE_OK;
}
int file_control(sqlite3_file*, int, void*) { return SQLITE_NOTFOUND; }
int file_sector_size(sqlite3_file*) { return static_cast<int>(kBlockBytes); }
// A sector that is written again holds the old or the new bytes after a power cut, and what SQLite left as
// it was is the same in both. So a transaction in the WAL needs no copies of its last frame to end with a
// sector, and nothing of it is left to be written after its sync.
int file_characteristics(sqlite3_file*) { return SQLITE_IOCAP_POWERSAFE_OVERWRITE; }

const sqlite3_io_methods* io_methods() {
  static const sqlite3_io_methods methods = [] {
    sqlite3_io_methods m{};
    m.iVersion = 1; // no shared memory
    m.xClose = file_close;
    m.xRead = file_read;
    m.xWrite = file_write;
    m.xTruncate = file_truncate;
    m.xSync = file_sync;
    m.xFileSize = file_size;
    m.xLock = file_lock;
    m.xUnlock = file_lock;
    m.xCheckReservedLock = file_check_lock;
    m.xFileControl = file_control;
    m.xSectorSize = file_sector_size;
    m.xDeviceCharacteristics = file_characteristics;
    return m;
  }();
  return &methods;
}

MetadataVfs& owner_of(sqlite3_vfs* vfs) { return *static_cast<MetadataVfs*>(vfs->pAppData); }

MetadataFile file_named(const char* name) {
  return std::string_view(name).ends_with("-wal") ? MetadataFile::wal : MetadataFile::catalog;
}

int vfs_open(sqlite3_vfs* vfs, const char* name, sqlite3_file* file, int flags, int* out_flags) {
  file->pMethods = nullptr;
  if (name == nullptr || (flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_WAL)) == 0) return SQLITE_CANTOPEN;
  reinterpret_cast<VfsFile*>(file)->stream = &owner_of(vfs).stream(file_named(name));
  file->pMethods = io_methods();
  if (out_flags != nullptr) *out_flags = flags;
  return SQLITE_OK;
}

int vfs_delete(sqlite3_vfs* vfs, const char* name, int) {
  if (!std::string_view(name).ends_with("-wal")) return SQLITE_OK; // a rollback journal never exists here
  const auto done = owner_of(vfs).stream(MetadataFile::wal).truncate(0);
  return done ? SQLITE_OK : code_of(done.error(), SQLITE_IOERR_DELETE);
}

int vfs_access(sqlite3_vfs* vfs, const char* name, int, int* out) {
  const std::string_view file(name);
  *out = file.ends_with("-journal") ? 0 : owner_of(vfs).stream(file_named(name)).size_bytes() > 0 ? 1 : 0;
  return SQLITE_OK;
}

int vfs_full_path(sqlite3_vfs*, const char* name, int size, char* out) {
  sqlite3_snprintf(size, out, "%s", name);
  return SQLITE_OK;
}

sqlite3_vfs* default_vfs() { return sqlite3_vfs_find(nullptr); }
int vfs_randomness(sqlite3_vfs*, int size, char* out) {
  return default_vfs()->xRandomness(default_vfs(), size, out);
}
int vfs_sleep(sqlite3_vfs*, int us) { return default_vfs()->xSleep(default_vfs(), us); }
int vfs_time(sqlite3_vfs*, double* out) { return default_vfs()->xCurrentTime(default_vfs(), out); }
int vfs_last_error(sqlite3_vfs*, int, char*) { return 0; }

} // namespace

// ---- the VFS ----

MetadataVfs::MetadataVfs(MemberSet& members, Allocator& allocator)
    : members_(members), allocator_(allocator), vfs_(std::make_unique<sqlite3_vfs>()) {
  // Nobody asks how much memory SQLite has; counting takes a lock at each allocation. Before its first use.
  static const int counting = sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
  if (counting != SQLITE_OK) log::warning("SQLite counts its memory");
  static std::atomic<std::uint64_t> serial{0};
  name_ = fmt::format("vsnap-{}", serial++);
  for (const MetadataFile file : {MetadataFile::catalog, MetadataFile::wal, MetadataFile::copy})
    streams_[static_cast<std::size_t>(file)] = std::make_unique<Stream>(*this, file);
  copy_ = std::make_unique<CatalogCopy>(stream(MetadataFile::catalog), stream(MetadataFile::copy));
  vfs_->iVersion = 1;
  vfs_->szOsFile = sizeof(VfsFile);
  vfs_->mxPathname = 64;
  vfs_->zName = name_.c_str();
  vfs_->pAppData = this;
  vfs_->xOpen = vfs_open;
  vfs_->xDelete = vfs_delete;
  vfs_->xAccess = vfs_access;
  vfs_->xFullPathname = vfs_full_path;
  vfs_->xRandomness = vfs_randomness;
  vfs_->xSleep = vfs_sleep;
  vfs_->xCurrentTime = vfs_time;
  vfs_->xGetLastError = vfs_last_error;
  VSNAP_ASSERT(sqlite3_vfs_register(vfs_.get(), 0) == SQLITE_OK);
}

MetadataVfs::~MetadataVfs() { sqlite3_vfs_unregister(vfs_.get()); }

MetadataVfs::Stream& MetadataVfs::stream(MetadataFile file) {
  return *streams_[static_cast<std::size_t>(file)];
}

Result<> MetadataVfs::load() {
  const Superblock layout = members_.layout();
  bool good = true;
  for (const auto& stream : streams_) {
    if (!stream) continue;
    VSNAP_TRY_ASSIGN(const bool loaded, stream->load(layout.segments));
    good = good && loaded;
  }
  copy_->set_pool(layout.pool_uuid);
  Stream& database = stream(MetadataFile::catalog);
  if (database.capacity_bytes() == 0 || database.size_bytes() != 0) return {};
  std::array<std::byte, kPageBytes> first;
  if (copy_->read(0, first)) {
    database.set_size(database.capacity_bytes());
    return {};
  }
  if (good) return {};
  return failure(ErrorKind::damaged,
                 "the first page of the catalog is damaged (restore the members from a copy)");
}

Result<> MetadataVfs::sync_database() {
  VSNAP_TRY(stream(MetadataFile::catalog).sync());
  return copy_->anything_noted() ? copy_->write_noted() : Result<>();
}

void MetadataVfs::extend_copy() {
  Stream& database = stream(MetadataFile::catalog);
  Stream& copy = stream(MetadataFile::copy);
  const std::uint64_t before = copy.capacity_bytes();
  if (before >= database.capacity_bytes()) return;
  const BlockCount wanted = blocks_for(database.capacity_bytes() - before);
  if (wanted.value() > allocator_.free_blocks() / kCopyShare) return;
  if (members_.layout().segments.size() >= format::kMaxSegments / 2) return; // the database needs them more
  const auto run = allocator_.allocate_segment(wanted, wanted, database.first_member());
  if (!run) return;
  // Filled before it counts: whoever opens the pool after a crash would take it for complete.
  copy.append(*run);
  members_.take_space({run->start, BlockCount(std::min(run->count.value(), kTakenBlocks))});
  copy.set_size(copy.capacity_bytes());
  Result<> done = copy_->fill(before / kPageBytes, database.size_bytes() / kPageBytes);
  if (done) {
    done = members_.update_layout([&](Superblock& layout) {
      layout.segments.push_back({MetadataFile::copy, *run});
      layout.incompat |= format::kFeatureCopy;
    });
  }
  if (!done) {
    log::warning("no copy of the catalog, or a short one: {}", done.error().message);
    copy.drop_last();
    copy.set_size(copy.capacity_bytes());
    return;
  }
  static_cast<void>(members_.update_layout([](Superblock&) {})); // the other copy as well; best effort
}

Result<> MetadataVfs::grow(MetadataFile file, BlockCount wanted) {
  if (members_.layout().segments.size() >= format::kMaxSegments) {
    return failure(ErrorKind::no_space, "the table of metadata segments is full");
  }
  const auto run = allocator_.allocate_segment(BlockCount(kSmallestSegment), wanted);
  if (!run) return failure(ErrorKind::no_space, "no free space for metadata (vsnap rm or vsnap pool add)");
  VSNAP_TRY(members_.update_layout([&](Superblock& layout) { layout.segments.push_back({file, *run}); }));
  stream(file).append(*run);
  members_.take_space({run->start, BlockCount(std::min(run->count.value(), kTakenBlocks))});
  static_cast<void>(members_.update_layout([](Superblock&) {})); // the other copy as well; best effort
  return {};
}

std::uint64_t MetadataVfs::capacity_bytes(MetadataFile file) const {
  return streams_[static_cast<std::size_t>(file)]->capacity_bytes();
}

} // namespace vsnap
