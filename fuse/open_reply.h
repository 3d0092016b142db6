// The kernel's answer to open and create: the handle, and how its data is to be moved. A direct handle may
// write in parallel, any other keeps the pages that the kernel has cached.
// Threads: any worker that has the request.
#pragma once

#include "fuse/kernel_api.h"
#include "fuse/open_files.h"

namespace vsnap {

// False: the kernel does not want the answer any more, so no release will come for the handle.
[[nodiscard]] bool reply_open(fuse_req_t req, const OpenFile& file);
[[nodiscard]] bool reply_create(fuse_req_t req, const fuse_entry_param& entry, const OpenFile& file);

} // namespace vsnap
