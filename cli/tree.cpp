// vsnap tree: what hangs on what: volumes, their snapshots, and the clones of those.
#include <fmt/format.h>
#include <langinfo.h>
#include <clocale>
#include <cstring>
#include <map>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"
#include "cli/registry.h"

namespace vsnap::cli {
namespace {

struct Strokes {
  const char *item, *last, *past, *blank;
};
constexpr Strokes kLines{"├─ ", "└─ ", "│  ", "   "};
constexpr Strokes kAscii{"|- ", "`- ", "|  ", "   "};

const Strokes& strokes() {
  std::setlocale(LC_CTYPE, "");
  return std::strcmp(::nl_langinfo(CODESET), "UTF-8") == 0 ? kLines : kAscii;
}

// The views of a pool, each under what it belongs to or was made from: snapshots under their volume, clones
// under their snapshot, everything else under the pool.
class Forest {
 public:
  Forest(std::string pool, std::vector<ViewInfo> views) : pool_(std::move(pool)), views_(std::move(views)) {
    for (const ViewInfo& view : views_) by_name_[view.name.text()] = &view;
    for (const ViewInfo& view : views_) {
      std::string above; // the pool
      if (view.name.is_snapshot()) {
        above = view.name.volume;
      } else if (view.origin && find(*view.origin) != nullptr && !hangs_on(*view.origin, view.name.volume)) {
        above = *view.origin;
        origins_[view.name.volume] = above;
      }
      under_[above].push_back(&view);
    }
  }
  Forest(Forest&&) = default;
  Forest(const Forest&) = delete;
  Forest& operator=(const Forest&) = delete;

  [[nodiscard]] const std::string& pool() const { return pool_; }
  [[nodiscard]] const ViewInfo* find(const std::string& name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : found->second;
  }
  // "": the pool's.
  [[nodiscard]] const std::vector<const ViewInfo*>& under(const std::string& name) const {
    static const std::vector<const ViewInfo*> kNone;
    const auto found = under_.find(name);
    return found == under_.end() ? kNone : found->second;
  }

 private:
  // A volume may get the content of a clone of its own snapshot: that is no circle in the tree.
  [[nodiscard]] bool hangs_on(const std::string& snapshot, const std::string& volume) const {
    std::string at = snapshot.substr(0, snapshot.find('@'));
    for (auto up = origins_.find(at); at != volume && up != origins_.end(); up = origins_.find(at))
      at = up->second.substr(0, up->second.find('@'));
    return at == volume;
  }

  std::string pool_;
  std::vector<ViewInfo> views_; // the others point into it
  std::map<std::string, const ViewInfo*> by_name_;
  std::map<std::string, std::string> origins_; // of volumes that hang on a snapshot
  std::map<std::string, std::vector<const ViewInfo*>> under_;
};

void add_row(Table& table, const std::string& drawn, const ViewInfo& view) {
  table.add({Cell::text(drawn), Cell::text(std::string(to_string(view.form))),
             Cell::text_if(view.state),
             Cell::size(view.size_bytes), Cell::size(view.used_bytes),
             Cell::text_if(view.base)});
}

void draw_under(Table& table, const Forest& forest, const std::string& name, const std::string& indent) {
  const Strokes& draw = strokes();
  const auto& list = forest.under(name);
  for (std::size_t i = 0; i < list.size(); ++i) {
    const ViewInfo& view = *list[i];
    const bool last = i + 1 == list.size();
    const std::string shown = view.name.is_snapshot() ? "@" + view.name.snapshot : view.name.volume;
    const bool lost = view.origin && view.origin->starts_with('('); // "(removed snapshot)"
    add_row(table, indent + (last ? draw.last : draw.item) + shown + (lost ? " " + *view.origin : ""), view);
    draw_under(table, forest, view.name.text(), indent + (last ? draw.blank : draw.past));
  }
}

Json node_json(const Forest& forest, const ViewInfo& view) {
  Json node = view_json(forest.pool(), view);
  node["children"] = Json::array();
  for (const ViewInfo* const below : forest.under(view.name.text()))
    node["children"].push_back(node_json(forest, *below));
  return node;
}

Result<Forest> forest_of(const std::string& pool) {
  wire::ControlRequest list;
  list.mutable_list();
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(pool, std::move(list)));
  std::vector<ViewInfo> views;
  for (const wire::ViewInfo& view : reply.views().views()) views.push_back(wire::from_wire(view));
  return Forest(pool, std::move(views));
}

Result<> add_tree(Table& table, Json& trees, const Spec& spec) {
  VSNAP_TRY_ASSIGN(const Forest forest, forest_of(spec.pool));
  Json tree = {{"name", spec.pool}, {"children", Json::array()}};
  if (!spec.view) {
    table.add({Cell::text(spec.pool)});
    draw_under(table, forest, "", "");
    for (const ViewInfo* const view : forest.under("")) tree["children"].push_back(node_json(forest, *view));
  } else {
    const ViewInfo* const view = forest.find(spec.view->text());
    if (view == nullptr) {
      return failure(ErrorKind::not_found,
                     fmt::format("{}/{}: no such {} (vsnap tree {} shows them)", spec.pool, spec.view->text(),
                                 spec.view->is_snapshot() ? "snapshot" : "volume", spec.pool));
    }
    add_row(table, spec.pool + "/" + view->name.text(), *view);
    draw_under(table, forest, view->name.text(), "");
    tree["children"].push_back(node_json(forest, *view));
  }
  trees.push_back(std::move(tree));
  return {};
}

Result<int> run(const CommonOptions& common, const std::string& target) {
  Table table({{"name"}, {"form"}, {"state"}, {"size", true}, {"used", true}, {"base"}});
  Json trees = Json::array();
  int code = 0;
  if (!target.empty()) {
    VSNAP_TRY_ASSIGN(const Spec spec, resolve_target(target));
    VSNAP_TRY(add_tree(table, trees, spec));
  } else { // all pools; one that does not open hides no other
    VSNAP_TRY_ASSIGN(const auto pools, registry_list());
    for (const std::string& pool : pools) {
      if (const auto added = add_tree(table, trees, Spec{pool, std::nullopt}); !added)
        code = print_error(added.error());
    }
  }
  if (common.json)
    print_json({{"pools", std::move(trees)}});
  else
    VSNAP_TRY(table.print(common, "pools"));
  return code;
}

} // namespace

void register_tree(Program& program) {
  Command command = program.add("tree", "[POOL | POOL/VOL]",
                                "Draw volumes, their snapshots, and the clones of those, as a tree.");
  auto target = std::make_shared<std::string>();
  command.argument("TARGET", *target, Command::Need::optional);
  program.on(command, [target](const CommonOptions& common) { return run(common, *target); });
}

} // namespace vsnap::cli
