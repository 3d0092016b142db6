#include "cli/pause.h"

#include <fmt/format.h>

namespace vsnap::cli {
namespace {

// With the digits that one looks at: "0.042 ms", "1.8 ms", "340 ms", "2.4 s".
std::string pause_length(std::int64_t ns) {
  const double ms = static_cast<double>(ns) / 1e6;
  if (ms >= 1000) return fmt::format("{:.1f} s", ms / 1000);
  return fmt::format("{:.{}f} ms", ms, ms < 0.1 ? 3 : ms < 100 ? 1 : 0);
}

} // namespace

void add_pause(Json& out, const wire::ControlReply& reply) {
  out["pause_ns"] = out["hosts"] = nullptr;
  if (!reply.has_pause()) return;
  const Pause pause = wire::from_wire(reply.pause());
  out["pause_ns"] = pause.held_ns;
  out["hosts"] = pause.hosts;
}

std::string pause_text(const std::string& what, const wire::ControlReply& reply) {
  const Pause pause = wire::from_wire(reply.pause());
  if (pause.hosts == 0) return {};
  return fmt::format("{}: I/O paused for {} ({} host{})\n", what, pause_length(pause.held_ns), pause.hosts,
                     pause.hosts == 1 ? "" : "s");
}

} // namespace vsnap::cli
