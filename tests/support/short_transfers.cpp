#include "tests/support/short_transfers.h"

#include <dlfcn.h>
#include <liburing.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <map>

#include "core/assert.h"

namespace vsnap {
namespace {

using Call = ShortTransfers::Call;
using Outcome = ShortTransfers::Outcome;

std::atomic<const ShortTransfers::Fate*> fate_now{nullptr};

Outcome fate_of(Call call, std::size_t asked) {
  const ShortTransfers::Fate* const fate = fate_now.load();
  const Outcome outcome = fate != nullptr ? (*fate)(call, asked) : Outcome{asked, 0};
  VSNAP_ASSERT(outcome.moved <= asked);
  return outcome;
}

// The one that stands behind ours.
template <class Function>
Function* real(const char* name) {
  auto* const found = reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name)); // NOLINT: as POSIX has it
  VSNAP_ASSERT(found != nullptr);
  return found;
}

template <class Move>
ssize_t moved(Call call, std::size_t asked, Move move) {
  const Outcome outcome = fate_of(call, asked);
  if (outcome.error != 0) {
    errno = outcome.error;
    return -1;
  }
  return outcome.moved == 0 && asked != 0 ? 0 : move(outcome.moved);
}

// A read that is to end with an error becomes an operation without effect, which ends at once: its end is
// there when the kernel returns, and gets the error before anybody sees it.
void shorten_queued(io_uring& ring, std::map<std::uint64_t, int>& errors) {
  for (unsigned at = ring.sq.sqe_head; at != ring.sq.sqe_tail; ++at) {
    io_uring_sqe& entry = ring.sq.sqes[at & *ring.sq.kring_mask];
    if (entry.opcode != IORING_OP_READ || entry.user_data == 0) continue; // 0: the ring's own wake-up
    const Outcome outcome = fate_of(Call::ring, entry.len);
    entry.len = static_cast<unsigned>(outcome.moved);
    if (outcome.error == 0) continue;
    const std::uint64_t read = entry.user_data;
    io_uring_prep_nop(&entry);
    entry.user_data = read;
    errors.emplace(read, outcome.error);
  }
}

void put_errors(io_uring& ring, std::map<std::uint64_t, int>& errors) {
  const unsigned end = io_uring_smp_load_acquire(ring.cq.ktail);
  for (unsigned at = *ring.cq.khead; at != end; ++at) {
    io_uring_cqe& found = ring.cq.cqes[at & *ring.cq.kring_mask];
    const auto error = errors.find(found.user_data);
    if (error == errors.end()) continue;
    found.res = -error->second;
    errors.erase(error);
  }
}

} // namespace

ShortTransfers::ShortTransfers(Fate fate) : fate_(std::move(fate)) {
  VSNAP_ASSERT(fate_now.exchange(&fate_) == nullptr);
}

ShortTransfers::~ShortTransfers() { fate_now.store(nullptr); }

} // namespace vsnap

using vsnap::Call;

extern "C" {

ssize_t pread64(int fd, void* out, std::size_t size, off64_t offset) {
  static auto* const next = vsnap::real<decltype(pread64)>("pread64");
  return vsnap::moved(Call::read, size, [&](std::size_t part) { return next(fd, out, part, offset); });
}

ssize_t pwrite64(int fd, const void* data, std::size_t size, off64_t offset) {
  static auto* const next = vsnap::real<decltype(pwrite64)>("pwrite64");
  return vsnap::moved(Call::write, size, [&](std::size_t part) { return next(fd, data, part, offset); });
}

// Of one piece, as all of ours are.
ssize_t preadv64v2(int fd, const iovec* pieces, int count, off64_t offset, int flags) {
  static auto* const next = vsnap::real<decltype(preadv64v2)>("preadv64v2");
  VSNAP_ASSERT(count == 1);
  return vsnap::moved(Call::read_cached, pieces->iov_len, [&](std::size_t part) {
    const iovec piece{pieces->iov_base, part};
    return next(fd, &piece, 1, offset, flags);
  });
}

ssize_t pwritev64v2(int fd, const iovec* pieces, int count, off64_t offset, int flags) {
  static auto* const next = vsnap::real<decltype(pwritev64v2)>("pwritev64v2");
  VSNAP_ASSERT(count == 1);
  return vsnap::moved(Call::write, pieces->iov_len, [&](std::size_t part) {
    const iovec piece{pieces->iov_base, part};
    return next(fd, &piece, 1, offset, flags);
  });
}

int fdatasync(int fd) {
  static auto* const next = vsnap::real<decltype(fdatasync)>("fdatasync");
  const int error = vsnap::fate_of(Call::sync, 0).error;
  if (error == 0) return next(fd);
  errno = error;
  return -1;
}

int io_uring_submit_and_wait(io_uring* ring, unsigned wanted) {
  static auto* const next = vsnap::real<decltype(io_uring_submit_and_wait)>("io_uring_submit_and_wait");
  std::map<std::uint64_t, int> errors;
  vsnap::shorten_queued(*ring, errors);
  const int submitted = next(ring, wanted);
  vsnap::put_errors(*ring, errors);
  return submitted;
}
}
