// Records of a log that a crash left, each of 64 bytes of the input: whatever they say, the pool opens or is
// refused as damaged, and what was in it and is not named by them stays what it was.
#include <cstring>

#include "core/log.h"
#include "core/log_record.h"
#include "core/pool.h"
#include "core/tail.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/memory_env.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kPoolBytes = 16ULL << 20;

// A pool with a volume of two written blocks, a snapshot and a clone, as a killed daemon left it.
struct Killed {
  std::unique_ptr<MemoryEnv> env;
  std::string segment;
  std::uint64_t last = 0;

  Killed() {
    log::set_level(log::Level::off);
    MemoryEnv made;
    VSNAP_HOLDS(Pool::create(made, {.name = "lab", .members = {{"/a", kPoolBytes}}}).has_value());
    auto pool = Pool::open(made, {.member_paths = {"/a"}, .keep_tail = true});
    VSNAP_HOLDS(pool.has_value());
    const auto info = (*pool)->create_volume("v", 64 * kBlockBytes);
    {
      auto view = (*pool)->open_view(info->id);
      const std::vector<std::byte> data(2 * kBlockBytes, std::byte{1});
      VSNAP_HOLDS((*view)->write(0, data).has_value());
    }
    const ViewName name{"v", "s"};
    VSNAP_HOLDS((*pool)->snapshot(std::span(&name, 1)).has_value());
    VSNAP_HOLDS((*pool)->clone(name, "c").has_value());
    env = made.fork();
    segment = env->shared_memory_names("vsnap-tail-").front();
    last = slots_of(*env).last().load();
  }
  struct Slots {
    std::unique_ptr<SharedMemory> memory;
    [[nodiscard]] std::atomic<std::uint64_t>& last() const { return Tail::last_in(*memory); }
    [[nodiscard]] LogRecord* records() const { return Tail::slots_in(*memory); }
  };
  [[nodiscard]] Slots slots_of(MemoryEnv& of) const { return {std::move(*of.open_shared_memory(segment))}; }
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Killed kKilled;
  const auto env = kKilled.env->fork();
  {
    const auto slots = kKilled.slots_of(*env);
    std::uint64_t sequence = kKilled.last;
    for (std::size_t at = 0; at + kLogRecordBytes <= size && at < 64 * kLogRecordBytes;
         at += kLogRecordBytes) {
      LogRecord record =
          decode_record(std::as_bytes(std::span(data + at, kLogRecordBytes)).first<kLogRecordBytes>());
      record.sequence = ++sequence;
      slots.records()[sequence % ChangeLog::kSlots] = record;
    }
    slots.last().store(sequence);
  }
  auto pool = Pool::open(*env, {.member_paths = {"/a"}});
  if (!pool) {
    VSNAP_HOLDS(pool.error().kind == ErrorKind::damaged || pool.error().kind == ErrorKind::no_space);
    return 0;
  }
  const auto snapshot = (*pool)->find({"v", "s"});
  VSNAP_HOLDS(snapshot.has_value());
  auto view = (*pool)->open_view(snapshot->id);
  VSNAP_HOLDS(view.has_value());
  std::vector<std::byte> found(2 * kBlockBytes);
  VSNAP_HOLDS((*view)->read(0, found).has_value());
  VSNAP_HOLDS(found == std::vector<std::byte>(2 * kBlockBytes, std::byte{1}));
  static_cast<void>((*pool)->check(false, {}));
  return 0;
}
