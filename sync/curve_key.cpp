#include "sync/curve_key.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>

#include "core/assert.h"

namespace vsnap {
namespace {

constexpr std::size_t kTextLength = 40;
constexpr std::string_view kTitle = "vsnap-host-key-1\n";
using Text = std::array<char, kTextLength + 1>;

HostKey decoded(const Text& text) {
  HostKey key{};
  VSNAP_ASSERT(::zmq_z85_decode(key.data(), text.data()) != nullptr);
  return key;
}

Failure bad_file(const std::string& path, std::string_view what) {
  return failure(ErrorKind::failed, EACCES, fmt::format("{}: the key of this host: {}", path, what));
}

Result<KeyPair> read_key(const std::string& path, int fd) {
  struct stat info = {};
  if (::fstat(fd, &info) != 0) return system_failure(errno, path);
  if (!S_ISREG(info.st_mode)) return bad_file(path, "not a regular file");
  if (info.st_uid != ::geteuid()) return bad_file(path, "it belongs to another user");
  if ((info.st_mode & 077U) != 0) {
    return bad_file(path, fmt::format("others can use it, mode {0:04o} (if nobody has: chmod 600 {1}; else "
                                      "remove it, and let this host join anew)",
                                      info.st_mode & 07777U, path));
  }
  std::string text(kTitle.size() + kTextLength + 2, '\0');
  const ssize_t n = ::pread(fd, text.data(), text.size(), 0);
  if (n < 0) return system_failure(errno, path);
  text.resize(static_cast<std::size_t>(n));
  if (text.ends_with('\n')) text.pop_back();
  const auto secret =
      text.starts_with(kTitle) ? key_from(std::string_view(text).substr(kTitle.size())) : std::nullopt;
  if (!secret) return bad_file(path, "not a key file (remove it, and let this host join anew)");
  return key_pair_of(*secret);
}

// Whole or not at all; another process may be first.
Result<> make_key(const std::string& path) {
  const std::string dir = std::filesystem::path(path).parent_path().string();
  std::error_code code;
  std::filesystem::create_directories(dir, code);
  if (code) return system_failure(code.value(), dir);
  const std::string fresh = fmt::format("{}.{}.new", path, ::getpid());
  ::unlink(fresh.c_str());
  const int fd = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return system_failure(errno, fresh);
  const std::string text = fmt::format("{}{}\n", kTitle, key_text(new_key_pair().secret_key));
  int error = 0;
  if (::write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) error = EIO;
  if (error == 0 && ::fsync(fd) != 0) error = errno;
  ::close(fd);
  if (error == 0 && ::link(fresh.c_str(), path.c_str()) != 0 && errno != EEXIST) error = errno;
  ::unlink(fresh.c_str());
  if (error != 0) return system_failure(error, path);
  const int parent = ::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (parent < 0) return system_failure(errno, dir);
  error = ::fsync(parent) != 0 ? errno : 0;
  ::close(parent);
  if (error != 0) return system_failure(error, dir);
  return {};
}

} // namespace

KeyPair new_key_pair() {
  Text open{};
  Text secret{};
  VSNAP_ASSERT(::zmq_curve_keypair(open.data(), secret.data()) == 0); // fails without CURVE alone
  return {decoded(open), decoded(secret)};
}

KeyPair key_pair_of(const HostKey& secret) {
  Text open{};
  VSNAP_ASSERT(::zmq_curve_public(open.data(), key_text(secret).c_str()) == 0);
  return {decoded(open), secret};
}

std::string key_text(const HostKey& key) {
  Text text{};
  VSNAP_ASSERT(::zmq_z85_encode(text.data(), key.data(), key.size()) != nullptr);
  return std::string(text.data(), kTextLength);
}

std::optional<HostKey> key_from(std::string_view text) {
  if (text.size() != kTextLength) return std::nullopt;
  HostKey key{};
  // It looks at no character beyond those it has been given, but takes any of them: what comes back is
  // compared.
  if (::zmq_z85_decode(key.data(), std::string(text).c_str()) == nullptr || key_text(key) != text)
    return std::nullopt;
  return key;
}

Result<KeyPair> own_key(const std::string& path) {
  for (int tries = 0;; ++tries) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd >= 0) {
      auto key = read_key(path, fd);
      ::close(fd);
      return key;
    }
    if (errno != ENOENT || tries > 0) return system_failure(errno, path);
    VSNAP_TRY(make_key(path));
  }
}

} // namespace vsnap
