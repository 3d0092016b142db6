// What a mount has to remember longer than the process that serves it lives: memory that a process hands to
// its successor, together with the mount's descriptors (kernel_mount.h).
//
//   INIT       the kernel's first request, and the answer to it. Every process that serves the mount feeds it
//              to libfuse anew, and has to come to the same answer.
//   handles    a slot for each open file. Its number is what the kernel gives back with each request.
//   copies     those under way by sharing (shared_copies.h): how far the kernel knows them to be.
//   tenure     how long what is open was that of this host (core/pool.h)
//   answers    the requests answered last by each thread: carried out already, should they come again.
//
// Invariants
// 1. A slot is in use from before the kernel can know its number until the release has been carried out, and
//    its number never comes again: it counts how often the slot was used.
// 2. An open request has at most one slot, whichever process carried it out how often.
// 3. A request is noted as answered after it was carried out, and before the kernel can know that.
// 4. The memory is reserved when it is made: writing to it never fails.
// 5. Every word that a successor reads is one atomic store, so it may die between any two.
// Threads: any, but for make() and map(). Calls about handles are serialized by the caller (open_files.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/pool.h"

namespace vsnap {

class MountState {
 public:
  static constexpr std::uint32_t kMaxHandles = 65'536;
  static constexpr std::size_t kMaxCopies = 64;
  static constexpr std::size_t kMaxInitBytes = 4096;

  struct Handle {
    std::uint64_t number = 0;
    ObjectId view{};
    bool direct = false;
    std::uint64_t opened_by = 0; // the request, until the kernel knows the number
    std::uint64_t tenure = 0;    // Tenure::number when it was opened
  };

  struct Copy {
    ObjectId to{};
    ObjectId from{};
    std::uint64_t done_bytes = 0;
    std::uint64_t size_bytes = 0;
  };

  [[nodiscard]] static Result<std::unique_ptr<MountState>> make();
  // Of a predecessor; `descriptor` is taken. Fails where its layout is of another version.
  [[nodiscard]] static Result<std::unique_ptr<MountState>> map(int descriptor);
  ~MountState();
  MountState(const MountState&) = delete;
  MountState& operator=(const MountState&) = delete;

  [[nodiscard]] int descriptor() const { return descriptor_; }
  // What a pool knows a request of the kernel by, which counts those of each mount from the start.
  [[nodiscard]] RequestId request_id(std::uint64_t request) const;

  void keep_init(std::span<const std::byte> request);
  [[nodiscard]] std::span<const std::byte> init() const; // empty: it was not kept
  [[nodiscard]] std::uint64_t init_request() const { return init_request_; }
  // Keeps the first answer to INIT. False: this one is another, so who gives it would speak otherwise with
  // the kernel than the kernel with it.
  [[nodiscard]] bool agree_on(std::span<const std::byte> answer);

  // What the mount is called in /proc/self/mountinfo, such as "0:45".
  void keep_device(const std::string& device);
  [[nodiscard]] std::string device() const;

  // `opened_by`: the request; see request_channel.h. nullopt: all slots are in use.
  [[nodiscard]] std::optional<std::uint64_t> add_handle(ObjectId view, bool direct, std::uint64_t opened_by);
  void confirm_handle(std::uint64_t number); // the kernel knows it
  void remove_handle(std::uint64_t number);  // no harm where it is gone
  [[nodiscard]] std::vector<Handle> handles() const;
  [[nodiscard]] std::optional<std::uint64_t> handle_opened_by(std::uint64_t request) const;
  [[nodiscard]] static std::uint32_t slot_of(std::uint64_t number) {
    return static_cast<std::uint32_t>(number);
  }

  // One for each target; calls are serialized by the caller. False: there is no room for another.
  [[nodiscard]] bool put_copy(const Copy& copy);
  void set_copied(ObjectId to, std::uint64_t done_bytes);
  void remove_copy(ObjectId to); // no harm where there is none
  [[nodiscard]] std::vector<Copy> copies() const;

  // Of the pool.
  [[nodiscard]] Tenure& tenure();

  // A number that no open directory of this mount had before.
  [[nodiscard]] std::uint64_t next_directory();

  // From now on this process notes what it answers.
  void begin_notes();
  void note_answer(std::uint64_t request); // by the calling thread
  [[nodiscard]] bool was_answered(std::uint64_t request) const;

 private:
  struct Layout;
  struct CopySlot;
  [[nodiscard]] CopySlot* copy_slot(std::uint64_t to) const; // 0: a free one
  MountState(int descriptor, Layout& layout);
  void note_init_request();

  const int descriptor_;
  std::uint64_t mount_number_ = 0; // no two mounts of this machine have the same
  Layout& layout_;
  std::optional<std::uint32_t> bank_; // of the notes of this process
  std::uint64_t init_request_ = 0;
  std::vector<std::uint32_t> free_ = {}; // slots, the next one last
};

} // namespace vsnap
