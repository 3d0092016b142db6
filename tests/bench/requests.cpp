// Requests of one kind against a pool in plain memory, without FUSE: what the engine itself does for each.
// Its instructions are counted by test_instructions.py.
//
//   requests KIND COUNT     KIND: read, overwrite, first-write, fsync (after an overwrite),
//                           synced-first-write
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/pool.h"

namespace {

using namespace vsnap;

constexpr std::uint64_t kMemberBytes = 256ULL << 20;
constexpr std::uint64_t kVolumeBytes = 64ULL << 20;

// Memory and nothing else: no faults, no locks.
class RamFile final : public File {
 public:
  explicit RamFile(std::shared_ptr<std::vector<std::byte>> bytes) : bytes_(std::move(bytes)) {}
  Result<> read_at(std::uint64_t offset, std::span<std::byte> out) override {
    if (offset + out.size() > bytes_->size()) return failure(ErrorKind::failed, EIO, "read");
    std::memcpy(out.data(), bytes_->data() + offset, out.size());
    return {};
  }
  Result<> write_at(std::uint64_t offset, std::span<const std::byte> data) override {
    if (offset + data.size() > bytes_->size()) return failure(ErrorKind::failed, EIO, "write");
    std::memcpy(bytes_->data() + offset, data.data(), data.size());
    return {};
  }
  Result<> write_durably(std::uint64_t offset, std::span<const std::byte> data) override {
    return write_at(offset, data);
  }
  Result<> flush() override { return {}; }
  void discard(std::uint64_t, std::uint64_t) override {}
  [[nodiscard]] std::uint64_t size_bytes() const override { return bytes_->size(); }
  Result<> resize(std::uint64_t size_bytes) override {
    bytes_->resize(size_bytes);
    return {};
  }
  [[nodiscard]] std::string identity() const override { return "ram"; }
  [[nodiscard]] bool is_block_device() const override { return true; }
  Result<bool> try_lock() override { return true; }

 private:
  std::shared_ptr<std::vector<std::byte>> bytes_;
};

class RamEnv final : public Env {
 public:
  Result<std::unique_ptr<File>> open_file(const std::string& path, OpenMode mode) override {
    if (!mode.create && !mode.exclusive_create && !files_.contains(path)) return system_failure(ENOENT, path);
    auto& bytes = files_[path];
    if (!bytes) bytes = std::make_shared<std::vector<std::byte>>();
    return std::make_unique<RamFile>(bytes);
  }
  Result<> remove_file(const std::string&) override { return {}; }
  [[nodiscard]] std::int64_t wall_clock_ns() override { return ++now_; }
  [[nodiscard]] std::int64_t monotonic_ns() override { return ++now_; }
  Uuid random_uuid() override {
    Uuid uuid{};
    uuid[0] = ++uuids_;
    return uuid;
  }
  [[nodiscard]] std::string boot_id() override { return "boot"; }
  [[nodiscard]] std::string host_name() override { return "host"; }

 private:
  std::map<std::string, std::shared_ptr<std::vector<std::byte>>> files_;
  std::int64_t now_ = 0;
  std::uint8_t uuids_ = 0;
};

template <class T>
T must(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "requests: %s\n", result.error().message.c_str());
    std::exit(1);
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

// Blocks in an order that is not sequential, the same in every run; each comes once.
std::uint64_t block_at(std::uint64_t i) { return i * 7919 % (kVolumeBytes / kBlockBytes) * kBlockBytes; }

void run(std::string_view kind, std::uint64_t count) {
  RamEnv env;
  must(Pool::create(env, {.name = "bench", .members = {{"/a", kMemberBytes}}}));
  const auto pool = must(Pool::open(env, {.member_paths = {"/a"}}));
  const ViewInfo info = must(pool->create_volume("v", kVolumeBytes));
  const ViewHandle view = must(pool->open_view(info.id));
  std::vector<std::byte> data(1U << 20, std::byte{1});
  for (std::uint64_t at = 0; at < kVolumeBytes; at += data.size()) must(view->write(at, data));
  if (kind.ends_with("first-write")) {
    const ViewName snapshot{"v", "s"};
    must(pool->snapshot(std::span(&snapshot, 1)));
  }
  data.resize(kBlockBytes);
  for (std::uint64_t i = 0; i < count; ++i) {
    if (kind == "read")
      must(view->read(block_at(i), data));
    else
      must(view->write(block_at(i), data));
    if (kind == "fsync" || kind == "synced-first-write") must(view->fsync());
  }
  if (kind == "first-write") must(view->fsync());
}

} // namespace

int main(int argc, char** argv) {
  const std::string_view kind = argc == 3 ? argv[1] : "";
  if (kind != "read" && kind != "overwrite" && kind != "first-write" && kind != "fsync" &&
      kind != "synced-first-write") {
    std::fprintf(stderr, "usage: requests read|overwrite|first-write|fsync|synced-first-write COUNT\n");
    return 2;
  }
  run(kind, std::strtoull(argv[2], nullptr, 10));
  return 0;
}
