// What lets an operation be asked for again after its answer was lost: the transaction that carries it out
// also puts the number of its request into the catalog, where the process that is asked again looks.
//
//   command    some number that nobody else uses (sync/control_handler.h). The last kKeptCommands are kept:
//              so many a daemon can have accepted when it dies.
//   file       a request of the kernel that changes names, in one mount. The last one is kept: the kernel
//              holds the directory locked from such a request to its answer.
//
// Invariants
// 1. A request is noted if and only if it was carried out, whenever the process dies.
// 2. An operation of several transactions is noted by the first one; it must be done with that one, but for
//    what the next start does anyway.
// Threads: an AskedBy is of the calling thread. The functions: only inside a body of Database::read() or
// write().
#pragma once

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <optional>

#include "core/pool.h"

namespace vsnap::request_note {

inline constexpr std::uint64_t kKeptCommands = 256;

void put(SQLite::Database& db, RequestId request);
// As Pool::carried_out().
[[nodiscard]] std::optional<ObjectId> find(SQLite::Database& db, RequestId request);

} // namespace vsnap::request_note
