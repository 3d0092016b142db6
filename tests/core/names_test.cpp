// Names and sizes as people write them: what is taken, and what is refused.
#include "core/names.h"

#include <array>

#include "core/units.h"
#include "tests/core/refusal.h"

using namespace vsnap;

TEST_CASE("a name is made of letters, digits, dots, underscores and dashes") {
  for (const std::string name : {"a", "Z", "0", "_", "a.b", "a-b", "a_b", "9.-_", "_.-"}) {
    INFO(name);
    CHECK(valid_name(name));
  }
}

TEST_CASE("a name of another character is refused") {
  for (int c = 0; c < 256; ++c) {
    const bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      c == '.' || c == '_' || c == '-';
    const std::string name = std::string("a") + static_cast<char>(c) + "b";
    INFO("character " << c);
    CHECK(valid_name(name) == good);
  }
}

TEST_CASE("an empty name is refused") { CHECK_FALSE(valid_name("")); }

TEST_CASE("a name of 63 characters is the longest") {
  CHECK(valid_name(std::string(63, 'a')));
  CHECK_FALSE(valid_name(std::string(64, 'a')));
}

TEST_CASE("a name starts with neither a dot nor a dash") {
  for (const std::string name : {".", "..", "-", ".a", "-a", "--help", "..a"}) {
    INFO(name);
    CHECK_FALSE(valid_name(name));
  }
}

TEST_CASE("a name that is too long answers ENAMETOOLONG") {
  const Error error = refusal(check_name("volume", std::string(64, 'a')));
  CHECK(error.kind == ErrorKind::usage);
  CHECK(error.errno_value == ENAMETOOLONG);
}

TEST_CASE("a bad name answers EINVAL and is shown without its control characters") {
  const Error error = refusal(check_name("volume", "a\033[2Jb"));
  CHECK(error.kind == ErrorKind::usage);
  CHECK(error.errno_value == EINVAL);
  CHECK(says(error, "'a\\x1b[2Jb': bad volume name"));
}

TEST_CASE("a view name is a volume or a volume and a snapshot") {
  CHECK(*parse_view_name("v") == ViewName{"v", ""});
  CHECK(*parse_view_name("v@s") == ViewName{"v", "s"});
}

TEST_CASE("a view name with an empty or bad part is refused") {
  for (const std::string text : {"", "@", "v@", "@s", "v@s@t", "v@.s", "-v@s", "v/w", "v@s/t", "v@@s"}) {
    INFO(text);
    CHECK(refusal(parse_view_name(text)).kind == ErrorKind::usage);
  }
}

TEST_CASE("a view name is written as it is read") {
  for (const std::string text : {"v", "v@s"}) CHECK(parse_view_name(text)->text() == text);
}

TEST_CASE("a specification names a pool, and perhaps a view of it") {
  CHECK(parse_spec("p")->pool == "p");
  CHECK_FALSE(parse_spec("p")->view.has_value());
  CHECK(parse_spec("p/v")->view == ViewName{"v", ""});
  CHECK(parse_spec("p/v@s")->view == ViewName{"v", "s"});
}

TEST_CASE("a specification with an empty or bad part is refused") {
  const std::string with_nul("p/v\0w", 5);
  for (const std::string& text : {std::string(), std::string("/"), std::string("p/"), std::string("/v"),
                                  std::string("p@s"), std::string("p/v/w"), std::string("../p"),
                                  std::string("p/.."), std::string("p//v"), std::string("p/@s"), with_nul}) {
    INFO(quoted(text));
    CHECK(refusal(parse_spec(text)).kind == ErrorKind::usage);
  }
}

TEST_CASE("a size is a number of bytes or of binary units") {
  struct Case {
    const char* text;
    std::uint64_t bytes;
  };
  for (const auto& [text, bytes] : std::initializer_list<Case>{{"0", 0},
                                                               {"4096", 4096},
                                                               {"100B", 100},
                                                               {"64K", 64ULL << 10},
                                                               {"64k", 64ULL << 10},
                                                               {"20M", 20ULL << 20},
                                                               {"1.5G", 3ULL << 29},
                                                               {"0.5K", 512},
                                                               {"1.500K", 1536},
                                                               {"20GiB", 20ULL << 30},
                                                               {"64KiB", 64ULL << 10},
                                                               {"0.25MiB", 256ULL << 10},
                                                               {"2.25T", 9ULL << 38},
                                                               {"3P", 3ULL << 50},
                                                               {"7E", 7ULL << 60}}) {
    INFO(text);
    const auto size = parse_size(text);
    REQUIRE(size.has_value());
    CHECK(*size == bytes);
  }
}

