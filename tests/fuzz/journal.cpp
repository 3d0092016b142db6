// The ring of a journal as it may lie on a member, and what the catalog says of where it begins. Of the input
// the first 24 bytes are (frame, offset, applied) of the catalog; then come frames: where each lies, how long
// it says to be, which of its parts are made right, and its records. Checksums are made to fit as a rule, so
// that what lies behind them is reached.
//
// Replay ends, and is refused as damaged or gives records that are each whole, valid, of the next number, and
// in a frame of the ring that is whole; it changes nothing. What is synced afterwards comes after them when
// the ring is read again; a ring that was given up has none.
#include "core/journal.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "core/log.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/memory_env.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kRingBlocks = 24;
constexpr std::uint64_t kRingBytes = kRingBlocks * kBlockBytes;
constexpr std::uint64_t kStart = (format::kHeaderBlocks + 100) * kBlockBytes;
constexpr std::size_t kHeaderBytes = 64;         // of a frame
constexpr std::uint64_t kFarNumber = 1ULL << 60; // beyond this one numbers may turn round

using Record = std::array<std::byte, kLogRecordBytes>;

class Input {
 public:
  explicit Input(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
  [[nodiscard]] bool empty() const { return bytes_.empty(); }
  std::uint64_t number(std::size_t size) {
    std::uint64_t value = 0;
    take(std::as_writable_bytes(std::span(&value, 1)).first(size));
    return value;
  }
  // From -128 to 127.
  std::uint64_t step() { return static_cast<std::uint64_t>(static_cast<std::int8_t>(number(1))); }
  void take(std::span<std::byte> out) {
    const std::size_t size = std::min(out.size(), bytes_.size());
    std::ranges::copy(std::as_bytes(bytes_.first(size)), out.begin());
    bytes_ = bytes_.subspan(size);
  }

 private:
  std::span<const std::uint8_t> bytes_;
};

template <class Integer>
void put(std::span<std::byte> at, Integer value) {
  std::memcpy(at.data(), &value, sizeof value); // little-endian, as this machine is
}
template <class Integer>
Integer get(std::span<const std::byte> at) {
  Integer value{};
  std::memcpy(&value, at.data(), sizeof value);
  return value;
}

std::uint64_t frame_bytes(std::uint64_t records) {
  return (kHeaderBytes + records * kLogRecordBytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
}

std::uint32_t crc_of(std::span<const std::byte> frame) {
  std::vector<std::byte> copy(frame.begin(), frame.end());
  put(std::span(copy).subspan(8), std::uint32_t{0});
  return crc32c(copy);
}

// A pool of one member, which is the same for all inputs.
struct Sound {
  Sound() {
    log::set_level(log::Level::off);
    MemoryEnv made;
    auto file = made.open_file("/a", {.create = true});
    VSNAP_HOLDS((*file)->resize(format::kMinMemberBytes).has_value());
    std::vector<std::pair<std::string, std::unique_ptr<File>>> files;
    files.emplace_back("/a", std::move(*file));
    const auto members = MemberSet::create(made, "lab", std::move(files));
    VSNAP_HOLDS(members.has_value());
    pool = (*members)->layout().pool_uuid;
    env = made.fork();
  }
  std::unique_ptr<MemoryEnv> env;
  Uuid pool{};
};

// A member with a ring: as man/vsnap-pool-format.5 has it, written without the code that is tried.
struct Member {
  explicit Member(const Sound& sound) : own_env(sound.env->fork()), env(*own_env), pool(sound.pool) {}
  [[nodiscard]] std::span<std::byte> ring() { return {env.bytes_of("/a").data() + kStart, kRingBytes}; }

  // One frame of the input: eight bytes that say what it is, then up to 64 records.
  void add_frame(Input& input) {
    const std::uint64_t at = input.number(1) % kRingBlocks * kBlockBytes;
    const std::uint64_t wrong = input.number(1); // each bit: one part that is as the input has it
    const std::uint64_t claimed = input.number(1) | (input.number(1) & 3U) << 8U;
    const std::uint64_t frame = number + input.step();
    std::uint64_t sequence = applied + input.step();
    const std::uint64_t given = input.number(1) % 65;
    const std::size_t spoilt = input.number(1);
    const std::span<std::byte> whole =
        ring().subspan(at, std::min<std::uint64_t>(frame_bytes(claimed), kRingBytes - at));
    std::ranges::fill(whole, std::byte{0});
    std::memcpy(whole.data(), "VSNAPJNL", 8);
    put(whole.subspan(12), static_cast<std::uint32_t>(claimed));
    put(whole.subspan(16), frame);
    std::memcpy(whole.data() + 24, pool.data(), pool.size());
    for (std::uint64_t i = 0; i < given && kHeaderBytes + (i + 1) * kLogRecordBytes <= whole.size(); ++i) {
      const auto record = whole.subspan(kHeaderBytes + i * kLogRecordBytes, kLogRecordBytes);
      input.take(record);
      if ((wrong & 1U) == 0) put(record, sequence++);
    }
    if ((wrong & 2U) != 0) whole[spoilt % kHeaderBytes] ^= std::byte{1}; // under the checksum: believed
    if ((wrong & 4U) == 0) put(whole.subspan(8), crc_of(whole));
    if ((wrong & 8U) != 0) whole[spoilt % whole.size()] ^= std::byte{0x80};
  }

  // What stands in frames that are whole.
  [[nodiscard]] std::set<Record> whole_records() {
    std::set<Record> found;
    for (std::uint64_t at = 0; at < kRingBytes; at += kBlockBytes) {
      const std::span<const std::byte> rest = ring().subspan(at);
      const std::uint64_t count = get<std::uint32_t>(rest.subspan(12));
      if (std::memcmp(rest.data(), "VSNAPJNL", 8) != 0 || frame_bytes(count) > rest.size()) continue;
      if (get<std::uint32_t>(rest.subspan(8)) != crc_of(rest.first(frame_bytes(count)))) continue;
      for (std::uint64_t i = 0; i < count; ++i) {
        Record record;
        std::ranges::copy(rest.subspan(kHeaderBytes + i * kLogRecordBytes, record.size()), record.begin());
        found.insert(record);
      }
    }
    return found;
  }

  std::unique_ptr<MemoryEnv> own_env;
  MemoryEnv& env;
  Uuid pool;
  std::uint64_t number = 0, applied = 0;
};

// What reads the ring, anew each time.
struct Reader {
  Reader(Member& member, std::uint64_t applied) : log(applied, ChangeLog::kMaxLimit, 1000) {
    members = std::move(*MemberSet::open(member.env, {"/a"}, "fuzz", 0));
    journal = std::make_unique<Journal>(*members, log);
    journal->attach({Place(0, kStart / kBlockBytes), BlockCount(kRingBlocks)}, member.pool);
  }
  Result<> replay(Journal::Position from) {
    const std::uint64_t applied = log.last();
    return journal->replay(from, applied, [&](const LogRecord& record) -> Result<> {
      records.push_back(record);
      log.append(record, false);
      return {};
    });
  }
  ChangeLog log;
  std::unique_ptr<MemberSet> members;
  std::unique_ptr<Journal> journal;
  std::vector<LogRecord> records;
};

void check_records(const std::vector<LogRecord>& records, std::uint64_t applied,
                   const std::set<Record>& whole) {
  VSNAP_HOLDS(records.size() <= kRingBytes / kLogRecordBytes);
  for (const LogRecord& record : records) {
    VSNAP_HOLDS(record.sequence == ++applied && valid(record));
    Record raw;
    encode(record, raw);
    if (whole.contains(raw)) continue;
    // Or a save without its copy, which says nothing.
    Record nothing;
    encode(LogRecord{.sequence = record.sequence}, nothing);
    VSNAP_HOLDS(raw == nothing && std::ranges::any_of(whole, [&](const Record& each) {
      const LogRecord there = decode_record(each);
      return there.type == RecordType::copy_out && there.sequence == record.sequence;
    }));
  }
}

void go_on(Member& member, Journal::Position from, std::uint64_t applied) {
  std::size_t before = 0;
  bool synced = false;
  {
    Reader first(member, applied);
    VSNAP_HOLDS(first.replay(from).has_value());
    before = first.records.size();
    VSNAP_HOLDS(first.journal->line().offset <= kRingBytes);
    const auto done = first.journal->sync(first.log.append(LogRecord{}, false));
    VSNAP_HOLDS(done.has_value());
    synced = *done; // or there is no room
  }
  Reader second(member, applied);
  VSNAP_HOLDS(second.replay(from).has_value());
  VSNAP_HOLDS(second.records.size() == before + (synced ? 1 : 0));
}

void give_up(Member& member, Journal::Position from, std::uint64_t applied) {
  {
    Reader damaged(member, applied);
    VSNAP_HOLDS(!damaged.replay(from).has_value());
    VSNAP_HOLDS(damaged.journal->reset().has_value());
    from = damaged.journal->line();
  }
  Reader empty(member, applied);
  VSNAP_HOLDS(empty.replay(from).has_value() && empty.records.empty());
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Sound kSound;
  Member member(kSound);
  Input input(std::span(data, size));
  const Journal::Position from{input.number(8), input.number(8)};
  member.number = from.frame;
  member.applied = input.number(8);
  for (int frames = 0; frames < 32 && !input.empty(); ++frames) member.add_frame(input);
  const std::vector<std::byte> before(member.ring().begin(), member.ring().end());
  bool sound = false;
  {
    Reader reader(member, member.applied);
    const auto done = reader.replay(from);
    VSNAP_HOLDS(done.has_value() || done.error().kind == ErrorKind::damaged);
    check_records(reader.records, member.applied, member.whole_records());
    sound = done.has_value();
  }
  VSNAP_HOLDS(std::ranges::equal(member.ring(), before));
  if (std::max(from.frame, member.applied) > kFarNumber) return 0;
  if (sound)
    go_on(member, from, member.applied);
  else
    give_up(member, from, member.applied);
  return 0;
}
