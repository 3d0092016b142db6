// The one SQLite connection of a pool. Nobody else in the program may open another: before 3.51.3 two
// connections that write and checkpoint a WAL database at the same moment can corrupt it.
//
// Invariants
// 1. Statements run only inside read() and write(), which hold the lock; write() is one transaction,
//    committed when the body returns success and rolled back when it returns an error or throws.
// 2. Exceptions of SQLiteCpp end here: bodies may throw them, callers get a Result.
// 3. synchronous=FULL: what a successful write() did survives a power cut.
// 4. read() sees committed states alone. peek() may also come where a write() breathes: it is for who asks
// for
//    rows that the transaction leaves alone.
// Threads: any. A body must not call read(), peek() or write() again.
#pragma once

#include <SQLiteCpp/SQLiteCpp.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/mutex.h"

namespace vsnap {

class Database {
 public:
  // `vfs`: name of the SQLite VFS to use; an empty file is a new database.
  [[nodiscard]] static Result<std::unique_ptr<Database>> open(const std::string& file, const std::string& vfs,
                                                              int checkpoint_pages);

  template <class Body>
  auto read(Body body) -> decltype(body(std::declval<SQLite::Database&>())) {
    MutexLock lock(mutex_);
    wait_for_writer();
    try {
      return body(*connection_);
    } catch (...) {
      return translate(std::current_exception());
    }
  }

  template <class Body>
  auto peek(Body body) -> decltype(body(std::declval<SQLite::Database&>())) {
    const Peek peek(*this);
    try {
      return body(*connection_);
    } catch (...) {
      return translate(std::current_exception());
    }
  }

  template <class Body>
  auto write(Body body) -> decltype(body(std::declval<SQLite::Database&>())) {
    MutexLock lock(mutex_);
    wait_for_writer();
    const Writing writing(*this);
    try {
      SQLite::Transaction transaction(*connection_, SQLite::TransactionBehavior::IMMEDIATE);
      auto result = body(*connection_);
      if (result) transaction.commit();
      return result;
    } catch (...) {
      return translate(std::current_exception());
    }
  }

  // In the body of a long write(), between statements: lets the peeks in that wait.
  void breathe() VSNAP_NO_THREAD_SAFETY_ANALYSIS;

  // Brings the WAL back into the database file, so that it starts anew.
  [[nodiscard]] Result<> checkpoint();
  // pages done, pages in all; false: give up
  using CopyProgress = std::function<bool(std::uint64_t, std::uint64_t)>;
  // Copies the whole database into a new ordinary file, in steps, so that I/O goes on: what it is in the end.
  // A file that exists is refused; after a failure there is none. Errors name the file where it is to blame.
  [[nodiscard]] Result<> copy_to(const std::string& path, const CopyProgress& each);
  // The same into a database of one's own, which ends with it; SQLite keeps it in memory as long as it is
  // small, else in its directory for temporary files.
  [[nodiscard]] Result<std::unique_ptr<Database>> copy(const CopyProgress& each);
  // Lines of PRAGMA integrity_check; empty: none wrong.
  [[nodiscard]] Result<std::vector<std::string>> integrity_problems();

 private:
  explicit Database(std::unique_ptr<SQLite::Database> connection) : connection_(std::move(connection)) {}
  [[nodiscard]] static Failure translate(const std::exception_ptr& thrown);
  [[nodiscard]] Result<> copy_into(SQLite::Database& target, const std::string& name,
                                   const CopyProgress& each);

  class Peek { // its turn at the connection
   public:
    explicit Peek(Database& database) VSNAP_NO_THREAD_SAFETY_ANALYSIS;
    ~Peek() VSNAP_NO_THREAD_SAFETY_ANALYSIS;
    Peek(const Peek&) = delete;
    Peek& operator=(const Peek&) = delete;

   private:
    Database& database_;
  };
  class Writing { // says that a write() is under way, also while it breathes
   public:
    explicit Writing(Database& database) : database_(database) { database_.writing_ = true; }
    ~Writing() VSNAP_NO_THREAD_SAFETY_ANALYSIS {
      database_.writing_ = false;
      database_.written_.notify_all();
    }
    Writing(const Writing&) = delete;
    Writing& operator=(const Writing&) = delete;

   private:
    Database& database_;
  };
  void wait_for_writer() VSNAP_REQUIRES(mutex_) {
    while (writing_) written_.wait(mutex_);
  }

  Mutex mutex_;
  CondVar written_, peeked_;
  bool writing_ VSNAP_GUARDED_BY(mutex_) = false;
  std::atomic<std::uint64_t> peeks_wanted_{0};
  std::uint64_t peeks_done_ VSNAP_GUARDED_BY(mutex_) = 0;
  std::unique_ptr<SQLite::Database> connection_;
};

} // namespace vsnap
