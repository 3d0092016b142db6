// Clients that read and write the same blocks through several files, and write down what they were answered;
// and what was written down, judged (tests/support/history.h):
//
//   history_client run LOGS FIRST SEED MILLISECONDS BLOCKS WORKERS FILE...
//       WORKERS processes on each file, each with a number from FIRST on and a log LOGS.NUMBER. A file is
//       past the page cache with direct: before its name. Each opens it for itself, and again after an error.
//       Numbers must not be used again for the same volume: they make values unique.
//   history_client look LOG NUMBER BEGAN ENDED BLOCKS FILE
//       what a snapshot has, whose command took from BEGAN to ENDED (ns, CLOCK_MONOTONIC)
//   history_client check [--death NS]... LOG...
//       exit 1 and a line for each contradiction. A daemon died at NS (CLOCK_MONOTONIC): what was under way
//       then may have been carried out twice; where it was there is a line, too, but it is no contradiction.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>
#include <span>
#include <thread>

#include "core/units.h"
#include "tests/support/history_log.h"

using namespace vsnap;
using namespace vsnap::history;

namespace {

constexpr std::size_t kWords = kBlockBytes / sizeof(std::uint64_t);
constexpr std::string_view kDirect = "direct:";
constexpr std::string_view kCached = "cached:";

struct alignas(kBlockBytes) Block { // aligned, as O_DIRECT asks
  std::array<std::uint64_t, kWords> words;
};

std::uint64_t number_of(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    fmt::print(stderr, "history_client: {} is no number\n", text);
    std::exit(2);
  }
  return value;
}

// A word that is neither the first nor the last, if there is one.
std::uint64_t middle_of(const Block& block) {
  const auto found = std::find_if(block.words.begin(), block.words.end(), [&](std::uint64_t word) {
    return word != block.words.front() && word != block.words.back();
  });
  return found != block.words.end() ? *found : block.words.front();
}

struct Work {
  std::string file;
  bool direct = false;
  bool cached = false;
  std::uint64_t blocks = 0;
  std::uint64_t seed = 0;
  std::int64_t end_ns = 0;
};

class Worker {
 public:
  Worker(Log log, std::uint32_t number, Work work)
      : log_(std::move(log)), number_(number), work_(std::move(work)), random_(work_.seed + number) {}
  ~Worker() { close(); }

  void run() {
    while (now_ns() < work_.end_ns && !log_.is_full()) {
      if (file_ < 0 && !open()) continue;
      const auto dice = random_() % 100;
      const bool went_well = dice < 48 ? write() : dice < 98 ? read() : ::fsync(file_) == 0;
      if (!went_well) close();
    }
  }

