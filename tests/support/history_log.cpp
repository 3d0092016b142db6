#include "tests/support/history_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>
#include <atomic>
#include <cerrno>
#include <ctime>
#include <fstream>
#include <utility>

namespace vsnap::history {

struct Log::Record {
  Operation operation;
  std::uint64_t is_there = 0;
};

namespace {

constexpr std::size_t kRecordBytes = 64;

} // namespace

Result<Log> Log::create(const std::string& path) {
  static_assert(sizeof(Record) == kRecordBytes);
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (file < 0) return system_failure(errno, path);
  const bool has_size = ::ftruncate(file, kMost * kRecordBytes) == 0;
  void* const memory =
      has_size ? ::mmap(nullptr, kMost * kRecordBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
               : MAP_FAILED;
  const int error = errno;
  ::close(file);
  if (memory == MAP_FAILED) return system_failure(error, path);
  return Log(static_cast<Record*>(memory));
}

Log::Log(Log&& other) noexcept : records_(std::exchange(other.records_, nullptr)), count_(other.count_) {}

Log::~Log() {
  if (records_ != nullptr) ::munmap(records_, kMost * kRecordBytes);
}

void Log::add(const Operation& operation) {
  Record& record = records_[count_++];
  record.operation = operation;
  // Who is killed in between leaves nothing of it.
  std::atomic_ref(record.is_there).store(1, std::memory_order_release);
}

void Log::invoke(const Operation& operation) {
  Operation begun = operation;
  begun.outcome = Outcome::unknown;
  begun.returned_ns = kNever_ns;
  begun.invoked_ns = now_ns();
  add(begun);
}

void Log::returned(Outcome outcome, std::uint64_t first, std::uint64_t middle, std::uint64_t last) {
  const std::int64_t now = now_ns();
  Operation& operation = records_[count_ - 1].operation;
  operation.first = first;
  operation.middle = middle;
  operation.last = last;
  operation.returned_ns = now;
  // The outcome says that the rest counts.
  std::atomic_ref(operation.outcome).store(outcome, std::memory_order_release);
}

Result<std::vector<Operation>> read_log(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return failure(ErrorKind::failed, fmt::format("{}: cannot be read", path));
  std::vector<Operation> operations;
  struct {
    Operation operation;
    std::uint64_t is_there = 0;
  } record;
  static_assert(sizeof(record) == kRecordBytes);
  while (file.read(reinterpret_cast<char*>(&record), sizeof(record)) && record.is_there == 1) {
    operations.push_back(record.operation);
  }
  return operations;
}

std::int64_t now_ns() {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * std::int64_t{1'000'000'000} + time.tv_nsec;
}

} // namespace vsnap::history
