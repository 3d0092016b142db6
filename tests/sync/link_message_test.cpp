// Messages between hosts on the wire; keys and tokens as text.
#include "sync/link_message.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <fstream>

#include "sync/curve_key.h"
#include "sync/invitation_token.h"
#include "tests/core/refusal.h"
#include "tests/support/catch.h"
#include "tests/sync/scratch_dir.h"

namespace vsnap {
namespace {

LinkMessage sample() {
  return {LinkType::request,
          0x80000001,
          1ULL << 40,
          0xfedcba9876543210,
          77,
          std::string("pay\0load", 8),
          {"raw", std::string(300, 'x'), ""}};
}

Result<LinkMessage> decoded(const std::string& first, const std::vector<std::string>& frames) {
  std::vector<std::string_view> parts{first};
  for (const std::string& frame : frames) parts.emplace_back(frame);
  return link_message::decode(parts);
}

TEST_CASE("a message comes back as it was") {
  const LinkMessage message = sample();
  CHECK(decoded(link_message::encode(message), message.frames).value() == message);
  const LinkMessage empty{};
  CHECK(decoded(link_message::encode(empty), {}).value() == empty);
}

TEST_CASE("a flipped bit anywhere in header or payload is found") {
  const LinkMessage message = sample();
  const std::string good = link_message::encode(message);
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(static_cast<unsigned char>(bad[bit / 8]) ^ (1U << (bit % 8)));
    INFO("bit " << bit);
    CHECK_FALSE(decoded(bad, message.frames).has_value());
  }
}

TEST_CASE("a message that is cut, continued, or lacks a frame is refused") {
  const LinkMessage message = sample();
  const std::string good = link_message::encode(message);
  for (std::size_t length = 0; length < good.size(); ++length)
    CHECK_FALSE(decoded(good.substr(0, length), message.frames).has_value());
  CHECK_FALSE(decoded(good + "x", message.frames).has_value());
  CHECK_FALSE(decoded(good, {"raw"}).has_value());
  CHECK_FALSE(decoded(good, std::vector<std::string>(4)).has_value());
  CHECK_FALSE(link_message::decode({}).has_value());
}

TEST_CASE("a message of another major version is told from a damaged one") {
  std::string other = link_message::encode(sample());
  other[4] = 9;
  CHECK(refusal(decoded(other, sample().frames)).errno_value == EPROTONOSUPPORT);
  other[0] = 'x';
  CHECK(refusal(decoded(other, sample().frames)).errno_value == EPROTO);
}

TEST_CASE("a token comes back as it was, and a mistyped one is none") {
  const InvitationToken token{"tcp://10.0.0.1:7800", new_key_pair().public_key, "lab",
                              Uuid{1, 2, 3},         new_key_pair().secret_key, 1'700'000'000'000'000'000};
  const std::string text = invitation_token::text_of(token);
  CHECK(text.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.") ==
        std::string::npos);
  CHECK(invitation_token::from_text(text).value() == token);
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string wrong = text;
    wrong[i] = wrong[i] == 'A' ? 'B' : 'A';
    const auto result = invitation_token::from_text(wrong);
    if (result) CHECK(*result == token); // bits beyond the last byte
    if (!result) CHECK(result.error().message.find(wrong) == std::string::npos);
    CHECK_FALSE(invitation_token::from_text(text.substr(0, i)).has_value());
  }
}

TEST_CASE("an address is one that other hosts can connect to") {
  for (const char* good : {"tcp://10.0.0.1:7800", "tcp://[fd00::1]:1", "tcp://alpha.example:65535"})
    CHECK(check_address("x", good).has_value());
  for (const char* bad :
       {"", "tcp://", "10.0.0.1:7800", "tcp://10.0.0.1", "tcp://:7800", "tcp://0.0.0.0:7800", "tcp://*:7800",
        "tcp://[::]:7800", "tcp://10.0.0.1:0", "tcp://10.0.0.1:65536", "tcp://10.0.0.1:*",
        "tcp://10.0.0.1:+1", "tcp://fd00::1:7800", "ipc:///tmp/x", "tcp://a b:1", "udp://10.0.0.1:7800"}) {
    INFO(bad);
    CHECK(refusal(check_address("x", bad)).kind == ErrorKind::usage);
  }
}

// ---- keys ----

TEST_CASE("a key comes back from its text, and nothing else is one") {
  const KeyPair pair = new_key_pair();
  CHECK(key_from(key_text(pair.public_key)) == pair.public_key);
  CHECK(key_pair_of(pair.secret_key).public_key == pair.public_key);
  CHECK(new_key_pair().secret_key != pair.secret_key);
  CHECK_FALSE(key_from(""));
  CHECK_FALSE(key_from(std::string(40, '~')));
  CHECK_FALSE(key_from(std::string(39, '0')));
  CHECK_FALSE(key_from(key_text(pair.public_key).substr(0, 35) + std::string(5, '\0')));
}

struct KeyFile {
  test::ScratchDir dir;
  std::string path = dir / "state/host.key";
};

TEST_CASE_METHOD(KeyFile, "the key of a host is made on first use, for its owner alone, and stays") {
  const auto first = own_key(path);
  REQUIRE(first.has_value());
  struct stat info = {};
  REQUIRE(::stat(path.c_str(), &info) == 0);
  CHECK((info.st_mode & 07777) == 0600);
  CHECK(own_key(path).value().secret_key == first->secret_key);
  CHECK(std::distance(std::filesystem::directory_iterator(dir / "state"), {}) == 1);
}

TEST_CASE_METHOD(KeyFile, "a key file that others can use is refused, and said what to do") {
  REQUIRE(own_key(path).has_value());
  for (const mode_t mode : {0640, 0604, 0620, 0602, 0610}) {
    REQUIRE(::chmod(path.c_str(), mode) == 0);
    const Error error = refusal(own_key(path));
    CHECK(error.errno_value == EACCES);
    CHECK(says(error, "chmod 600 " + path));
  }
  REQUIRE(::chmod(path.c_str(), 0400) == 0);
  CHECK(own_key(path).has_value());
}

TEST_CASE_METHOD(KeyFile, "what is no key file is refused, and left alone") {
  REQUIRE(own_key(path).has_value());
  for (const std::string content :
       {"", "vsnap-host-key-1\n", "vsnap-host-key-1\nshort\n", "something else\n"}) {
    std::ofstream(path) << content;
    CHECK_FALSE(own_key(path).has_value());
  }
  CHECK(std::filesystem::file_size(path) == 15);
  std::filesystem::remove(path);
  std::filesystem::create_symlink("/dev/zero", path);
  CHECK_FALSE(own_key(path).has_value());
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  CHECK_FALSE(own_key(path).has_value());
}

} // namespace
} // namespace vsnap
