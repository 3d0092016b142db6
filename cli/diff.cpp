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

// Prints each range as it comes: there can be more than fit in memory.
class Printer {
 public:
  explicit Printer(const CommonOptions& common) : common_(common) {}

  void begin(const std::string& from, const std::string& to) {
    if (common_.json) {
      fmt::print("{{\n  \"schema\": 1,\n  \"from\": {},\n  \"to\": {},\n  \"ranges\": [", Json(from).dump(),
                 Json(to).dump());
    } else if (!common_.no_header) {
      fmt::print("{:>15}  {:>15}  STATE\n", "OFFSET", "LENGTH");
    }
  }
  void range(const DiffRange& r) {
    const char* state = r.state == DiffState::hole ? "hole" : "data";
    if (common_.json) {
      fmt::print("{}\n    {{\"offset\": {}, \"length\": {}, \"state\": \"{}\"}}", first_ ? "" : ",", r.offset,
                 r.length, state);
    } else if (common_.no_header) {
      fmt::print("{}\t{}\t{}\n", r.offset, r.length, state);
    } else {
      fmt::print("{:>15}  {:>15}  {}\n", r.offset, r.length, state);
    }
    first_ = false;
  }
  void end() {
    if (common_.json) fmt::print("{}]\n}}\n", first_ ? "" : "\n  ");
  }

 private:
  const CommonOptions& common_;
  bool first_ = true;
};

Result<int> run(const CommonOptions& common, const Options& options) {
  VSNAP_TRY_ASSIGN(const Spec from, resolve_view(options.from));
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
  printer.end();
  return 0;
}

} // namespace

void register_diff(Program& program) {
  Command command = program.add(
      "diff", "SPEC [SPEC]",
      "List the ranges in which two views differ. The second is the live volume unless given; offsets and "
      "lengths are bytes; data or hole is what the second view has there.");
  auto options = std::make_shared<Options>();
  command.argument("FROM", options->from);
  command.argument("TO", options->to, Command::Need::optional);
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
