// Requests become the right calls of a pool, and errors the right messages.
#include <functional>

#include "sync/control_handler.h"
#include "tests/support/catch.h"
#include "tests/support/model_pool.h"
#include "tests/sync/slow_pool.h"

namespace vsnap {
namespace {

class Recorder final : public ControlSink {
 public:
  bool progress(std::uint64_t, std::uint64_t) override { return go_on; }
  bool diff(std::span<const DiffRange> some) override {
    ranges.insert(ranges.end(), some.begin(), some.end());
    ++batches;
    return go_on;
  }
  std::vector<DiffRange> ranges;
  int batches = 0;
  bool go_on = true;
};

struct Fixture {
  std::unique_ptr<ModelPool> pool = ModelPool::make("lab");
  Recorder recorder;

  wire::ControlReply ask(const std::function<void(wire::ControlRequest&)>& fill) {
    wire::ControlRequest request;
    request.set_version(wire::kProtocolVersion);
    fill(request);
    return execute(*pool, request, recorder);
  }
  Error refused(const std::function<void(wire::ControlRequest&)>& fill) {
    const auto reply = ask(fill);
    REQUIRE(reply.has_error());
    return wire::from_wire(reply.error());
  }
  void volume(const std::string& name, std::uint64_t size_bytes = 1 << 20) {
    REQUIRE(pool->create_volume(name, size_bytes));
  }
  void snapshot(const std::string& volume_name, const std::string& name) {
    const ViewName names[] = {{volume_name, name}};
    REQUIRE(pool->snapshot(names));
  }
  void write(const std::string& name, std::uint64_t offset, std::size_t length) {
    const auto info = pool->find({name, {}});
    REQUIRE(info);
    auto handle = pool->open_view(info->id);
    REQUIRE(handle);
    const std::vector<std::byte> data(length, std::byte{0x5a});
    REQUIRE((*handle)->write(offset, data));
  }
};

wire::ViewName name(const std::string& volume, const std::string& snapshot = {}) {
  return wire::to_wire(ViewName{volume, snapshot});
}

TEST_CASE_METHOD(Fixture, "a request of another protocol version is refused, saying both versions") {
  const Error error = refused([](auto& r) {
    r.set_version(99);
    r.mutable_list();
  });
  CHECK(error.kind == ErrorKind::failed);
  CHECK(error.message.find("99") != std::string::npos);
}

TEST_CASE_METHOD(Fixture, "a request without an operation is refused") {
  CHECK(refused([](auto&) {}).kind == ErrorKind::usage);
}

TEST_CASE_METHOD(Fixture, "operations of the daemon are refused where there is none") {
  CHECK(refused([](auto& r) { r.mutable_ping(); }).kind == ErrorKind::usage);
  CHECK(refused([](auto& r) { r.mutable_shutdown(); }).kind == ErrorKind::usage);
  CHECK(refused([](auto& r) { r.mutable_cancel(); }).kind == ErrorKind::usage);
}

TEST_CASE_METHOD(Fixture, "create makes a volume and answers with it") {
  const auto reply = ask([](auto& r) {
    r.mutable_create_volume()->set_name("vm1");
    r.mutable_create_volume()->set_size_bytes(12345);
  });
  REQUIRE(reply.has_view());
  CHECK(wire::from_wire(reply.view()).size_bytes == 12345);
  CHECK(pool->find({"vm1", {}}));
}

TEST_CASE_METHOD(Fixture, "a bad name is refused before the pool sees it") {
  for (const std::string bad : {"", ".hidden", "-x", "a/b", "..", "a\nb", "\xff", "a b"}) {
    CAPTURE(bad);
    CHECK(refused([&](auto& r) { r.mutable_create_volume()->set_name(bad); }).kind == ErrorKind::usage);
  }
  const Error error = refused([](auto& r) { r.mutable_create_volume()->set_name(std::string(64, 'a')); });
  CHECK(error.errno_value == ENAMETOOLONG);
}

TEST_CASE_METHOD(Fixture, "a wrong name is answered with the nearest that exists") {
  volume("webserver");
  const Error error = refused([](auto& r) { *r.mutable_info()->mutable_name() = name("webservr"); });
  CHECK(error.kind == ErrorKind::not_found);
  CHECK(error.message == "lab/webservr: no such volume (did you mean lab/webserver?)");
}

TEST_CASE("who needs no figures has no space of snapshots counted") {
  test::SlowPool pool;
  REQUIRE(pool.create_volume("vm1", 4096));
  Recorder recorder;
  wire::ControlRequest list;
  list.set_version(wire::kProtocolVersion);
  wire::ControlRequest info = list;
  for (const bool without : {false, true}) {
    CAPTURE(without);
    pool.counts = 0;
    list.mutable_list()->set_without_figures(without);
    CHECK(execute(pool, list, recorder).views().views_size() == 1);
    CHECK(pool.counts == (without ? 0 : 1));
    *info.mutable_info()->mutable_name() = name("vm1");
    info.mutable_info()->set_without_figures(without);
    CHECK(execute(pool, info, recorder).has_view());
    CHECK(pool.counts == (without ? 0 : 2));
  }
}

TEST_CASE_METHOD(Fixture, "where no name is near, the error says how to list them") {
  const Error error = refused([](auto& r) { *r.mutable_info()->mutable_name() = name("vm1", "monday"); });
  CHECK(error.message == "lab/vm1@monday: no such snapshot (vsnap ls lab lists them)");
}

TEST_CASE_METHOD(Fixture, "snapshot takes several, all or none") {
  volume("a");
  const auto both = [](wire::ControlRequest& r, const std::string& second) {
    *r.mutable_snapshot()->add_names() = name("a", "s");
    *r.mutable_snapshot()->add_names() = name(second, "s");
  };
  CHECK(refused([&](auto& r) { both(r, "missing"); }).kind == ErrorKind::not_found);
  CHECK_FALSE(pool->find({"a", "s"}));
  volume("b");
  CHECK(ask([&](auto& r) { both(r, "b"); }).has_done());
  CHECK(pool->find({"a", "s"}));
  CHECK(pool->find({"b", "s"}));
  CHECK(refused([](auto& r) { *r.mutable_snapshot()->add_names() = name("a"); }).kind == ErrorKind::usage);
}

TEST_CASE_METHOD(Fixture, "what holds writes is answered with the pause, and nothing else is") {
  volume("v");
  CHECK(ask([](auto& r) { *r.mutable_snapshot()->add_names() = name("v", "s"); }).has_pause());
  CHECK(ask([](auto& r) { *r.mutable_refresh()->mutable_name() = name("v", "s"); }).has_pause());
  CHECK(ask([](auto& r) { *r.mutable_rollback()->mutable_to() = name("v", "s"); }).has_pause());
  CHECK_FALSE(ask([](auto& r) {
                *r.mutable_rollback()->mutable_to() = name("v", "s");
                r.mutable_rollback()->set_dry_run(true);
              }).has_pause());
  CHECK_FALSE(ask([](auto& r) { r.mutable_list(); }).has_pause());
  const auto failed = ask([](auto& r) { *r.mutable_snapshot()->add_names() = name("v", "s"); });
  CHECK(failed.has_error());
  CHECK_FALSE(failed.has_pause());
}

TEST_CASE_METHOD(Fixture, "the level of a snapshot is raised by its number, and shown") {
  volume("a");
  CHECK(ask([](auto& r) { *r.mutable_snapshot()->add_names() = name("a", "s"); }).has_done());
  const auto shown = [&] { return ask([](auto& r) { *r.mutable_info()->mutable_name() = name("a", "s"); }); };
  CHECK(shown().view().level() == wire::LEVEL_CRASH);
  const auto raise = [&](std::uint64_t id) {
    return [id](wire::ControlRequest& r) {
      wire::LevelRaise& one = *r.mutable_raise_levels()->add_raises();
      one.set_id(id);
      one.set_to(wire::LEVEL_FS);
    };
  };
  CHECK(ask(raise(pool->find({"a", "s"})->id.value())).has_done());
  CHECK(shown().view().level() == wire::LEVEL_FS);
  CHECK(refused(raise(pool->find({"a", {}})->id.value())).kind == ErrorKind::usage);
}

TEST_CASE_METHOD(Fixture, "resize refuses to shrink unless told to, and a dry run says what would be lost") {
  volume("a", 1 << 20);
  write("a", 0, 8192);
  write("a", 512 * 1024, 4096);
  const auto to_64k = [](wire::ControlRequest& r) {
    r.mutable_resize()->set_volume("a");
    r.mutable_resize()->set_size_bytes(64 * 1024);
  };
  CHECK(refused(to_64k).message.find("--shrink") != std::string::npos);
  const auto dry = ask([&](auto& r) {
    to_64k(r);
    r.mutable_resize()->set_allow_shrink(true);
    r.mutable_resize()->set_dry_run(true);
  });
  REQUIRE(dry.has_resize());
  CHECK(dry.resize().cut_bytes() == 4096);
  CHECK(pool->find({"a", {}})->size_bytes == 1 << 20);
  CHECK(ask([&](auto& r) {
          to_64k(r);
          r.mutable_resize()->set_allow_shrink(true);
        }).has_resize());
  CHECK(pool->find({"a", {}})->size_bytes == 64 * 1024);
}

TEST_CASE_METHOD(Fixture, "rollback, clone, flatten and remove do what they say") {
  volume("a");
  snapshot("a", "s");
  const auto rolled = ask([](auto& r) { *r.mutable_rollback()->mutable_to() = name("a", "s"); });
  REQUIRE(rolled.has_rollback());
  CHECK(rolled.rollback().has_kept());
  CHECK(refused([](auto& r) { *r.mutable_rollback()->mutable_to() = name("a"); }).kind == ErrorKind::usage);

  CHECK(ask([](auto& r) {
          *r.mutable_clone()->mutable_from() = name("a", "s");
          r.mutable_clone()->set_new_volume("c");
        }).has_view());
  CHECK(ask([](auto& r) { r.mutable_flatten()->set_volume("c"); }).has_done());
  CHECK(refused([](auto& r) {
          *r.mutable_clone()->mutable_from() = name("a");
          r.mutable_clone()->set_new_volume("d");
        }).kind == ErrorKind::usage);

  const auto dry = ask([](auto& r) {
    *r.mutable_remove()->add_names() = name("a");
    r.mutable_remove()->set_recursive(true);
    r.mutable_remove()->set_dry_run(true);
  });
  REQUIRE(dry.has_removal());
  CHECK(dry.removal().removed_size() == 3); // a, a@s and a@before-rollback-1
  CHECK(pool->find({"a", {}}));
  CHECK(refused([](auto& r) { *r.mutable_remove()->add_names() = name("a"); }).kind == ErrorKind::busy);
  CHECK(ask([](auto& r) { *r.mutable_remove()->add_names() = name("c"); }).has_removal());
  CHECK_FALSE(pool->find({"c", {}}));
  CHECK(refused([](auto& r) { r.mutable_remove(); }).kind == ErrorKind::usage);
}

TEST_CASE_METHOD(Fixture, "full-sized snapshots are taken, changed, waited for, refreshed and split off") {
  volume("v");
  write("v", 0, 4096);
  const auto taken = ask([](auto& r) {
    *r.mutable_snapshot_full()->mutable_name() = name("v", "f");
    r.mutable_snapshot_full()->set_bytes_per_second(1 << 20);
  });
  CHECK(wire::from_wire(taken.view()).form == ViewForm::full);
  const auto paused = ask([](auto& r) {
    *r.mutable_set_copy()->mutable_name() = name("v", "f");
    r.mutable_set_copy()->set_paused(true);
  });
  CHECK(wire::from_wire(paused.view()).state == "copying 0 %, paused");
  CHECK(refused([](auto& r) { *r.mutable_wait_copy()->mutable_name() = name("v", "f"); }).kind ==
        ErrorKind::failed);
  REQUIRE(ask([](auto& r) {
            *r.mutable_set_copy()->mutable_name() = name("v", "f");
            r.mutable_set_copy()->set_paused(false);
          }).has_view());
  CHECK(ask([](auto& r) { *r.mutable_wait_copy()->mutable_name() = name("v", "f"); }).has_done());
  const auto fresh = ask([](auto& r) { *r.mutable_refresh()->mutable_name() = name("v", "f"); });
  CHECK(fresh.view().id() != taken.view().id());
  CHECK(refused([](auto& r) { *r.mutable_refresh()->mutable_name() = name("v"); }).kind == ErrorKind::usage);
  const auto split = ask([](auto& r) {
    *r.mutable_split()->mutable_from() = name("v", "f");
    r.mutable_split()->set_new_volume("w");
  });
  CHECK_FALSE(split.view().is_snapshot());
  CHECK(refused([](auto& r) { *r.mutable_refresh()->mutable_name() = name("v", "f"); }).kind ==
        ErrorKind::not_found);
}

TEST_CASE_METHOD(Fixture, "properties are set, all or none, and those asked for are listed") {
  volume("v");
  volume("w");
  const auto set = [](auto& r, const char* property, const char* value) {
    auto& setting = *r.mutable_set_properties()->add_settings();
    setting.set_name(property);
    setting.set_value(value);
    r.mutable_set_properties()->set_volume("v");
  };
  CHECK(ask([&](auto& r) {
          set(r, "snapshot-limit", "64K");
          set(r, "on-full", "pause");
        }).has_done());
  CHECK(refused([&](auto& r) {
          set(r, "on-full", "error");
          set(r, "colour", "red");
        }).kind == ErrorKind::usage);
  CHECK(refused([&](auto& r) {
          set(r, "on-full", "error");
          set(r, "on-full", "pause");
        }).kind == ErrorKind::usage);
  CHECK(refused([](auto& r) { r.mutable_set_properties()->set_volume("v"); }).kind == ErrorKind::usage);
  const auto all = ask([](auto& r) { r.mutable_get_properties(); });
  CHECK(all.properties().properties_size() == 4);
  const auto one = ask([](auto& r) {
    r.mutable_get_properties()->set_volume("v");
    r.mutable_get_properties()->add_names("on-full");
  });
  REQUIRE(one.properties().properties_size() == 1);
  CHECK(one.properties().properties(0).value() == "pause");
  CHECK(one.properties().properties(0).is_set());
  CHECK(refused([](auto& r) { r.mutable_get_properties()->add_names("colour"); }).kind == ErrorKind::usage);
  CHECK(refused([](auto& r) { r.mutable_get_properties()->set_volume("x"); }).kind == ErrorKind::not_found);
}

TEST_CASE_METHOD(Fixture, "snapshots are held and let go") {
  volume("v");
  snapshot("v", "s");
  const auto hold = [](auto& r) {
    *r.mutable_hold()->add_names() = name("v", "s");
    r.mutable_hold()->set_tag("keep");
  };
  CHECK(ask(hold).has_done());
  CHECK(refused(hold).kind == ErrorKind::failed);
  CHECK(refused([](auto& r) { *r.mutable_remove()->add_names() = name("v", "s"); }).kind == ErrorKind::busy);
  const auto release = [](auto& r) {
    *r.mutable_release_hold()->add_names() = name("v", "s");
    r.mutable_release_hold()->set_tag("keep");
  };
  CHECK(ask(release).has_done());
  CHECK(refused(release).kind == ErrorKind::failed);
  CHECK(refused([](auto& r) {
          *r.mutable_hold()->add_names() = name("v", "s");
          r.mutable_hold()->set_tag("a/b");
        }).kind == ErrorKind::usage);
  CHECK(refused([](auto& r) {
          *r.mutable_hold()->add_names() = name("v", "x");
          r.mutable_hold()->set_tag("keep");
        }).kind == ErrorKind::not_found);
}

TEST_CASE_METHOD(Fixture, "diff hands on every range, in batches, and stops when told to") {
  volume("a", 256ULL << 20);
  snapshot("a", "s");
  for (std::uint64_t i = 0; i < 5000; ++i) write("a", i * 8192, 4096);
  const auto diff = [](wire::ControlRequest& r) {
    *r.mutable_diff()->mutable_from() = name("a", "s");
    *r.mutable_diff()->mutable_to() = name("a");
  };
  CHECK(ask(diff).has_done());
  CHECK(recorder.ranges.size() == 5000);
  CHECK(recorder.batches == 2);
  recorder.go_on = false;
  CHECK(refused(diff).errno_value == ECANCELED);
}

TEST_CASE_METHOD(Fixture, "paths for the daemon must be absolute") {
  CHECK(refused([](auto& r) { r.mutable_add_member()->set_path("disk.img"); }).kind == ErrorKind::usage);
  CHECK(refused([](auto& r) { r.mutable_add_member(); }).kind == ErrorKind::usage);
  CHECK(refused([](auto& r) { r.mutable_dump_catalog()->set_path("x.db"); }).kind == ErrorKind::usage);
}

TEST_CASE_METHOD(Fixture, "status, list, df and check answer on an empty pool") {
  CHECK(ask([](auto& r) { r.mutable_status(); }).has_status());
  CHECK(ask([](auto& r) { r.mutable_list(); }).has_views());
  CHECK(ask([](auto& r) { r.mutable_disk_usage(); }).has_disk_usage());
  CHECK(ask([](auto& r) { r.mutable_check(); }).has_check());
  CHECK(ask([](auto& r) { r.mutable_wait_removals(); }).has_done());
}

TEST_CASE_METHOD(Fixture, "what is asked for again under the same id is done once, and answered as before") {
  volume("vm1");
  snapshot("vm1", "monday");
  std::uint64_t id = 0;
  const auto twice = [&](const std::function<void(wire::ControlRequest&)>& fill) {
    ++id;
    auto first = ask([&](wire::ControlRequest& request) {
      fill(request);
      request.set_id(id);
    });
    first.clear_pause(); // how long it held writes nobody knows any more
    const std::uint64_t generation = pool->status().generation;
    const auto second = ask([&](wire::ControlRequest& request) {
      fill(request);
      request.set_id(id);
      request.set_again(true);
    });
    CHECK(pool->status().generation == generation);
    INFO(second.ShortDebugString());
    CHECK(first.SerializeAsString() == second.SerializeAsString());
    CHECK_FALSE(second.has_error());
  };
  twice([](wire::ControlRequest& r) { *r.mutable_snapshot()->add_names() = name("vm1", "tuesday"); });
  twice([](wire::ControlRequest& r) { r.mutable_create_volume()->set_name("vm2"); });
  twice([](wire::ControlRequest& r) {
    *r.mutable_clone()->mutable_from() = name("vm1", "monday");
    r.mutable_clone()->set_new_volume("vm3");
  });
  twice([](wire::ControlRequest& r) {
    *r.mutable_rename()->mutable_from() = name("vm3");
    r.mutable_rename()->set_new_name("vm4");
  });
  twice([](wire::ControlRequest& r) { *r.mutable_rollback()->mutable_to() = name("vm1", "monday"); });
  twice([](wire::ControlRequest& r) { *r.mutable_rollback()->mutable_to() = name("vm1", "monday"); });
  CHECK(pool->find({"vm1", "before-rollback-2"}));
  twice([](wire::ControlRequest& r) { *r.mutable_remove()->add_names() = name("vm2"); });
  twice([](wire::ControlRequest& r) {
    r.mutable_add_member()->set_path("/b");
    r.mutable_add_member()->set_size_bytes(1 << 20);
  });
  CHECK(pool->status().members.size() == 1);
}

TEST_CASE_METHOD(Fixture, "what is asked for again and was not done is done now") {
  volume("vm1");
  const auto again = [](wire::ControlRequest& request) {
    *request.mutable_snapshot()->add_names() = name("vm1", "monday");
    request.set_id(7);
    request.set_again(true);
  };
  CHECK_FALSE(ask(again).has_error());
  CHECK(pool->find({"vm1", "monday"}));
  // Another command's snapshot of that name is not this one's.
  const auto other = refused([](wire::ControlRequest& request) {
    *request.mutable_snapshot()->add_names() = name("vm1", "monday");
    request.set_id(8);
    request.set_again(true);
  });
  CHECK(other.errno_value == EEXIST);
}

} // namespace
} // namespace vsnap
