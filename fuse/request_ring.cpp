#include "fuse/request_ring.h"

#include <fmt/format.h>
#include <array>
#include <charconv>
#include <fstream>
#include <string>
#include <string_view>

#include "core/log.h"

namespace vsnap {
namespace {

using Release = std::array<unsigned, 3>;
constexpr Release kNeeded = {3, 18, 2};
constexpr const char* kKernelSetting = "/sys/module/fuse/parameters/enable_uring";

// Of the library that is loaded; it may be older than the one that this was built with.
Release loaded_release() {
  Release out{};
  std::string_view rest = fuse_pkgversion();
  for (unsigned& part : out) {
    const auto [end, code] = std::from_chars(rest.data(), rest.data() + rest.size(), part);
    if (code != std::errc()) break;
    rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
    if (!rest.starts_with('.')) break;
    rest.remove_prefix(1);
  }
  return out;
}

bool library_has_it() { return VSNAP_FUSE_OVER_IO_URING && loaded_release() >= kNeeded; }

std::string why_not_offered() {
  std::string setting;
  std::ifstream(kKernelSetting) >> setting;
  if (setting.empty()) return "this kernel cannot do it (Linux 6.14 can)";
  if (setting == "N") return fmt::format("the kernel has it switched off (echo Y >{})", kKernelSetting);
  return "the kernel did not offer it";
}

} // namespace

const char* ring_mount_option() { return library_has_it() ? "io_uring" : nullptr; }

bool negotiate_ring(fuse_conn_info& connection, bool wanted) {
#if VSNAP_FUSE_OVER_IO_URING
  constexpr auto kRing = static_cast<unsigned>(FUSE_CAP_OVER_IO_URING);
  const bool offered = library_has_it() && (connection.capable & kRing) != 0;
  // Also where the environment asks libfuse for it.
  connection.want = wanted && offered ? connection.want | kRing : connection.want & ~kRing;
#else
  static_cast<void>(connection);
  constexpr bool offered = false;
#endif
  if (!wanted || offered) return wanted;
  const std::string reason = library_has_it()
                                 ? why_not_offered()
                                 : fmt::format("it needs libfuse 3.18.2, and this is {}{}", fuse_pkgversion(),
                                               VSNAP_FUSE_OVER_IO_URING ? "" : ", as when vsnap was built");
  log::warning("io_uring is not used for the mount, but /dev/fuse: {}", reason);
  return false;
}

} // namespace vsnap
