// vsnap rm: removes snapshots and volumes.
#include <fmt/format.h>
#include <set>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pause.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::vector<std::string> targets;
  bool recursive = false;
  bool wait = false;
};

Result<wire::ControlRequest> make_request(const CommonOptions& common, const Options& options, bool dry_run,
                                          std::string& pool) {
  wire::ControlRequest request;
  std::set<std::string> named;
  for (const std::string& target : options.targets) {
    VSNAP_TRY_ASSIGN(const Spec spec, resolve_view(target));
    if (!pool.empty() && spec.pool != pool) {
      return failure(ErrorKind::usage,
                     fmt::format("{}: not in pool {}: all or none needs one pool (run vsnap rm once for "
                                 "each)",
                                 target, pool));
    }
    pool = spec.pool;
    if (!named.insert(spec.view->text()).second) continue; // counts once
    *request.mutable_remove()->add_names() = wire::to_wire(*spec.view);
  }
  request.mutable_remove()->set_recursive(options.recursive);
  request.mutable_remove()->set_dry_run(dry_run);
  request.mutable_remove()->set_count_frees(common.json || common.verbose); // takes time, where it is shown
  return request;
}

// What it does, a line for each; `would`: "would remove ...", else "removed ...".
std::string plan_text(const std::string& pool, const RemovalPlan& plan, bool would) {
  std::string out;
  for (const ViewName& name : plan.removed)
    out += fmt::format("{} {}/{}\n", would ? "would remove" : "removed", pool, name.text());
  for (const std::string& path : plan.given_back)
    out += fmt::format("{} {}, as it is\n", would ? "would give back" : "gave back", path);
  return out + fmt::format("{} {}\n", would ? "would free" : "frees", format_size(plan.frees_bytes));
}

void print_plan(const CommonOptions& common, const std::string& pool, const RemovalPlan& plan,
                const wire::ControlReply& reply) {
  if (common.json) {
    Json removed = Json::array();
    for (const ViewName& name : plan.removed) removed.push_back(pool + "/" + name.text());
    Json out{{"dry_run", common.dry_run},
             {"removed", removed},
             {"given_back", plan.given_back},
             {"frees", plan.frees_bytes}};
    add_pause(out, reply);
    print_json(std::move(out));
  } else if (common.dry_run || common.verbose) {
    fmt::print("{}{}", plan_text(pool, plan, common.dry_run), pause_text(pool, reply));
  }
}

// One snapshot goes without a question.
Result<> ask_first(const CommonOptions& common, const Options& options, PoolAccess& access) {
  if (!would_ask(common)) return {};
  std::string pool;
  VSNAP_TRY_ASSIGN(const auto request, make_request(common, options, true, pool));
  const auto& names = request.remove().names();
  if (names.size() == 1 && wire::from_wire(names[0]).is_snapshot()) return {};
  VSNAP_TRY_ASSIGN(const auto reply, access.call(request));
  const RemovalPlan plan = wire::from_wire(reply.removal());
  return confirm(common, "rm", plan_text(pool, plan, true));
}

Result<int> run(const CommonOptions& common, const Options& options) {
  std::string pool;
  VSNAP_TRY_ASSIGN(const auto request, make_request(common, options, common.dry_run, pool));
  VSNAP_TRY_ASSIGN(PoolAccess access, PoolAccess::open(pool));
  VSNAP_TRY(ask_first(common, options, access));
  VSNAP_TRY_ASSIGN(const auto reply, access.call(request));
  const RemovalPlan plan = wire::from_wire(reply.removal());
  if (options.wait && !common.dry_run) {
    CommandSink sink(common, "rm: freeing", ProgressUnit::extents);
    wire::ControlRequest wait;
    wait.mutable_wait_removals();
    if (const auto waited = access.call(std::move(wait), sink); !waited) {
      Error error = waited.error();
      error.message = fmt::format("{}: removed, but not all space is free yet: {}", pool, error.message);
      return Failure(std::move(error));
    }
  }
  VSNAP_TRY(access.close());
  print_plan(common, pool, plan, reply);
  return 0;
}

} // namespace

void register_rm(Program& program) {
  Command command =
      program.add("rm", "SPEC... [-r] [--wait]",
                  "Remove snapshots and volumes; all or none. Space is freed in the background.",
                  Takes::dry_run | Takes::yes);
  auto options = std::make_shared<Options>();
  command.argument("SPEC", options->targets);
  command.flag("-r", options->recursive, "volumes with their snapshots");
  command.flag("--wait", options->wait, "return when the space is free");
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
