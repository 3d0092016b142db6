// The daemon's log: one line an event, to standard error (systemd's journal picks it up from there). Commands
// do not log; their errors are Results. Any thread may call these.
#pragma once

#include <fmt/format.h>
#include <string>
#include <string_view>

namespace vsnap::log {

enum class Level { debug, info, warning, error, off };

void set_level(Level level);
void add_times(); // each line begins with the time, from now on: for a file that somebody reads later
void write(Level level, std::string_view line);

template <class... Args>
void debug(fmt::format_string<Args...> f, Args&&... args) {
  write(Level::debug, fmt::format(f, std::forward<Args>(args)...));
}
template <class... Args>
void info(fmt::format_string<Args...> f, Args&&... args) {
  write(Level::info, fmt::format(f, std::forward<Args>(args)...));
}
template <class... Args>
void warning(fmt::format_string<Args...> f, Args&&... args) {
  write(Level::warning, fmt::format(f, std::forward<Args>(args)...));
}
template <class... Args>
void error(fmt::format_string<Args...> f, Args&&... args) {
  write(Level::error, fmt::format(f, std::forward<Args>(args)...));
}

} // namespace vsnap::log
