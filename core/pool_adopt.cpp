// Adopting: an existing image or partition becomes a volume in place. And what is found, when a pool is
// opened, of images that were adopted before.
#include <fmt/format.h>
#include <array>
#include <string_view>
#include <algorithm>

#include "core/log.h"
#include "core/pool_impl.h"

namespace vsnap {
namespace {

// A process that had the pool before may take a moment to let go of its images.
constexpr int kImageWaitMs = 500;

} // namespace

// ---- opening a pool ----

Result<> PoolImpl::load_bases(SQLite::Database& db) {
  VSNAP_TRY_ASSIGN(const std::vector<Base> bases, base_rows::load(db));
  MutexLock lock(objects_.mutex());
  for (const Base& base : bases) bases_[base.branch] = base;
  return {};
}

// Images that cannot be used leave their volumes and what looks through them unusable, and nothing else.
Result<> PoolImpl::attach_bases() {
  engine_->set_base_marker([this](Branch& branch) { return mark_base(branch); });
  std::vector<std::pair<Base, std::pair<std::uint64_t, std::string>>> found; // with size and name
  {
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& object : objects_.everything()) {
      const auto base = bases_.find(object->branch->id);
      if (object->kind == ViewKind::volume && base != bases_.end())
        found.push_back({base->second, {object->size_bytes.load(), object->name}});
    }
  }
  for (auto& [base, volume] : found) {
    engine_->set_base_member(base.branch, base.member);
    const auto problem = attach_base(base, volume.first);
    if (!problem) {
      MutexLock lock(objects_.mutex());
      objects_.branch(base.branch)->base.marked_ns.store(base.open ? 1 : 0); // in need of a stamp
      continue;
    }
    log::warning("{}/{}: {}", name_, volume.second, *problem);
    MutexLock lock(objects_.mutex());
    objects_.branch(base.branch)->base.problem = fmt::format("{}/{}: {}", name_, volume.second, *problem);
  }
  return {};
}

// Volumes whose image cannot be used, each with what to do.
std::vector<std::string> PoolImpl::problems_of_images() {
  std::vector<std::string> problems;
  MutexLock lock(objects_.mutex());
  for (const Branch* const branch : objects_.branches()) {
    if (branch->adopted() && !branch->base.problem.empty()) problems.push_back(branch->base.problem);
  }
  return problems;
}

// What is wrong with it.
std::optional<std::string> PoolImpl::attach_base(Base& base, std::uint64_t size_bytes) {
  constexpr std::string_view kMissing =
      "its image {} (put it back; vsnap adopt FILE POOL/VOL where it has another name now)";
  if (const auto usable = env_.find_image(base.path, true); !usable)
    return fmt::format(kMissing, usable.error().message);
  auto file = env_.open_file(base.path, {});
  if (!file) return fmt::format(kMissing, file.error().message);
  if (auto locked = lock_member(env_, **file, base.path, kImageWaitMs); !locked)
    return fmt::format("its image {}", locked.error().message);
  const auto stamp = (*file)->stamp(false);
  if (!stamp) return stamp.error().message;
  if (const auto changed = what_changed(base, *stamp, size_bytes)) {
    return fmt::format(
        "its image {} was changed without vsnap: {} (vsnap adopt --changed=keep where the "
        "snapshots are to count all the same, else --changed=drop-snapshots)",
        base.path, *changed);
  }
  if (stamp->size_bytes > size_bytes && !is_read_only()) { // it was being made larger, when a crash came
    if (auto cut = (*file)->resize(size_bytes); !cut) return cut.error().message;
  }
  if (engine_->members().needs_check()) (*file)->drop_cache();
  engine_->members().attach_base(base.member, base.path, std::move(*file));
  return std::nullopt;
}

// ---- what the catalog says of an image ----

Base PoolImpl::base_of(const Branch& branch) {
  MutexLock lock(objects_.mutex());
  return bases_.at(branch.id);
}

void PoolImpl::set_base(const Base& base) {
  MutexLock lock(objects_.mutex());
  bases_[base.branch] = base;
}

Result<> PoolImpl::store_base(const Base& base) {
  VSNAP_TRY(engine_->transact([&](SQLite::Database& db, std::vector<PlaceRun>&) -> Result<> {
    base_rows::update(db, base);
    return {};
  }));
  set_base(base);
  return {};
}

