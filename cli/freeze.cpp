#include "cli/freeze.h"

#include <fmt/format.h>
#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <set>

#include "cli/freeze_guard.h"
#include "cli/holders.h"
#include "cli/volume_use.h"

namespace vsnap::cli {
namespace {

using std::chrono::milliseconds;
using State = FreezeGuard::State;

constexpr double kDefaultLimit = 5;
constexpr double kMostLimit = 60; // what stands still that long is taken for dead by those who wait for it
constexpr milliseconds kFirstAnswer(3000); // of a guest agent

Result<milliseconds> limit_of(const FreezeArguments& arguments) {
  double seconds = kDefaultLimit;
  const std::string& text = arguments.limit;
  if (!text.empty()) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
    if (error != std::errc() || end != text.data() + text.size() ||
        !(seconds >= 0.1 && seconds <= kMostLimit))
      return failure(ErrorKind::usage, fmt::format("--freeze-limit {}: give seconds, 0.1 to {} (such as 5)",
                                                   vsnap::quoted(text), kMostLimit));
  }
  return milliseconds(static_cast<std::int64_t>(seconds * 1000));
}

Result<std::map<std::string, ViewInfo>> views_of(PoolAccess& access) {
  wire::ControlRequest request;
  request.mutable_list()->set_without_figures(true); // to count them takes long, and writes
  VSNAP_TRY_ASSIGN(const auto reply, access.call(std::move(request)));
  std::map<std::string, ViewInfo> views;
  for (const wire::ViewInfo& view : reply.views().views()) {
    ViewInfo info = wire::from_wire(view);
    const std::string name = info.name.text();
    views.emplace(name, std::move(info));
  }
  return views;
}

struct Judged {
  SnapshotLevel level = SnapshotLevel::crash;
  std::string why; // it is not higher than that
};

class FrozenMoment {
 public:
  FrozenMoment(PoolAccess& access, std::string pool, const std::vector<ViewName>& names)
      : access_(access), pool_(std::move(pool)), names_(names) {}

  // Finds all that is to be frozen, and opens it.
  Result<> prepare(const FreezeArguments& arguments) {
    VSNAP_TRY_ASSIGN(limit_, limit_of(arguments));
    VSNAP_TRY(look_at_pool());
    if (!access_.daemon()) {
      uses_.volumes.resize(names_.size()); // nobody has the pool open but this command
      if (arguments.agents.empty()) return {};
      return failure(ErrorKind::failed,
                     fmt::format("{}: not mounted, so no VM has a volume of it open (leave "
                                 "--qga out, or vsnap mount it first)",
                                 pool_));
    }
    for (const ViewName& name : names_) files_.push_back(access_.daemon()->mount_point + "/" + name.volume);
    uses_ = uses_of(files_);
    FreezeGuard::Options options;
    options.limit = limit_;
    for (const std::string& socket : arguments.agents) {
      VSNAP_TRY_ASSIGN(auto agent, GuestAgent::connect(socket, GuestAgent::Clock::now() + kFirstAnswer));
      agents_.push_back(agent_of(socket, agent->peer()));
      options.agents.push_back(std::move(agent));
    }
    for (MountedFileSystem& each : uses_.file_systems)
      options.file_systems.push_back({each.point, std::move(each.directory)});
    if (options.agents.empty() && options.file_systems.empty()) return {};
    VSNAP_TRY_ASSIGN(guard_, FreezeGuard::start(std::move(options)));
    return {};
  }

  Result<> freeze() { return guard_ ? guard_->freeze() : Result<>(); }

  // After the snapshots were confirmed: how they are called now, and who wrote meanwhile.
  Result<> look_again() {
    VSNAP_TRY_ASSIGN(after_, views_of(access_));
    return {};
  }
  Result<> thaw() { return guard_ ? guard_->thaw() : Result<>(); }

