// The View of a volume or snapshot: reads and writes against the map, head / body / tail, and nothing of
// names. (The division of an unaligned range follows nbdkit's cow filter.)
#pragma once

#include <memory>

#include "core/copy_out.h"
#include "core/engine.h"
#include "core/exported_map.h"
#include "core/image_pair.h"
#include "core/live_counters.h"
#include "core/objects.h"
#include "core/view.h"
#include "core/view_span.h"

namespace vsnap {

class GrantedSpace;

class VolumeIo final : public View {
 public:
  // `counters`: where to count, or nullptr.
  VolumeIo(Engine& engine, Objects& objects, ObjectPtr object, std::shared_ptr<ViewCounters> counters);
  ~VolumeIo() override;

  [[nodiscard]] ObjectId id() const override { return object_->id; }
  [[nodiscard]] bool writable() const override { return map_.head && !object_->frozen.load(); }
  [[nodiscard]] std::uint64_t size_bytes() const override {
    return object_->size_bytes.load(std::memory_order_acquire);
  }
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> out) override;
  Result<std::optional<std::size_t>> start_read(std::uint64_t offset, std::span<std::byte> out,
                                                ReadDone done) override;
  [[nodiscard]] bool may_wait() const override { return engine_.members().may_wait(); }
  WriteWait write_wait() const override;
  Result<> write(std::uint64_t offset, std::span<const std::byte> data) override;
  Result<> discard(std::uint64_t offset, std::uint64_t length) override;
  Result<> reserve(std::uint64_t offset, std::uint64_t length, bool extend) override;
  Result<std::optional<std::uint64_t>> seek_data(std::uint64_t offset) override;
  Result<std::optional<std::uint64_t>> seek_hole(std::uint64_t offset) override;
  Result<> fsync() override;

  // Unmaps whole blocks [from, to), also beyond the end: what a shrink leaves behind.
  Result<> unmap_blocks(BlockIndex from, BlockIndex to);
  // Counts the mapped blocks that the range touches, region by region.
  Result<std::uint64_t> count_mapped(std::uint64_t offset, std::uint64_t length);
  // Makes the block that the end of a volume of `size` bytes falls into read as zeros behind it; does nothing
  // if the volume has another size by now.
  Result<> zero_tail(std::uint64_t size);
  // Unmaps what a shrink has left behind the end, if it has; see Object::trim.
  Result<> finish_trim() VSNAP_EXCLUDES(trim_mutex_);
  // Of a second image, before its end moves from `from` to `to`: what the first one has there does not show.
  Result<> hide_below(std::uint64_t from, std::uint64_t to);
  // Of an adopted volume: copies what others see in the image to the pool.
  Result<> save_image(const Progress& progress);
  // The runs of data of a region, appended; see exported_map.h.
  Result<> copy_map(RegionIndex region, RegionMap& map);
  // Blocks that the host which the volume is delegated to has written itself, to places that it was granted:
  // from now on they lie there. ESTALE, EINVAL: as Pool::commit_blocks(); it may have done a part then.
  struct Grant {
    GrantedSpace& space;
    std::uint64_t delegation = 0;
    std::function<bool()> stands; // asked inside the gate
  };
  Result<> name_granted(const MapRun& run, const Grant& grant);
  // All blocks of the run are the head's own, and lie there.
  Result<bool> lies_there(const MapRun& run);
  // Makes the size at least `size_bytes`.
  void grow_to(std::uint64_t size_bytes);
  // For configuration operations: the map, and the object it belongs to.
  ViewMap& map() { return map_; }
  const ObjectPtr& object() const { return object_; }
  // Regions at or after `from` that may have something mapped; nullopt: none.
  Result<std::optional<RegionIndex>> next_mapped_region(RegionIndex from);

  // The pair in which this is the second image, or the first; see image_pair.h. Set before the view has
  // users, or with the branch's gate closed; cleared once the map has what is below in it.
  void set_below(std::shared_ptr<ImagePair> pair);
  void set_above(ImagePair* pair); // which the second image owns
  // After clearing, once a grace period is over.
  void let_pairs_go();

