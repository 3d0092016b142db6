// vsnap wait: until a preserved image is final, or whatever is under way with a view has ended.
#include <fmt/format.h>
#include <chrono>
#include <thread>

#include "cli/command.h"
#include "cli/holders.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kLook(100);

struct Options {
  std::string target;
  double limit_s = -1; // less than 0: none
};

// Programs that have the file open which the volume was before: a name that the kernel does not find any
// more.
std::string who_holds(const std::optional<DaemonRecord>& daemon, const ViewName& name) {
  if (!daemon || daemon->mount_point.empty()) return "";
  const auto holders = holders_of_file(fmt::format("{}/{} (deleted)", daemon->mount_point, name.volume));
  return holders.empty() ? "" : fmt::format(", by {}", fmt::join(holders, ", "));
}

Failure too_late(const Spec& spec, const ViewInfo& view, const std::string& holders) {
  const std::string name = fmt::format("{}/{}", spec.pool, view.name.text());
  if (!view.draining && view.state != "draining")
    return failure(ErrorKind::busy, fmt::format("{}: {} (wait longer)", name, view.state));
  return failure(
      ErrorKind::busy,
      fmt::format("{}: still held{} (end what had the volume open, or wait longer)", name, holders));
}

// Where nobody has the pool mounted a copy rests: then it is made here.
class UntilTooLate final : public ControlSink {
 public:
  UntilTooLate(const CommonOptions& common, const std::string& name, std::optional<Clock::time_point> end)
      : shown_(common, "copy " + name, ProgressUnit::bytes), end_(end) {}
  bool progress(std::uint64_t done, std::uint64_t total) override {
    return shown_.progress(done, total) && (!end_ || Clock::now() < *end_);
  }
  bool diff(std::span<const DiffRange>) override { return true; }
  [[nodiscard]] bool too_late() const { return end_ && Clock::now() >= *end_; }

 private:
  CommandSink shown_;
  const std::optional<Clock::time_point> end_;
};

// True: there may be more to wait for; false: the time is over.
Result<bool> copy_here(const CommonOptions& common, const Options& options, const Spec& spec,
                       PoolAccess& access) {
  std::optional<Clock::time_point> end;
  if (options.limit_s >= 0)
    end = Clock::now() +
          std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options.limit_s));
  UntilTooLate sink(common, spec.pool + "/" + spec.view->text(), end);
  wire::ControlRequest request;
  *request.mutable_wait_copy()->mutable_name() = wire::to_wire(*spec.view);
  auto copied = access.call(std::move(request), sink);
  if (!copied && !sink.too_late()) return Failure(copied.error());
  return copied.has_value();
}

Result<int> run(const CommonOptions& common, const Options& options) {
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_view(options.target));
  VSNAP_TRY_ASSIGN(PoolAccess access, PoolAccess::open(spec.pool));
  const auto begin = Clock::now();
  for (;;) {
    VSNAP_TRY_ASSIGN(const ViewInfo view, access.info(*spec.view));
    if (view.state.empty()) {
      VSNAP_TRY(access.close());
      if (common.json) print_json({{"view", view_json(spec.pool, view)}});
      return 0;
    }
    const std::chrono::duration<double> waited = Clock::now() - begin;
    if (options.limit_s >= 0 && waited.count() >= options.limit_s)
      return too_late(spec, view, who_holds(access.daemon(), view.name));
    if (!access.daemon() && view.state.starts_with("copying")) {
      VSNAP_TRY_ASSIGN(const bool more, copy_here(common, options, spec, access));
      if (more) continue;
    }
    std::this_thread::sleep_for(kLook);
  }
}

} // namespace

void register_wait(Program& program) {
  Command command = program.add("wait", "POOL/VOL@NAME [--timeout SECONDS]",
                                "Wait until a preserved image is final, or a copy is complete.");
  auto options = std::make_shared<Options>();
  command.argument("SPEC", options->target);
  command.option("--timeout", options->limit_s, "give up after so many seconds (exit 4)", "SECONDS");
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