  [[nodiscard]] Judged judge(std::size_t i) const {
    if (!made(i)) return {SnapshotLevel::crash, "removed, renamed or replaced meanwhile"};
    const VolumeUse& use = uses_.volumes[i];
    std::string why;
    if (covered_by_agent(i, true, why)) return {SnapshotLevel::app, {}};
    if (!why.empty()) return {SnapshotLevel::crash, why};
    for (const std::size_t at : use.file_systems) {
      if (std::string trouble = trouble_with(at); !trouble.empty())
        return {SnapshotLevel::crash, std::move(trouble)};
    }
    std::vector<std::string> others = use.claimed;
    others.insert(others.end(), use.others.begin(), use.others.end());
    if (use.file_systems.empty() && others.empty() && before(i).open_handles > use.loops.size())
      others.emplace_back("a program");
    if (!others.empty()) {
      if (covered_by_agent(i, false, why)) return {SnapshotLevel::app, {}};
      return {SnapshotLevel::crash,
              why.empty() ? fmt::format("in use by {}, which is not frozen (--qga SOCKET is for a VM)",
                                        fmt::join(others, ", "))
                          : why};
    }
    if (use.file_systems.empty() && changed(i)) return {SnapshotLevel::crash, "it was written meanwhile"};
    return {SnapshotLevel::fs, {}};
  }

  // What was found by the names of the snapshots while all stood still; older ones are others.
  [[nodiscard]] std::optional<ObjectId> made(std::size_t i) const {
    const auto found = after_.find(names_[i].text());
    if (found == after_.end() || found->second.id.value() <= newest_before_) return std::nullopt;
    return found->second.id;
  }

 private:
  struct Agent {
    std::string socket;
    std::set<std::size_t> volumes; // that are its VM's, as far as known
    bool known = false;            // all of them are: it is the VM that listens at the socket
  };

  [[nodiscard]] Agent agent_of(const std::string& socket, pid_t peer) const {
    Agent agent{socket, {}, false};
    if (peer <= 0) return agent;
    for (std::size_t i = 0; i < files_.size(); ++i) {
      const auto& loops = uses_.volumes[i].loops;
      if (has_open(peer, files_[i]) || std::any_of(loops.begin(), loops.end(), [&](const std::string& loop) {
            return has_open(peer, loop);
          }))
        agent.volumes.insert(i);
    }
    agent.known = !agent.volumes.empty() || has_disks(peer);
    return agent;
  }

  Result<> look_at_pool() {
    for (const ViewName& name : names_) {
      wire::ControlRequest request;
      *request.mutable_info()->mutable_name() = wire::to_wire(ViewName{name.volume, {}});
      request.mutable_info()->set_without_figures(true);
      VSNAP_TRY(access_.call(std::move(request)));
    }
    VSNAP_TRY_ASSIGN(before_, views_of(access_));
    for (const auto& [name, view] : before_) newest_before_ = std::max(newest_before_, view.id.value());
    for (const ViewName& name : names_) {
      if (before_.contains(name.text())) {
        return failure(ErrorKind::failed, EEXIST,
                       fmt::format("{}/{}: exists already (choose another name)", pool_, name.text()));
      }
    }
    return {};
  }

  [[nodiscard]] const ViewInfo& before(std::size_t i) const { return before_.at(names_[i].volume); }

  [[nodiscard]] bool changed(std::size_t i) const {
    const auto now = after_.find(names_[i].volume);
    return now == after_.end() || now->second.modified_ns != before(i).modified_ns;
  }

  [[nodiscard]] std::string trouble_with(std::size_t file_system) const {
    const MountedFileSystem& each = uses_.file_systems[file_system];
    switch (guard_->file_system(file_system)) {
      case State::held:
        return {};
      case State::busy:
        return fmt::format("{}: somebody else has frozen it, and may thaw it at any time", each.point);
      case State::unsupported:
        return fmt::format("{}: {} cannot be frozen", each.point, each.type);
      case State::released:
        return fmt::format("{}: somebody else has thawed it meanwhile", each.point);
      default:
        return too_late();
    }
  }

  [[nodiscard]] std::string too_late() const {
    return fmt::format("thawed after {} s, before the snapshot was confirmed (--freeze-limit)",
                       static_cast<double>(limit_.count()) / 1000);
  }

