// Catalogs whose pages are whole and whose values are not: each nine bytes of the input are a value and where
// it goes. The pool opens or is refused, check says what it finds, and nothing crashes or hangs.
#include <fmt/format.h>

#include <array>
#include <cstring>

#include "core/allocator.h"
#include "core/database.h"
#include "core/log.h"
#include "core/member_set.h"
#include "core/metadata_vfs.h"
#include "core/pool.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/memory_env.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kPoolBytes = 16ULL << 20;

struct Column {
  const char* table;
  const char* name;
};
constexpr std::array kColumns = {
    Column{"pool", "value"},      Column{"branch", "parent"},   Column{"branch", "parent_number"},
    Column{"branch", "number"},   Column{"branch", "mapped"},   Column{"volume", "branch"},
    Column{"volume", "size"},     Column{"volume", "mode"},     Column{"volume", "trim"},
    Column{"snapshot", "volume"}, Column{"snapshot", "branch"}, Column{"snapshot", "number"},
    Column{"snapshot", "size"},   Column{"extent", "start"},    Column{"extent", "born"},
    Column{"extent", "count"},    Column{"extent", "kind"},     Column{"extent", "member"},
    Column{"extent", "physical"}, Column{"extent", "branch"},   Column{"space", "part"},
    Column{"space", "bitmap"},
};

std::unique_ptr<MemoryEnv> sound_pool() {
  log::set_level(log::Level::off);
  MemoryEnv made;
  VSNAP_HOLDS(Pool::create(made, {.name = "lab", .members = {{"/a", kPoolBytes}}}).has_value());
  auto pool = Pool::open(made, {.member_paths = {"/a"}});
  const auto info = (*pool)->create_volume("v", 64 * kBlockBytes);
  {
    auto view = (*pool)->open_view(info->id);
    const std::vector<std::byte> data(2 * kBlockBytes, std::byte{1});
    VSNAP_HOLDS((*view)->write(0, data).has_value());
  }
  const ViewName name{"v", "s"};
  VSNAP_HOLDS((*pool)->snapshot(std::span(&name, 1)).has_value());
  VSNAP_HOLDS((*pool)->clone(name, "c").has_value());
  VSNAP_HOLDS((*pool)->close().has_value());
  return made.fork();
}

void change(MemoryEnv& env, std::span<const std::uint8_t> input) {
  auto members = MemberSet::open(env, {"/a"}, "fuzz", 0);
  VSNAP_HOLDS(members.has_value());
  Allocator allocator;
  const Superblock layout = (*members)->layout();
  for (const RosterEntry& member : layout.roster) allocator.add_member(member.blocks, format::kHeaderBlocks);
  for (const MetadataSegment& segment : layout.segments) VSNAP_HOLDS(allocator.take(segment.run));
  MetadataVfs vfs(**members, allocator);
  VSNAP_HOLDS(vfs.load().has_value());
  auto db = Database::open(MetadataVfs::kDatabaseFile, vfs.vfs_name(), 1000);
  VSNAP_HOLDS(db.has_value());
  for (std::size_t at = 0; at + 10 <= input.size() && at < 80; at += 10) {
    const Column& column = kColumns[input[at] % kColumns.size()];
    std::int64_t value = 0;
    std::memcpy(&value, input.data() + at + 2, sizeof value);
    // One row of the table, by its order. Constraints may refuse: then it is as it was.
    static_cast<void>((*db)->write([&](SQLite::Database& connection) -> Result<> {
      const int rows = connection.execAndGet(fmt::format("SELECT count(*) FROM {}", column.table)).getInt();
      if (rows == 0) return {};
      const auto keys = [&]() -> std::string {
        const std::string table = column.table;
        if (table == "pool") return "key";
        if (table == "extent") return "branch, start, born";
        if (table == "space") return "member, part";
        return "id";
      }();
      connection.exec(fmt::format(
          "UPDATE OR IGNORE {0} SET {1} = {2} WHERE ({3}) IN (SELECT {3} FROM {0} LIMIT 1 OFFSET {4})",
          column.table, column.name, value, keys, input[at + 1] % rows));
      return {};
    }));
  }
  db->reset();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto kSound = sound_pool();
  const auto env = kSound->fork();
  change(*env, std::span(data, size));
  {
    auto checked = Pool::open(*env, {.member_paths = {"/a"}, .for_check = true});
    if (checked) static_cast<void>((*checked)->check(false, {}));
  }
  auto pool = Pool::open(*env, {.member_paths = {"/a"}});
  if (!pool) return 0;
  for (const ViewInfo& info : (*pool)->list()) {
    auto view = (*pool)->open_view(info.id);
    if (!view) continue;
    std::vector<std::byte> out(4 * kBlockBytes);
    static_cast<void>((*view)->read(0, out));
    if (info.kind == ViewKind::volume) static_cast<void>((*view)->write(kBlockBytes, out));
    static_cast<void>((*view)->seek_data(0));
  }
  static_cast<void>((*pool)->disk_usage());
  static_cast<void>((*pool)->close());
  return 0;
}
