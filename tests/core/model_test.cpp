// The engine against a model: random operations on both, and everything a user can see must be the same. Seed
// and length: VSNAP_TEST_SEED, VSNAP_MODEL_OPERATIONS (100,000 in the normal run).
#include <fmt/format.h>
#include <cstdlib>
#include <cstring>
#include <random>

#include "core/pool.h"
#include "tests/support/catch.h"
#include "tests/support/memory_env.h"
#include "tests/support/model_pool.h"
#include "tests/support/seed.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kMiB = 1ULL << 20;
constexpr std::size_t kMaxVolumes = 6;
constexpr std::size_t kMaxSnapshots = 5;

std::uint64_t number_from(const char* name, std::uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

class Duel {
 public:
  explicit Duel(std::uint64_t seed) : random_(seed), env_(seed) {
    CreatePoolOptions create{.name = "lab", .members = {{"/a", 256 * kMiB}, {"/b", 256 * kMiB}}};
    REQUIRE(Pool::create(env_, create).has_value());
    model_ = ModelPool::make("lab");
    model_->set_images([this](const std::string& path) { return image(path); });
    for (std::uint64_t i = 0; i < 3; ++i) {
      free_images_.push_back("/image" + std::to_string(i));
      auto made = env_.open_file(free_images_.back(), {.create = true});
      REQUIRE(made.has_value());
      REQUIRE((*made)->resize(i * i * 8 * kMiB + 300'000 + i).has_value());
    }
    open();
  }

  void run(std::uint64_t operations) {
    for (std::uint64_t i = 0; i < operations; ++i) {
      INFO("operation " << i);
      step();
      if (std::getenv("VSNAP_MODEL_TRACE") != nullptr)
        std::printf("%llu: %s\n", static_cast<unsigned long long>(i), what_.c_str());
      INFO(what_);
      follow_drops();
      compare_lists();
      if (i % 500 == 499) compare_all();
    }
    compare_all();
  }

 private:
  std::uint64_t below(std::uint64_t limit) { return random_() % limit; }

  void open() {
    // Of the regions of all views some 20 fit, or fewer with leaves.
    auto opened = Pool::open(env_, {.member_paths = {"/a", "/b"}, .cache_bytes = 100'000, .keep_tail = true});
    if (!opened) FAIL(opened.error().message);
    real_ = std::move(*opened);
  }

  void reopen() {
    let_go();
    REQUIRE(real_->close().has_value());
    real_.reset();
    open();
  }

  void power_cut() {
    REQUIRE(real_->sync().has_value());
    env_.power_cut(random_());
    let_go();
    real_.reset(); // what it still says reaches nobody
    open();
  }

  // By up to a day, or by up to ten years at each look until the next jump; but not while an image is
  // adopted, whose times would say that it was changed by others.
  void jump_clock() {
    constexpr std::int64_t kDayNs = 86'400LL * 1'000'000'000;
    env_.jump_wall_clock(static_cast<std::int64_t>(below(2 * kDayNs)) - kDayNs);
    const auto volumes = of_kind(ViewKind::volume);
    const bool any_adopted = std::any_of(volumes.begin(), volumes.end(), [](const ViewInfo& volume) {
      return volume.form == ViewForm::adopted;
    });
    env_.wild_wall_clock(!any_adopted && below(2) == 0);
  }

  void kill() {
    env_.kill();
    let_go();
    real_.reset();
    open();
  }

  // The old handles of preserved images.
  void let_go() {
    held_.clear();
    model_->finish_preserved();
  }

  std::vector<ViewInfo> of_kind(ViewKind kind) {
    std::vector<ViewInfo> found;
    for (ViewInfo& info : model_->list()) {
      if (info.kind == kind) found.push_back(std::move(info));
    }
    return found;
  }
  std::optional<ViewInfo> any(ViewKind kind) {
    const auto found = of_kind(kind);
    if (found.empty()) return std::nullopt;
    return found[below(found.size())];
  }

  // Offsets near the start, and on both sides of the borders of regions.
  std::uint64_t offset() {
    static constexpr std::uint64_t kBases[] = {0, 0, 0, 32 * kMiB - 64 * 1024, 64 * kMiB - 32 * 1024};
    const std::uint64_t base = kBases[below(std::size(kBases))];
    const std::uint64_t block = below(32) * 4096;
    return base + (below(3) == 0 ? block + below(8) * 512 : below(8) == 0 ? block + below(4096) : block);
  }
  std::uint64_t length() {
    switch (below(4)) {
      case 0:
        return (1 + below(8)) * 512;
      case 1:
        return 1 + below(20000);
      default:
        return (1 + below(16)) * 4096;
    }
  }
  std::string volume_name() { return "v" + std::to_string(below(8)); }
  std::string snapshot_name() { return "s" + std::to_string(below(8)); }

  template <class A, class B>
  bool same(const A& real, const B& model) {
    INFO("real: " << (real ? "ok" : real.error().message)
                  << "; model: " << (model ? "ok" : model.error().message));
    REQUIRE(real.has_value() == model.has_value());
    if (!real) REQUIRE(exit_code(real.error().kind) == exit_code(model.error().kind));
    return real.has_value();
  }

  void step() {
    const std::uint64_t dice = below(1000);
    what_ = "operation of kind " + std::to_string(dice);
    if (dice < 480)
      io(0);
    else if (dice < 600)
      io(1);
    else if (dice < 630)
      io(2);
    else if (dice < 650)
      copy_some();
    else if (dice < 654)
      split();
    else if (dice < 760)
      read_somewhere();
    else if (dice < 794)
      create();
    else if (dice < 800)
      adopt_or_release();
    else if (dice < 840)
      snapshot();
    else if (dice < 845)
      snapshot_full();
    else if (dice < 850)
      refresh();
    else if (dice < 870)
      clone();
    else if (dice < 890)
      rollback();
    else if (dice < 897)
      flatten();
    else if (dice < 899)
      preserve();
    else if (dice < 905)
      raise_level();
    else if (dice < 920)
      resize();
    else if (dice < 930)
      rename();
    else if (dice < 965)
      remove();
    else if (dice < 980)
      seek();
    else if (dice < 985)
      diff();
    else if (dice < 987)
      hold_or_release();
    else if (dice < 988)
      set_limit();
    else if (dice < 992)
      fsync();
    else if (dice < 994)
      jump_clock();
    else if (dice < 996)
      reopen();
    else if (dice < 998)
      kill();
    else
      power_cut();
  }

  struct Both {
    ViewHandle real, model;
  };
  Both open_both(const ViewInfo& info) {
    auto found = real_->find(info.name);
    REQUIRE(found.has_value());
    auto real = real_->open_view(found->id);
    auto model = model_->open_view(info.id);
    INFO((real ? "" : real.error().message));
    REQUIRE(real.has_value());
    REQUIRE(model.has_value());
    return {std::move(*real), std::move(*model)};
  }

  void io(int what) {
    const auto volume = any(below(20) == 0 ? ViewKind::snapshot : ViewKind::volume);
    if (!volume) return;
    Both opened = open_both(*volume);
    Both& view = !held_.empty() && below(3) == 0 ? held_[below(held_.size())] : opened;
    const std::uint64_t at = offset();
    const auto written = model_->info(view.model->id());
    const bool whole = what == 1 && below(10) == 0 && written->form != ViewForm::adopted;
    const std::uint64_t size = whole ? 40 * kMiB : length();
    what_ = fmt::format("io {} {}{} at {} length {} (used {} of {})", what, written->name.text(),
                        &view == &opened ? "" : " (old handle)", at, size, written->used_bytes,
                        written->size_bytes);
    INFO(what_);
    if (what == 0) {
      std::vector<std::byte> data(size);
      const std::uint64_t stamp = random_();
      for (std::size_t i = 0; i < data.size(); ++i)
        data[i] = static_cast<std::byte>((stamp >> (8 * (i % 8))) + i / 512);
      const auto real = view.real->write(at, data);
      if (!real && real.error().message.find("snapshots use all of their") != std::string::npos)
        take_over(view, at, data);
      else
        same(real, view.model->write(at, data));
    } else if (what == 1) {
      same(view.real->discard(at, size), view.model->discard(at, size));
    } else {
      const bool extend = below(2) == 0;
      same(view.real->reserve(at, size, extend), view.model->reserve(at, size, extend));
    }
    REQUIRE(view.real->size_bytes() == view.model->size_bytes());
  }

  // A write that found no room for all of what snapshots keep went some way.
  void take_over(Both& view, std::uint64_t at, const std::vector<std::byte>& data) {
    REQUIRE(real_->info(view.real->id())->snapshot_space.has_value());
    const std::uint64_t end = std::min(at + data.size(), view.real->size_bytes());
    for (std::uint64_t from = at; from < end;) {
      const std::uint64_t to = std::min(end, (from / kBlockBytes + 1) * kBlockBytes);
      const auto part = std::span(data).subspan(from - at, to - from);
      std::vector<std::byte> found(part.size());
      REQUIRE(view.real->read(from, found).has_value());
      if (std::equal(found.begin(), found.end(), part.begin()))
        REQUIRE(view.model->write(from, part).has_value());
      from = to;
    }
  }

  // Snapshots that were dropped for a limit: where that is asked for, and none that must stay.
  void follow_drops() {
    for (const ViewInfo& snapshot : of_kind(ViewKind::snapshot)) {
      if (real_->find(snapshot.name)) continue;
      INFO(snapshot.name.text() << " was dropped");
      const auto volume = real_->find({snapshot.name.volume, {}});
      REQUIRE(volume.has_value());
      REQUIRE(volume->snapshot_space.has_value());
      REQUIRE(volume->snapshot_space->on_full == OnFull::drop_oldest);
      REQUIRE(model_->remove(std::span(&snapshot.name, 1), {}).has_value());
      const auto left = of_kind(ViewKind::snapshot);
      REQUIRE(std::any_of(left.begin(), left.end(),
                          [&](const ViewInfo& other) { return other.name.volume == snapshot.name.volume; }));
    }
  }

  void hold_or_release() {
    const auto snapshot = any(ViewKind::snapshot);
    if (!snapshot) return;
    const std::string tag = "t" + std::to_string(below(2));
    const auto names = std::span(&snapshot->name, 1);
    const bool release = below(3) != 0;
    what_ = fmt::format("{} {} {}", release ? "release-hold" : "hold", snapshot->name.text(), tag);
    INFO(what_);
    if (release)
      same(real_->release_hold(names, tag), model_->release_hold(names, tag));
    else
      same(real_->hold(names, tag), model_->hold(names, tag));
  }

  // Of an adopted volume what is saved for a write that is refused then makes a difference, to a diff.
  void set_limit() {
    const auto volume = any(ViewKind::volume);
    if (!volume || volume->form == ViewForm::adopted) return;
    const std::string limit = below(3) == 0 ? "none" : std::to_string((1 + below(300)) * kBlockBytes);
    const char* const on_full = below(2) == 0 ? "error" : "drop-oldest";
    what_ = fmt::format("set {} snapshot-limit={} on-full={}", volume->name.text(), limit, on_full);
    INFO(what_);
    REQUIRE(real_->set_properties(volume->name.volume, {{"snapshot-limit", limit}, {"on-full", on_full}})
                .has_value());
  }

  void read_somewhere() {
    const auto info = any(below(2) == 0 ? ViewKind::snapshot : ViewKind::volume);
    if (!info) return;
    Both view = open_both(*info);
    compare_range(view, offset(), length());
  }

  void compare_range(Both& view, std::uint64_t at, std::uint64_t size) {
    std::vector<std::byte> real(size);
    std::vector<std::byte> model(size);
    const auto got = view.real->read(at, real);
    const auto expected = view.model->read(at, model);
    REQUIRE(got.has_value());
    REQUIRE(*got == *expected);
    INFO("at " << at << " size " << size);
    REQUIRE(std::memcmp(real.data(), model.data(), *got) == 0);
  }

  void create() {
    if (of_kind(ViewKind::volume).size() >= kMaxVolumes) return;
    const std::string name = volume_name();
    const std::uint64_t size = below(80 * kMiB);
    same(real_->create_volume(name, size), model_->create_volume(name, size));
  }

  void snapshot() {
    std::vector<ViewName> names;
    for (const ViewInfo& volume : of_kind(ViewKind::volume)) {
      const auto snapshots = of_kind(ViewKind::snapshot);
      const auto count = std::count_if(snapshots.begin(), snapshots.end(), [&](const ViewInfo& s) {
        return s.name.volume == volume.name.volume;
      });
      if (static_cast<std::size_t>(count) < kMaxSnapshots && below(2) == 0)
        names.push_back({volume.name.volume, snapshot_name()});
    }
    if (names.empty()) return;
    const auto real = real_->snapshot(names);
    follow_drops();
    if (!real && real.error().message.find("snapshots use all of their") != std::string::npos) return;
    same(real, model_->snapshot(names));
  }

  void snapshot_full() {
    const auto volume = any(ViewKind::volume);
    if (!volume || of_kind(ViewKind::snapshot).size() >= kMaxVolumes * kMaxSnapshots) return;
    const ViewName name{volume->name.volume, snapshot_name()};
    what_ = "snapshot --full " + name.text();
    Pool::FullSnapshotOptions options;
    if (below(3) == 0) options.members.push_back(std::to_string(below(2)));
    same(real_->snapshot_full(name, options), model_->snapshot_full(name, options));
  }

  // Some pieces of a copy, or all.
  void copy_some() {
    std::vector<ViewName> copying;
    for (const ViewInfo& view : model_->list()) {
      if (view.state.starts_with("copying")) copying.push_back(view.name);
    }
    if (copying.empty()) return;
    const ViewName name = copying[below(copying.size())];
    what_ = "copy " + name.text();
    INFO(what_);
    std::uint64_t pieces = below(4) == 0 ? 1000 : below(4);
    const auto real = real_->wait_for_copy(name, [&](std::uint64_t, std::uint64_t) { return pieces-- != 0; });
    if (!real) REQUIRE(real.error().errno_value == ECANCELED);
    if (real) REQUIRE(model_->wait_for_copy(name, {}).has_value());
  }

  void split() {
    const auto snapshot = any(ViewKind::snapshot);
    if (!snapshot || of_kind(ViewKind::volume).size() >= kMaxVolumes) return;
    const std::string name = volume_name();
    what_ = "split " + snapshot->name.text() + " " + name;
    same(real_->split(snapshot->name, name), model_->split(snapshot->name, name));
  }

  void refresh() {
    const auto snapshot = any(ViewKind::snapshot);
    if (!snapshot) return;
    what_ = "refresh " + snapshot->name.text();
    const auto before = real_->find(snapshot->name);
    const auto real = real_->refresh(snapshot->name);
    if (same(real, model_->refresh(snapshot->name))) REQUIRE(real->id != before->id);
  }

  // While one is made, a sweep of its branch waits.
  bool copies_are_made() {
    const auto views = real_->list();
    return std::any_of(views.begin(), views.end(),
                       [](const ViewInfo& view) { return view.state.starts_with("copying"); });
  }

  void clone() {
    const auto origin = any(ViewKind::snapshot);
    if (!origin || of_kind(ViewKind::volume).size() >= kMaxVolumes) return;
    const std::string name = volume_name();
    same(real_->clone(origin->name, name), model_->clone(origin->name, name));
  }

  void rollback() {
    const auto target = any(ViewKind::snapshot);
    if (!target) return;
    const bool discard = below(2) == 0;
    what_ = fmt::format("rollback {} discard {}", target->name.text(), discard);
    INFO(what_);
    const auto real = real_->rollback(target->name, discard, false);
    const auto model = model_->rollback(target->name, discard, false);
    if (same(real, model)) REQUIRE(real->kept == model->kept);
  }

  void flatten() {
    const auto volume = any(ViewKind::volume);
    if (!volume || !volume->origin) return;
    what_ = "flatten " + volume->name.text();
    INFO(what_);
    same(real_->flatten(volume->name.volume, {}), model_->flatten(volume->name.volume, {}));
  }

  void preserve() {
    const auto volume = any(ViewKind::volume);
    if (!volume || volume->form == ViewForm::adopted || held_.size() >= 4) return;
    for (std::uint64_t handles = below(3); handles > 0; --handles) held_.push_back(open_both(*volume));
    const ViewName name{volume->name.volume, snapshot_name()};
    what_ = fmt::format("preserve {}, {} old handles", name.text(), volume->open_handles);
    INFO(what_);
    same(real_->preserve(name), model_->preserve(name));
  }

  void raise_level() {
    const auto view = any(below(8) == 0 ? ViewKind::volume : ViewKind::snapshot);
    if (!view) return;
    const auto real = real_->find(view->name);
    REQUIRE(real.has_value());
    const auto level = static_cast<SnapshotLevel>(below(3));
    what_ = fmt::format("level {} {}", view->name.text(), to_string(level));
    INFO(what_);
    const LevelRaise for_real[] = {{real->id, level}, {ObjectId(1ULL << 40), level}};
    const LevelRaise for_model[] = {{view->id, level}};
    same(real_->raise_levels(for_real), model_->raise_levels(for_model));
  }

  void resize() {
    if (!held_.empty() && below(3) == 0) { // through an old handle
      const Both& view = held_[below(held_.size())];
      const std::uint64_t size = offset();
      what_ = fmt::format("resize {} to {}", view.model->id().value(), size);
      INFO(what_);
      same(real_->resize(view.real->id(), size, true), model_->resize(view.model->id(), size, true));
      return;
    }
    const auto volume = any(ViewKind::volume);
    if (!volume) return;
    const bool adopted = volume->form == ViewForm::adopted;
    const std::uint64_t size = adopted         ? volume->size_bytes - 1000 + below(kMiB)
                               : below(3) == 0 ? offset()
                                               : below(80 * kMiB);
    const bool shrink = below(3) != 0;
    what_ = fmt::format("resize {} from {} to {}", volume->name.text(), volume->size_bytes, size);
    INFO(what_);
    same(real_->resize(volume->name.volume, size, shrink), model_->resize(volume->name.volume, size, shrink));
  }

  void rename() {
    const auto object = any(below(2) == 0 ? ViewKind::snapshot : ViewKind::volume);
    if (!object) return;
    const std::string name = object->kind == ViewKind::volume ? volume_name() : snapshot_name();
    same(real_->rename(object->name, name), model_->rename(object->name, name));
  }

  // What the plan promises is what it frees.
  void remove() {
    const auto object = any(below(4) != 0 ? ViewKind::snapshot : ViewKind::volume);
    if (!object) return;
    const bool recursive = below(3) == 0;
    what_ = fmt::format("remove {} recursive {}", object->name.text(), recursive);
    INFO(what_);
    const bool counts = below(3) != 0;
    if (counts) REQUIRE(real_->disk_usage().has_value()); // a commit: what writes have let be due, goes now
    REQUIRE(real_->wait_for_removals({}).has_value());
    const auto usage = real_->disk_usage();
    REQUIRE(usage.has_value());
    const bool sweeps_wait = copies_are_made();
    if (!sweeps_wait) REQUIRE(usage->space.freeing_bytes == 0);
    const std::uint64_t before = real_->space().data_bytes;
    const ViewName name = object->name;
    const std::string image_path = object->base;
    const std::vector<std::byte> held = image_path.empty() ? std::vector<std::byte>() : content_of(*object);
    const auto real = real_->remove(std::span(&name, 1), {.recursive = recursive, .count_frees = true});
    if (!real && real.error().message.find("a clone reads its image") != std::string::npos) return;
    const auto model = model_->remove(std::span(&name, 1), {.recursive = recursive});
    if (!same(real, model)) return;
    if (!image_path.empty()) given_back(image_path, held);
    if (!recursive || object->kind == ViewKind::snapshot) {
      for (const UsageRow& row : usage->rows) {
        if (row.view.name == name) REQUIRE(row.frees_bytes <= real->frees_bytes); // see UsageRow
      }
    }
    if (!counts || sweeps_wait) return; // sweeps that wait for others
    REQUIRE(real_->wait_for_removals({}).has_value());
    REQUIRE(before - real_->space().data_bytes == real->frees_bytes);
  }

  void seek() {
    const auto info = any(below(2) == 0 ? ViewKind::snapshot : ViewKind::volume);
    if (!info) return;
    Both view = open_both(*info);
    const std::uint64_t at = offset();
    INFO(info->name.text() << " from " << at);
    const std::uint64_t end = view.real->size_bytes();
    const auto data = *view.real->seek_data(at);
    const auto model_data = *view.model->seek_data(at);
    const auto hole = *view.real->seek_hole(at);
    const auto model_hole = *view.model->seek_hole(at);
    // What was saved out of an image, or copied from one, may be known to be zeros.
    REQUIRE(data.value_or(end) >= model_data.value_or(end));
    if (data != model_data) require_zeros(*view.real, *model_data, data.value_or(end));
    REQUIRE(hole.has_value() == model_hole.has_value());
    if (hole == model_hole) return;
    REQUIRE(*hole < *model_hole);
    require_zeros(*view.real, *hole, std::min(*model_hole, (*hole / kBlockBytes + 1) * kBlockBytes));
  }

  static void require_zeros(View& view, std::uint64_t from, std::uint64_t to) {
    std::vector<std::byte> content(to - from);
    REQUIRE(*view.read(from, content) == content.size());
    REQUIRE(std::all_of(content.begin(), content.end(), [](std::byte b) { return b == std::byte{0}; }));
  }

  // Applying the ranges to the old view gives the new one.
  void diff() {
    const auto to = any(below(2) == 0 ? ViewKind::snapshot : ViewKind::volume);
    const auto from = any(ViewKind::snapshot);
    if (!to || !from) return;
    std::vector<DiffRange> ranges;
    const auto keep = [&](const DiffRange& r) {
      ranges.push_back(r);
      return true;
    };
    const auto real = real_->diff(from->name, to->name, keep);
    if (!real) return;
    Both a = open_both(*from);
    Both b = open_both(*to);
    for (int i = 0; i < 8; ++i) {
      const std::uint64_t at = offset() / 4096 * 4096;
      std::vector<std::byte> old_block(4096);
      std::vector<std::byte> new_block(4096);
      REQUIRE(a.real->read(at, old_block).has_value());
      REQUIRE(b.real->read(at, new_block).has_value());
      if (at + 4096 > b.real->size_bytes()) continue;
      const bool listed = std::any_of(ranges.begin(), ranges.end(), [&](const DiffRange& r) {
        return r.offset <= at && at < r.offset + r.length;
      });
      INFO(from->name.text() << " to " << to->name.text() << " at " << at);
      if (!listed) REQUIRE(std::memcmp(old_block.data(), new_block.data(), 4096) == 0);
    }
  }

  std::vector<std::byte> image(const std::string& path) {
    SparseBytes& bytes = env_.bytes_of(path);
    return {bytes.begin(), bytes.end()};
  }

  std::vector<std::byte> content_of(const ViewInfo& info) { // as the model has it
    auto view = model_->open_view(info.id);
    REQUIRE(view.has_value());
    std::vector<std::byte> content(info.size_bytes);
    REQUIRE(*(*view)->read(0, content) == content.size());
    return content;
  }

  void given_back(const std::string& path, const std::vector<std::byte>& held) {
    REQUIRE(image(path) == held);
    free_images_.push_back(path);
  }

  void adopt_or_release() {
    const bool adopts = !free_images_.empty() && below(2) == 0;
    if (adopts && of_kind(ViewKind::volume).size() < kMaxVolumes) {
      const AdoptOptions options{.path = free_images_.back(), .volume = volume_name()};
      what_ = "adopt " + options.volume;
      env_.wild_wall_clock(false);
      if (same(real_->adopt(options), model_->adopt(options))) free_images_.pop_back();
      return;
    }
    const auto volume = any(ViewKind::volume);
    if (!volume) return;
    const bool keeps = below(2) == 0;
    what_ = fmt::format("release {} keep {}", volume->name.text(), keeps);
    INFO(what_);
    if (keeps && volume->form == ViewForm::adopted) {
      const ViewName newest{volume->name.volume, "newest"};
      if (!same(real_->snapshot(std::span(&newest, 1)), model_->snapshot(std::span(&newest, 1)))) return;
    }
    const std::vector<std::byte> held = content_of(*volume);
    const auto real = real_->release(volume->name.volume, {.keep_snapshots = keeps}, {});
    if (!real && (real.error().message.find("a clone reads its image") != std::string::npos ||
                  real.error().kind == ErrorKind::no_space))
      return;
    if (same(real, model_->release(volume->name.volume, {.keep_snapshots = keeps}, {})))
      given_back(volume->base, held);
  }

  void fsync() {
    const auto volume = any(ViewKind::volume);
    if (!volume) return;
    Both view = open_both(*volume);
    REQUIRE(view.real->fsync().has_value());
  }

  // Snapshots are listed by their time, and clocks jump.
  static std::vector<ViewInfo> by_name(std::vector<ViewInfo> views) {
    std::sort(views.begin(), views.end(),
              [](const ViewInfo& a, const ViewInfo& b) { return a.name.text() < b.name.text(); });
    return views;
  }

  static bool is_under_way(const ViewInfo& view) {
    return view.state.starts_with("copying") || view.state.starts_with("draining");
  }

  void compare_lists() {
    const auto real = by_name(real_->list());
    const auto model = by_name(model_->list());
    REQUIRE(real.size() == model.size());
    for (std::size_t i = 0; i < real.size(); ++i) {
      INFO(model[i].name.text());
      REQUIRE(real[i].name == model[i].name);
      REQUIRE(real[i].size_bytes == model[i].size_bytes);
      REQUIRE(real[i].draining == model[i].draining);
      REQUIRE(real[i].form == model[i].form);
      REQUIRE(real[i].level == model[i].level);
      // How far a copy is, and what limits say, the model does not know.
      REQUIRE(is_under_way(real[i]) == is_under_way(model[i]));
      REQUIRE(real[i].holds.size() == model[i].holds.size());
      if (!model[i].shows_draining) REQUIRE(real[i].used_bytes == model[i].used_bytes);
    }
  }

  void compare_all() {
    const auto real = by_name(real_->list());
    const auto model = by_name(model_->list());
    for (std::size_t i = 0; i < real.size(); ++i) {
      INFO(model[i].name.text());
      REQUIRE(real[i].form == model[i].form);
      if (!model[i].base.empty()) REQUIRE(image(model[i].base) == content_of(model[i]));
      Both view = open_both(model[i]);
      for (const std::uint64_t base : {std::uint64_t{0}, 32 * kMiB - 128 * 1024, 64 * kMiB - 128 * 1024}) {
        compare_range(view, base, 512 * 1024);
      }
    }
    const auto report = real_->check(false, {});
    REQUIRE(report.has_value());
    for (const Finding& finding : report->findings) FAIL_CHECK(finding.what);
    REQUIRE(report->findings.empty());
  }

  std::mt19937_64 random_;
  std::string what_; // the operation under way, for the message
  MemoryEnv env_;
  std::vector<std::string> free_images_;
  std::unique_ptr<ModelPool> model_;
  std::unique_ptr<Pool> real_;
  std::vector<Both> held_; // before the pools
};

} // namespace

TEST_CASE("random operations show what a simple model shows") {
  const std::uint64_t seed = test_seed();
  const std::uint64_t operations = number_from("VSNAP_MODEL_OPERATIONS", 100'000);
  std::printf("VSNAP_MODEL_OPERATIONS=%llu\n", static_cast<unsigned long long>(operations));
  INFO("VSNAP_TEST_SEED=" << seed);
  Duel(seed).run(operations);
}
