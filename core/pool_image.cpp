// What else is done to adopted volumes: made larger, rolled back in place, and given back.
#include <fmt/format.h>
#include <algorithm>

#include "core/log.h"
#include "core/planted.h"
#include "core/pool_impl.h"

namespace vsnap {

// ---- resize ----

// The blocks that come to it get rows: what is born at 0 is what older snapshots see.
Result<> PoolImpl::resize_image(const ObjectPtr& volume, std::uint64_t size_bytes) {
  const std::string name = name_ + "/" + volume->name;
  Branch& branch = *volume->branch;
  const std::uint64_t old_size = volume->size_bytes.load();
  if (!branch.base.problem.empty()) return failure(ErrorKind::failed, EIO, branch.base.problem);
  if (size_bytes < old_size) {
    return failure(ErrorKind::failed, EINVAL,
                   fmt::format("{}: an adopted image is not made smaller (vsnap release it first)", name));
  }
  VSNAP_TRY(mark_base(branch));
  const std::uint32_t member = branch.base.member;
  if (auto resized = engine_->members().resize_base(member, size_bytes); !resized) {
    return failure(resized.error().kind, resized.error().errno_value,
                   fmt::format("{}: {}", name, resized.error().message));
  }
  const std::shared_ptr<VolumeIo> view = view_of(volume);
  MutexLock commit(engine_->commit_mutex());
  branch.gate.close();
  branch.gate.drain();
  const BlockIndex from(blocks_for(old_size).value());
  const BlockIndex to(blocks_for(size_bytes).value());
  auto done = configure_locked([&](SQLite::Database& db) -> Result<> {
    for (BlockIndex at = from; at < to;) {
      const BlockIndex end = std::min(to, first_block(RegionIndex(region_of(at).value() + 1)));
      engine_->index().insert(branch.id,
                              {at, branch.version().value(), end - at, BlockKind::data, branch.identity(at)});
      at = end;
    }
    engine_->index().store_space({}); // the number of rows
    catalog::add_mapped(db, branch.id, static_cast<std::int64_t>((to - from).value()));
    catalog::resize_volume(db, volume->id, size_bytes);
    volume->size_bytes.store(size_bytes); // figures of volumes that changed lately follow in the transaction
    return {};
  });
  if (done)
    branch.mapped.fetch_add(static_cast<std::int64_t>((to - from).value()));
  else
    volume->size_bytes.store(old_size);
  engine_->cache().drop_all(view->map(), [] {});
  branch.gate.open();
  engine_->cache().collect();
  if (!done) {
    if (auto back = engine_->members().resize_base(member, old_size); !back)
      log::warning("{}: its image stays longer than it is: {}", name, back.error().message);
    return done;
  }
  tell_content(volume->id);
  return {};
}

// ---- rollback ----

Result<> PoolImpl::check_image_rollback(const Object& volume, const Object& target) {
  VSNAP_TRY(check_images(volume));
  if (target.size_bytes.load() == volume.size_bytes.load()) return {};
  return failure(ErrorKind::failed, EINVAL,
                 fmt::format("{}/{}: had {} then and has {} now, and an adopted image is not made smaller "
                             "(vsnap clone the snapshot)",
                             name_, volume.name, format_size(target.size_bytes.load()),
                             format_size(volume.size_bytes.load())));
}

// The image stays where it is, and gets back what differs. The catalog says that this is under way before it
// begins, in the transaction that keeps the state before: whoever opens the pool after a crash goes on. The
// volume cannot be opened meanwhile, and its snapshots are what they were: all changes go the way of writes.
Result<> PoolImpl::roll_back_image(const ObjectPtr& volume, const ObjectPtr& target, const ObjectPtr& kept,
                                   bool discard, const Progress& progress) {
  Branch& branch = *volume->branch;
  VSNAP_TRY(mark_base(branch));
  Base base = base_of(branch);
  base.target = target->number;
  {
    MutexLock commit(engine_->commit_mutex());
    if (discard) {
      VSNAP_TRY(configure_locked([&](SQLite::Database& db) -> Result<> {
        base_rows::update(db, base);
        return {};
      }));
    } else {
      VSNAP_TRY(keep_as_snapshot(volume, kept, [&](SQLite::Database& db) -> Result<> {
        base_rows::update(db, base);
        return {};
      }));
    }
  }
  set_base(base);
  return restore_image(volume, target, progress);
}

// The line of a snapshot, for `kept`.
Result<> PoolImpl::keep_as_snapshot(const ObjectPtr& volume, const ObjectPtr& kept,
                                    const Engine::Step& also) {
  Branch* const branch = volume->branch;
  kept->kind = ViewKind::snapshot;
  kept->volume = volume;
  kept->branch = branch;
  VSNAP_TRY(engine_->prepare_line());
  VSNAP_TRY(draw_line(
      std::span(&branch, 1),
      [&](std::uint64_t line) {
        kept->line = line;
        kept->number = branch->version();
        kept->size_bytes.store(volume->size_bytes.load());
        kept->mapped_blocks = static_cast<std::uint64_t>(branch->mapped.load());
        kept->created_ns = env_.wall_clock_ns();
        kept->modified_ns.store(kept->created_ns);
        branch->floor.store(static_cast<std::int64_t>(branch->number.load()));
        branch->number.fetch_add(1);
      },
      [&](SQLite::Database& db) -> Result<> {
        kept->id = ObjectId(catalog::take_number(db, "next_object"));
        catalog::insert_snapshot(db, *kept);
        catalog::update_branch(db, branch->id, branch->version());
        return also(db);
      }));
  MutexLock lock(objects_.mutex());
  branch->pins.insert(kept->number.value());
  objects_.add(kept);
  return {};
}

namespace {

constexpr std::uint64_t kCopyBlocks = 256; // 1 MiB

struct Piece { // blocks of a region
  std::uint64_t from = 0, to = 0;
  bool zeros = false;
};

} // namespace

// Where both maps show one place, there is nothing to do: so it goes on where a crash has stopped it, or
// begins anew, as you like.
Result<> PoolImpl::restore_image(const ObjectPtr& volume, const ObjectPtr& target, const Progress& progress) {
  const SnapshotLimit::Exempt exempt;
  const std::shared_ptr<VolumeIo> head = view_of(volume);
  const std::shared_ptr<VolumeIo> old = view_of(target);
  if (engine_->committed() < target->line) VSNAP_TRY(engine_->commit());
  std::vector<std::byte> buffer;
  const std::uint64_t size = volume->size_bytes.load();
  const std::uint64_t regions = (blocks_for(size).value() + kRegionBlocks - 1) / kRegionBlocks;
  for (RegionIndex index(0); index.value() < regions; index = RegionIndex(index.value() + 1)) {
    std::vector<Piece> pieces;
    {
      const Grace::Section section(engine_->grace());
      VSNAP_TRY_ASSIGN(const Region* was, engine_->cache().get(old->map(), index));
      VSNAP_TRY_ASSIGN(const Region* is, engine_->cache().get(head->map(), index));
      for (std::uint64_t block = 0; block < kRegionBlocks; ++block) {
        const Entry a = was->entry(block);
        if (!a.mapped() || a.place() == is->entry(block).place()) continue;
        const bool zeros = a.place().is_zeros();
        if (!pieces.empty() && pieces.back().to == block && pieces.back().zeros == zeros &&
            block - pieces.back().from < kCopyBlocks)
          ++pieces.back().to;
        else
          pieces.push_back({block, block + 1, zeros});
      }
    }
    for (const Piece& piece : pieces) {
      const std::uint64_t offset = (first_block(index).value() + piece.from) * kBlockBytes;
      if (offset >= size) break;
      buffer.resize(std::min((piece.to - piece.from) * kBlockBytes, size - offset));
      if (piece.zeros) {
        VSNAP_TRY(head->discard(offset, buffer.size()));
        continue;
      }
      VSNAP_TRY(old->read(offset, buffer));
      VSNAP_TRY(head->write(offset, buffer));
    }
    engine_->cache().collect_some();
    if (progress) {
      const std::uint64_t done = (index.value() + 1) * kRegionBlocks * kBlockBytes;
      static_cast<void>(progress(std::min(done, size), size));
    }
  }
  VSNAP_TRY(engine_->sync(volume->branch->base.member));
  Base base = base_of(*volume->branch);
  base.target.reset();
  MutexLock commit(engine_->commit_mutex());
  return store_base(base);
}

// Of before a crash.
Result<> PoolImpl::finish_rollbacks() {
  if (planted(Fault::rollback_not_resumed)) return {};
  std::vector<std::pair<ObjectPtr, ObjectPtr>> under_way;
  {
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& object : objects_.everything()) {
      const auto base = bases_.find(object->branch->id);
      if (object->kind != ViewKind::snapshot || base == bases_.end() ||
          base->second.target != object->number || !object->branch->base.problem.empty())
        continue;
      if (under_way.empty() || under_way.back().first != object->volume)
        under_way.emplace_back(object->volume, object);
    }
  }
  for (const auto& [volume, target] : under_way) {
    if (auto done = restore_image(volume, target, {}); !done) {
      MutexLock lock(objects_.mutex());
      volume->branch->base.problem =
          fmt::format("{}/{}: is half rolled back: {} (once that is mended, mount the pool again)", name_,
                      volume->name, done.error().message);
      log::error("{}", volume->branch->base.problem);
    }
  }
  return {};
}

