#include "core/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace vsnap::log {
namespace {

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = std::make_shared<spdlog::logger>("vsnap", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("vsnap: %l: %v");
    made->flush_on(spdlog::level::debug);
    return made;
  }();
  return *instance;
}

spdlog::level::level_enum spdlog_level(Level level) {
  switch (level) {
    case Level::debug:
      return spdlog::level::debug;
    case Level::info:
      return spdlog::level::info;
    case Level::warning:
      return spdlog::level::warn;
    case Level::error:
      return spdlog::level::err;
    case Level::off:
      return spdlog::level::off;
  }
  return spdlog::level::err;
}

} // namespace

void set_level(Level level) { logger().set_level(spdlog_level(level)); }
void add_times() { logger().set_pattern("%Y-%m-%dT%H:%M:%S.%e%z vsnap: %l: %v"); }
void write(Level level, std::string_view line) { logger().log(spdlog_level(level), line); }

} // namespace vsnap::log
