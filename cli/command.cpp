#include "cli/command.h"

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <optional>

#include "core/names.h"

namespace vsnap::cli {
namespace {

// "usage: vsnap create POOL/VOL --size SIZE", what it does, and its options.
class ShortHelp final : public CLI::Formatter {
 public:
  explicit ShortHelp(const std::map<const CLI::App*, std::string>& synopses) : synopses_(synopses) {
    column_width(24);
  }

  std::string make_usage(const CLI::App* app, std::string) const override {
    const auto synopsis = synopses_.find(app);
    return fmt::format("usage: {}\n", synopsis != synopses_.end() ? synopsis->second : "vsnap COMMAND ...");
  }
  std::string make_description(const CLI::App* app) const override { return app->get_description() + "\n"; }
  std::string make_positionals(const CLI::App*) const override { return {}; } // the usage line has them
  // In the list of commands one line each: the first sentence, without its stop.
  std::string make_subcommand(const CLI::App* sub) const override {
    const std::string description = sub->get_description();
    return fmt::format("  {:<{}}{}\n", sub->get_name(), get_column_width() - 2,
                       description.substr(0, std::min(description.find(". "), description.rfind('.'))));
  }
  std::string make_footer(const CLI::App* app) const override {
    const std::string footer = app->get_footer();
    return footer.empty() ? footer : footer + "\n";
  }
  std::string make_option_opts(const CLI::Option* option) const override {
    return option->get_type_size() == 0 ? std::string() : " " + option->get_type_name();
  }

 private:
  const std::map<const CLI::App*, std::string>& synopses_;
};

// Options may stand before the command, too. They are moved behind it: there it is known which of them it
// takes.
// "-o" and "-s" have a value. What asks for help or the version is left where it is.
std::vector<std::string> verb_first(int argc, const char* const* argv,
                                    const std::vector<std::string>& groups) {
  const std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  std::vector<std::string> out;
  std::vector<std::string> options;
  std::size_t at = 0;
  for (std::size_t verbs = 1; at < words.size() && out.size() < verbs; ++at) {
    const std::string& word = words[at];
    if (word == "--" || word == "--help" || word == "-h" || word == "--version") return words;
    if (!word.starts_with('-')) {
      out.push_back(word);
      if (std::find(groups.begin(), groups.end(), word) != groups.end()) verbs = 2; // "pool create"
      continue;
    }
    options.push_back(word);
    if ((word == "-o" || word == "-s") && at + 1 < words.size()) options.push_back(words[++at]);
  }
  out.insert(out.end(), options.begin(), options.end());
  out.insert(out.end(), words.begin() + static_cast<std::ptrdiff_t>(at), words.end());
  return out;
}

// Verbs come first.
std::vector<std::string> leading_words(const std::vector<std::string>& all) {
  std::vector<std::string> words;
  for (const std::string& word : all) {
    if (words.size() < 2 && !word.starts_with('-')) words.push_back(word);
  }
  return words;
}

// What other programs call it.
constexpr std::pair<std::string_view, std::string_view> kOtherWords[] = {
    {"list", "vsnap ls"},
    {"delete", "vsnap rm"},
    {"remove", "vsnap rm"},
    {"destroy", "vsnap rm; vsnap pool destroy for a pool"},
    {"snap", "vsnap snapshot"},
    {"mv", "vsnap rename"},
    {"show", "vsnap info"},
    {"status", "vsnap pool status"},
    {"import", "vsnap pool attach"},
    {"export", "vsnap pool detach"},
    {"unmount", "vsnap umount"},
    {"pool ls", "vsnap pool list"},
    {"pool import", "vsnap pool attach"},
    {"pool export", "vsnap pool detach"},
    {"pool info", "vsnap pool status"},
    {"pool show", "vsnap pool status"},
    {"pool rm", "vsnap pool destroy"},
    {"pool delete", "vsnap pool destroy"},
    {"pool remove", "vsnap pool destroy for a whole pool; a member stays in its pool"},
};

std::optional<std::string> other_word(const std::string& verb) {
  for (const auto& [word, ours] : kOtherWords) {
    if (word == verb) return fmt::format("here it is {}", ours);
  }
  return std::nullopt;
}

std::vector<std::string> names_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(sub->get_name());
  return names;
}

// "--size: 1 required SIZE missing" and the like, for people.
std::string in_our_words(const CLI::ParseError& error) {
  const std::string text = error.what();
  const auto colon = text.find(": 1 required ");
  if (colon == std::string::npos || !text.ends_with(" missing")) return text;
  const auto type = colon + std::string_view(": 1 required ").size();
  return fmt::format("{} needs a value: {}", text.substr(0, colon),
                     text.substr(type, text.size() - type - std::string_view(" missing").size()));
}

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// The command or group that the first words name, and these words.
struct Named {
  const CLI::App* app;
  std::vector<std::string> verbs;
};

Named named_by(const CLI::App& root, const std::vector<std::string>& words) {
  Named out{&root, {}};
  for (const std::string& word : words) {
    if (!contains(names_of(*out.app), word)) break;
    out.app = out.app->get_subcommand(word);
    out.verbs.push_back(word);
  }
  return out;
}

} // namespace

