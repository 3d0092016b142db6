#include "core/database.h"

#include <SQLiteCpp/Backup.h>
#include <sqlite3.h>

#include <fmt/format.h>
#include <cstdio>
#include <system_error>

#include "core/assert.h"
#include "core/metadata_vfs.h"

namespace vsnap {

namespace {

Failure file_failure(int errno_value, const std::string& name) {
  const ErrorKind kind =
      errno_value == ENOSPC || errno_value == EDQUOT ? ErrorKind::no_space : ErrorKind::failed;
  return failure(kind, errno_value == EDQUOT ? ENOSPC : errno_value,
                 fmt::format("{}: {}", name, std::generic_category().message(errno_value)));
}

// Of a database that is not the catalog.
Failure target_failure(SQLite::Database& target, const std::string& name, const SQLite::Exception& e) {
  const int errno_value = sqlite3_system_errno(target.getHandle());
  if (errno_value != 0) return file_failure(errno_value, name);
  if (e.getErrorCode() == SQLITE_FULL) return file_failure(ENOSPC, name);
  return failure(ErrorKind::failed, EIO, fmt::format("{}: {}", name, e.what()));
}

bool reading_failed(const SQLite::Exception& e) { // only the source is read
  return (e.getErrorCode() & 0xff) == SQLITE_CORRUPT || e.getErrorCode() == SQLITE_IOERR_READ ||
         e.getErrorCode() == SQLITE_IOERR_SHORT_READ || e.getErrorCode() == SQLITE_IOERR_DATA;
}

} // namespace

Failure Database::translate(const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const SQLite::Exception& e) {
    switch (e.getErrorCode() & 0xff) {
      case SQLITE_ERROR: // our statements fit our schema; this one is another
      case SQLITE_CORRUPT:
      case SQLITE_NOTADB:
        return failure(ErrorKind::damaged, fmt::format("the catalog is damaged: {} (vsnap check)", e.what()));
      case SQLITE_FULL:
        return failure(ErrorKind::no_space,
                       fmt::format("no space for the catalog: {} (vsnap rm or vsnap pool add)", e.what()));
      default:
        return failure(ErrorKind::failed, EIO, fmt::format("catalog: {}", e.what()));
    }
  } catch (const std::exception& e) {
    return failure(ErrorKind::failed, EIO, fmt::format("catalog: {}", e.what()));
  }
}

Result<std::unique_ptr<Database>> Database::open(const std::string& file, const std::string& vfs,
                                                 int checkpoint_pages) {
  try {
    // mutex_ is the only lock it needs: SQLite's own would be taken for every column of a row.
    auto connection = std::make_unique<SQLite::Database>(
        file, SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE | SQLite::OPEN_NOMUTEX, 0, vfs);
    // Exclusive mode before the first access: the WAL index stays in our memory, no shared-memory file is
    // needed.
    connection->exec("PRAGMA locking_mode=EXCLUSIVE");
    connection->exec("PRAGMA page_size=4096");
    int reserved = MetadataVfs::kReservedBytes; // counts only where the database is made
    sqlite3_file_control(connection->getHandle(), "main", SQLITE_FCNTL_RESERVE_BYTES, &reserved);
    // Only where it is made: each change of the mode is written to the database, by way of a journal, for
    // which there is no file.
    if (connection->execAndGet("PRAGMA journal_mode").getString() != "wal") {
      connection->exec("PRAGMA journal_mode=MEMORY");
      connection->exec("PRAGMA journal_mode=WAL");
    }
    connection->exec("PRAGMA synchronous=FULL");
    connection->exec("PRAGMA temp_store=MEMORY");
    connection->exec("PRAGMA cache_size=-65536"); // 64 MiB
    connection->exec("PRAGMA cache_spill=OFF");   // a page goes to the WAL once a transaction
    connection->exec("PRAGMA trusted_schema=OFF");
    connection->exec("PRAGMA cell_size_check=ON");
    connection->exec(fmt::format("PRAGMA wal_autocheckpoint={}", checkpoint_pages));
    return std::unique_ptr<Database>(new Database(std::move(connection)));
  } catch (...) {
    return translate(std::current_exception());
  }
}

