// The pool of shared_lab.h, with what the coordinator does for hosts that read and write it, and such a host.
#pragma once

#include "core/log.h"
#include "sync/joined_pool.h"
#include "sync/view_exports.h"
#include "tests/core/refusal.h"
#include "tests/sync/shared_lab.h"

namespace vsnap::test {

inline constexpr std::uint64_t kBlocks = 64;

struct ExportLab : SharedLab {
  std::unique_ptr<ViewExports> exports;
  KeyPair beta;
  std::atomic<std::uint64_t> changes{0}; // that hosts have asked for: of data
  std::atomic<std::uint64_t> grants{0};  // of space, that hosts have got
  std::atomic<std::uint64_t> commits{0};

  explicit ExportLab(bool direct = false) {
    vsnap::log::set_level(vsnap::log::Level::off);
    coordinator.reset();
    pool.reset();
    OpenPoolOptions options;
    options.keep_tail = true;
    options.direct = direct;
    open(options);
    create("v", kMiB);
    fill(1);
    REQUIRE(snapshot("v@s").has_value());
    share();
    beta = joined("beta");
  }
  ~ExportLab() { stop_sharing(); }
  void stop_sharing() {
    if (exports) exports->set_coordinator(nullptr);
    coordinator.reset();
  }
  void share() {
    stop_sharing();
    exports.reset();
    auto made = ViewExports::start(*pool, Env::real(), lease_ns);
    REQUIRE(made.has_value());
    exports = std::move(*made);
    const auto serve = [this](const HostInfo& host, const wire::LinkRequest& request) {
      wire::LinkReply reply = exports->serve(host, request);
      if (request.has_write()) ++changes;
      if (reply.granted_space().places_size() > 0) ++grants;
      if (request.has_commit_blocks() && !reply.has_error()) ++commits;
      return reply;
    };
    auto started = Coordinator::start(*pool, Env::real(),
                                      {address, server_key, lease_ns, true, serve, {}, exports.get()});
    REQUIRE(started.has_value());
    coordinator = std::move(*started);
    exports->set_coordinator(coordinator.get());
  }
  void fill(std::uint8_t stamp) {
    REQUIRE(view("v")->write(0, block_of(stamp, kBlocks * kBlockBytes)).has_value());
  }
  std::unique_ptr<JoinedPool> join(std::vector<std::string> only = {}) {
    JoinedPool::Options options;
    options.link = {"lab", pool->status().uuid, address, server_key.public_key, beta};
    options.members = paths;
    options.only = std::move(only);
    auto opened = JoinedPool::open(env, std::move(options));
    INFO((opened ? "" : opened.error().message));
    REQUIRE(opened.has_value());
    return std::move(*opened);
  }
  std::uint32_t handles(const std::string& name) { return pool->find(*parse_view_name(name))->open_handles; }
};

inline ViewHandle open(JoinedPool& pool, const std::string& name) {
  const auto info = pool.find(*parse_view_name(name));
  REQUIRE(info.has_value());
  auto handle = pool.open_view(info->id);
  INFO((handle ? "" : handle.error().message));
  REQUIRE(handle.has_value());
  return std::move(*handle);
}

} // namespace vsnap::test