// ---- one command ----

void Command::argument(const std::string& name, std::string& into, Need need) {
  app_->add_option(name, into)->required(need == Need::required);
}

void Command::argument(const std::string& name, std::vector<std::string>& into, Need need) {
  app_->add_option(name, into)->required(need == Need::required);
}

void Command::flag(const std::string& name, bool& into, const std::string& description) {
  app_->add_flag(name, into, description);
}

void Command::option(const std::string& name, std::string& into, const std::string& description,
                     const std::string& type, Need need) {
  app_->add_option(name, into, description)->required(need == Need::required)->type_name(type);
}

void Command::option(const std::string& name, double& into, const std::string& description,
                     const std::string& type) {
  app_->add_option(name, into, description)->type_name(type);
}

void Command::option(const std::string& name, std::uint64_t& into, const std::string& description,
                     const std::string& type) {
  app_->add_option(name, into, description)->type_name(type);
}

void Command::hidden_option(const std::string& name, std::string& into) {
  app_->add_option(name, into)->group("")->expected(0, 1);
}

void Command::repeated_option(const std::string& name, std::vector<std::string>& into,
                              const std::string& description, const std::string& type) {
  app_->add_option(name, into, description)->type_name(type)->allow_extra_args(false);
}

void Command::choice(const std::string& name, std::string& into, const std::string& description,
                     const std::string& type, const std::vector<std::string>& choices) {
  app_->add_option(name, into, description)->type_name(type)->check(CLI::IsMember(choices));
}

void Command::choice(const std::string& name, std::uint32_t& into, const std::string& description,
                     const std::string& type, const std::vector<std::uint32_t>& choices) {
  app_->add_option(name, into, description)->type_name(type)->check(CLI::IsMember(choices));
}

void Command::columns(const std::string& names) {
  app_->footer(fmt::format("Columns: {}.\n\n{}", names, app_->get_footer()));
}

void Command::hide() { app_->group(""); }

// ---- the program ----

Program::Program()
    : app_(std::make_unique<CLI::App>("File-backed volumes and instant snapshots in user space.", "vsnap")) {
  app_->formatter(std::make_shared<ShortHelp>(synopses_));
  app_->set_help_flag("-h,--help", "this; vsnap help COMMAND opens the manual page");
  app_->set_version_flag("--version", "vsnap " VSNAP_VERSION, "print the version");
  app_->require_subcommand(1);
  app_->fallthrough();
}

Program::~Program() = default;

Command Program::add(const std::string& name, const std::string& synopsis, const std::string& description,
                     Takes takes, const std::string& group) {
  CLI::App& parent = group.empty() ? *app_ : *app_->get_subcommand(group);
  CLI::App& command = *parent.add_subcommand(name, description);
  synopses_[&command] = fmt::format("vsnap {}{}{}{}", group.empty() ? "" : group + " ", name,
                                    synopsis.empty() ? "" : " ", synopsis);
  // Every command takes these; the footer of its help names them, and vsnap(1) describes them.
  command.add_flag("--json", common_.json)->group("");
  command.add_flag("-q,--quiet", common_.quiet)->group("");
  command.add_flag("-v,--verbose", common_.verbose)->group("");
  command.add_flag("-y,--yes", common_.yes, "do not ask")->group(has(takes, Takes::yes) ? "Options" : "");
  command.footer("Every command takes --json -q -v as well: see vsnap(1).");
  if (has(takes, Takes::dry_run))
    command.add_flag("-n,--dry-run", common_.dry_run, "only say what would be done");
  if (has(takes, Takes::list)) {
    command.add_flag("-H", common_.no_header, "no header, tabs between columns");
    command.add_flag("-p", common_.exact, "exact numbers");
    command.add_option("-o", common_.columns, "columns to show")->type_name("COL,COL");
    command.add_option("-s", common_.sort, "column to sort by")->type_name("COL");
  }
  return Command(command);
}

void Program::add_group(const std::string& name, const std::string& description) {
  CLI::App& group = *app_->add_subcommand(name, description);
  synopses_[&group] = fmt::format("vsnap {} COMMAND ...", name);
  groups_.push_back(name);
  group.require_subcommand(1);
}

void Program::on(const Command& command, Run run) {
  command.app().callback([this, run = std::move(run)] { run_ = run; });
}

std::vector<std::string> Program::command_names() const {
  std::vector<std::string> out;
  for (const std::string& name : names_of(*app_)) {
    const auto inner = names_of(*app_->get_subcommand(name));
    if (inner.empty()) out.push_back(name);
    for (const std::string& verb : inner) out.push_back(name + " " + verb);
  }
  return out;
}

