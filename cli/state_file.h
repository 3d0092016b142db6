// A small file in the state directory: written aside, synced, and put in its place.
//
// Invariant: the file holds all of a text, or is as it was before, whenever the process or the machine ends.
// Threads: plain functions; concurrent processes see whole files.
#pragma once

#include <string>

#include "core/error.h"

namespace vsnap::cli {

// Its directory is made where it is missing. must_be_new: EEXIST where the name is taken.
Result<> write_state_file(const std::string& path, const std::string& text, bool must_be_new);
// ENOENT: there is none.
Result<> remove_state_file(const std::string& path);

} // namespace vsnap::cli
