#include "core/live_counters.h"

#include <fmt/format.h>
#include <algorithm>
#include <boost/interprocess/mapped_region.hpp>
#include <boost/interprocess/shared_memory_object.hpp>
#include <cstring>
#include <memory>
#include <string_view>

#include "core/log.h"

namespace vsnap {
namespace ipc = boost::interprocess;

namespace {
constexpr std::size_t kSlots = 1024;
constexpr std::string_view kPrefix = "vsnap-live-";
constexpr std::uint64_t kLayout = 3; // of the segment; a reader of another layout keeps away
constexpr std::uint64_t kSharedId = ~0ULL;

void set_name(ViewCounters& slot, const std::string& text) {
  slot.name_version.fetch_add(1, std::memory_order_acq_rel);
  for (std::size_t word = 0; word < slot.name.size(); ++word) {
    std::uint64_t bytes = 0;
    const std::size_t at = std::min(word * sizeof bytes, text.size());
    std::memcpy(&bytes, text.data() + at, std::min(sizeof bytes, text.size() - at));
    slot.name[word].store(bytes, std::memory_order_release);
  }
  slot.name_version.fetch_add(1, std::memory_order_acq_rel);
}

std::string name_of(const ViewCounters& slot) {
  std::array<std::uint64_t, std::tuple_size_v<decltype(slot.name)>> words{};
  for (int attempt = 0; attempt < 100; ++attempt) { // a writer that was killed leaves it odd
    const std::uint64_t before = slot.name_version.load(std::memory_order_acquire);
    for (std::size_t word = 0; word < words.size(); ++word)
      words[word] = slot.name[word].load(std::memory_order_acquire);
    if (before % 2 == 0 && slot.name_version.load(std::memory_order_acquire) == before) break;
  }
  std::array<char, sizeof words> text{};
  std::memcpy(text.data(), words.data(), sizeof words);
  return {text.data(), strnlen(text.data(), text.size())};
}

Failure no_daemon() { return failure(ErrorKind::not_found, "no daemon shows the pool (vsnap mount)"); }

std::string segment_name(const std::string& uuid) { return std::string(kPrefix) + uuid; }
} // namespace

struct LiveCounters::Segment {
  std::atomic<std::uint64_t> layout{0};
  std::array<ViewCounters, kSlots> slots;
};

struct LiveCounters::Mapping {
  explicit Mapping(const ipc::shared_memory_object& memory) : region(memory, ipc::read_only) {}
  ipc::mapped_region region;
};

LiveCounters::LiveCounters(Env& env, std::string name, std::unique_ptr<SharedMemory> memory)
    : env_(&env),
      name_(std::move(name)),
      memory_(std::move(memory)),
      segment_(std::construct_at(reinterpret_cast<Segment*>(memory_->bytes().data()))) { // NOLINT: of a page
  segment_->layout.store(kLayout, std::memory_order_release);
}

LiveCounters::LiveCounters(std::unique_ptr<Mapping> mapping)
    : mapping_(std::move(mapping)), segment_(static_cast<Segment*>(mapping_->region.get_address())) {}

LiveCounters::~LiveCounters() {
  if (memory_ && memory_->has_its_name()) env_->remove_shared_memory(name_);
}

Result<std::unique_ptr<LiveCounters>> LiveCounters::create(Env& env, const std::string& uuid) {
  const std::string name = segment_name(uuid);
  // Of a daemon that was killed. Held until the new one is: so nobody takes that for the dead one.
  const auto before = env.open_shared_memory(name);
  if (before && (*before)->has_its_name() && !hold_soon(env, **before)) {
    return failure(
        ErrorKind::busy,
        fmt::format("live counters: another process shows a pool {} (vsnap top goes without)", uuid));
  }
  VSNAP_TRY_ASSIGN(auto memory, env.make_shared_memory(name, sizeof(Segment)));
  return std::unique_ptr<LiveCounters>(new LiveCounters(env, name, std::move(memory)));
}

void LiveCounters::remove_dead(Env& env) {
  for (const std::string& name : env.shared_memory_names(std::string(kPrefix))) {
    const auto memory = env.open_shared_memory(name);
    if (!memory || (*memory)->bytes().size() < sizeof(Segment))
      continue; // somebody else's, or of another version
    if (!(*memory)->hold() || !(*memory)->has_its_name()) continue;
    const auto& segment = *reinterpret_cast<const Segment*>((*memory)->bytes().data()); // NOLINT: of a page
    // Daemons of versions before this layout do not hold theirs.
    if (segment.layout.load(std::memory_order_acquire) != kLayout) continue;
    log::info("{}: removed, as its daemon was killed", name);
    env.remove_shared_memory(name);
  }
}

Result<std::unique_ptr<LiveCounters>> LiveCounters::open(const std::string& uuid) {
  try {
    ipc::shared_memory_object memory(ipc::open_only, segment_name(uuid).c_str(), ipc::read_only);
    ipc::offset_t size = 0;
    if (!memory.get_size(size) || size == 0) return no_daemon(); // it is just being made
    auto mapping = std::make_unique<Mapping>(memory);
    const bool whole = mapping->region.get_size() >= sizeof(Segment);
    std::unique_ptr<LiveCounters> counters(new LiveCounters(std::move(mapping)));
    if (!whole || counters->segment_->layout.load() != kLayout)
      return failure(ErrorKind::failed, "the daemon is of another version of vsnap");
    return counters;
  } catch (const ipc::interprocess_exception& e) {
    if (e.get_error_code() == ipc::not_found_error) return no_daemon();
    return failure(ErrorKind::failed, e.get_native_error() != 0 ? e.get_native_error() : EIO,
                   fmt::format("live counters: {}", e.what()));
  }
}

std::shared_ptr<ViewCounters> LiveCounters::take(ObjectId id, const std::string& name) {
  auto& slots = segment_->slots;
  for (std::size_t i = 0; i + 1 < kSlots; ++i) {
    ViewCounters& slot = slots[i];
    if (slot.id.load(std::memory_order_acquire) != 0) continue;
    slot.reads = slot.read_bytes = slot.writes = slot.written_bytes = slot.discards = slot.flushes = 0;
    set_name(slot, name);
    slot.id.store(id.value(), std::memory_order_release);
    return {&slot, [](ViewCounters* used) { used->id.store(0, std::memory_order_release); }};
  }
  ViewCounters& shared = slots[kSlots - 1];
  set_name(shared, "(others)");
  shared.id.store(kSharedId, std::memory_order_release);
  return {&shared, [](ViewCounters*) {}};
}

void LiveCounters::rename(ObjectId id, const std::string& name) {
  for (ViewCounters& slot : segment_->slots) {
    if (slot.id.load(std::memory_order_acquire) == id.value()) set_name(slot, name);
  }
}

std::vector<LiveCounters::Sample> LiveCounters::read() const {
  std::vector<Sample> samples;
  for (const ViewCounters& slot : segment_->slots) {
    Sample s;
    s.id = slot.id.load(std::memory_order_acquire);
    if (s.id == 0) continue;
    s.name = name_of(slot);
    s.reads = slot.reads.load(std::memory_order_acquire);
    s.read_bytes = slot.read_bytes.load(std::memory_order_acquire);
    s.writes = slot.writes.load(std::memory_order_acquire);
    s.written_bytes = slot.written_bytes.load(std::memory_order_acquire);
    s.discards = slot.discards.load(std::memory_order_acquire);
    s.flushes = slot.flushes.load(std::memory_order_acquire);
    // Given to another view meanwhile: the next round shows that one.
    if (slot.id.load(std::memory_order_relaxed) != s.id) continue;
    samples.push_back(std::move(s));
  }
  return samples;
}

} // namespace vsnap