Result<> Program::check_verb(const std::vector<std::string>& words) const {
  const CLI::App* app = app_.get();
  std::string before;
  for (const std::string& word : words) {
    const auto names = names_of(*app);
    if (names.empty()) return {}; // a command: the rest are its arguments
    if (!contains(names, word)) {
      const auto near = nearest(word, names);
      const auto ours = other_word(before + word);
      return failure(ErrorKind::usage,
                     fmt::format("{}: no such command ({})", vsnap::quoted(before + word),
                                 ours             ? *ours
                                 : near           ? fmt::format("did you mean '{}{}'?", before, *near)
                                 : before.empty() ? "vsnap --help lists them"
                                                  : fmt::format("one of: {}", fmt::join(names, ", "))));
    }
    app = app->get_subcommand(word);
    before += word + " ";
  }
  return {};
}

Result<> Program::print_help(const std::vector<std::string>& words) const {
  VSNAP_TRY(check_verb(words));
  const CLI::App* app = app_.get();
  for (const std::string& word : words) {
    if (names_of(*app).empty()) {
      return failure(ErrorKind::usage,
                     fmt::format("{}: one command at a time (vsnap help COMMAND)", vsnap::quoted(word)));
    }
    app = app->get_subcommand(word);
  }
  // Not app->help(), which would be that of "help" while this is the command that runs.
  std::fputs(app->get_formatter()->make_help(app, "", CLI::AppFormatMode::Normal).c_str(), stdout);
  return {};
}

Result<int> Program::parse_and_run(int argc, const char* const* argv) {
  std::vector<std::string> all = verb_first(argc, argv, groups_);
  const auto words = leading_words(all);
  VSNAP_TRY(check_verb(words));
  try {
    std::reverse(all.begin(), all.end()); // as CLI11 wants it
    app_->parse(std::move(all));
  } catch (const CLI::CallForHelp&) {
    VSNAP_TRY(print_help(named_by(*app_, words).verbs));
    return 0;
  } catch (const CLI::CallForVersion&) {
    std::puts("vsnap " VSNAP_VERSION);
    return 0;
  } catch (const CLI::ParseError& e) {
    if (words.empty()) return failure(ErrorKind::usage, "no command given (vsnap --help lists them)");
    const Named named = named_by(*app_, words);
    const std::string command = fmt::format("{}", fmt::join(named.verbs, " "));
    const auto choices = names_of(*named.app);
    if (!choices.empty()) {
      return failure(ErrorKind::usage,
                     fmt::format("{}: a command is needed: one of {}", command, fmt::join(choices, ", ")));
    }
    return failure(ErrorKind::usage, fmt::format("{0}: {1} (vsnap {0} --help)", command, in_our_words(e)));
  }
  if (!run_) return failure(ErrorKind::usage, "no command given (vsnap --help lists them)");
  return run_(common_);
}

int Program::main(int argc, const char* const* argv) {
  auto code = parse_and_run(argc, argv);
  if (std::fflush(stdout) != 0 && code) {
    code = system_failure(errno, "standard output");
  }
  return code ? *code : print_error(code.error());
}

int print_error(const Error& error) {
  std::string line;
  for (const char c : error.message) line += c == '\n' ? ' ' : static_cast<unsigned char>(c) < ' ' ? '?' : c;
  fmt::print(stderr, "vsnap: {}\n", line);
  return exit_code(error.kind);
}

void register_all(Program& program) {
  program.add_group("pool", "Make and look after pools and their members.");
  register_pool_create(program);
  register_pool_members(program);
  register_pool_list(program);
  register_pool_destroy(program);
  register_create(program);
  register_adopt(program);
  register_release(program);
  register_ls(program);
  register_info(program);
  register_rename(program);
  register_resize(program);
  register_snapshot(program);
  register_rollback(program);
  register_clone(program);
  register_preserve(program);
  register_wait(program);
  register_flatten(program);
  program.add_group("copy", "Hold, let go on, or limit the copying of a full-sized snapshot.");
  register_copy(program);
  register_split(program);
  register_refresh(program);
  register_set(program);
  register_get(program);
  register_hold(program);
  register_release_hold(program);
  register_diff(program);
  register_rm(program);
  register_mount(program);
  register_serve(program);
  register_upgrade(program);
  register_umount(program);
  register_map(program);
  register_unmap(program);
  register_df(program);
  register_top(program);
  register_tree(program);
  program.add_group("host", "Share a pool with other hosts.");
  register_host(program);
  register_host_join(program);
  program.add_group("lock", "Who has what open, on which host.");
  register_lock(program);
  register_check(program);
  program.add_group("catalog", "Write the catalog of a pool to a file.");
  register_catalog(program);
  register_help(program);
}

} // namespace vsnap::cli