 private:
  bool open() {
    file_ = ::open(work_.file.c_str(), O_RDWR | O_CLOEXEC | (work_.direct ? O_DIRECT : 0));
    if (file_ < 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return file_ >= 0;
  }
  void close() {
    if (file_ >= 0) ::close(file_);
    file_ = -1;
  }
  [[nodiscard]] Operation about_to(Kind kind, std::uint64_t value) {
    Operation operation;
    operation.block = random_() % work_.blocks;
    operation.first = operation.middle = operation.last = value;
    operation.client = number_;
    operation.kind = kind;
    operation.cached = work_.cached ? 1 : 0;
    return operation;
  }
  bool write() {
    const std::uint64_t value = (std::uint64_t{number_} << 32) + ++written_;
    const Operation operation = about_to(Kind::write, value);
    block_.words.fill(value);
    log_.invoke(operation);
    const bool went_well = ::pwrite(file_, &block_, kBlockBytes, place_of(operation)) == kBlockBytes;
    log_.returned(went_well ? Outcome::ok : Outcome::failed, value, value, value);
    return went_well;
  }
  bool read() {
    const Operation operation = about_to(Kind::read, 0);
    log_.invoke(operation);
    const bool went_well = ::pread(file_, &block_, kBlockBytes, place_of(operation)) == kBlockBytes;
    log_.returned(went_well ? Outcome::ok : Outcome::failed, block_.words.front(), middle_of(block_),
                  block_.words.back());
    return went_well;
  }
  static off_t place_of(const Operation& operation) {
    return static_cast<off_t>(operation.block * kBlockBytes);
  }

  Log log_;
  const std::uint32_t number_;
  const Work work_;
  std::mt19937_64 random_;
  int file_ = -1;
  std::uint64_t written_ = 0;
  Block block_{};
};

Result<Log> make_log(const std::string& path) {
  auto log = Log::create(path);
  if (!log) fmt::print(stderr, "history_client: {}\n", log.error().message);
  return log;
}

int run(std::span<char*> words) {
  const std::string logs = words[0];
  auto number = static_cast<std::uint32_t>(number_of(words[1]));
  Work work;
  work.seed = number_of(words[2]);
  work.end_ns = now_ns() + static_cast<std::int64_t>(number_of(words[3])) * 1'000'000;
  work.blocks = number_of(words[4]);
  const std::uint64_t workers = number_of(words[5]);
  std::size_t started = 0;
  for (const std::string_view file : words.subspan(6)) {
    work.direct = file.starts_with(kDirect);
    work.cached = file.starts_with(kCached);
    work.file = file.substr(work.direct ? kDirect.size() : work.cached ? kCached.size() : 0);
    for (std::uint64_t i = 0; i < workers; ++i, ++number, ++started) {
      const pid_t child = ::fork();
      if (child < 0) return 1;
      if (child > 0) continue;
      auto log = make_log(fmt::format("{}.{}", logs, number));
      if (log) Worker(std::move(*log), number, work).run();
      ::_exit(log ? 0 : 1);
    }
  }
  bool all_well = true;
  for (; started > 0; --started) {
    int status = 0;
    all_well = ::wait(&status) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0 && all_well;
  }
  return all_well ? 0 : 1;
}

int look(std::span<char*> words) {
  auto log = make_log(words[0]);
  const int file = ::open(words[5], O_RDONLY | O_CLOEXEC);
  if (!log || file < 0) {
    fmt::print(stderr, "history_client: {}: {}\n", words[5], std::strerror(errno));
    return 1;
  }
  Operation operation;
  operation.kind = Kind::cut;
  operation.client = static_cast<std::uint32_t>(number_of(words[1]));
  operation.invoked_ns = static_cast<std::int64_t>(number_of(words[2]));
  operation.returned_ns = static_cast<std::int64_t>(number_of(words[3]));
  operation.outcome = Outcome::ok;
  const std::uint64_t blocks = number_of(words[4]);
  for (Block block{}; operation.block < blocks; ++operation.block) {
    if (::pread(file, &block, kBlockBytes, static_cast<off_t>(operation.block * kBlockBytes)) !=
        kBlockBytes) {
      fmt::print(stderr, "history_client: {}, block {}: {}\n", words[5], operation.block,
                 std::strerror(errno));
      return 1;
    }
    operation.first = block.words.front();
    operation.middle = middle_of(block);
    operation.last = block.words.back();
    log->add(operation);
  }
  ::close(file);
  return 0;
}

bool was_under_way(const Operation& operation, std::int64_t moment_ns) {
  return operation.invoked_ns <= moment_ns &&
         (operation.outcome != Outcome::ok || moment_ns <= operation.returned_ns);
}

int check(std::span<char*> words) {
  std::vector<Operation> all;
  std::vector<std::int64_t> deaths_ns;
  for (; words.size() > 1 && std::string_view(words[0]) == "--death"; words = words.subspan(2)) {
    deaths_ns.push_back(static_cast<std::int64_t>(number_of(words[1])));
  }
  for (const char* const path : words) {
    auto operations = read_log(path);
    if (!operations) {
      fmt::print(stderr, "history_client: {}\n", operations.error().message);
      return 2;
    }
    all.insert(all.end(), operations->begin(), operations->end());
  }
  const auto count = [&](auto holds) { return std::count_if(all.begin(), all.end(), holds); };
  const auto answered = [&](Kind kind) {
    return count([&](const Operation& each) { return each.kind == kind && each.outcome == Outcome::ok; });
  };
  fmt::print("{} reads, {} writes and {} blocks of snapshots answered; {} failed, {} without an answer\n",
             answered(Kind::read), answered(Kind::write), answered(Kind::cut),
             count([](const Operation& each) { return each.outcome == Outcome::failed; }),
             count([](const Operation& each) { return each.outcome == Outcome::unknown; }));
  for (Operation& each : all) {
    const auto died = [&](std::int64_t moment_ns) { return was_under_way(each, moment_ns); };
    each.repeatable = std::any_of(deaths_ns.begin(), deaths_ns.end(), died) ? 1 : 0;
  }
  bool all_right = true;
  for (const Violation& violation : violations(all)) {
    fmt::print("{}: {}\n", to_string(violation.fault), violation.what);
    all_right = all_right && violation.fault == Fault::twice;
  }
  return all_right ? 0 : 1;
}

} // namespace

int main(int argc, char** argv) {
  const std::span<char*> words(argv, static_cast<std::size_t>(argc));
  const std::string_view verb = argc > 1 ? argv[1] : "";
  if (verb == "run" && argc >= 9) return run(words.subspan(2));
  if (verb == "look" && argc == 8) return look(words.subspan(2));
  if (verb == "check" && argc >= 3) return check(words.subspan(2));
  fmt::print(stderr, "usage: history_client run|look|check ...; see its source\n");
  return 2;
}
