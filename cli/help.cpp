// vsnap help: the manual page of a command, or its short help where no manual page is installed.
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <filesystem>

#include "cli/command.h"

namespace vsnap::cli {
namespace {

namespace fs = std::filesystem;

// A program that runs from where it was built finds the pages of its own sources: BUILD/bin/vsnap, with man/
// in BUILD or in one of the directories above it. An installed one finds PREFIX/share/man.
std::string page_beside_program(const std::string& page) {
  std::error_code code;
  fs::path dir = fs::read_symlink("/proc/self/exe", code).parent_path();
  for (int up = 0; !code && up < 4 && dir.has_relative_path(); ++up) {
    dir = dir.parent_path();
    for (const fs::path& candidate : {dir / "man" / (page + ".1"), dir / "share/man/man1" / (page + ".1"),
                                      dir / "share/man/man1" / (page + ".1.gz")}) {
      if (fs::is_regular_file(candidate, code)) return candidate.string();
    }
    code.clear();
  }
  return {};
}

// 16: no such page.
int run_man(const std::string& argument) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::execlp("man", "man", argument.c_str(), nullptr);
    ::_exit(127);
  }
  int status = 0;
  if (child < 0 || ::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return 127;
  return WEXITSTATUS(status);
}

bool installed(const std::string& page) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (std::freopen("/dev/null", "w", stdout) == nullptr ||
        std::freopen("/dev/null", "w", stderr) == nullptr)
      ::_exit(1);
    ::execlp("man", "man", "-w", page.c_str(), nullptr);
    ::_exit(127);
  }
  int status = 0;
  return child > 0 && ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

Result<int> run(const Program& program, const std::vector<std::string>& words) {
  VSNAP_TRY(program.check_verb(words));
  const std::string page = words.empty() ? "vsnap" : "vsnap-" + words[0]; // vsnap-pool has pool create
  std::string found = page_beside_program(page);
  if (found.empty() && installed(page)) found = page;
  if (!found.empty() && words.size() <= 2 && run_man(found) == 0) return 0;
  VSNAP_TRY(program.print_help(words));
  return 0;
}

} // namespace

void register_help(Program& program) {
  Command command = program.add("help", "[COMMAND]", "Open the manual page of a command.");
  auto words = std::make_shared<std::vector<std::string>>();
  command.argument("COMMAND", *words, Command::Need::optional);
  program.on(command, [&program, words](const CommonOptions&) { return run(program, *words); });
  Command version = program.add("version", "", "Print the version.");
  version.hide(); // the usual way is --version
  program.on(version, [](const CommonOptions& common) -> Result<int> {
    if (common.json) {
      fmt::print("{{\"schema\": 1, \"version\": \"{}\"}}\n", VSNAP_VERSION);
    } else {
      fmt::print("vsnap {}\n", VSNAP_VERSION);
    }
    return 0;
  });
}

} // namespace vsnap::cli
