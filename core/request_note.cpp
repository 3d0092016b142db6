#include "core/request_note.h"

#include <fmt/format.h>

#include "core/catalog.h"

namespace vsnap {
namespace {

thread_local std::optional<RequestId> asked_by;

} // namespace

AskedBy::AskedBy(RequestId request) { asked_by = request; }

AskedBy::~AskedBy() { asked_by.reset(); }

std::optional<RequestId> AskedBy::current() { return asked_by; }

namespace request_note {
namespace {

constexpr const char* kCommands = "commands"; // so far
constexpr const char* kFile = "file_request";
constexpr const char* kFileNewest = "file_newest";

std::string command_key(std::uint64_t count) { return fmt::format("command_{}", count % kKeptCommands); }

} // namespace

void put(SQLite::Database& db, RequestId request) {
  if (request.source == RequestId::Source::file) {
    catalog::set_value(db, kFile, request.number);
    catalog::set_value(db, kFileNewest, catalog::value(db, "next_object") - 1);
    return;
  }
  const std::uint64_t count = catalog::value(db, kCommands);
  // By an earlier transaction of the same operation: there is one at a time.
  if (count > 0 && catalog::value(db, command_key(count - 1).c_str()) == request.number) return;
  catalog::set_value(db, command_key(count).c_str(), request.number);
  catalog::set_value(db, kCommands, count + 1);
}

std::optional<ObjectId> find(SQLite::Database& db, RequestId request) {
  if (request.source == RequestId::Source::file) {
    if (catalog::value(db, kFile) != request.number) return std::nullopt;
    return ObjectId(catalog::value(db, kFileNewest));
  }
  for (std::uint64_t i = 0; i < kKeptCommands; ++i) {
    if (catalog::value(db, command_key(i).c_str()) == request.number) return ObjectId(0);
  }
  return std::nullopt;
}

} // namespace request_note
} // namespace vsnap
