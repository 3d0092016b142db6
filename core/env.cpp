#include "core/env.h"

#include <fmt/format.h>
#include <algorithm>
#include <array>
#include <chrono>
#include <thread>

namespace vsnap {

bool hold_soon(Env& env, SharedMemory& memory) {
  const std::int64_t until_ns = env.monotonic_ns() + 1'000'000'000;
  while (!memory.hold()) {
    if (env.monotonic_ns() > until_ns) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

Result<> File::zero(std::uint64_t offset, std::uint64_t length) {
  static constexpr std::array<std::byte, 65536> kZeros{};
  while (length > 0) {
    const std::uint64_t part = std::min<std::uint64_t>(length, kZeros.size());
    VSNAP_TRY(write_at(offset, std::span(kZeros).first(part)));
    offset += part;
    length -= part;
  }
  return {};
}

std::string to_string(const Uuid& uuid) {
  std::string text;
  for (std::size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", uuid[i]);
  }
  return text;
}

} // namespace vsnap
