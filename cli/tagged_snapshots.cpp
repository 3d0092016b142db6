#include "cli/tagged_snapshots.h"

#include <fmt/format.h>

#include "cli/mount_table.h"
#include "sync/wire.h"

namespace vsnap::cli {

Result<TaggedSnapshots> tagged_snapshots(const std::vector<std::string>& words, const std::string& command) {
  if (words.size() < 2) {
    return failure(ErrorKind::usage, fmt::format("{}: and the tag? (vsnap {} {} TAG)",
                                                 vsnap::quoted(words.front()), command, words.front()));
  }
  TaggedSnapshots found;
  found.request.set_tag(words.back());
  VSNAP_TRY(check_name("tag", words.back()));
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    VSNAP_TRY_ASSIGN(const Spec spec, resolve_view(words[i]));
    if (!spec.view->is_snapshot()) {
      return failure(ErrorKind::usage, fmt::format("{0}/{1}: only snapshots are held (vsnap ls {0}/{1} lists "
                                                   "its snapshots)",
                                                   spec.pool, spec.view->text()));
    }
    if (!found.pool.empty() && spec.pool != found.pool) {
      return failure(ErrorKind::usage,
                     fmt::format("{}: not in pool {}: one moment needs one pool (run vsnap {} once for each)",
                                 words[i], found.pool, command));
    }
    found.pool = spec.pool;
    *found.request.add_names() = wire::to_wire(*spec.view);
    found.names.push_back(spec.pool + "/" + spec.view->text());
  }
  return found;
}

} // namespace vsnap::cli
