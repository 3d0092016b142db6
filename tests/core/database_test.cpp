#include "core/database.h"

#include <stdlib.h>

#include <filesystem>
#include <thread>

#include "tests/support/catch.h"

using namespace vsnap;

namespace {

class Lab {
 public:
  Lab() {
    std::string pattern = (std::filesystem::temp_directory_path() / "vsnap-database-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    directory_ = pattern;
    auto opened = Database::open(directory_ / "db", "unix", 1000);
    REQUIRE(opened.has_value());
    db = std::move(*opened);
    REQUIRE(db->write([](SQLite::Database& c) -> Result<> {
                c.exec("CREATE TABLE numbers(n INTEGER)");
                return {};
              }).has_value());
  }
  ~Lab() {
    db.reset();
    std::filesystem::remove_all(directory_);
  }
  Lab(const Lab&) = delete;
  Lab& operator=(const Lab&) = delete;

  static Result<int> count(SQLite::Database& c) {
    return c.execAndGet("SELECT count(*) FROM numbers").getInt();
  }

  std::unique_ptr<Database> db;

 private:
  std::filesystem::path directory_;
};

} // namespace

TEST_CASE("a peek gets its turn while a write breathes; a read and a second write wait for its end") {
  Lab lab;
  std::atomic<int> peeked{-1}, read{-1};
  std::atomic<bool> second{false}, second_too_early{false};
  std::thread peeker, reader, writer;
  const auto done = lab.db->write([&](SQLite::Database& c) -> Result<> {
    c.exec("INSERT INTO numbers VALUES (1)");
    peeker = std::thread([&] { peeked = *lab.db->peek(Lab::count); });
    reader = std::thread([&] { read = *lab.db->read(Lab::count); });
    writer = std::thread([&] {
      second = lab.db
                   ->write([](SQLite::Database& other) -> Result<> {
                     other.exec("INSERT INTO numbers VALUES (3)");
                     return {};
                   })
                   .has_value();
    });
    while (peeked < 0) lab.db->breathe();
    if (read >= 0 || second) second_too_early = true;
    c.exec("INSERT INTO numbers VALUES (2)");
    return {};
  });
  peeker.join();
  reader.join();
  writer.join();
  REQUIRE(done.has_value());
  REQUIRE(peeked == 1);
  REQUIRE_FALSE(second_too_early);
  REQUIRE((read == 2 || read == 3));
  REQUIRE(second);
  REQUIRE(lab.db->read(Lab::count) == 3);
}

TEST_CASE("a write that fails after it has breathed leaves nothing, and the next one goes on") {
  Lab lab;
  std::atomic<bool> stop{false}, failed{false};
  std::thread peeker([&] {
    while (!stop) {
      if (!lab.db->peek(Lab::count)) failed = true;
    }
  });
  for (int i = 0; i < 100; ++i) {
    const auto refused = lab.db->write([&](SQLite::Database& c) -> Result<> {
      c.exec("INSERT INTO numbers VALUES (1)");
      lab.db->breathe();
      return failure(ErrorKind::busy, "no");
    });
    REQUIRE(refused.error().kind == ErrorKind::busy);
    REQUIRE(lab.db->read(Lab::count) == 0);
  }
  stop = true;
  peeker.join();
  REQUIRE_FALSE(failed);
}