 private:
  using Span = ViewSpan;
  class ChangeRange;
  struct PendingRead;
  template <class Body>
  Result<> in_regions(std::uint64_t offset, std::uint64_t length, Body body);
  // `pending`: what may go on after this has returned belongs to it.
  Result<> read_piece(const Span& span, std::span<std::byte> out, PendingRead* pending = nullptr);
  Result<> start_part(PendingRead& pending, Place place, std::uint64_t offset, std::span<std::byte> out);
  // `grown`: the size of the volume is at least that when the range is let go.
  Result<> write_piece(const Span& span, std::span<const std::byte> data, std::uint64_t grown = 0);
  // Before a change of the range that may make the volume larger.
  Result<> prepare_growth(std::uint64_t offset, std::uint64_t length);
  Result<> write_held(Region& region, const Span& span, std::span<const std::byte> data);
  Result<> discard_tail(std::uint64_t from, std::uint64_t size);
  Result<std::uint64_t> write_in_place(Region& region, const Span& span, std::uint64_t block,
                                       std::span<const std::byte> data);
  Result<std::uint64_t> write_elsewhere(Region& region, const Span& span, std::uint64_t block,
                                        std::span<const std::byte> data);
  // The limit of the volume's snapshots: volume_limit.cpp.
  struct Counted { // blocks from some block up to `end` that are to get new places
    std::uint64_t end = 0;
    // Of the region, those that others see through a parent, and that do not count; empty: nobody has looked.
    std::vector<bool> shared = {};
    [[nodiscard]] std::uint64_t kept(const Region& region, std::uint64_t from, std::uint64_t to) const;
  };
  // Counts those of which snapshots keep the old content, as far as there is room for it.
  Result<Counted> count_kept(const Region& region, std::uint64_t block, std::uint64_t end);
  Result<std::vector<bool>> shared_with_origin(const Region& region);
  // Whether something that none of its snapshots shows may be counted as if they did: not where each of its
  // branches began with one of them, as after a rollback.
  [[nodiscard]] bool counts_by_guess();
  Result<> write_run(const Span& span, std::span<const std::byte> data, Place place, std::uint64_t block,
                     std::uint64_t count, const Region& region);
  // A block of a range that the caller holds.
  Result<> read_block(const Region& region, std::uint64_t block, std::span<std::byte> out);
  // What the block's entry says, or, where it has none, that of the first image of the pair, if there is one.
  Result<Entry> seen_entry(ImagePair* pair, const Region& region, std::uint64_t block);
  static bool may_show(const Region& region, std::uint64_t block, Entry seen);
  Result<> read_through(ImagePair& pair, const Span& span, std::span<std::byte> out);
  Result<> hide_piece(const Span& span);
  // For the image above: zeros past the end.
  Result<> read_as_below(const Span& span, std::span<std::byte> out);
  Result<> read_entry(Entry entry, std::span<std::byte> out);
  // Adopted volumes, and who reads through one: volume_adopted.cpp.
  [[nodiscard]] bool in_image() const { return map_.head && map_.branch->adopted(); }
  // Before a change that ends at `end`, outside of the gate.
  Result<> prepare_image(std::uint64_t end);
  Result<> write_image(const Span& span, std::span<const std::byte> data);
  Result<> zero_image(std::uint64_t from, std::uint64_t to);
  template <class Then>
  Result<> save_range(const Span& span, Then then);
  template <class Change>
  Result<> change_image(const Span& span, Change change);
  // The run at `block` as another view than the head sees it; `first` is its entry, and shows the image.
  Result<> read_through_image(RegionIndex region, std::uint64_t block, Entry first, std::uint64_t offset,
                              std::span<std::byte> out);
  Result<> discard_piece(const Span& span);
  Result<> unmap_in_region(Region& region, std::uint64_t from, std::uint64_t to);
  Result<> reserve_piece(const Span& span);
  Result<std::optional<std::uint64_t>> seek(std::uint64_t offset, bool data);
  Result<> check_range(std::uint64_t offset, std::uint64_t length) const;
  // EIO of what lies on a missing member. The log says so, once for each; the error has no message.
  [[nodiscard]] Result<> check_there(Place place);
  // Runs a change of the map: throttled before, repeated once after a commit if there was no space.
  template <class Body>
  Result<> change(std::uint64_t offset, std::uint64_t length, Body body);
  Result<> name_piece(const Span& span, Place first, const Grant& grant);
  Result<> name_run(Region& region, std::uint64_t block, PlaceRun places, const Grant& grant);
  void record(Region& region, std::uint64_t from, std::uint64_t count, BlockKind kind, Place place);
  void note_modified();
  void note_size();

  Engine& engine_;
  Objects& objects_;
  ObjectPtr object_;
  ViewMap map_;
  std::shared_ptr<ViewCounters> counters_;
  CopyOut copy_out_{engine_, object_->snapshot_limit};
  Mutex trim_mutex_; // before any gate; one finish_trim() at a time
  std::atomic<ImagePair*> below_{nullptr}, above_{nullptr};
  std::vector<std::shared_ptr<ImagePair>> pairs_; // that below_ is or was; changed under the commit lock
};

} // namespace vsnap