Result<> PoolImpl::mark_base(Branch& branch) {
  MutexLock commit(engine_->commit_mutex());
  if (engine_->is_marked(branch)) return {}; // by another writer
  Base base = base_of(branch);
  if (!engine_->members().has_base(base.member))
    return failure(ErrorKind::failed, EIO, fmt::format("{}: the image is missing", base.path));
  VSNAP_TRY_ASSIGN(base.stamp, engine_->members().base(base.member).stamp(false));
  const std::int64_t now_ns = env_.wall_clock_ns();
  base.stamp.modified_ns =
      std::max(base.stamp.modified_ns, now_ns); // ours, though the clock was set back since
  base.open = true;
  VSNAP_TRY(store_base(base));
  branch.base.marked_ns.store(std::max<std::int64_t>(now_ns, 1), std::memory_order_release);
  return {};
}

Result<> PoolImpl::close_bases() {
  std::vector<std::pair<Base, Branch*>> open;
  {
    MutexLock lock(objects_.mutex());
    for (const auto& [id, base] : bases_) {
      Branch* const branch = objects_.branch(id);
      if (branch->base.marked_ns.load() != 0) open.emplace_back(base, branch);
    }
  }
  for (auto& [base, branch] : open) {
    VSNAP_TRY(engine_->members().flush_base(base.member));
    VSNAP_TRY_ASSIGN(base.stamp, engine_->members().base(base.member).stamp(true));
    base.open = false;
    MutexLock commit(engine_->commit_mutex());
    VSNAP_TRY(store_base(base));
    branch->base.marked_ns.store(0);
  }
  return {};
}

Result<> PoolImpl::check_images(const Object& object) {
  for (const Branch* link = object.branch; link != nullptr; link = link->parent) {
    if (link->adopted() && !link->base.problem.empty())
      return failure(ErrorKind::failed, EIO, link->base.problem);
  }
  return {};
}

// ---- adopting ----

Result<> PoolImpl::check_not_adopted(const std::string& path, const AdoptOptions& options) {
  MutexLock lock(objects_.mutex());
  for (const ObjectPtr& object : objects_.all()) {
    if (object->kind != ViewKind::volume || !object->branch->adopted() || object->branch->base.path != path ||
        object->name == options.volume)
      continue;
    return failure(ErrorKind::busy,
                   fmt::format("{}: is the image of {}/{} already", options.path, name_, object->name));
  }
  return {};
}

Result<PoolImpl::Image> PoolImpl::open_image(const AdoptOptions& options) {
  Image image;
  VSNAP_TRY(check_not_adopted(options.path, options)); // before we are found to have it open ourselves
  VSNAP_TRY_ASSIGN(image.path, env_.find_image(options.path, options.force));
  VSNAP_TRY(check_not_adopted(image.path, options));
  VSNAP_TRY_ASSIGN(image.file, env_.open_file(image.path, {}));
  const std::uint64_t size = image.file->size_bytes();
  if (size < kBlockBytes) {
    return failure(ErrorKind::usage, fmt::format("{}: {} is too small for a volume (at least 4K)",
                                                 options.path, format_size(size)));
  }
  if (blocks_for(size).value() >> Place::kBlockBits != 0)
    return failure(ErrorKind::usage, EFBIG, fmt::format("{}: larger than 4 PiB", options.path));
  if (const auto member = newest_superblock(*image.file, options.path, nullptr);
      member || member.error().kind == ErrorKind::damaged) {
    return failure(ErrorKind::usage,
                   fmt::format("{}: is a member of {} (adopt an image, or a partition that "
                               "belongs to no pool)",
                               options.path, member ? "pool " + member->pool_name : "a pool"));
  }
  VSNAP_TRY(engine_->members().claim(env_, options.path, *image.file, kImageWaitMs));
  VSNAP_TRY_ASSIGN(image.stamp, image.file->stamp(false));
  return image;
}

Result<ViewInfo> PoolImpl::adopt(const AdoptOptions& options) {
  MutexLock config(config_mutex_);
  VSNAP_TRY(check_name("volume", options.volume));
  VSNAP_TRY(check_room());
  ObjectPtr volume;
  {
    MutexLock lock(objects_.mutex());
    volume = objects_.volume(options.volume);
  }
  if (volume && volume->branch->adopted()) return adopt_again(options, volume);
  if (options.changed != AdoptOptions::Changed::refuse && !volume) return not_found({options.volume, {}});
  return adopt_new(options);
}

namespace {

// What an image of other than raw blocks begins with.
std::optional<std::string_view> other_format(File& image) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kBegins = {{
      {"QFI\xfb", "qcow2"},
      {std::string_view("QED\0", 4), "qed"},
      {"KDMV", "vmdk"},
      {"vhdxfile", "vhdx"},
      {"conectix", "vhd"},
      {"<<< ", "vdi"},
  }};
  std::array<char, 8> head{};
  if (!image.read_at(0, std::as_writable_bytes(std::span(head)))) return std::nullopt;
  for (const auto& [begin, name] : kBegins) {
    if (std::string_view(head.data(), head.size()).starts_with(begin)) return name;
  }
  return std::nullopt;
}

} // namespace

