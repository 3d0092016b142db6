// What a pool tells about itself: plain values, copied out, for commands and for the mount. Sizes are bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/env.h"
#include "core/member_mark.h"
#include "core/names.h"
#include "core/properties.h"
#include "core/units.h"

namespace vsnap {

struct HoldInfo { // keeps a snapshot from being removed
  std::string tag;
  std::int64_t created_ns = 0; // since 1970
};

struct SnapshotSpace { // of a volume with a limit on what its snapshots take
  std::uint64_t limit_bytes = 0;
  // That much at most; see Pool::count_snapshot_space(). nullopt: nobody has counted yet.
  std::optional<std::uint64_t> used_bytes;
  OnFull on_full = OnFull::error;
};

enum class ViewKind { volume, snapshot };
enum class ViewForm {
  thin,    // mapped by the extent index, blocks shared until they are written
  adopted, // a volume that lies in an image or partition of its own, in place
  full,    // a snapshot with, or on its way to, a copy of its own of every block
};
[[nodiscard]] std::string_view to_string(ViewForm form); // "thin", "adopted", "full"

// What a snapshot holds of what those who used the volume had in memory at its moment; each has what is
// before it. Never higher than what was true.
enum class SnapshotLevel {
  crash, // nothing: as after a power cut
  fs,    // all that was written to file systems on it: they stood still
  app,   // and programs in the guest had been told: its agent held it still
};
[[nodiscard]] std::string_view to_string(SnapshotLevel level); // "crash", "fs", "app"

struct ViewInfo {
  ObjectId id;
  ViewKind kind = ViewKind::volume;
  ViewForm form = ViewForm::thin;
  ViewName name;
  std::uint64_t size_bytes = 0;
  std::uint64_t used_bytes = 0; // mapped: space it alone and with others uses; st_blocks * 512
  std::int64_t created_ns = 0;  // since 1970
  std::int64_t modified_ns = 0;
  std::uint32_t mode = 0600; // permission bits of its file
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint32_t open_handles = 0;
  std::optional<std::string> origin; // of a clone: "VOLUME@SNAPSHOT", or "(removed snapshot)"
  bool draining = false; // a snapshot that programs still write to, under the handles that they had
  bool shows_draining =
      false; // a volume in which such writes show: its content changes by other means than its file
  bool changes_elsewhere = false; // a volume that other hosts may change: nothing of it is kept in a cache
  bool moved_lately =
      false;             // draining, and who opens it to write may have meant the volume: is to look again
  std::string base = {}; // of an adopted volume: the path of its image
  // Empty: nothing is under way; else a few words: "draining", "copying 43 %", "2 writes wait for room for
  // snapshots".
  std::string state = {};
  std::optional<SnapshotSpace> snapshot_space = {}; // of a volume that has a limit
  std::vector<HoldInfo> holds = {};                 // of a snapshot, by tag
  SnapshotLevel level = SnapshotLevel::crash;       // of a snapshot
};

struct MemberInfo {
  std::uint32_t index = 0;
  std::string path;
  Uuid uuid{};
  std::uint64_t size_bytes = 0;
  std::uint64_t free_bytes = 0; // not allocated to data or metadata
  bool is_block_device = false;
};

// size = data + metadata + free, always. Data that could still be written = available.
struct SpaceInfo {
  std::uint64_t size_bytes = 0;
  std::uint64_t data_bytes = 0; // blocks that belong to some view
  std::uint64_t freeing_bytes =
      0; // part of data_bytes: nobody can see them any more; being freed in the background
  std::uint64_t metadata_bytes = 0; // superblocks and metadata segments
  std::uint64_t metadata_used_bytes = 0;
  std::uint64_t free_bytes = 0;
  std::uint64_t available_bytes = 0;
};

struct PoolStatus {
  std::string name;
  Uuid uuid{};
  std::uint64_t generation = 0;
  std::string health; // "ok", or one line that says what is wrong and what to do
  SpaceInfo space;
  std::vector<MemberInfo> members;
  MemberMark mark = {}; // that they show; where it was asked for
  std::uint64_t volumes = 0;
  std::uint64_t snapshots = 0;
  std::uint64_t extents = 0;     // rows of the extent index
  std::uint64_t cache_bytes = 0; // of maps in memory
  bool removal_pending = false;
};

// What removing exactly this snapshot, and nothing else, would free at least; and for volumes what they alone
// use. More where clones of it, or the volume since it was rolled back to it, have blocks of their own
// instead; a RemovalPlan has the exact figure.
struct UsageRow {
  ViewInfo view;
  std::uint64_t frees_bytes = 0;
};
struct PropertyInfo { // of a volume
  std::string volume;
  std::string name;
  std::string value;
  bool is_set = false; // false: it is the default
};
struct DiskUsage {
  SpaceInfo space;
  std::vector<UsageRow> rows; // volumes by name, each followed by its snapshots, oldest first
};

struct RemovalPlan { // what a removal does, or with dry_run would do
  std::vector<ViewName> removed;
  std::uint64_t frees_bytes = 0;
  std::vector<std::string> given_back = {}; // images of adopted volumes, which stay as they are
};

struct ReleaseResult { // what a release does, or with dry_run would do
  std::string path;    // of the image
  std::vector<ViewName> kept;
  std::uint64_t copied_bytes = 0; // at most: what snapshots see in the image
};

struct LevelRaise {
  ObjectId snapshot;
  SnapshotLevel to = SnapshotLevel::crash;
};

struct RollbackResult {
  ViewName to;
  std::optional<ViewName> kept; // the state before, as a snapshot
};

enum class DiffState { data, hole };
struct DiffRange {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  DiffState state = DiffState::data; // what the second view has there
};

struct Finding {    // of check
  std::string what; // plain words
  bool repairable = false;
  bool repaired = false;
};
struct CheckReport {
  std::uint64_t extents_checked = 0;
  std::vector<Finding> findings;
};

// done and total in one unit of the caller's choice (bytes or extents); called now and then from the working
// thread. Returns false to give up: the work stops at the next safe point with an error of kind failed
// (ECANCELED).
using Progress = std::function<bool(std::uint64_t done, std::uint64_t total)>;

} // namespace vsnap
