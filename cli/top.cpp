// vsnap top: live rates of mounted pools, read from shared memory.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <thread>

#include "cli/command.h"
#include "cli/output.h"
#include "cli/pool_access.h"
#include "cli/registry.h"
#include "core/live_counters.h"
#include "core/pool.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::string pool;
  double interval_s = 1;
  std::uint64_t count = 0; // 0: until interrupted on a terminal, once otherwise
};

struct Source {
  std::string pool;
  std::unique_ptr<LiveCounters> counters;
  std::map<std::uint64_t, LiveCounters::Sample> before;
};

Result<Source> open_source(const std::string& pool) {
  VSNAP_TRY_ASSIGN(const RegistryEntry entry, registry_find(pool));
  auto counters = LiveCounters::open(entry.uuid);
  if (!counters) {
    const Error& error = counters.error();
    return failure(error.kind, error.errno_value, fmt::format("{}: {}", pool, error.message));
  }
  return Source{pool, std::move(*counters), {}};
}

Table make_table() {
  return Table({{"name"},
                {"reads", true},
                {"read", true},
                {"writes", true},
                {"written", true},
                {"discards", true},
                {"flushes", true}});
}

// A row for each view: what happened since the last round, by the second.
void add_rows(Table& table, Source& source, double seconds) {
  std::map<std::uint64_t, LiveCounters::Sample> now;
  for (LiveCounters::Sample& sample : source.counters->read()) now.emplace(sample.id, std::move(sample));
  const auto rate = [&](std::uint64_t after, std::uint64_t earlier) {
    return static_cast<std::uint64_t>(static_cast<double>(after - std::min(after, earlier)) / seconds);
  };
  for (const auto& [id, sample] : now) {
    const LiveCounters::Sample& old = source.before[id];
    table.add(
        {Cell::text(source.pool + "/" + sample.name), Cell::number(rate(sample.reads, old.reads)),
         Cell::size(rate(sample.read_bytes, old.read_bytes)), Cell::number(rate(sample.writes, old.writes)),
         Cell::size(rate(sample.written_bytes, old.written_bytes)),
         Cell::number(rate(sample.discards, old.discards)), Cell::number(rate(sample.flushes, old.flushes))});
  }
  source.before = std::move(now);
}

Result<int> run(const CommonOptions& common, const Options& options) {
  if (!(options.interval_s >= 0.05 && options.interval_s <= 3600)) {
    return failure(ErrorKind::usage, "--interval: give 0.05 to 3600 seconds");
  }
  std::vector<std::string> pools = {options.pool};
  if (options.pool.empty()) {
    VSNAP_TRY_ASSIGN(pools, registry_list());
  }
  std::vector<Source> sources;
  for (const std::string& pool : pools) {
    auto source = open_source(pool);
    if (source)
      sources.push_back(std::move(*source));
    else if (!options.pool.empty())
      return Failure(source.error());
  }
  if (sources.empty()) return failure(ErrorKind::not_found, "no pool is mounted (vsnap mount POOL DIR)");
  const bool terminal = ::isatty(STDOUT_FILENO) == 1 && !common.json;
  const std::uint64_t rounds = options.count > 0 ? options.count : terminal ? ~0ULL : 1;
  for (Source& source : sources) {
    for (LiveCounters::Sample& sample : source.counters->read())
      source.before.emplace(sample.id, std::move(sample));
  }
  auto last = std::chrono::steady_clock::now();
  for (std::uint64_t round = 0; round < rounds; ++round) {
    std::this_thread::sleep_for(std::chrono::duration<double>(options.interval_s));
    const auto now = std::chrono::steady_clock::now();
    Table table = make_table();
    VSNAP_TRY(table.check(common));
    for (Source& source : sources) add_rows(table, source, std::chrono::duration<double>(now - last).count());
    last = now;
    if (terminal) fmt::print("\033[H\033[2J"); // home, clear
    VSNAP_TRY(table.print(common, "rates"));
    std::fflush(stdout);
  }
  return 0;
}

} // namespace

void register_top(Program& program) {
  Command command =
      program.add("top", "[POOL] [--interval SECONDS] [--count N]",
                  "Show live rates of open volumes and snapshots of mounted pools: requests and bytes a "
                  "second.",
                  Takes::list);
  auto options = std::make_shared<Options>();
  command.argument("POOL", options->pool, Command::Need::optional);
  command.columns(make_table().names());
  command.option("--interval", options->interval_s, "seconds between two tables (1)", "SECONDS");
  command.option("--count", options->count, "tables to print (on a terminal: until interrupted; else 1)",
                 "N");
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
