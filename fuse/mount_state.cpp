#include "fuse/mount_state.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>

#include "core/assert.h"
#include "core/mutex.h"

namespace vsnap {
namespace {

constexpr std::uint64_t kMagic = 0x33544E4D504E5356; // "VSNPMNT3"
// Threads of a process that answer requests; those beyond share.
constexpr std::uint32_t kNotes = 512;
// Of as many processes one after the other the notes are kept: of one that died before it came to a request
// that its predecessor had answered, too.
constexpr std::uint32_t kBanks = 8;

// Of a thread as long as it lives; then of another: what it noted was answered.
class NoteNumber {
 public:
  NoteNumber() {
    MutexLock lock(numbers().mutex);
    std::vector<std::uint32_t>& free = numbers().free;
    value_ = free.empty() ? numbers().made++ % kNotes : free.back();
    if (!free.empty()) free.pop_back();
  }
  ~NoteNumber() {
    MutexLock lock(numbers().mutex);
    numbers().free.push_back(value_);
  }
  NoteNumber(const NoteNumber&) = delete;
  NoteNumber& operator=(const NoteNumber&) = delete;
  [[nodiscard]] std::uint32_t value() const { return value_; }

 private:
  struct Numbers {
    Mutex mutex;
    std::uint32_t made = 0;
    std::vector<std::uint32_t> free;
  };
  static Numbers& numbers() { // outlives every thread
    static Numbers& all = *std::make_unique<Numbers>().release();
    return all;
  }
  std::uint32_t value_ = 0;
};

std::uint32_t note_of_thread() {
  thread_local const NoteNumber mine;
  return mine.value();
}

} // namespace

struct MountState::CopySlot {
  std::atomic<std::uint64_t> to; // 0: free; last to be written
  std::atomic<std::uint64_t> from;
  std::atomic<std::uint64_t> done_bytes;
  std::atomic<std::uint64_t> size_bytes;
};

struct MountState::Layout {
  struct Slot {
    std::atomic<std::uint64_t> used;      // view << 1 | direct; 0: free
    std::atomic<std::uint64_t> opened_by; // valid while in use; 0: the kernel knows the number
    std::atomic<std::uint64_t> tenure;    // the same
    std::atomic<std::uint32_t> uses;      // so far, that of now included
  };
  struct alignas(64) Note {
    std::atomic<std::uint64_t> request;
  };

