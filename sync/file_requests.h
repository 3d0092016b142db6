// What a joined host asks of the pool's directory: files made, renamed and removed in its mount, and their
// attributes. At the coordinator; view_exports.h has what concerns data.
// Threads: any.
#pragma once

#include "core/pool.h"
#include "sync/sharing.pb.h"

namespace vsnap {

// An answer to a request that names no open view.
[[nodiscard]] wire::LinkReply serve_file_request(Pool& pool, const wire::LinkRequest& request);

} // namespace vsnap
