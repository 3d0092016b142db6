// Holds file systems and guests still for a moment, and lets them go again whatever happens: a process of its
// own, forked before anything is frozen, does both.
//
// Invariants
// 1. What it froze it thaws: when it is told to, when the limit has passed since the first freeze, or when
//    the command is gone, whichever is first. Nothing else is thawed.
// 2. It waits for nothing that may be frozen: it has its descriptors from before, is in memory, writes to no
//    file, and is out of reach of the terminal's signals.
// 3. Should it be killed, the command thaws in its place, once no call of the guard is under way any more. It
//    never kills the guard itself: a freeze under way would end after the thaw, and nobody undo it.
// 4. "Held" is said of what was still frozen when the command asked for the end, after its snapshot.
//
// How it goes: guests first, in the order given, as what they flush may have to go through a file system
// here; then file systems. Before that these are written back, which has a limit of its own, as long: nothing
// is frozen yet. Frozen by one thread, one after another, and thawed by others, so that a freeze
// that takes long keeps nothing else still for longer than the limit, and no thaw waits for a guest. A freeze
// that ends after the limit is undone by the thread that made it.
//
// Threads: the command's one thread. Start it while that is the only one that touches its files.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "cli/descriptor.h"
#include "cli/guest_agent.h"
#include "core/error.h"

namespace vsnap::cli {

class FreezeGuard {
 public:
  struct FileSystem {
    std::string name; // for messages
    Descriptor directory;
  };
  struct Options {
    std::vector<FileSystem> file_systems;
    std::vector<std::unique_ptr<GuestAgent>> agents;
    std::chrono::milliseconds limit{5000};
    // How long to go on trying to thaw a guest.
    std::chrono::milliseconds thaw_limit{10'000};
    // Of file systems: 0 or an errno. Others for tests.
    int (*write_back)(int descriptor) = nullptr; // syncfs
    int (*freeze)(int descriptor) = nullptr;     // FIFREEZE
    int (*thaw)(int descriptor) = nullptr;       // FITHAW
  };
  enum class State : int {
    idle,
    freezing,
    frozen,
    busy,        // somebody else had frozen it
    unsupported, // it cannot be frozen
    empty,       // a guest that froze no file system
    failed,
    held,     // thawed when the command asked for it, and frozen until then
    let_go,   // thawed before, by the limit
    released, // found thawed: by somebody else
  };

  static Result<std::unique_ptr<FreezeGuard>> start(Options options);
  ~FreezeGuard(); // thaws

  FreezeGuard(const FreezeGuard&) = delete;
  FreezeGuard& operator=(const FreezeGuard&) = delete;

  // Returns when all that can be is frozen, or when the limit has passed. After an error what was is being
  // thawed: thaw() waits for that, and tells what may be frozen still.
  Result<> freeze();
  // Thaws. An error names what may be frozen still.
  Result<> thaw();
  [[nodiscard]] State file_system(std::size_t i) const;
  [[nodiscard]] State agent(std::size_t i) const;
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  friend class GuardProcess;
  struct Shared; // between both processes

  explicit FreezeGuard(Options options);
  Result<std::string> wait_for(char kind, std::chrono::milliseconds limit);
  Result<> thaw_in_its_place();
  void thaw_one(std::size_t i, std::vector<std::string>& left);
  bool ends_within(std::chrono::milliseconds time);
  static const std::string& name_of(const Options& options, std::size_t i);

  Options options_;
  Shared* shared_ = nullptr;
  Descriptor channel_;
  pid_t pid_ = -1;
  bool over_ = false;
};

} // namespace vsnap::cli
