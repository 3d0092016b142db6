// The arguments of commands that make a volume of a snapshot: POOL/VOL@SNAP NEWVOL.
#pragma once

#include <string>

#include "cli/command.h"
#include "core/names.h"

namespace vsnap::cli {

struct NewVolumeArguments {
  std::string from;
  std::string to; // the name alone, or with the pool in front
  void declare(Command& command) {
    command.argument("SNAPSHOT", from);
    command.argument("NEWVOL", to);
  }
};

struct NewVolume {
  std::string pool;
  ViewName from;
  std::string name;
};

// Kind usage: in the wrong order, another pool's, or a name that is none.
[[nodiscard]] Result<NewVolume> resolve_new_volume(const NewVolumeArguments& arguments,
                                                   const std::string& command);

} // namespace vsnap::cli
