// Fills a pool with a catalog of a given size through the engine's own calls, without the data: what a block
// holds never reaches the member, so that a sparse file has room for terabytes. Which bytes are data is told
// by where they come from: every write is of one buffer of ours.
//
//   generate MEMBER EXTENTS [VOLUMES [SNAPSHOTS [BLOCKS]]]
//
// MEMBER: of a pool that `vsnap pool create` made of it, and that nobody uses.
// Volumes v0, v1, ... share the extents evenly; v0 gets snapshots s0, s1, ... Each extent is one block: a
// hole lies between any two, so none can be joined. Without snapshots the blocks are written in order; with
// them half of the extents come before the first, and the others overwrite random blocks between the
// snapshots. With BLOCKS an extent has so many, and they lie side by side without holes, but in random order.
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "core/pool.h"

namespace {

using namespace vsnap;

constexpr std::uint64_t kMaxBlocks = 256; // of an extent
constexpr std::array<std::byte, kMaxBlocks * kBlockBytes> kData{};

bool is_data(std::span<const std::byte> bytes) {
  return bytes.data() >= kData.data() && bytes.data() < kData.data() + kData.size();
}

class MetadataOnlyFile final : public File {
 public:
  explicit MetadataOnlyFile(std::unique_ptr<File> file) : file_(std::move(file)) {}
  Result<> read_at(std::uint64_t offset, std::span<std::byte> out) override {
    return file_->read_at(offset, out);
  }
  Result<> write_at(std::uint64_t offset, std::span<const std::byte> data) override {
    return is_data(data) ? Result<>() : file_->write_at(offset, data);
  }
  Result<> write_durably(std::uint64_t offset, std::span<const std::byte> data) override {
    return file_->write_durably(offset, data);
  }
  Result<> flush() override { return file_->flush(); }
  void discard(std::uint64_t offset, std::uint64_t length) override { file_->discard(offset, length); }
  [[nodiscard]] std::uint64_t size_bytes() const override { return file_->size_bytes(); }
  Result<> resize(std::uint64_t size_bytes) override { return file_->resize(size_bytes); }
  [[nodiscard]] std::string identity() const override { return file_->identity(); }
  [[nodiscard]] bool is_block_device() const override { return file_->is_block_device(); }
  Result<bool> try_lock() override { return file_->try_lock(); }

 private:
  std::unique_ptr<File> file_;
};

class MetadataOnlyEnv final : public Env {
 public:
  Result<std::unique_ptr<File>> open_file(const std::string& path, OpenMode mode) override {
    VSNAP_TRY_ASSIGN(auto file, real_.open_file(path, mode));
    return std::make_unique<MetadataOnlyFile>(std::move(file));
  }
  Result<> remove_file(const std::string& path) override { return real_.remove_file(path); }
  [[nodiscard]] std::int64_t wall_clock_ns() override { return real_.wall_clock_ns(); }
  [[nodiscard]] std::int64_t monotonic_ns() override { return real_.monotonic_ns(); }
  Uuid random_uuid() override { return real_.random_uuid(); }
  [[nodiscard]] std::string boot_id() override { return real_.boot_id(); }
  [[nodiscard]] std::string host_name() override { return real_.host_name(); }

 private:
  Env& real_ = Env::real();
};

struct Wanted {
  std::string member;
  std::uint64_t extents = 0;
  std::uint64_t volumes = 1;
  std::uint64_t snapshots = 0;
  std::uint64_t blocks = 0; // of an extent, if they lie side by side
};

// Extents that lie side by side and cannot be joined: those written one after the other are far apart.
Result<> fill_whole(Pool& pool, std::uint64_t extents, std::uint64_t blocks) {
  constexpr std::uint64_t kApart = 1'000'003; // a prime, so that each comes once
  const std::uint64_t bytes = blocks * kBlockBytes;
  VSNAP_TRY_ASSIGN(const ViewInfo info, pool.create_volume("v0", extents * bytes));
  VSNAP_TRY_ASSIGN(const ViewHandle view, pool.open_view(info.id));
  for (std::uint64_t i = 0; i < extents; ++i)
    VSNAP_TRY(view->write(i * kApart % extents * bytes, std::span(kData).first(bytes)));
  return {};
}

// Every second block, `which` counts those.
Result<> write_block(const ViewHandle& view, std::uint64_t which) {
  return view->write(2 * which * kBlockBytes, std::span(kData).first(kBlockBytes));
}

Result<> fill_volume(Pool& pool, std::uint64_t index, std::uint64_t extents, std::uint64_t snapshots) {
  const std::uint64_t first = snapshots == 0 ? extents : extents - extents / 2;
  const std::string name = "v" + std::to_string(index);
  VSNAP_TRY_ASSIGN(const ViewInfo info, pool.create_volume(name, 2 * first * kBlockBytes));
  VSNAP_TRY_ASSIGN(const ViewHandle view, pool.open_view(info.id));
  for (std::uint64_t which = 0; which < first; ++which) VSNAP_TRY(write_block(view, which));
  std::mt19937_64 random(1); // NOLINT: the same pool every time
  std::uint64_t written = first;
  for (std::uint64_t snapshot = 0; snapshot < snapshots; ++snapshot) {
    const ViewName taken{name, "s" + std::to_string(snapshot)};
    VSNAP_TRY(pool.snapshot(std::span(&taken, 1)));
    const std::uint64_t until = first + (extents - first) * (snapshot + 1) / snapshots;
    for (; written < until; ++written) VSNAP_TRY(write_block(view, random() % first));
  }
  return {};
}

Result<> generate(const Wanted& wanted) {
  MetadataOnlyEnv env;
  VSNAP_TRY_ASSIGN(const auto pool, Pool::open(env, {.member_paths = {wanted.member}}));
  if (wanted.blocks != 0) {
    VSNAP_TRY(fill_whole(*pool, wanted.extents, wanted.blocks));
    return pool->close();
  }
  for (std::uint64_t index = 0; index < wanted.volumes; ++index) {
    const std::uint64_t extents =
        wanted.extents * (index + 1) / wanted.volumes - wanted.extents * index / wanted.volumes;
    VSNAP_TRY(fill_volume(*pool, index, extents, index == 0 ? wanted.snapshots : 0));
  }
  return pool->close();
}

bool parse(std::string_view text, std::uint64_t& number) {
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  return code == std::errc() && end == text.data() + text.size();
}

} // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  Wanted wanted;
  bool understood = arguments.size() >= 2 && arguments.size() <= 5 && parse(arguments[1], wanted.extents);
  if (arguments.size() >= 3) understood = understood && parse(arguments[2], wanted.volumes);
  if (arguments.size() >= 4) understood = understood && parse(arguments[3], wanted.snapshots);
  if (arguments.size() == 5) understood = understood && parse(arguments[4], wanted.blocks);
  if (!understood || wanted.volumes == 0 || wanted.blocks > kMaxBlocks) {
    std::fprintf(stderr, "usage: generate MEMBER EXTENTS [VOLUMES [SNAPSHOTS [BLOCKS]]]\n");
    return 2;
  }
  wanted.member = arguments[0];
  if (auto generated = generate(wanted); !generated) {
    std::fprintf(stderr, "generate: %s\n", generated.error().message.c_str());
    return 1;
  }
  return 0;
}
