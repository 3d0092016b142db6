// What is found on a file that somebody wants to make a member of.
#include "core/probe.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/core/refusal.h"

using namespace vsnap;

namespace {

class TemporaryFile {
 public:
  explicit TemporaryFile(std::uint64_t size_bytes = 8ULL << 20)
      : path_((std::filesystem::temp_directory_path() / "vsnap-probe-XXXXXX").string()) {
    const int fd = ::mkstemp(path_.data());
    REQUIRE(fd >= 0);
    ::close(fd);
    std::filesystem::resize_file(path_, size_bytes);
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }
  void put(std::uint64_t offset, const std::string& bytes) {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(offset));
    file << bytes;
    REQUIRE(file.flush().good());
  }
  void put_ext2(const std::string& label) {
    put(1024 + 56, "\x53\xef"); // s_magic
    put(1024 + 120, label);     // s_volume_name
  }
  void put_swap() {
    put(1024, std::string("\x01\0\0\0\xff\x07\0\0", 8)); // version, last page
    put(4086, "SWAPSPACE2");
  }
  void put_dos_table() {
    put(446, std::string("\0\0\2\0\x83\0\x10\0\0\x08\0\0\0\x10\0\0", 16)); // one Linux partition
    put(510, "\x55\xaa");
  }
  [[nodiscard]] std::optional<std::string> found() const {
    const auto found = probe_contents(path_);
    INFO((found ? "" : found.error().message));
    REQUIRE(found.has_value());
    return *found;
  }

 private:
  std::string path_;
};

} // namespace

TEST_CASE("nothing is found on a file of zeros") { CHECK(TemporaryFile().found() == std::nullopt); }

TEST_CASE("nothing is found on an empty file") { CHECK(TemporaryFile(0).found() == std::nullopt); }

TEST_CASE("a file system is found with its kind and label") {
  TemporaryFile file;
  file.put_ext2("photos");
  CHECK(file.found() == "an ext2 file system labelled 'photos'");
}

TEST_CASE("a swap area is found") {
  TemporaryFile file;
  file.put_swap();
  CHECK(file.found() == "a swap signature");
}

TEST_CASE("a partition table is found") {
  TemporaryFile file;
  file.put_dos_table();
  CHECK(file.found() == "a dos partition table");
}

TEST_CASE("nothing is found after signatures were wiped") {
  TemporaryFile file;
  file.put_ext2("photos");
  REQUIRE(wipe_signatures(file.path()).has_value());
  CHECK(file.found() == std::nullopt);
}

TEST_CASE("a partition table is wiped as well") {
  TemporaryFile file;
  file.put_dos_table();
  REQUIRE(wipe_signatures(file.path()).has_value());
  CHECK(file.found() == std::nullopt);
}

TEST_CASE("wiping where nothing is found changes nothing") {
  TemporaryFile file;
  file.put(5000, "payload");
  REQUIRE(wipe_signatures(file.path()).has_value());
  std::ifstream in(file.path(), std::ios::binary);
  in.seekg(5000);
  std::string back(7, '\0');
  in.read(back.data(), 7);
  CHECK(back == "payload");
}

TEST_CASE("bytes that no signature tells of are data, zeros and holes are none") {
  TemporaryFile file(80ULL << 20);
  CHECK_FALSE(*holds_data(file.path()));
  file.put(1ULL << 20, std::string(1ULL << 20, '\0'));
  CHECK_FALSE(*holds_data(file.path()));
  file.put(40ULL << 20, "payload");
  CHECK(*holds_data(file.path()));
}

TEST_CASE("a file that is not there is an error that names it") {
  const Error error = refusal(probe_contents("/nonexistent/vsnap-member"));
  CHECK(error.kind == ErrorKind::not_found);
  CHECK(says(error, "/nonexistent/vsnap-member"));
}