  std::atomic<std::uint64_t> magic; // last of all to be written
  std::atomic<std::uint32_t> processes;
  std::atomic<std::uint32_t> init_bytes;   // after the bytes
  std::atomic<std::uint32_t> answer_bytes; // the same
  std::array<std::byte, 256> answer;
  std::array<char, 32> device;
  std::atomic<std::uint64_t> directories;
  Tenure tenure;
  std::array<std::byte, kMaxInitBytes> init;
  std::array<CopySlot, kMaxCopies> copies;
  std::array<std::array<Note, kNotes>, kBanks> notes;
  std::array<Slot, kMaxHandles> slots;
};

namespace {

std::uint64_t number_of(std::uint32_t slot, std::uint32_t uses) {
  return static_cast<std::uint64_t>(uses) << 32 | slot;
}

} // namespace

Result<std::unique_ptr<MountState>> MountState::make() {
  static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
  const int fd = ::memfd_create("vsnap-mount", MFD_CLOEXEC);
  if (fd < 0) return system_failure(errno, "memory for the mount");
  if (const int error = ::posix_fallocate(fd, 0, sizeof(Layout)); error != 0) {
    ::close(fd);
    return system_failure(error, "memory for the mount");
  }
  void* const memory = ::mmap(nullptr, sizeof(Layout), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) {
    const int error = errno;
    ::close(fd);
    return system_failure(error, "memory for the mount");
  }
  static_cast<Layout*>(memory)->magic.store(kMagic); // all else is zero, as a new file is
  return std::unique_ptr<MountState>(new MountState(fd, *static_cast<Layout*>(memory)));
}

Result<std::unique_ptr<MountState>> MountState::map(int descriptor) {
  const auto give_up = [&](Failure why) {
    ::close(descriptor);
    return why;
  };
  struct stat info = {};
  if (::fstat(descriptor, &info) != 0) return give_up(system_failure(errno, "memory of the mount"));
  if (info.st_size != sizeof(Layout)) {
    return give_up(failure(ErrorKind::failed, EPROTO,
                           "the mount was made by another version of vsnap, whose open files this one cannot "
                           "take over (umount and mount anew)"));
  }
  void* const memory = ::mmap(nullptr, sizeof(Layout), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (memory == MAP_FAILED) return give_up(system_failure(errno, "memory of the mount"));
  if (static_cast<Layout*>(memory)->magic.load() != kMagic) {
    ::munmap(memory, sizeof(Layout));
    return give_up(failure(ErrorKind::failed, EPROTO, "the mount is of another version of vsnap"));
  }
  return std::unique_ptr<MountState>(new MountState(descriptor, *static_cast<Layout*>(memory)));
}

MountState::MountState(int descriptor, Layout& layout) : descriptor_(descriptor), layout_(layout) {
  struct stat info = {};
  if (::fstat(descriptor, &info) == 0) mount_number_ = info.st_ino;
  note_init_request();
  for (std::uint32_t slot = kMaxHandles; slot-- > 0;) {
    if (layout_.slots[slot].used.load() == 0) free_.push_back(slot);
  }
}

MountState::~MountState() {
  ::munmap(&layout_, sizeof(Layout));
  ::close(descriptor_);
}

void MountState::keep_init(std::span<const std::byte> request) {
  VSNAP_ASSERT(request.size() <= kMaxInitBytes);
  std::copy(request.begin(), request.end(), layout_.init.begin());
  layout_.init_bytes.store(static_cast<std::uint32_t>(request.size()));
  note_init_request();
}

void MountState::note_init_request() {
  fuse_in_header header{};
  if (init().size() < sizeof header) return;
  std::memcpy(&header, init().data(), sizeof header);
  init_request_ = header.unique;
}

bool MountState::agree_on(std::span<const std::byte> answer) {
  if (answer.size() > layout_.answer.size()) return false;
  if (const std::uint32_t bytes = layout_.answer_bytes.load(); bytes != 0)
    return std::equal(answer.begin(), answer.end(), layout_.answer.begin(), layout_.answer.begin() + bytes);
  std::copy(answer.begin(), answer.end(), layout_.answer.begin());
  layout_.answer_bytes.store(static_cast<std::uint32_t>(answer.size()));
  return true;
}

std::span<const std::byte> MountState::init() const {
  return std::span(layout_.init).first(layout_.init_bytes.load());
}

void MountState::keep_device(const std::string& device) {
  VSNAP_ASSERT(device.size() < layout_.device.size());
  std::copy(device.begin(), device.end(), layout_.device.begin());
}

std::string MountState::device() const { return layout_.device.data(); }

std::optional<std::uint64_t> MountState::add_handle(ObjectId view, bool direct, std::uint64_t opened_by) {
  if (free_.empty()) return std::nullopt;
  const std::uint32_t slot = free_.back();
  free_.pop_back();
  Layout::Slot& at = layout_.slots[slot];
  const std::uint32_t uses = at.uses.fetch_add(1) + 1;
  at.opened_by.store(opened_by);
  at.tenure.store(tenure().number.load());
  at.used.store(view.value() << 1 | (direct ? 1 : 0));
  return number_of(slot, uses);
}

void MountState::confirm_handle(std::uint64_t number) {
  const std::uint32_t slot = slot_of(number);
  if (slot >= kMaxHandles) return;
  Layout::Slot& at = layout_.slots[slot];
  if (number_of(slot, at.uses.load()) == number && at.used.load() != 0) at.opened_by.store(0);
}

void MountState::remove_handle(std::uint64_t number) {
  const std::uint32_t slot = slot_of(number);
  if (slot >= kMaxHandles) return;
  Layout::Slot& at = layout_.slots[slot];
  if (number_of(slot, at.uses.load()) != number || at.used.load() == 0) return;
  at.used.store(0);
  free_.push_back(slot);
}

std::vector<MountState::Handle> MountState::handles() const {
  std::vector<Handle> found;
  for (std::uint32_t slot = 0; slot < kMaxHandles; ++slot) {
    const Layout::Slot& at = layout_.slots[slot];
    const std::uint64_t used = at.used.load();
    if (used == 0) continue;
    found.push_back({number_of(slot, at.uses.load()), ObjectId(used >> 1), (used & 1) != 0,
                     at.opened_by.load(), at.tenure.load()});
  }
  return found;
}

std::optional<std::uint64_t> MountState::handle_opened_by(std::uint64_t request) const {
  for (std::uint32_t slot = 0; slot < kMaxHandles; ++slot) {
    const Layout::Slot& at = layout_.slots[slot];
    if (at.used.load() != 0 && at.opened_by.load() == request) return number_of(slot, at.uses.load());
  }
  return std::nullopt;
}

MountState::CopySlot* MountState::copy_slot(std::uint64_t to) const {
  const auto found = std::find_if(layout_.copies.begin(), layout_.copies.end(),
                                  [&](const CopySlot& slot) { return slot.to.load() == to; });
  return found == layout_.copies.end() ? nullptr : &*found;
}

bool MountState::put_copy(const Copy& copy) {
  remove_copy(copy.to);
  CopySlot* const slot = copy_slot(0);
  if (slot == nullptr) return false;
  slot->from.store(copy.from.value());
  slot->done_bytes.store(copy.done_bytes);
  slot->size_bytes.store(copy.size_bytes);
  slot->to.store(copy.to.value());
  return true;
}

void MountState::set_copied(ObjectId to, std::uint64_t done_bytes) {
  if (CopySlot* const slot = copy_slot(to.value())) slot->done_bytes.store(done_bytes);
}

void MountState::remove_copy(ObjectId to) {
  if (CopySlot* const slot = copy_slot(to.value())) slot->to.store(0);
}

std::vector<MountState::Copy> MountState::copies() const {
  std::vector<Copy> found;
  for (const CopySlot& slot : layout_.copies) {
    if (const std::uint64_t to = slot.to.load(); to != 0)
      found.push_back(
          {ObjectId(to), ObjectId(slot.from.load()), slot.done_bytes.load(), slot.size_bytes.load()});
  }
  return found;
}

RequestId MountState::request_id(std::uint64_t request) const {
  std::uint64_t mixed = mount_number_ * 0x9E3779B97F4A7C15; // 2^64 / golden ratio: numbers lie far apart
  mixed ^= mixed >> 32;
  mixed = (mixed + request) & std::numeric_limits<std::int64_t>::max();
  return {RequestId::Source::file, std::max<std::uint64_t>(mixed, 1)};
}

Tenure& MountState::tenure() { return layout_.tenure; }

std::uint64_t MountState::next_directory() { return layout_.directories.fetch_add(1) + 1; }

void MountState::begin_notes() { bank_ = layout_.processes.fetch_add(1) % kBanks; }

void MountState::note_answer(std::uint64_t request) {
  if (bank_) layout_.notes[*bank_][note_of_thread()].request.store(request, std::memory_order_release);
}

bool MountState::was_answered(std::uint64_t request) const {
  return std::any_of(layout_.notes.begin(), layout_.notes.end(), [&](const auto& bank) {
    return std::any_of(bank.begin(), bank.end(),
                       [&](const Layout::Note& note) { return note.request.load() == request; });
  });
}

} // namespace vsnap
