// Rates as users write them.
#include "cli/rate.h"
#include "tests/support/catch.h"

using vsnap::cli::parse_rate;

TEST_CASE("a rate is a size for each second, or none") {
  CHECK(parse_rate("10M") == std::uint64_t{10} << 20);
  CHECK(parse_rate("10M/s") == std::uint64_t{10} << 20);
  CHECK(parse_rate("4096") == std::uint64_t{4096});
  CHECK(parse_rate("none") == std::uint64_t{0});
}

TEST_CASE("what is no rate is refused with an example") {
  for (const char* const text : {"", "0", "fast", "-1M", "10M/h", "/s", "9E"}) {
    CAPTURE(text);
    const auto rate = parse_rate(text);
    REQUIRE_FALSE(rate.has_value());
    CHECK(rate.error().kind == vsnap::ErrorKind::usage);
    CHECK(rate.error().message.find("10M") != std::string::npos);
  }
}
