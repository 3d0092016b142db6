#include "core/catalog_copy.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "core/log.h"
#include "core/planted.h"

namespace vsnap {
namespace {

constexpr std::size_t kSealedBytes = CatalogCopy::kPageBytes - MetadataVfs::kReservedBytes;
using Seal = std::array<std::byte, MetadataVfs::kReservedBytes>;

template <class Number>
void put(std::span<std::byte> to, Number number) {
  for (std::size_t i = 0; i < sizeof number; ++i) to[i] = static_cast<std::byte>(number >> (8 * i));
}

Seal seal_of(std::span<const std::byte> content, std::uint64_t page, std::uint32_t mark) {
  std::array<std::byte, kSealedBytes + sizeof page> sealed;
  std::memcpy(sealed.data(), content.data(), kSealedBytes);
  put(std::span(sealed).last<sizeof page>(), page + 1); // SQLite counts from 1
  Seal seal{};
  put(std::span(seal).first<4>(), crc32c(sealed));
  put(std::span(seal).last<4>(), mark);
  return seal;
}

} // namespace

void seal_page(CatalogCopy::Page content, std::uint64_t page, std::uint32_t mark) {
  const Seal seal = seal_of(content, page, mark);
  std::copy(seal.begin(), seal.end(), content.begin() + kSealedBytes);
}

bool is_sealed(std::span<const std::byte, CatalogCopy::kPageBytes> content, std::uint64_t page,
               std::uint32_t mark) {
  const Seal seal = seal_of(content, page, mark);
  return std::equal(seal.begin(), seal.end(), content.begin() + kSealedBytes);
}

void CatalogCopy::set_pool(const Uuid& pool) {
  mark_ = crc32c(std::as_bytes(std::span(pool))) | 1U; // not 0, which stands in the database
}

bool CatalogCopy::reaches(std::uint64_t page) const {
  return (page + 1) * kPageBytes <= copy_.capacity_bytes();
}

void CatalogCopy::note_written(std::uint64_t page) {
  if (reaches(page)) noted_.insert(page);
}

bool CatalogCopy::read_database(std::uint64_t page, Page out) {
  const auto got = database_.read(page * kPageBytes, out);
  return got && *got && is_sealed(out, page, 0);
}

bool CatalogCopy::read(std::uint64_t page, Page out) {
  if (!reaches(page)) return false;
  const auto got = copy_.read(page * kPageBytes, out);
  if (!got || !*got || !is_sealed(out, page, mark_)) return false;
  seal_page(out, page, 0);
  return true;
}

Result<> CatalogCopy::write(std::uint64_t page, Page content) {
  seal_page(content, page, mark_);
  return copy_.write(page * kPageBytes, content);
}

Result<> CatalogCopy::write_noted() {
  if (planted(Fault::copy_not_written)) noted_.clear();
  std::array<std::byte, kPageBytes> content;
  for (const std::uint64_t page : noted_) {
    if (!read_database(page, content))
      return failure(ErrorKind::damaged, EIO, "the catalog: a page that was just written is damaged");
    VSNAP_TRY(write(page, content));
  }
  VSNAP_TRY(copy_.sync());
  noted_.clear();
  return {};
}

Result<> CatalogCopy::fill(std::uint64_t from, std::uint64_t to) {
  std::array<std::byte, kPageBytes> content;
  for (std::uint64_t page = from; page < to && reaches(page); ++page) {
    if (read_database(page, content)) VSNAP_TRY(write(page, content));
  }
  return copy_.sync();
}

Result<CatalogCopy::Findings> CatalogCopy::compare(std::uint64_t from, std::uint64_t to, bool repair) {
  Findings found;
  std::array<std::byte, kPageBytes> ours;
  std::array<std::byte, kPageBytes> copy;
  for (std::uint64_t page = from; page < to && reaches(page); ++page) {
    if (noted_.contains(page)) continue;
    const bool good = read_database(page, ours);
    const bool copy_good = read(page, copy);
    if (!good && copy_good) {
      ++found.mended_database;
      if (repair) VSNAP_TRY(database_.write(page * kPageBytes, copy));
    } else if (good && !(copy_good && ours == copy)) {
      ++found.mended_copy;
      if (repair) VSNAP_TRY(write(page, ours));
    }
  }
  if (repair && found.mended_database > 0) VSNAP_TRY(database_.sync());
  if (repair && found.mended_copy > 0) VSNAP_TRY(copy_.sync());
  return found;
}

} // namespace vsnap
