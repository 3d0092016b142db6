// Adopted volumes: the image is what the head holds, at every moment, and snapshots never change.
#include <algorithm>
#include <random>
#include <thread>

#include "core/pool_impl.h"
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kImageBytes = 3 * kMiB + 1000; // the last block is a part of one

class AdoptedPool : public SmallPool {
 public:
  explicit AdoptedPool(std::uint64_t size = 64 * kMiB, std::uint64_t image = kImageBytes) : SmallPool(size) {
    make_image("/img", image);
    REQUIRE(adopt("/img", "v").has_value());
    content = env_bytes("/img");
  }
  void make_image(const std::string& path, std::uint64_t size) {
    auto file = env.open_file(path, {.create = true});
    REQUIRE(file.has_value());
    REQUIRE((*file)->resize(size).has_value());
    SparseBytes& bytes = env.bytes_of(path);
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i / 4096 * 7 + i % 13);
  }
  Result<ViewInfo> adopt(const std::string& path, const std::string& name,
                         AdoptOptions::Changed changed = AdoptOptions::Changed::refuse) {
    return pool->adopt({.path = path, .volume = name, .changed = changed});
  }
  std::vector<std::byte> env_bytes(const std::string& path) {
    SparseBytes& bytes = env.bytes_of(path);
    return {bytes.begin(), bytes.end()};
  }
  std::vector<std::byte> all_of(const std::string& name) {
    const ViewHandle handle = view(name);
    return read_from(*handle, 0, handle->size_bytes());
  }
  // To the volume, and to what it should hold.
  void write(View& head, std::uint64_t at, std::uint8_t stamp, std::size_t size = kBlockBytes) {
    REQUIRE(head.write(at, block_of(stamp, size)).has_value());
    std::fill_n(content.begin() + static_cast<std::ptrdiff_t>(at), size, std::byte{stamp});
  }
  std::vector<std::byte> content;
};

} // namespace

TEST_CASE("an adopted image is the volume, and stays a raw image") {
  AdoptedPool pool;
  const auto info = pool.pool->find(*parse_view_name("v"));
  REQUIRE(info.has_value());
  CHECK(info->form == ViewForm::adopted);
  CHECK(info->base == "/img");
  CHECK(info->size_bytes == kImageBytes);
  CHECK(pool.all_of("v") == pool.content);
  pool.write(*pool.view("v"), 8192, 9, 100);
  pool.write(*pool.view("v"), kImageBytes - 10, 8, 10);
  CHECK(pool.env_bytes("/img") == pool.content);
  pool.reopen();
  CHECK(pool.all_of("v") == pool.content);
  CHECK(pool.findings().empty());
}

TEST_CASE("a snapshot of an adopted volume keeps what the image held") {
  AdoptedPool pool;
  const auto before = pool.content;
  REQUIRE(pool.snapshot("v@s").has_value());
  pool.write(*pool.view("v"), 8192 + 512, 9, 100);
  pool.write(*pool.view("v"), kImageBytes - 10, 8, 10);
  CHECK(pool.all_of("v@s") == before);
  CHECK(pool.all_of("v") == pool.content);
  CHECK(pool.env_bytes("/img") == pool.content);
  REQUIRE(pool.snapshot("v@t").has_value());
  const auto between = pool.content;
  pool.write(*pool.view("v"), 8192, 77, 70'000);
  CHECK(pool.findings().empty());
  pool.reopen();
  CHECK(pool.findings().empty());
  CHECK(pool.all_of("v@s") == before);
  CHECK(pool.all_of("v@t") == between);
  CHECK(pool.env_bytes("/img") == pool.content);
}
