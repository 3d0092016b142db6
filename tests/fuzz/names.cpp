// Names and sizes as people write them.
#include "core/names.h"

#include "tests/fuzz/fuzz.h"

using namespace vsnap;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  VSNAP_HOLDS(valid_name(text) == check_name("volume", text).has_value());
  if (valid_name(text)) VSNAP_HOLDS(text.size() <= kMaxNameLength && text.find('/') == std::string::npos);
  if (const auto view = parse_view_name(text)) {
    VSNAP_HOLDS(valid_name(view->volume) && (!view->is_snapshot() || valid_name(view->snapshot)));
    VSNAP_HOLDS(view->text() == text);
  }
  if (const auto spec = parse_spec(text)) VSNAP_HOLDS(valid_name(spec->pool));
  if (const auto bytes = parse_size(text)) {
    VSNAP_HOLDS(*bytes <= ~0ULL >> 1U);
    VSNAP_HOLDS(!format_size(*bytes).empty());
  }
  const std::string shown = quoted(text);
  for (const char c : shown) VSNAP_HOLDS(c >= ' ' && c <= '~');
  static_cast<void>(nearest(text, {"snapshot", "volume", "pool"}));
  return 0;
}
