#include "cli/daemon.h"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

#include "cli/file_limit.h"
#include "cli/mount_table.h"
#include "cli/stop_watch.h"
#include "core/log.h"
#include "core/pool.h"
#include "fuse/session.h"
#include "sync/control_server.h"

namespace vsnap::cli {
namespace {

// Memory that this process needs to write out dirty pages must not wait for dirty pages to be written out.
void become_io_flusher() {
#ifdef PR_SET_IO_FLUSHER
  if (::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0)
    log::debug("PR_SET_IO_FLUSHER was refused: errno {}", errno);
#endif
}

MountOptions mount_options(const DaemonOptions& options) {
  MountOptions mount;
  mount.mount_point = options.mount_point;
  mount.allow_other = options.allow_other;
  mount.debug = options.debug;
  mount.io_uring = options.io_uring;
  mount.threads = options.threads;
  mount.fs_name = fs_name(options.pool);
  return mount;
}

Result<> serve_mount(MountSession& session, const DaemonRecord& record, StopWatch& watch,
                     const std::function<void()>& ready) {
  VSNAP_TRY(write_record(record));
  watch.start([&session] { session.stop(); });
  ready();
  log::info("{}: mounted at {}, pid {}", record.pool, record.mount_point, record.pid);
  const auto served = session.serve();
  watch.finish();
  ::sd_notify(0, "STOPPING=1");
  return served;
}

Result<DaemonRecord> make_record(Pool& pool, const DaemonOptions& options) {
  VSNAP_TRY(prepare_runtime_dir());
  VSNAP_TRY_ASSIGN(const std::string socket, control_socket_path(options.pool));
  DaemonRecord record =
      own_record(Env::real(), options.pool, pool.status().uuid, options.mount_point, socket);
  record.first_member = options.members.front();
  return record;
}

// The record goes while the pool is still locked: the next daemon cannot have written its own yet. Should the
// process die from then on, the empty last words say so.
Result<> serve_pool(Pool& pool, const DaemonOptions& options, const DaemonRecord& record, StopWatch& watch,
                    const std::function<void()>& ready) {
  VSNAP_TRY_ASSIGN(auto server, ControlServer::start(pool, {record, [&watch] { watch.request(); }}));
  Result<> result;
  if (auto session = MountSession::mount(pool, mount_options(options))) {
    result = serve_mount(**session, record, watch, ready);
    server->stop(); // running jobs give up, and answer
    session->reset();
  } else {
    result = Failure(session.error());
    server->stop();
  }
  leave_last_words(record, false, {});
  remove_record(record);
  return result;
}

} // namespace

Result<> run_daemon(const DaemonOptions& options, const std::function<void()>& ready) {
  StopWatch watch;
  VSNAP_TRY(watch.ok());
  raise_file_limit();
  log::set_level(options.debug ? log::Level::debug : log::Level::info);
  become_io_flusher();
  ::umask(0077);
  OpenPoolOptions open;
  open.member_paths = options.members;
  open.expected_uuid = options.uuid;
  open.role = "daemon";
  open.background = true;
  open.keep_tail = true;
  open.direct = options.direct;
  if (options.cache_bytes != 0) open.cache_bytes = options.cache_bytes;
  VSNAP_TRY_ASSIGN(auto pool, Pool::open(Env::real(), std::move(open)));
  if (pool->name() != options.pool) {
    return failure(ErrorKind::failed,
                   fmt::format("{0}: expected members of this pool, found those of {1} (vsnap pool detach "
                               "{0} and vsnap pool attach MEMBER... put it right)",
                               options.pool, pool->name()));
  }
  VSNAP_TRY_ASSIGN(const DaemonRecord record, make_record(*pool, options));
  const auto served = serve_pool(*pool, options, record, watch, ready);
  const auto closed = pool->close();
  if (closed) {
    take_back_last_words(record);
  } else {
    log::error("{}: closing the pool: {}", options.pool, closed.error().message);
    leave_last_words(record, closed.error().kind == ErrorKind::no_space, closed.error().message);
  }
  VSNAP_TRY(served);
  return closed;
}

} // namespace vsnap::cli
