// Where a client writes down what it does: a file that it has mapped, so that what stood there when it was
// killed stays. An operation is there before it begins, as one that has not returned.
//
// The file: records of 64 bytes, an Operation each, in the order in which they began; zeros after the last.
// Threads: one.
#pragma once

#include <optional>
#include <string>

#include "core/error.h"
#include "tests/support/history.h"

namespace vsnap::history {

class Log {
 public:
  static constexpr std::size_t kMost = 4U << 20; // operations; the file is sparse

  static Result<Log> create(const std::string& path);
  Log(Log&& other) noexcept;
  Log& operator=(Log&&) = delete;
  ~Log();

  [[nodiscard]] bool is_full() const { return count_ == kMost; }
  // The operation is about to begin, now.
  void invoke(const Operation& operation);
  // The last one has returned; of a read, what it saw.
  void returned(Outcome outcome, std::uint64_t first, std::uint64_t middle, std::uint64_t last);
  // One that has been elsewhere.
  void add(const Operation& operation);

 private:
  struct Record;
  explicit Log(Record* records) : records_(records) {}

  Record* records_;
  std::size_t count_ = 0;
};

// All operations of a log, also of one that is being written.
[[nodiscard]] Result<std::vector<Operation>> read_log(const std::string& path);

[[nodiscard]] std::int64_t now_ns(); // CLOCK_MONOTONIC: the same for all processes of a machine

} // namespace vsnap::history
