// The one SQLite connection of a pool. Nobody else in the program may open another: before 3.51.3 two
// connections that write and checkpoint a WAL database at the same moment can corrupt it.
//
// Invariants
// 1. Statements run only inside read() and write(), which hold the lock; write() is one transaction,
//    committed when the body returns success and rolled back when it returns an error or throws.
// 2. Exceptions of SQLiteCpp end here: bodies may throw them, callers get a Result.
// 3. synchronous=FULL: what a successful write() did survives a power cut.
// Threads: any. A body must not call read() or write() again.
#pragma once

#include <SQLiteCpp/Backup.h>
#include <SQLiteCpp/SQLiteCpp.h>

#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/mutex.h"

namespace vsnap {

class Database {
 public:
  // `vfs`: name of the SQLite VFS to use; an empty file is a new database.
  static Result<std::unique_ptr<Database>> open(const std::string& file, const std::string& vfs,
                                                int checkpoint_pages);

  template <class Body>
  auto read(Body body) -> decltype(body(std::declval<SQLite::Database&>())) {
    MutexLock lock(mutex_);
    try {
      return body(*connection_);
    } catch (...) {
      return translate(std::current_exception());
    }
  }

  template <class Body>
  auto write(Body body) -> decltype(body(std::declval<SQLite::Database&>())) {
    MutexLock lock(mutex_);
    try {
      SQLite::Transaction transaction(*connection_, SQLite::TransactionBehavior::IMMEDIATE);
      auto result = body(*connection_);
      if (result) transaction.commit();
      return result;
    } catch (...) {
      return translate(std::current_exception());
    }
  }

  // Brings the WAL back into the database file, so that it starts anew.
  Result<> checkpoint();
  // Copies the whole database into an ordinary file, in steps, so that I/O goes on. `each`: pages done, pages
  // in all.
  template <class Each>
  Result<> copy_to(const std::string& path, Each each) {
    try {
      SQLite::Database target(path, SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
      target.exec("PRAGMA synchronous=OFF");
      std::unique_ptr<SQLite::Backup> backup;
      {
        MutexLock lock(mutex_);
        backup = std::make_unique<SQLite::Backup>(target, *connection_);
      }
      for (bool more = true; more;) {
        MutexLock lock(mutex_);
        more = backup->executeStep(1024) != kStepDone;
        const int total = backup->getTotalPageCount();
        if (!each(static_cast<std::uint64_t>(total - backup->getRemainingPageCount()),
                  static_cast<std::uint64_t>(total))) {
          return failure(ErrorKind::failed, ECANCELED, "given up");
        }
      }
      {
        MutexLock lock(mutex_);
        backup.reset();
      }
      target.exec("PRAGMA journal_mode=DELETE");
      return {};
    } catch (...) {
      return translate(std::current_exception());
    }
  }
  // Lines of PRAGMA integrity_check; empty: none wrong.
  Result<std::vector<std::string>> integrity_problems();

 private:
  static constexpr int kStepDone = 101; // SQLITE_DONE
  explicit Database(std::unique_ptr<SQLite::Database> connection) : connection_(std::move(connection)) {}
  [[nodiscard]] static Failure translate(const std::exception_ptr& thrown);

  Mutex mutex_;
  std::unique_ptr<SQLite::Database> connection_;
};

} // namespace vsnap
