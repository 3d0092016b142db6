// A mount as the kernel has it: its descriptors, which may go from a process to its successor, so that the
// mount outlives the one that serves it.
//
//   make ──► mounted ──► served ──► end: unmounted, whoever has files open gets ENOTCONN
//                          │
//                          └──► leave, or death ──► adopt (another process, same descriptors) ──► served
//
// While nobody serves it, requests wait in the kernel. What the dead process had read and not answered the
// kernel sends again when ask_again() asks for it (FUSE_NOTIFY_RESEND, Linux 6.9).
//
// Invariants
// 1. make() either gives a mount point that is mounted, or an Error and nothing mounted.
// 2. Whoever holds any of the descriptors keeps the mount alive; end() asks the others to let go first.
// 3. The kernel's first request, INIT, was read and is kept; nobody else reads it. (Not so with
//    Init::of_library.)
// Threads: the main thread; channels() any.
// Based on: FUSE_DEV_IOC_CLONE and FUSE_NOTIFY_RESEND of the kernel's fuse.h.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "fuse/mount_state.h"

namespace vsnap {

struct MountOptions {
  std::string mount_point;
  bool allow_other = false; // other users too; as an ordinary user: user_allow_other in /etc/fuse.conf
  bool debug = false;       // every request to the log, at level debug
  bool io_uring = false;    // requests through rings, where libfuse and the kernel can; see request_ring.h
  unsigned threads = 0;     // 0: the default
  bool read_only = false;   // the kernel lets nobody change anything
  std::string fs_name;      // what mount(8) shows as the source, such as vsnap:lab
};

class KernelMount {
 public:
  [[nodiscard]] static Result<std::unique_ptr<KernelMount>> make(const MountOptions& options);
  // descriptors() of a predecessor, which are taken.
  [[nodiscard]] static Result<std::unique_ptr<KernelMount>> adopt(const std::string& mount_point,
                                                                  std::vector<int> descriptors);
  ~KernelMount(); // end(), unless it was left
  KernelMount(const KernelMount&) = delete;
  KernelMount& operator=(const KernelMount&) = delete;

  [[nodiscard]] int device() const { return channels_.front(); }
  // One for each worker; the first is the device itself.
  [[nodiscard]] const std::vector<int>& channels() const { return channels_; }
  [[nodiscard]] MountState& state() { return *state_; }
  [[nodiscard]] bool is_adopted() const { return adopted_; }
  // Somebody holds the descriptors who starts a successor.
  void set_kept() { kept_ = true; }
  [[nodiscard]] bool is_kept() const { return kept_; }
  // Whether INIT was left to libfuse, for rings.
  [[nodiscard]] bool is_of_library() const { return state_->init().empty(); }

  // Whether a successor can go on with it; else why not.
  [[nodiscard]] Result<> can_outlive() const;
  [[nodiscard]] std::vector<int> descriptors() const; // what adopt() takes; they stay with this, too
  void ask_again() const;

  // Called first by end().
  void set_on_end(std::function<void()> let_go) { on_end_ = std::move(let_go); }
  void end();
  void leave(); // to a successor

 private:
  KernelMount(std::string mount_point, std::unique_ptr<MountState> state, std::vector<int> channels,
              bool adopted);
  Result<> read_init();
  Result<> make_channels(unsigned count);
  void close_channels();

  const std::string mount_point_;
  const std::unique_ptr<MountState> state_;
  std::vector<int> channels_;
  const bool adopted_;
  bool kept_ = false;
  bool mounted_ = true;
  std::function<void()> on_end_;
};

} // namespace vsnap
