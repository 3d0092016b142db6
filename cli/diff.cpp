// vsnap diff: the ranges in which two views differ.
#include <fmt/format.h>
#include <cstdio>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::string from;
  std::string to;
};

Table make_table() { return Table({{"offset", true}, {"length", true}, {"state"}}); }

// Prints each range as it comes: there can be more than fit in memory.
class Printer {
 public:
  explicit Printer(const CommonOptions& common) : common_(common) {}

  void begin(const std::string& from, const std::string& to) {
    if (common_.json) {
      fmt::print("{{\n  \"schema\": 1,\n  \"from\": {},\n  \"to\": {},\n  \"ranges\": [", Json(from).dump(),
                 Json(to).dump());
    } else if (!common_.no_header && !collects()) {
      line("OFFSET", "LENGTH", "STATE");
    }
  }
  void range(const DiffRange& r) {
    const char* state = r.state == DiffState::hole ? "hole" : "data";
    if (common_.json) {
      fmt::print("{}\n    {{\"offset\": {}, \"length\": {}, \"state\": \"{}\"}}", first_ ? "" : ",", r.offset,
                 r.length, state);
    } else if (collects()) {
      table_.add({Cell::number(r.offset), Cell::number(r.length), Cell::text(state)});
    } else {
      line(std::to_string(r.offset), std::to_string(r.length), state);
    }
    first_ = false;
  }
  Result<> end() {
    if (common_.json) {
      fmt::print("{}]\n}}\n", first_ ? "" : "\n  ");
    } else if (collects()) {
      return table_.print(common_, "ranges");
    }
    return {};
  }
  [[nodiscard]] const Table& table() const { return table_; }

 private:
  // A choice or order of columns or lines needs all of them.
  [[nodiscard]] bool collects() const { return !common_.columns.empty() || !common_.sort.empty(); }
  void line(const std::string& offset, const std::string& length, const std::string& state) {
    if (common_.no_header) {
      fmt::print("{}\t{}\t{}\n", offset, length, state);
    } else {
      fmt::print("{:>15}  {:>15}  {}\n", offset, length, state);
    }
  }

  const CommonOptions& common_;
  Table table_ = make_table();
  bool first_ = true;
};

Result<int> run(const CommonOptions& common, const Options& options) {
  VSNAP_TRY_ASSIGN(const Spec from, resolve_view(options.from));
  if (options.to.empty() && !from.view->is_snapshot()) {
    return failure(
        ErrorKind::usage,
        fmt::format("{0}: is compared with what? (vsnap diff {0}@SNAPSHOT tells what changed since a "
                    "snapshot; vsnap ls {0} lists them)",
                    from.pool + "/" + from.view->text()));
  }
  Spec to{from.pool, ViewName{from.view->volume, {}}};
  if (!options.to.empty()) {
    VSNAP_TRY_ASSIGN(to, resolve_view(options.to));
  }
  if (to.pool != from.pool) {
    return failure(ErrorKind::usage,
                   fmt::format("{}: not in pool {}: only views of one pool have extents in common",
                               options.to, from.pool));
  }
  wire::ControlRequest request;
  *request.mutable_diff()->mutable_from() = wire::to_wire(*from.view);
  *request.mutable_diff()->mutable_to() = wire::to_wire(*to.view);
  Printer printer(common);
  VSNAP_TRY(printer.table().check(common));
  bool begun = false;
  const auto begin = [&] {
    if (!begun) printer.begin(from.pool + "/" + from.view->text(), to.pool + "/" + to.view->text());
    begun = true;
  };
  CommandSink sink(common, "diff", ProgressUnit::bytes);
  sink.on_diff = [&](const DiffRange& range) {
    begin(); // not before: an error leaves standard output empty
    printer.range(range);
  };
  VSNAP_TRY(ask_pool(from.pool, std::move(request), sink));
  begin();
  VSNAP_TRY(printer.end());
  return 0;
}

} // namespace

void register_diff(Program& program) {
  Command command = program.add(
      "diff", "SPEC [SPEC]",
      "List the ranges in which two views differ. The second is the live volume unless given; offsets and "
      "lengths are bytes; data or hole is what the second view has there.",
      Takes::list);
  auto options = std::make_shared<Options>();
  command.columns(make_table().names());
  command.argument("FROM", options->from);
  command.argument("TO", options->to, Command::Need::optional);
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
