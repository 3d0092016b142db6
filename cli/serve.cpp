// vsnap serve: what a keeper starts (keeper.h). Not for users, and in no help.
#include <fcntl.h>
#include <sys/prctl.h>
#include <charconv>

#include "cli/command.h"
#include "cli/daemon.h"
#include "cli/daemon_log.h"
#include "cli/keeper_line.h"
#include "core/log.h"

namespace vsnap::cli {
namespace {

Result<KeeperLine> take_line(const std::string& text) {
  int socket = -1;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), socket);
  if (code == std::errc() && end == text.data() + text.size() && ::fcntl(socket, F_SETFD, FD_CLOEXEC) == 0)
    return KeeperLine(socket);
  return failure(ErrorKind::usage, "serve: only a keeper can start it (vsnap mount is for users)");
}

Result<int> run(const std::string& socket) {
  VSNAP_TRY_ASSIGN(const KeeperLine line, take_line(socket));
  ::prctl(PR_SET_NAME, "vsnap", 0, 0, 0); // it was started by a descriptor, whose number would be shown
  DaemonOptions options;
  Inheritance inheritance;
  for (bool started = false; !started;) {
    const auto message = line.receive();
    if (!message) return failure(ErrorKind::failed, "serve: the keeper is gone");
    const auto& got = message->descriptors;
    if (message->word == Word::keep)
      inheritance.mount.insert(inheritance.mount.end(), got.begin(), got.end());
    if (message->word == Word::hold)
      inheritance.members.insert(inheritance.members.end(), got.begin(), got.end());
    if (message->word != Word::start) continue;
    VSNAP_TRY_ASSIGN(options, options_of(message->text));
    if (options.descriptors != inheritance.mount.size() || options.held_members != inheritance.members.size())
      return failure(ErrorKind::failed, EPROTO, "serve: not all descriptors of the mount have come");
    started = true;
  }
  if (options.background) know_log(options.pool);
  bool is_ready = false;
  const auto ready = [&] {
    if (options.background) leave_terminal(options.pool);
    is_ready = true;
    line.send(Word::ready);
  };
  const auto served = run_daemon(options, line, std::move(inheritance), ready);
  if (served) return 0;
  line.send(Word::failed, text_of(served.error()));
  if (is_ready && options.background) log::error("{}", served.error().message);
  return exit_code(served.error().kind); // the keeper says why
}

} // namespace

void register_serve(Program& program) {
  Command command = program.add("serve", "POOL SOCKET", "Serve a mount for its keeper.");
  command.hide();
  auto pool = std::make_shared<std::string>();
  auto socket = std::make_shared<std::string>();
  command.argument("POOL", *pool); // for whoever looks at the list of processes
  command.argument("SOCKET", *socket);
  program.on(command, [pool, socket](const CommonOptions&) { return run(*socket); });
}

} // namespace vsnap::cli
