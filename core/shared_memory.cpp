#include "core/shared_memory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>
#include <boost/interprocess/mapped_region.hpp>
#include <boost/interprocess/shared_memory_object.hpp>
#include <filesystem>
#include <utility>

namespace vsnap::shared_memory {
namespace ipc = boost::interprocess;

namespace {

constexpr const char* kDirectory = "/dev/shm"; // of glibc

struct Descriptor {
  explicit Descriptor(int opened) : fd(opened) {}
  Descriptor(Descriptor&& other) noexcept : fd(std::exchange(other.fd, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
  int fd;
};

class Segment final : public SharedMemory {
 public:
  Segment(ipc::shared_memory_object object, ipc::mapped_region region, Descriptor lock)
      : object_(std::move(object)), region_(std::move(region)), lock_(std::move(lock)) {}
  std::span<std::byte> bytes() override {
    return {static_cast<std::byte*>(region_.get_address()), region_.get_size()};
  }
  // The lock is on a descriptor of its own: the mapping keeps the file that it was made from, and a process
  // that is being killed may keep its memory until another has taken over from it.
  bool hold() override { return ::flock(lock_.fd, LOCK_EX | LOCK_NB) == 0; }
  bool has_its_name() override {
    struct stat info = {};
    return ::fstat(lock_.fd, &info) == 0 && info.st_nlink > 0;
  }

 private:
  ipc::shared_memory_object object_;
  ipc::mapped_region region_;
  Descriptor lock_;
};

Result<Descriptor> another_descriptor(const ipc::shared_memory_object& object) {
  const std::string path = fmt::format("/proc/self/fd/{}", object.get_mapping_handle().handle);
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return system_failure(errno, path);
  return Descriptor(fd);
}

Failure refused(const std::string& name, const ipc::interprocess_exception& e) {
  if (e.get_error_code() == ipc::not_found_error) return failure(ErrorKind::not_found, ENOENT, name);
  return system_failure(e.get_native_error() != 0 ? e.get_native_error() : EIO,
                        fmt::format("shared memory {}", name));
}

// Anybody can put anything there: only what is a file of ours is opened, which nobody else can then exchange.
Result<> check_owner(const std::string& name) {
  struct stat info = {};
  const std::string path = std::string(kDirectory) + "/" + name;
  if (::lstat(path.c_str(), &info) != 0) return system_failure(errno, fmt::format("shared memory {}", name));
  if (!S_ISREG(info.st_mode) || info.st_uid != ::geteuid()) {
    return failure(ErrorKind::failed, EPERM,
                   fmt::format("shared memory {}: not made by this user (rm {} gives it up)", name, path));
  }
  return {};
}

} // namespace

Result<std::unique_ptr<SharedMemory>> make(const std::string& name, std::size_t bytes) {
  try {
    ipc::shared_memory_object::remove(name.c_str());
    ipc::shared_memory_object object(ipc::create_only, name.c_str(), ipc::read_write, ipc::permissions(0600));
    // Held before it has a size: until then whoever looks for dead ones leaves it alone.
    VSNAP_TRY_ASSIGN(Descriptor lock, another_descriptor(object));
    if (::flock(lock.fd, LOCK_EX | LOCK_NB) != 0) {
      ipc::shared_memory_object::remove(name.c_str());
      return failure(ErrorKind::busy, fmt::format("shared memory {}: in use", name));
    }
    // A store to memory that the machine does not have would be a signal, and no error.
    int error = 0;
    do error = ::posix_fallocate(object.get_mapping_handle().handle, 0, static_cast<off_t>(bytes));
    while (error == EINTR);
    if (error != 0) {
      ipc::shared_memory_object::remove(name.c_str());
      return system_failure(error, fmt::format("shared memory {}", name));
    }
    ipc::mapped_region region(object, ipc::read_write);
    return std::make_unique<Segment>(std::move(object), std::move(region), std::move(lock));
  } catch (const ipc::interprocess_exception& e) {
    return refused(name, e);
  }
}

Result<std::unique_ptr<SharedMemory>> open(const std::string& name) {
  VSNAP_TRY(check_owner(name));
  try {
    ipc::shared_memory_object object(ipc::open_only, name.c_str(), ipc::read_only);
    ipc::offset_t size = 0;
    if (!object.get_size(size) || size == 0)
      return failure(ErrorKind::not_found, ENOENT, name); // just being made
    ipc::mapped_region region(object, ipc::read_only);
    VSNAP_TRY_ASSIGN(Descriptor lock, another_descriptor(object));
    return std::make_unique<Segment>(std::move(object), std::move(region), std::move(lock));
  } catch (const ipc::interprocess_exception& e) {
    return refused(name, e);
  }
}

void remove(const std::string& name) { ipc::shared_memory_object::remove(name.c_str()); }

std::vector<std::string> names(const std::string& prefix) {
  std::vector<std::string> found;
  std::error_code error; // no such directory: nothing is found
  for (const auto& entry : std::filesystem::directory_iterator(kDirectory, error)) {
    if (std::string name = entry.path().filename().string(); name.starts_with(prefix) && check_owner(name))
      found.push_back(std::move(name));
  }
  return found;
}

} // namespace vsnap::shared_memory
