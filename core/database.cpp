#include "core/database.h"

#include <sqlite3.h>

#include <fmt/format.h>

#include "core/metadata_vfs.h"

namespace vsnap {

Failure Database::translate(const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const SQLite::Exception& e) {
    switch (e.getErrorCode()) {
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
    auto connection =
        std::make_unique<SQLite::Database>(file, SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE, 0, vfs);
    // Exclusive mode before the first access: the WAL index stays in our memory, no shared-memory file is
    // needed.
    connection->exec("PRAGMA locking_mode=EXCLUSIVE");
    connection->exec("PRAGMA page_size=4096");
    int reserved = MetadataVfs::kReservedBytes; // counts only where the database is made
    sqlite3_file_control(connection->getHandle(), "main", SQLITE_FCNTL_RESERVE_BYTES, &reserved);
    connection->exec(
        "PRAGMA journal_mode=MEMORY"); // there is no journal file to write the change to WAL through
    connection->exec("PRAGMA journal_mode=WAL");
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

Result<> Database::checkpoint() {
  return read([](SQLite::Database& db) -> Result<> {
    db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
    return {};
  });
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
