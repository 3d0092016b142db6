#include "core/probe.h"

#include <blkid/blkid.h>
#include <fcntl.h>
#include <unistd.h>

#include <fmt/format.h>
#include <algorithm>
#include <cctype>
#include <memory>
#include <vector>

#include "core/names.h"

namespace vsnap {
namespace {

struct ProbeCloser {
  void operator()(blkid_probe probe) const { blkid_free_probe(probe); }
};
using Probe = std::unique_ptr<std::remove_pointer_t<blkid_probe>, ProbeCloser>;

Probe start_probe(int fd) {
  Probe probe(blkid_new_probe());
  if (!probe || blkid_probe_set_device(probe.get(), fd, 0, 0) != 0) return nullptr;
  blkid_probe_enable_superblocks(probe.get(), 1);
  blkid_probe_set_superblocks_flags(
      probe.get(), BLKID_SUBLKS_TYPE | BLKID_SUBLKS_LABEL | BLKID_SUBLKS_USAGE | BLKID_SUBLKS_MAGIC);
  blkid_probe_enable_partitions(probe.get(), 1);
  blkid_probe_set_partitions_flags(probe.get(), BLKID_PARTS_MAGIC);
  return probe;
}

constexpr std::uint64_t kLookBytes = 64ULL << 20; // read in a moment, and past the headers of all formats

// As people say it: "an ext4", "an xfs", "a vfat".
std::string with_article(const std::string& what) {
  const char first = static_cast<char>(std::tolower(static_cast<unsigned char>(what.front())));
  const bool vowel = std::string_view("aeiox").find(first) != std::string_view::npos ||
                     what.starts_with("ntfs") || what.starts_with("f2fs");
  return (vowel ? "an " : "a ") + what;
}

std::string value(blkid_probe probe, const char* name) {
  const char* data = nullptr;
  return blkid_probe_lookup_value(probe, name, &data, nullptr) == 0 && data != nullptr ? data : "";
}

class FileDescriptor {
 public:
  FileDescriptor(const std::string& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC)) {}
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

} // namespace

Result<std::optional<std::string>> probe_contents(const std::string& path) {
  const FileDescriptor fd(path, O_RDONLY);
  if (fd.get() < 0) return system_failure(errno, path);
  const Probe probe = start_probe(fd.get());
  if (!probe) return std::optional<std::string>(); // too small to hold anything
  const int found = blkid_do_safeprobe(probe.get());
  if (found == -2) return std::optional<std::string>("several signatures that contradict each other");
  if (found != 0) return std::optional<std::string>();
  if (const std::string type = value(probe.get(), "TYPE"); !type.empty()) {
    const std::string label = value(probe.get(), "LABEL");
    const bool file_system = value(probe.get(), "USAGE") == "filesystem";
    return std::optional(fmt::format("{} {}{}", with_article(type), file_system ? "file system" : "signature",
                                     label.empty() ? "" : fmt::format(" labelled {}", quoted(label))));
  }
  if (const std::string table = value(probe.get(), "PTTYPE"); !table.empty()) {
    return std::optional(fmt::format("{} partition table", with_article(table)));
  }
  return std::optional<std::string>("an unknown signature");
}

Result<bool> holds_data(const std::string& path) {
  const FileDescriptor fd(path, O_RDONLY);
  if (fd.get() < 0) return system_failure(errno, path);
  std::vector<char> buffer(1U << 20);
  off_t at = 0;
  for (std::uint64_t looked = 0; looked < kLookBytes;) {
    at = ::lseek(fd.get(), at, SEEK_DATA);
    if (at < 0 && errno == ENXIO) return false; // holes up to the end
    if (at < 0) return system_failure(errno, path);
    const off_t hole = ::lseek(fd.get(), at, SEEK_HOLE);
    if (hole < 0) return system_failure(errno, path);
    while (at < hole && looked < kLookBytes) {
      const auto wanted = std::min<std::uint64_t>(buffer.size(), static_cast<std::uint64_t>(hole - at));
      const ssize_t n = ::pread(fd.get(), buffer.data(), wanted, at);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return system_failure(errno, path);
      if (n == 0) return false; // it became shorter meanwhile
      if (std::any_of(buffer.begin(), buffer.begin() + n, [](char c) { return c != 0; })) return true;
      at += n;
      looked += static_cast<std::uint64_t>(n);
    }
  }
  return false;
}

Result<> wipe_signatures(const std::string& path) {
  const FileDescriptor fd(path, O_RDWR);
  if (fd.get() < 0) return system_failure(errno, path);
  const Probe probe = start_probe(fd.get());
  if (!probe) return {};
  while (blkid_do_probe(probe.get()) == 0) {
    if (blkid_do_wipe(probe.get(), 0) != 0)
      return system_failure(errno, fmt::format("{}: wipe old signatures", path));
  }
  return {};
}

} // namespace vsnap
