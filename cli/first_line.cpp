#include "cli/first_line.h"

#include <fstream>

namespace vsnap::cli {

std::string first_line(const std::filesystem::path& path) {
  std::string line;
  std::ifstream in(path);
  std::getline(in, line);
  return line;
}

} // namespace vsnap::cli