Result<ViewInfo> PoolImpl::adopt_new(const AdoptOptions& options) {
  VSNAP_TRY(check_free({options.volume, {}}));
  VSNAP_TRY_ASSIGN(Image image, open_image(options));
  if (const auto format = other_format(*image.file); format && !options.force) {
    return failure(ErrorKind::usage,
                   fmt::format("{}: begins as a {} image, which is not raw (qemu-img convert -O raw makes "
                               "one; --force takes the bytes as they are)",
                               options.path, *format));
  }
  Base base;
  base.path = image.path;
  base.stamp = image.stamp;
  base.blocks = blocks_for(image.stamp.size_bytes).value();
  base.member = Place::kFirstBase;
  {
    MutexLock lock(objects_.mutex());
    const auto taken = [&]() VSNAP_NO_THREAD_SAFETY_ANALYSIS {
      return std::any_of(bases_.begin(), bases_.end(),
                         [&](const auto& other) { return other.second.member == base.member; });
    };
    while (taken()) ++base.member;
  }
  if (base.member == Place::kFirstBase + Place::kMaxBases)
    return failure(
        ErrorKind::failed,
        fmt::format("pool {}: has {} adopted volumes already, which is the most", name_, Place::kMaxBases));
  auto branch = new_branch(nullptr, Version(0), static_cast<std::int64_t>(base.blocks));
  branch->base.member = base.member;
  branch->base.blocks = base.blocks;
  branch->base.path = base.path;
  const ObjectPtr volume = make_volume(options.volume, image.stamp.size_bytes);
  volume->modified_ns.store(image.stamp.modified_ns != 0 ? image.stamp.modified_ns : volume->created_ns);
  engine_->members().attach_base(base.member, base.path, std::move(image.file));
  Branch* const made = branch.get();
  auto added = add_volume(std::move(branch), volume, [&](SQLite::Database& db) -> Result<> {
    base.branch = made->id;
    base_rows::insert(db, base);
    return {};
  });
  if (!added) {
    engine_->members().detach_base(base.member);
    return added;
  }
  set_base(base);
  engine_->set_base_member(base.branch, base.member);
  return added;
}

// Of a volume whose image was missing, is somewhere else now, or has been changed without us.
Result<ViewInfo> PoolImpl::adopt_again(const AdoptOptions& options, const ObjectPtr& volume) {
  const std::string name = name_ + "/" + options.volume;
  Base base = base_of(*volume->branch);
  if (engine_->members().has_base(base.member)) {
    return failure(ErrorKind::failed, EEXIST,
                   fmt::format("{}: exists already, and its image {} is in order", name, base.path));
  }
  VSNAP_TRY_ASSIGN(Image image, open_image(options));
  const auto changed = what_changed(base, image.stamp, volume->size_bytes.load());
  const bool drop = changed && options.changed == AdoptOptions::Changed::drop_snapshots;
  if (changed && options.changed == AdoptOptions::Changed::refuse) {
    return failure(ErrorKind::failed, EBUSY,
                   fmt::format("{}: {} was changed without vsnap: {} (--changed=keep where the snapshots are "
                               "to count all the same, else --changed=drop-snapshots)",
                               name, options.path, *changed));
  }
  if (drop) {
    const ViewName gone{options.volume, {}};
    VSNAP_TRY_ASSIGN(const RemovalSet set, plan_removal(std::span(&gone, 1), {.recursive = true}));
    image.file.reset(); // open it anew, once the number is free
    VSNAP_TRY(erase_objects(set.objects));
    for (const ObjectPtr& object : set.objects)
      tell_entry(object == volume ? options.volume : options.volume + "@" + object->name);
    return adopt_new(options);
  }
  if (image.stamp.size_bytes != volume->size_bytes.load()) {
    return failure(
        ErrorKind::failed,
        fmt::format("{}: {} has {}, and not the {} of the volume (--changed=drop-snapshots adopts it "
                    "anew)",
                    name, options.path, format_size(image.stamp.size_bytes),
                    format_size(volume->size_bytes.load())));
  }
  base.path = image.path;
  base.stamp = image.stamp;
  base.open = false;
  {
    MutexLock commit(engine_->commit_mutex());
    VSNAP_TRY(store_base(base));
  }
  engine_->members().attach_base(base.member, base.path, std::move(image.file));
  {
    MutexLock lock(objects_.mutex());
    volume->branch->base.path = base.path;
    volume->branch->base.problem.clear();
  }
  VSNAP_TRY(finish_rollbacks());
  tell_content(volume->id);
  return info(volume->id);
}

} // namespace vsnap