// ---- removal ----

// How many of the pins at that number are left once `gone` are: without those of children that nobody sees
// either then.
std::size_t PoolImpl::pins_left(const Branch& branch, std::uint64_t number, const std::multiset<Pin>& gone) {
  std::size_t left = branch.pins.count(number) - gone.count({branch.id, number});
  for (const Branch* const child : objects_.branches()) {
    if (child->seen_parent() != &branch || child->parent_number.value() != number) continue;
    if (child->has_head && !gone.contains({child->id, std::nullopt})) continue;
    bool seen = false;
    for (const std::uint64_t pin : child->pins) seen = seen || pins_left(*child, pin, gone) > 0;
    if (!seen) --left;
  }
  return left;
}

Result<> PoolImpl::check_image_removal(const std::vector<ObjectPtr>& gone, const std::multiset<Pin>& pins) {
  for (const ObjectPtr& object : gone) {
    const Branch& branch = *object->branch;
    const auto base = bases_.find(branch.id);
    if (base == bases_.end()) continue;
    const std::string name = objects_.name_of(*object).text();
    if (object->kind == ViewKind::snapshot) {
      if (base->second.target != object->number) continue;
      return failure(ErrorKind::busy, fmt::format("{}/{}: a rollback to it is not finished", name_, name));
    }
    for (const std::uint64_t pin : branch.pins) {
      if (pins_left(branch, pin, pins) == 0) continue;
      return failure(ErrorKind::busy,
                     fmt::format("{}/{}: a clone reads its image (vsnap flatten the clone, or vsnap release "
                                 "--keep-snapshots {}/{})",
                                 name_, name, name_, name));
    }
  }
  return {};
}

Result<> PoolImpl::finish_sweeps_of_images(std::span<const ViewName> names) {
  bool adopted = false;
  {
    MutexLock lock(objects_.mutex());
    for (const ViewName& name : names) {
      const ObjectPtr volume = name.is_snapshot() ? nullptr : objects_.volume(name.volume);
      adopted = adopted || (volume && volume->branch->adopted());
    }
  }
  return adopted ? wait_for_removals({}) : Result<>();
}

// The volume is gone from the catalog, and nobody looks at the image any more.
void PoolImpl::forget_base(Branch& branch) {
  const std::uint32_t member = branch.base.member;
  static_cast<void>(engine_->db().read([&](SQLite::Database&) -> Result<> {
    MutexLock lock(objects_.mutex());
    branch.base.member = 0;
    bases_.erase(branch.id);
    return {};
  }));
  engine_->forget_base_member(branch.id);
  engine_->grace().synchronize();
  engine_->members().detach_base(member);
}

} // namespace vsnap
