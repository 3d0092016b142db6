// Lists as columns, as fields and as JSON; progress lines.
#include "cli/output.h"
#include "cli/progress.h"
#include "tests/support/catch.h"

namespace vsnap::cli {
namespace {

Table sample() {
  Table table({{"name"}, {"size", true}, {"origin"}, {"id", true, false}});
  table.add({Cell::text("lab/vm1"), Cell::size(20ULL << 30), Cell::none(), Cell::number(2)});
  table.add({Cell::text("lab/b"), Cell::size(512), Cell::text("lab/vm1@s"), Cell::number(30)});
  return table;
}

TEST_CASE("columns are aligned, numbers to the right, without blanks at the end") {
  CHECK(*sample().text({}) ==
        "NAME     SIZE  ORIGIN\n"
        "lab/vm1   20G  -\n"
        "lab/b    512B  lab/vm1@s\n");
}

TEST_CASE("-H has no header and one tab between fields") {
  CommonOptions options;
  options.no_header = true;
  CHECK(*sample().text(options) == "lab/vm1\t20G\t-\nlab/b\t512B\tlab/vm1@s\n");
}

TEST_CASE("-p prints bytes") {
  CommonOptions options;
  options.no_header = true;
  options.exact = true;
  options.columns = "size";
  CHECK(*sample().text(options) == "21474836480\n512\n");
}

TEST_CASE("-o chooses columns and their order, in any case") {
  CommonOptions options;
  options.columns = "ID,name";
  CHECK(*sample().text(options) == "ID  NAME\n 2  lab/vm1\n30  lab/b\n");
}

TEST_CASE("-s sorts numbers as numbers and text as text") {
  CommonOptions options;
  options.no_header = true;
  options.columns = "name";
  options.sort = "size";
  CHECK(*sample().text(options) == "lab/b\nlab/vm1\n");
  options.sort = "name";
  CHECK(*sample().text(options) == "lab/b\nlab/vm1\n");
  options.sort = "id";
  CHECK(*sample().text(options) == "lab/vm1\nlab/b\n");
}

TEST_CASE("a column that does not exist is a usage error with the nearest name") {
  CommonOptions options;
  options.columns = "name,szie";
  const auto text = sample().text(options);
  REQUIRE_FALSE(text);
  CHECK(text.error().kind == ErrorKind::usage);
  options.columns.clear();
  options.sort = "orign";
  CHECK(sample().check(options).error().message.find("did you mean origin?") != std::string::npos);
  options.sort.clear();
  options.columns = "name,";
  CHECK_FALSE(sample().check(options));
}

TEST_CASE("JSON has every column, sizes as numbers, and null for what is not there") {
  const Json json = sample().json();
  REQUIRE(json.size() == 2);
  CHECK(json[0]["size"] == 20ULL << 30);
  CHECK(json[0]["origin"].is_null());
  CHECK(json[1]["id"] == 30);
}

TEST_CASE("an empty list has its header, or with -H nothing") {
  const Table table({{"name"}, {"size", true}});
  CommonOptions options;
  CHECK(*table.text(options) == "NAME  SIZE\n");
  options.no_header = true;
  CHECK(table.text(options)->empty());
  CHECK(table.json().empty());
}

TEST_CASE("times in JSON are UTC") { CHECK(utc_time(1'700'000'000'000'000'000) == "2023-11-14T22:13:20Z"); }

TEST_CASE("a progress line tells part, rate and time left") {
  CHECK(progress_line("flatten", ProgressUnit::bytes, 1ULL << 30, 4ULL << 30, 10) ==
        "flatten: 25% of 4G, 102M/s, 30 s left");
  CHECK(progress_line("check", ProgressUnit::extents, 50, 100, 0.1) == "check: 50% of 100 extents");
  CHECK(progress_line("check", ProgressUnit::extents, 100, 100, 10) == "check: 100% of 100 extents, 10/s");
  CHECK(progress_line("rm", ProgressUnit::bytes, 4096, 0, 1) == "rm: 4K");
  CHECK(progress_line("x", ProgressUnit::extents, 1, 10'000, 2) ==
        "x: 0% of 10000 extents, 0/s, 5 h 33 min left");
}

} // namespace
} // namespace vsnap::cli
