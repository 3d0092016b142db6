#include "core/tail.h"

#include <fmt/format.h>
#include <algorithm>
#include <cstring>

#include "core/assert.h"
#include "core/log.h"
#include "core/planted.h"

namespace vsnap {
namespace {

constexpr std::string_view kPrefix = "vsnap-tail-";
constexpr std::uint64_t kMagic = 0x324C494154534E56; // "VNSTAIL2"
constexpr std::size_t kHeaderBytes = 4096;
constexpr std::size_t kSegmentBytes = kHeaderBytes + ChangeLog::kSlots * sizeof(LogRecord);

struct Header {
  std::atomic<std::uint64_t> magic{0}; // last of all to be written
  std::uint64_t slots = ChangeLog::kSlots;
  std::atomic<std::uint64_t> token{0}; // 0: it counts no more
  Uuid pool{};
  std::array<char, 64> boot_id{};
  std::array<char, 2048> member{};
  alignas(64) std::atomic<std::uint64_t> last{0};
  std::atomic<std::uint64_t> committed{0};
};
static_assert(sizeof(Header) <= kHeaderBytes && std::atomic<std::uint64_t>::is_always_lock_free);
static_assert(std::is_trivially_copyable_v<LogRecord>);

std::string name_of(const Uuid& pool) { return std::string(kPrefix) + to_string(pool); }

Header& header_of(SharedMemory& memory) {
  return *reinterpret_cast<Header*>(memory.bytes().data()); // NOLINT: aligned to a page
}

template <std::size_t N>
void put_text(std::array<char, N>& to, const std::string& text) {
  to = {};
  std::memcpy(to.data(), text.data(), std::min(text.size(), N - 1));
}
template <std::size_t N>
std::string text_of(const std::array<char, N>& from) {
  return {from.data(), ::strnlen(from.data(), N)};
}

bool sound(SharedMemory& memory) {
  if (memory.bytes().size() != kSegmentBytes) return false; // of another version, or never finished
  const Header& header = header_of(memory);
  return header.magic.load(std::memory_order_acquire) == kMagic && header.slots == ChangeLog::kSlots;
}

} // namespace

Result<std::unique_ptr<Tail>> Tail::make(Env& env, const Uuid& pool, std::uint64_t token,
                                         std::uint64_t committed, const std::string& member) {
  VSNAP_ASSERT(token != 0);
  VSNAP_TRY_ASSIGN(auto memory, env.make_shared_memory(name_of(pool), kSegmentBytes));
  VSNAP_ASSERT(memory->bytes().size() == kSegmentBytes);
  Header& header = *std::construct_at(reinterpret_cast<Header*>(memory->bytes().data())); // NOLINT
  header.token = token;
  header.pool = pool;
  put_text(header.boot_id, env.boot_id());
  put_text(header.member, member);
  header.last.store(committed);
  header.committed.store(committed);
  header.magic.store(kMagic, std::memory_order_release);
  return std::unique_ptr<Tail>(new Tail(std::move(memory)));
}

Result<std::optional<std::unique_ptr<Tail>>> Tail::find(Env& env, const Uuid& pool, std::uint64_t token,
                                                        std::uint64_t applied, bool takes_over) {
  if (token == 0) return std::nullopt;
  auto memory = env.open_shared_memory(name_of(pool));
  if (!memory) {
    if (memory.error().kind == ErrorKind::not_found) return std::nullopt;
    return failure(
        ErrorKind::failed, memory.error().errno_value,
        fmt::format("what a killed daemon left in memory cannot be read (open the pool once as the "
                    "user that mounted it): {}",
                    memory.error().message));
  }
  const auto unused = [&](std::string_view why) {
    log::warning("{}: not used: {}", name_of(pool), why);
    return std::nullopt;
  };
  if (!sound(**memory)) return unused("of another version, or never finished");
  const Header& header = header_of(**memory);
  if (header.pool != pool || (header.token.load() != token && !planted(Fault::tail_of_other_token)))
    return std::nullopt;
  if (text_of(header.boot_id) != env.boot_id() && !planted(Fault::tail_of_other_boot))
    return unused("from before the machine was started");
  const bool held = hold_soon(env, **memory);
  if (!held && takes_over)
    return failure(ErrorKind::busy, EBUSY,
                   fmt::format("{}: the daemon before has not let go of it", name_of(pool)));
  if (!held) return unused("a daemon has it; this pool is a copy of that one's");
  if (applied < header.committed.load()) return unused("the pool is an older copy");
  return std::unique_ptr<Tail>(new Tail(std::move(*memory)));
}

bool Tail::remove(Env& env, const Uuid& pool) {
  const auto memory = env.open_shared_memory(name_of(pool));
  if (memory && !(*memory)->hold()) return false;
  env.remove_shared_memory(name_of(pool));
  return true;
}

void Tail::remove_own(Env& env, const Uuid& pool) const { env.remove_shared_memory(name_of(pool)); }

void Tail::remove_dead(Env& env, const LookAtMember& look) {
  for (const std::string& name : env.shared_memory_names(std::string(kPrefix))) {
    const auto memory = env.open_shared_memory(name);
    if (!memory || !(*memory)->hold()) continue; // somebody else's, or in use
    if (!(*memory)->has_its_name()) continue;    // another took its place before it was held
    if (!sound(**memory)) continue;              // of another version
    const Header& header = header_of(**memory);
    if (name != name_of(header.pool)) continue;
    const bool old = text_of(header.boot_id) != env.boot_id();
    // Where the pool is there a successor may look for it, and counts a loss if it finds none, even if the
    // pool has all of it.
    const bool empty = header.last.load() == header.committed.load();
    const Seen seen = old ? Seen::other : look(text_of(header.member), header.pool);
    if (seen == Seen::member || (seen == Seen::nothing && !empty)) continue;
    log::info("{}: removed, as {}", name,
              old ? "it is from before the machine was started"
              : seen == Seen::nothing
                  ? "its pool, which is not found, has all of it"
                  : fmt::format("{} is no member of its pool any more", text_of(header.member)));
    env.remove_shared_memory(name);
  }
}

std::vector<LogRecord> Tail::records(std::uint64_t applied) const {
  std::vector<LogRecord> found;
  const std::uint64_t end = last().load(std::memory_order_acquire);
  if (end > applied + ChangeLog::kSlots) {
    log::warning("what a killed daemon left in memory contradicts itself: not used");
    return found;
  }
  for (std::uint64_t sequence = applied + 1; sequence <= end; ++sequence) {
    const LogRecord& record = slots()[sequence % ChangeLog::kSlots];
    if (record.sequence != sequence || !valid(record)) {
      log::warning("what a killed daemon left in memory is damaged: {} changes of {} are lost",
                   end - sequence + 1, end - applied);
      break;
    }
    found.push_back(record);
  }
  return found;
}

void Tail::end() { header_of(*memory_).token.store(0); }

LogRecord* Tail::slots_in(SharedMemory& memory) {
  return reinterpret_cast<LogRecord*>(memory.bytes().data() + kHeaderBytes); // NOLINT: aligned to a page
}

std::atomic<std::uint64_t>& Tail::committed() const { return header_of(*memory_).committed; }

std::atomic<std::uint64_t>& Tail::last_in(SharedMemory& memory) { return header_of(memory).last; }

} // namespace vsnap
