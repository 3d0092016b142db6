// vsnap check: holds everything a pool says about itself against everything else it says.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"
#include "cli/registry.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::string pool;
  bool repair = false;
};

Json report_json(const std::string& pool, const CheckReport& report) {
  Json findings = Json::array();
  for (const Finding& finding : report.findings) {
    findings.push_back(
        {{"what", finding.what}, {"repairable", finding.repairable}, {"repaired", finding.repaired}});
  }
  return {{"pool", pool}, {"extents", report.extents_checked}, {"findings", std::move(findings)}};
}

void print_report(const CommonOptions& common, const std::string& pool, const CheckReport& report,
                  bool mounted) {
  const std::string_view how = mounted ? " (unmount the pool: then vsnap check --repair can mend this)"
                                       : " (vsnap check --repair can mend this)";
  for (const Finding& finding : report.findings) {
    fmt::print("{}: {}{}\n", pool, finding.what,
               finding.repaired     ? " (repaired)"
               : finding.repairable ? how
                                    : "");
  }
  if (report.findings.empty() && !common.quiet)
    fmt::print("{}: ok, {} extents checked\n", pool, report.extents_checked);
}

Result<Spec> pool_to_check(const std::string& text) {
  const auto spec = resolve_target(text);
  const auto known = spec ? registry_find(spec->pool) : Result<RegistryEntry>();
  const bool is_known = known || known.error().kind != ErrorKind::not_found;
  if (spec && !spec->view && is_known) return spec;
  if (const auto member = Pool::identify(Env::real(), text)) {
    return failure(ErrorKind::usage, fmt::format("{}: is a member of pool {} (vsnap check {})", text,
                                                 member->pool_name, member->pool_name));
  }
  if (!spec || (!spec->view && !is_known)) return spec; // opening it says what is wrong
  if (!is_known) {
    return failure(ErrorKind::not_found,
                   fmt::format("{}: neither a pool nor a member of one (vsnap pool list shows pools)", text));
  }
  return failure(ErrorKind::usage,
                 fmt::format("{}: a pool is checked as a whole (vsnap check {})", text, spec->pool));
}

Result<int> run(const CommonOptions& common, const Options& options) {
  VSNAP_TRY_ASSIGN(const Spec spec, pool_to_check(options.pool));
  VSNAP_TRY_ASSIGN(PoolAccess access, PoolAccess::open(spec.pool, true));
  const bool mounted = access.daemon().has_value();
  CheckReport report;
  {
    CommandSink sink(common, "check " + spec.pool, ProgressUnit::extents);
    wire::ControlRequest request;
    request.mutable_check()->set_repair(options.repair);
    VSNAP_TRY_ASSIGN(const auto reply, access.call(std::move(request), sink));
    report = wire::from_wire(reply.check());
  }
  VSNAP_TRY(access.close());
  if (common.json) {
    print_json(report_json(spec.pool, report));
  } else {
    print_report(common, spec.pool, report, mounted);
  }
  std::size_t open = 0;
  for (const Finding& finding : report.findings) open += finding.repaired ? 0 : 1;
  if (open == 0) return 0;
  return failure(ErrorKind::damaged, fmt::format("{}: {} problems found{}", spec.pool, open,
                                                 options.repair ? " that could not be repaired" : ""));
}

} // namespace

void register_check(Program& program) {
  Command command =
      program.add("check", "POOL [--repair]", "Check a pool for damage (exit code 6 where some is left).");
  auto options = std::make_shared<Options>();
  command.argument("POOL", options->pool);
  command.flag("--repair", options->repair, "mend what can be mended");
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