TEST_CASE("the largest size is 8 EiB less one byte") {
  CHECK(*parse_size("9223372036854775807") == kMaxVolumeBytes);
  CHECK(*parse_size("7.5E") < kMaxVolumeBytes);
}

TEST_CASE("a size of 8 EiB or more is refused as too large") {
  for (const std::string text :
       {"9223372036854775808", "18446744073709551615", "18446744073709551616", "8E", "8.5E", "8192P", "16E",
        "9007199254740992K", "18014398509481984K", "99999999999999999999999999"}) {
    INFO(text);
    CHECK(says(refusal(parse_size(text)), "too large"));
  }
}

TEST_CASE("a size with a sign, blanks or garbage is refused") {
  for (
      const std::string text :
      {"",    "K",  "-1",  "-1K",  "+1",   " 1",   "1 ",    "1 K",    "1KB",   "KiB",  "0x10",          "1e3",
       "ten", ".",  ".5G", "1.G",  "1.5",  "1.5B", "1..5G", "1.5.5G", "1.-5G", "1,5G", "1.1234567890G", "1\n",
       "1Z",  "K1", "1iB", "1BiB", "1Kib", "1.1K", "0.001K"}) {
    INFO(quoted(text));
    CHECK(refusal(parse_size(text)).kind == ErrorKind::usage);
  }
}

TEST_CASE("a size with a wrong suffix is refused naming the right ones") {
  CHECK(says(refusal(parse_size("20GB")), "'20GB': bad size (4096, 64K, 20G, 1T; powers of two)"));
}

TEST_CASE("a size with a NUL in it is refused") {
  CHECK(refusal(parse_size(std::string_view("1\0K", 3))).kind == ErrorKind::usage);
}

TEST_CASE("whole units are written exactly") {
  CHECK(format_size(0) == "0B");
  CHECK(format_size(1023) == "1023B");
  CHECK(format_size(1024) == "1K");
  CHECK(format_size(64ULL << 10) == "64K");
  CHECK(format_size(1ULL << 60) == "1E");
}

TEST_CASE("other sizes are written with three figures") {
  CHECK(format_size(3ULL << 29) == "1.50G");
  CHECK(format_size((12ULL << 20) + (512ULL << 10)) == "12.5M");
  CHECK(format_size((200ULL << 20) + 1) == "200M");
}

TEST_CASE("the number of a written size has at most four characters") {
  for (unsigned shift = 0; shift < 64; ++shift) {
    for (const std::uint64_t size :
         {(1ULL << shift) - 1, 1ULL << shift, (1ULL << shift) + 1, ~0ULL >> shift}) {
      const std::string text = format_size(size);
      INFO(size << " is written " << text);
      CHECK(text.size() <= 5);
    }
  }
}

TEST_CASE("every whole size that is written can be read") {
  for (unsigned shift = 0; shift < 63; ++shift) {
    const std::uint64_t size = 1ULL << shift;
    INFO(size);
    CHECK(*parse_size(format_size(size)) == size);
  }
}

TEST_CASE("the nearest name is the one with the fewest changed letters") {
  CHECK(nearest("volme", {"vol", "volume", "pool"}) == "volume");
  CHECK(nearest("snpashot", {"snapshot", "snap"}) == "snapshot");
}

TEST_CASE("a name that is far from all others has no nearest") {
  CHECK(nearest("abcdef", {"uvwxyz", "abc"}) == std::nullopt);
  CHECK(nearest("abc", {}) == std::nullopt);
}

TEST_CASE("a short name may differ by one letter") {
  CHECK(nearest("a", {"b"}) == "b");
  CHECK(nearest("ab", {"xy"}) == std::nullopt);
}

TEST_CASE("quoted text has neither control characters nor quotes of its own") {
  CHECK(quoted("plain text") == "'plain text'");
  CHECK(quoted("a'b\\c\n\x7f\xff") == "'a\\x27b\\x5cc\\x0a\\x7f\\xff'");
  CHECK(quoted(std::string_view("\0", 1)) == "'\\x00'");
}

TEST_CASE("quoted text is cut where it is long") {
  const std::string text = quoted(std::string(100'000, 'a'));
  CHECK(text.size() < 90);
  CHECK(text.substr(text.size() - 4) == "...'");
}
