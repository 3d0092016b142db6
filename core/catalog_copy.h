// A second copy of the catalog's pages, in segments of its own, on another member where there is one. A page
// of the database that is damaged is read from it, and mended from it by check --repair.
//
//   checkpoint: pages ──► database ──► flush ──► the same pages ──► copy ──► flush ──► the WAL may start anew
//
// Invariants
// 1. Until the WAL starts anew, and with that the last checkpoint is forgotten, every page that it brought
//    into the database is in the copy as well, durably; after a crash SQLite makes that checkpoint again. So
//    a good page of the copy is what the page of the database is, or the WAL has a newer one of both.
// 2. A page of the copy is never written while the database's is not yet durable: a power cut tears one of
//    them at most.
// 3. A page of the copy counts only with its checksum, its number and the pool's mark: what lies in a segment
//    that was never written is none, also where an earlier pool had its catalog there.
// 4. The copy may be shorter than the database, where space is short. What is beyond it has none.
// Threads: as MetadataVfs::Stream: under the Database's lock.
#pragma once

#include <cstdint>
#include <set>
#include <span>

#include "core/error.h"
#include "core/metadata_vfs.h"

namespace vsnap {

class CatalogCopy {
 public:
  static constexpr std::size_t kPageBytes = 4096;
  using Page = std::span<std::byte, kPageBytes>;

  CatalogCopy(MetadataVfs::Stream& database, MetadataVfs::Stream& copy) : database_(database), copy_(copy) {}
  void set_pool(const Uuid& pool);

  // Pages are counted from 0.
  void note_written(std::uint64_t page); // of the database
  [[nodiscard]] bool anything_noted() const { return !noted_.empty(); }
  // Brings what was noted into the copy, durably. After a flush of the database.
  [[nodiscard]] Result<> write_noted();
  // False: the copy has no good page of that number.
  [[nodiscard]] bool read(std::uint64_t page, Page out);
  // The pages [from, to) of the database, as far as they are good: where the copy became longer.
  [[nodiscard]] Result<> fill(std::uint64_t from, std::uint64_t to);

  struct Findings {
    std::uint64_t mended_database = 0; // pages, or those that could be
    std::uint64_t mended_copy = 0;
  };
  // Holds the pages [from, to) of both against each other.
  [[nodiscard]] Result<Findings> compare(std::uint64_t from, std::uint64_t to, bool repair);

 private:
  [[nodiscard]] bool reaches(std::uint64_t page) const;
  [[nodiscard]] bool read_database(std::uint64_t page, Page out);
  [[nodiscard]] Result<> write(std::uint64_t page, Page content); // a good page of the database

  MetadataVfs::Stream& database_;
  MetadataVfs::Stream& copy_;
  std::uint32_t mark_ = 0;
  std::set<std::uint64_t> noted_;
};

// The checksum in the last bytes of page `page`, counted from 0; `mark`: 0 in the database itself.
void seal_page(CatalogCopy::Page content, std::uint64_t page, std::uint32_t mark);
[[nodiscard]] bool is_sealed(std::span<const std::byte, CatalogCopy::kPageBytes> content, std::uint64_t page,
                             std::uint32_t mark);

} // namespace vsnap
