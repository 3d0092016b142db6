#include "fuse/fuse_log.h"

#include <array>
#include <cstdarg>
#include <cstdio>
#include <optional>

#include "core/log.h"
#include "fuse/kernel_api.h"

namespace vsnap {
namespace {

thread_local std::optional<std::string> complaint; // set: somebody asks for it

void log_line(fuse_log_level level, const char* format, va_list arguments) {
  std::array<char, 1024> line{};
  std::vsnprintf(line.data(), line.size(), format, arguments);
  std::string text = line.data();
  while (!text.empty() && text.back() == '\n') text.pop_back();
  if (text.starts_with("fuse: ")) text.erase(0, 6);
  if (level <= FUSE_LOG_ERR) {
    if (complaint) {
      complaint = text;
    } else {
      log::error("fuse: {}", text);
    }
  } else if (level <= FUSE_LOG_WARNING) {
    log::warning("fuse: {}", text);
  } else if (level <= FUSE_LOG_INFO) {
    log::info("fuse: {}", text); // of which there is hardly any: that rings could not be started
  } else {
    log::debug("fuse: {}", text);
  }
}

} // namespace

void take_fuse_log() { fuse_set_log_func(log_line); }

FuseComplaint::FuseComplaint() { complaint.emplace(); }
FuseComplaint::~FuseComplaint() { complaint.reset(); }
std::string FuseComplaint::text() const { return complaint.value_or(std::string()); }

} // namespace vsnap
