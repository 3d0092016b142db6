// A read through the coordinator: of a snapshot whose map cannot be had, or of an open volume.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "core/error.h"
#include "sync/sharing.pb.h"

namespace vsnap {

inline constexpr std::uint32_t kMostReadAtOnce = 1U << 20; // bytes

// Asks for one part after the other, until `out` is full or a part comes short: that is the end. `whole` says
// of what, and from where.
using AskForPart = std::function<Result<wire::LinkReply>(const wire::ReadRequest& part)>;
[[nodiscard]] Result<std::size_t> read_in_parts(const wire::ReadRequest& whole, std::span<std::byte> out,
                                                const AskForPart& ask);

} // namespace vsnap
