// How a command becomes part of the vsnap program: one file a command, which declares its arguments and
// options and runs one function with them. The options that several commands share are declared once, here.
// CLI11 parses; only command.cpp knows it, because it is large and would be compiled again for every command.
//
// Invariants
// 1. A command changes nothing before all of its arguments were parsed and found good (exit 2).
// 2. Results go to standard output, everything else to standard error; an Error becomes exactly one line
//    there.
// Threads: the main thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/env.h"
#include "core/error.h"

namespace CLI {
class App;
class Option;
} // namespace CLI

namespace vsnap::cli {

struct CommonOptions {
  bool json = false;
  bool quiet = false;
  bool verbose = false;
  bool yes = false;     // do not ask
  bool dry_run = false; // only where Takes::dry_run
  // Of lists
  bool no_header = false; // and tabs
  bool exact = false;
  std::string columns;
  std::string sort;
};

enum class Takes : unsigned { nothing = 0, list = 1, dry_run = 2, yes = 4 }; // yes: it asks
constexpr Takes operator|(Takes a, Takes b) {
  return Takes(static_cast<unsigned>(a) | static_cast<unsigned>(b));
}
constexpr bool has(Takes set, Takes one) {
  return (static_cast<unsigned>(set) & static_cast<unsigned>(one)) != 0;
}

using Run = std::function<Result<int>(const CommonOptions&)>; // exit code

// The arguments of one command. What is parsed goes into the variables given, which have to outlive the run.
// `type` is what the help calls a value: "SIZE". An option that is not given leaves its variable as it was.
class Command {
 public:
  enum class Need { optional, required };

  explicit Command(CLI::App& app) : app_(&app) {}

  // By position. A list takes all that follow, at least one if it is required.
  void argument(const std::string& name, std::string& into, Need need = Need::required);
  void argument(const std::string& name, std::vector<std::string>& into, Need need = Need::required);
  void flag(const std::string& name, bool& into, const std::string& description);
  void option(const std::string& name, std::string& into, const std::string& description,
              const std::string& type, Need need = Need::optional);
  void option(const std::string& name, double& into, const std::string& description, const std::string& type);
  void option(const std::string& name, std::uint64_t& into, const std::string& description,
              const std::string& type);
  // Taken, so that the command can say what is meant instead; in no help.
  void hidden_option(const std::string& name, std::string& into);
  // Every use adds one value.
  void repeated_option(const std::string& name, std::vector<std::string>& into,
                       const std::string& description, const std::string& type);
  void choice(const std::string& name, std::string& into, const std::string& description,
              const std::string& type, const std::vector<std::string>& choices);
  void choice(const std::string& name, std::uint32_t& into, const std::string& description,
              const std::string& type, const std::vector<std::uint32_t>& choices);

  void columns(const std::string& names); // of a list: its help names them
  void hide();                            // from the list of commands

  [[nodiscard]] CLI::App& app() const { return *app_; }

 private:
  CLI::App* app_;
};

class Program {
 public:
  Program();
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  // `synopsis` as in vsnap(1), without "vsnap NAME". `group`: one that add_group() has made, or empty.
  Command add(const std::string& name, const std::string& synopsis, const std::string& description,
              Takes takes = Takes::nothing, const std::string& group = {});
  void add_group(const std::string& name, const std::string& description);
  void on(const Command& command, Run run);
  // Parses and runs; the exit code. Prints the error, if there is one.
  int main(int argc, const char* const* argv);

  [[nodiscard]] std::vector<std::string> command_names() const; // "create", "pool create", ...
  // That the words begin with a command or group that there is.
  [[nodiscard]] Result<> check_verb(const std::vector<std::string>& words) const;
  // Prints the short help of "create" or "pool create".
  Result<> print_help(const std::vector<std::string>& words) const;

 private:
  Result<int> parse_and_run(int argc, const char* const* argv);

  std::unique_ptr<CLI::App> app_;
  CommonOptions common_;
  Run run_;
  std::map<const CLI::App*, std::string> synopses_;
  std::vector<std::string> groups_;
};

// One error, as one line on standard error; its exit code.
int print_error(const Error& error);

// A file each.
void register_pool_create(Program& program);
void register_pool_members(Program& program); // add, attach, detach
void register_pool_list(Program& program);    // list, status
void register_pool_destroy(Program& program);
void register_create(Program& program);
void register_adopt(Program& program);
void register_release(Program& program);
void register_ls(Program& program);
void register_info(Program& program);
void register_rename(Program& program);
void register_resize(Program& program);
void register_snapshot(Program& program);
void register_rollback(Program& program);
void register_clone(Program& program);
void register_preserve(Program& program);
void register_wait(Program& program);
void register_flatten(Program& program);
void register_copy(Program& program); // pause, resume, limit
void register_split(Program& program);
void register_refresh(Program& program);
void register_set(Program& program);
void register_get(Program& program);
void register_hold(Program& program);
void register_release_hold(Program& program);
void register_diff(Program& program);
void register_rm(Program& program);
void register_mount(Program& program);
void register_serve(Program& program); // what a mount's keeper starts
void register_upgrade(Program& program);
void register_umount(Program& program);
void register_map(Program& program);
void register_unmap(Program& program);
void register_df(Program& program);
void register_top(Program& program);
void register_tree(Program& program);
void register_host(Program& program); // invite, list, revoke
void register_lock(Program& program); // ls, break
void register_host_join(Program& program);
void register_check(Program& program);
void register_catalog(Program& program);
void register_help(Program& program);
void register_all(Program& program);

} // namespace vsnap::cli
