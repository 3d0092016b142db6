#include <fcntl.h>
#include <unistd.h>
#include <csignal>
#include <exception>

#include "cli/command.h"
#include "cli/file_limit.h"
#include "core/log.h"

namespace {

// A descriptor 0, 1 or 2 that is closed would be given to the next file opened: a member that gets messages
// written to.
void occupy_standard_descriptors() {
  int fd = ::open("/dev/null", O_RDWR);
  while (fd >= 0 && fd <= STDERR_FILENO) fd = ::open("/dev/null", O_RDWR);
  if (fd > STDERR_FILENO) ::close(fd);
}

} // namespace

int main(int argc, char** argv) {
  occupy_standard_descriptors();
  vsnap::log::set_level(vsnap::log::Level::warning);
  if (const auto checked = vsnap::cli::check_file_limit(); !checked)
    return vsnap::cli::print_error(checked.error());
  try {
    vsnap::cli::Program program;
    vsnap::cli::register_all(program);
    return program.main(argc, argv);
  } catch (const std::exception& e) {
    return vsnap::cli::print_error(
        {vsnap::ErrorKind::failed, EIO, std::string("internal error: ") + e.what()});
  }
}
