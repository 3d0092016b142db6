// What keeper_test.cpp starts in place of a daemon. It writes a line for each life to the file that it is to
// take for its mount point: how many descriptors it was given, of the mount and of members. Then it does what
// the name of the pool says.
#include <fcntl.h>
#include <unistd.h>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "cli/keeper_line.h"

using namespace vsnap::cli;

namespace {

DaemonOptions begin(const KeeperLine& line, std::size_t& lives) {
  DaemonOptions options;
  std::size_t kept = 0;
  std::size_t held = 0;
  for (;;) {
    const auto message = line.receive();
    if (!message) std::exit(2);
    if (message->word == Word::keep) kept += message->descriptors.size();
    if (message->word == Word::hold) held += message->descriptors.size();
    if (message->word == Word::start) {
      options = options_of(message->text).value();
      break;
    }
  }
  std::ofstream(options.mount_point, std::ios::app) << kept << ' ' << held << '\n';
  std::ifstream in(options.mount_point);
  lives = static_cast<std::size_t>(
      std::count(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>(), '\n'));
  return options;
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const KeeperLine line(static_cast<int>(std::strtol(argv[3], nullptr, 10)));
  std::size_t lives = 0;
  const DaemonOptions options = begin(line, lives);
  if (lives == 1) { // mounts, and is killed
    const int any = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    line.send_descriptors(Word::keep, {any, any});
    line.send_descriptors(Word::hold, {any});
    line.send(Word::ready);
    ::raise(SIGKILL);
  }
  if (options.pool == "fails") return 1;
  if (lives < 4) return 1;
  line.send(Word::ready);
  line.send(Word::let_go);
  return 0;
}
