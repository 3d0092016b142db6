#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>
#include <cstdio>

#include "core/names.h"

namespace vsnap::cli {
namespace {

constexpr std::chrono::milliseconds kEvery(200);

std::string amount(ProgressUnit unit, std::uint64_t n) {
  return unit == ProgressUnit::bytes ? format_size(n) : std::to_string(n);
}

std::string amount_with_unit(ProgressUnit unit, std::uint64_t n) {
  const char* const name = unit == ProgressUnit::extents ? " extents"
                           : unit == ProgressUnit::pages ? " pages"
                                                         : "";
  return amount(unit, n) + name;
}

std::string time_left(double seconds) {
  const auto s = static_cast<std::uint64_t>(seconds + 0.5);
  if (s < 90) return fmt::format("{} s", s);
  if (s < 5400) return fmt::format("{} min", (s + 30) / 60);
  return fmt::format("{} h {} min", s / 3600, s % 3600 / 60);
}

} // namespace

std::string progress_line(const std::string& what, ProgressUnit unit, std::uint64_t done, std::uint64_t total,
                          double elapsed_s) {
  if (total == 0) return fmt::format("{}: {}", what, amount_with_unit(unit, done));
  const double part = done >= total ? 1.0 : static_cast<double>(done) / static_cast<double>(total);
  std::string line = fmt::format("{}: {:.0f}% of {}", what, part * 100, amount_with_unit(unit, total));
  if (elapsed_s > 0.5 && done > 0) {
    const double rate = static_cast<double>(done) / elapsed_s;
    line += fmt::format(", {}/s", amount(unit, static_cast<std::uint64_t>(rate)));
    if (done < total) line += fmt::format(", {} left", time_left(static_cast<double>(total - done) / rate));
  }
  return line;
}

ProgressMeter::ProgressMeter(std::string what, ProgressUnit unit, bool wanted)
    : what_(std::move(what)), unit_(unit), shown_(wanted && ::isatty(STDERR_FILENO) == 1) {}

ProgressMeter::~ProgressMeter() {
  if (width_ != 0) fmt::print(stderr, "\r{:{}}\r", "", width_);
}

void ProgressMeter::update(std::uint64_t done, std::uint64_t total) {
  const auto now = Clock::now();
  if (!shown_ || now - last_ < kEvery) return;
  last_ = now;
  const std::string line =
      progress_line(what_, unit_, done, total, std::chrono::duration<double>(now - start_).count());
  fmt::print(stderr, "\r{:{}}", line, width_);
  width_ = line.size();
}

} // namespace vsnap::cli
