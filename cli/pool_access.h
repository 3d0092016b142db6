// A command's way to a pool: through the daemon where one has it mounted, else by opening it here. Either way
// requests are executed by sync/control_handler, so a command cannot tell the difference.
//
// Invariants
// 1. The pool is opened, and so locked, from open() to close(); close() tells what could not be made durable.
// 2. Who meets the change from a daemon to its successor waits for the successor, for kLongestChange at most:
//    kind busy where none comes.
// 3. Whoever is asked again, because the answer to a request was lost, is told so, under the same id, and
//    carries it out only if that has not been done (sync/control_handler.h). It may be this process, where
//    the mount has ended. Kind no_answer only where nobody can be asked: the outcome is not known then.
// Threads: the main thread only.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "cli/command.h"
#include "cli/progress.h"
#include "core/pool.h"
#include "sync/control_client.h"
#include "sync/daemon_record.h"

namespace vsnap::cli {

// Shows progress, hands on diffs, and turns the first Ctrl-C into "give up at the next safe point".
class CommandSink final : public ControlSink {
 public:
  CommandSink(const CommonOptions& options, std::string what, ProgressUnit unit);
  ~CommandSink() override;
  bool progress(std::uint64_t done, std::uint64_t total) override;
  bool diff(std::span<const DiffRange> ranges) override;
  std::function<void(const DiffRange&)> on_diff;

 private:
  ProgressMeter meter_;
};

// Of operations that take no time and list nothing.
class SilentSink final : public ControlSink {
 public:
  bool progress(std::uint64_t, std::uint64_t) override { return true; }
  bool diff(std::span<const DiffRange>) override { return true; }
};

class PoolAccess {
 public:
  static constexpr std::chrono::seconds kLongestChange{10};

  static Result<PoolAccess> open(const std::string& pool, bool for_check = false);
  // An error reply is returned as the error it carries.
  Result<wire::ControlReply> call(wire::ControlRequest request, ControlSink& sink);
  Result<wire::ControlReply> call(wire::ControlRequest request); // of operations that take no time
  Result<ViewInfo> info(const ViewName& name);                   // not_found names the nearest that exists
  Result<> close();
  [[nodiscard]] const std::optional<DaemonRecord>& daemon() const { return daemon_; }

 private:
  PoolAccess() = default;
  Result<> open_own();
  Result<wire::ControlReply> ask_daemons(wire::ControlRequest request, ControlSink& sink);
  std::string name_;
  bool for_check_ = false;
  std::optional<DaemonRecord> daemon_;
  std::unique_ptr<ControlClient> client_;
  std::unique_ptr<Pool> pool_;
};

// open, call, close.
Result<wire::ControlReply> ask_pool(const std::string& pool, wire::ControlRequest request);
Result<wire::ControlReply> ask_pool(const std::string& pool, wire::ControlRequest request, ControlSink& sink);

// Whether there is a terminal to ask on.
[[nodiscard]] bool can_ask();
// Whether confirm() asks: there is one, and neither -n nor -y is given.
[[nodiscard]] bool would_ask(const CommonOptions& options);
// Shows the plan, lines as -n prints them, and asks on the terminal whether to go on; kind failed if not.
[[nodiscard]] Result<> confirm(const CommonOptions& options, const std::string& what,
                               const std::string& plan);

} // namespace vsnap::cli
