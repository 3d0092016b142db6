#include "cli/taken_snapshots.h"

#include <fmt/format.h>

#include "cli/output.h"
#include "cli/pause.h"

namespace vsnap::cli {

void print_snapshots(const CommonOptions& common, const std::string& pool, const std::vector<ViewName>& names,
                     const std::vector<SnapshotLevel>& levels, const wire::ControlReply& reply) {
  std::vector<std::string> texts;
  Json words = Json::array();
  for (std::size_t i = 0; i < names.size(); ++i) {
    texts.push_back(pool + "/" + names[i].text());
    words.push_back(to_string(levels[i]));
  }
  if (common.json) {
    Json out{{"snapshots", texts}, {"levels", words}};
    add_pause(out, reply);
    print_json(std::move(out));
  } else if (common.verbose) {
    for (std::size_t i = 0; i < names.size(); ++i)
      fmt::print("created {}, level {}\n", texts[i], to_string(levels[i]));
    fmt::print("{}", pause_text(fmt::format("{}", fmt::join(texts, ", ")), reply));
  }
}

} // namespace vsnap::cli
