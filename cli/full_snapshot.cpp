#include "cli/full_snapshot.h"

#include <fmt/format.h>
#include <algorithm>

#include "cli/mount_table.h"
#include "cli/pool_access.h"
#include "cli/rate.h"
#include "cli/registry.h"
#include "cli/taken_snapshots.h"

namespace vsnap::cli {
namespace {

// A number as it is; a path so that the daemon, whose directory is another, finds it as well.
Result<std::string> member_text(const std::string& text) {
  const bool number =
      !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (number) return text;
  return absolute_path(text);
}

Result<wire::ControlRequest> make_request(const ViewName& name, const FullSnapshotArguments& arguments) {
  wire::ControlRequest request;
  wire::SnapshotFullRequest& full = *request.mutable_snapshot_full();
  *full.mutable_name() = wire::to_wire(name);
  for (const std::string& text : arguments.to) {
    VSNAP_TRY_ASSIGN(const std::string member, member_text(text));
    full.add_members(member);
  }
  if (!arguments.bwlimit.empty()) {
    VSNAP_TRY_ASSIGN(const std::uint64_t rate, parse_rate(arguments.bwlimit));
    full.set_bytes_per_second(rate);
  }
  return request;
}

} // namespace

Result<int> take_full_snapshot(const CommonOptions& common, const std::string& target,
                               const FullSnapshotArguments& arguments, const FreezeArguments& freeze) {
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_view(target, Naming::fresh));
  const std::string name = spec.pool + "/" + spec.view->text();
  VSNAP_TRY_ASSIGN(wire::ControlRequest request, make_request(*spec.view, arguments));
  VSNAP_TRY_ASSIGN(PoolAccess access, PoolAccess::open(spec.pool));
  const std::vector<ViewName> names{*spec.view};
  wire::ControlReply reply;
  VSNAP_TRY_ASSIGN(const auto levels,
                   take_snapshots(access, spec.pool, names, freeze, common, [&]() -> Result<> {
                     VSNAP_TRY_ASSIGN(reply, access.call(std::move(request)));
                     return {};
                   }));
  if (arguments.wait) {
    CommandSink sink(common, "copy " + name, ProgressUnit::bytes);
    wire::ControlRequest wait;
    *wait.mutable_wait_copy()->mutable_name() = wire::to_wire(*spec.view);
    if (const auto waited = access.call(std::move(wait), sink); !waited) {
      Error error = waited.error();
      error.message = fmt::format("the snapshot is taken, its copy is not complete yet: {}", error.message);
      return Failure(std::move(error));
    }
  }
  const bool rests = !access.daemon() && !arguments.wait;
  VSNAP_TRY(access.close());
  print_snapshots(common, spec.pool, names, levels, reply);
  if (rests && !common.quiet && !common.json)
    fmt::print(stderr, "{}: is copied once the pool is mounted (--wait copies it here and now)\n", name);
  return 0;
}

} // namespace vsnap::cli