Database::Peek::Peek(Database& database) : database_(database) {
  database_.peeks_wanted_.fetch_add(1);
  database_.mutex_.lock();
}

Database::Peek::~Peek() {
  ++database_.peeks_done_;
  database_.mutex_.unlock();
  database_.peeked_.notify_all();
}

// Those that ask for more meanwhile are for the next time: the transaction goes on.
void Database::breathe() {
  VSNAP_ASSERT(writing_);
  for (const std::uint64_t wanted = peeks_wanted_.load(); peeks_done_ < wanted;) peeked_.wait(mutex_);
}

Result<> Database::checkpoint() {
  return read([](SQLite::Database& db) -> Result<> {
    db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
    return {};
  });
}

Result<> Database::copy_into(SQLite::Database& target, const std::string& name, const CopyProgress& each) {
  constexpr int kPagesAStep = 1024;
  // What goes wrong here is the target's doing, unless it is reading that fails.
  std::unique_ptr<SQLite::Backup> backup;
  std::optional<SQLite::Exception> failed;
  Result<> done;
  try {
    target.exec("PRAGMA synchronous=OFF");
    target.exec("PRAGMA journal_mode=OFF");
    {
      MutexLock lock(mutex_);
      backup = std::make_unique<SQLite::Backup>(target, *connection_);
    }
    for (bool more = true; more && done;) {
      {
        MutexLock lock(mutex_);
        wait_for_writer();
        const int step = backup->executeStep(kPagesAStep);
        if (step == SQLITE_BUSY || step == SQLITE_LOCKED) throw SQLite::Exception("is locked", step);
        more = step != SQLITE_DONE;
      }
      const int total = backup->getTotalPageCount();
      if (!each(static_cast<std::uint64_t>(total - backup->getRemainingPageCount()),
                static_cast<std::uint64_t>(total))) {
        done = failure(ErrorKind::failed, ECANCELED, "given up");
      }
    }
  } catch (const SQLite::Exception& e) {
    failed = e;
  }
  MutexLock lock(mutex_); // its end touches both
  backup.reset();         // and leaves the errno with the target
  if (!failed) return done;
  return reading_failed(*failed) ? translate(std::make_exception_ptr(*failed))
                                 : target_failure(target, name, *failed);
}

Result<> Database::copy_to(const std::string& path, const CopyProgress& each) {
  std::FILE* const made = std::fopen(path.c_str(), "wxe");
  if (made == nullptr) return file_failure(errno, path);
  std::fclose(made);
  Result<> done;
  try {
    SQLite::Database target(path, SQLite::OPEN_READWRITE);
    done = copy_into(target, path, each);
    try {
      if (done) target.exec("PRAGMA journal_mode=DELETE");
    } catch (const SQLite::Exception& e) {
      done = target_failure(target, path, e);
    }
  } catch (const std::exception& e) {
    done = failure(ErrorKind::failed, EIO, fmt::format("{}: {}", path, e.what()));
  }
  if (!done) std::remove(path.c_str());
  return done;
}

Result<std::unique_ptr<Database>> Database::copy(const CopyProgress& each) {
  try {
    auto target = std::make_unique<SQLite::Database>("", SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
    target->exec("PRAGMA cache_size=-65536"); // 64 MiB in memory, the rest in a file
    VSNAP_TRY(copy_into(*target, "a copy of the catalog", each));
    return std::unique_ptr<Database>(new Database(std::move(target)));
  } catch (const std::exception& e) {
    return failure(ErrorKind::failed, EIO, fmt::format("a copy of the catalog: {}", e.what()));
  }
}

Result<std::vector<std::string>> Database::integrity_problems() {
  return read([](SQLite::Database& db) -> Result<std::vector<std::string>> {
    std::vector<std::string> problems;
    SQLite::Statement query(db, "PRAGMA integrity_check(50)");
    while (query.executeStep()) {
      if (std::string line = query.getColumn(0).getString(); line != "ok")
        problems.push_back(std::move(line));
    }
    return problems;
  });
}

} // namespace vsnap