  // By one that is known to be its VM's; or, where that is not asked for, by one of which nothing is known:
  // that is none of what this host itself uses. `why`: it would be, but.
  bool covered_by_agent(std::size_t i, bool known, std::string& why) const {
    const VolumeUse& use = uses_.volumes[i];
    if (!known && !(use.file_systems.empty() && use.claimed.empty())) return false;
    for (std::size_t at = 0; at < agents_.size(); ++at) {
      if (known ? !agents_[at].volumes.contains(i) : agents_[at].known) continue;
      const State state = guard_->agent(at);
      if (state == State::held) return true;
      why = state == State::empty
                ? fmt::format("{}: the guest agent froze no file system", agents_[at].socket)
            : state == State::released ? fmt::format("{}: the guest did not stay frozen", agents_[at].socket)
                                       : too_late();
    }
    return false;
  }

  PoolAccess& access_;
  const std::string pool_;
  const std::vector<ViewName>& names_;
  std::vector<std::string> files_;
  std::map<std::string, ViewInfo> before_;
  std::map<std::string, ViewInfo> after_;
  std::uint64_t newest_before_ = 0;
  milliseconds limit_{0};
  VolumeUses uses_;
  std::vector<Agent> agents_;
  std::unique_ptr<FreezeGuard> guard_;
};

Failure but_taken(Error error, std::string_view what) {
  error.message = fmt::format("the snapshots are taken, {}: {}", what, error.message);
  return Failure(std::move(error));
}

Result<> raise_levels(PoolAccess& access, const FrozenMoment& moment, std::span<const Judged> judged) {
  wire::ControlRequest request;
  for (std::size_t i = 0; i < judged.size(); ++i) {
    if (judged[i].level == SnapshotLevel::crash) continue;
    wire::LevelRaise& raise = *request.mutable_raise_levels()->add_raises();
    raise.set_id(moment.made(i)->value());
    raise.set_to(wire::to_wire(judged[i].level));
  }
  if (request.raise_levels().raises().empty()) return {};
  VSNAP_TRY(access.call(std::move(request)));
  return {};
}

} // namespace

Result<> check(const FreezeArguments& arguments) {
  if (!arguments.freeze && (!arguments.limit.empty() || !arguments.agents.empty()))
    return failure(ErrorKind::usage, "--freeze-limit and --qga are for a freeze (add --freeze)");
  VSNAP_TRY(limit_of(arguments));
  return {};
}

Result<std::vector<SnapshotLevel>> take_snapshots(PoolAccess& access, const std::string& pool,
                                                  const std::vector<ViewName>& names,
                                                  const FreezeArguments& arguments,
                                                  const CommonOptions& common,
                                                  const std::function<Result<>()>& take) {
  std::vector<SnapshotLevel> levels(names.size(), SnapshotLevel::crash);
  if (!arguments.freeze) {
    VSNAP_TRY(take());
    return levels;
  }
  FrozenMoment moment(access, pool, names);
  VSNAP_TRY(moment.prepare(arguments));
  if (const auto frozen = moment.freeze(); !frozen) {
    if (const auto thawed = moment.thaw(); !thawed) print_error(thawed.error());
    return Failure(frozen.error());
  }
  const auto taken = take();
  const auto seen = taken ? moment.look_again() : Result<>();
  const auto thawed = moment.thaw();
  if (!taken) {
    if (!thawed) print_error(thawed.error());
    return Failure(taken.error());
  }
  std::vector<Judged> judged(names.size());
  for (std::size_t i = 0; seen && i < names.size(); ++i) judged[i] = moment.judge(i);
  const auto raised = raise_levels(access, moment, judged);
  for (std::size_t i = 0; i < names.size(); ++i) {
    levels[i] = raised ? judged[i].level : SnapshotLevel::crash;
    if (!judged[i].why.empty() && !common.quiet)
      fmt::print(stderr, "{}/{}: level crash: {}\n", pool, names[i].text(), judged[i].why);
  }
  if (!thawed) return but_taken(thawed.error(), "and not all is thawed");
  if (!seen) return but_taken(seen.error(), "their level is not known");
  if (!raised) return but_taken(raised.error(), "their level is not recorded");
  return levels;
}

} // namespace vsnap::cli
