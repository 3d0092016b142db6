#include "sync/remote_read.h"

#include <algorithm>
#include <cstring>

namespace vsnap {

Result<std::size_t> read_in_parts(const wire::ReadRequest& whole, std::span<std::byte> out,
                                  const AskForPart& ask) {
  wire::ReadRequest part = whole;
  std::size_t done = 0;
  while (done < out.size()) {
    part.set_offset(whole.offset() + done);
    part.set_length(static_cast<std::uint32_t>(std::min<std::size_t>(out.size() - done, kMostReadAtOnce)));
    VSNAP_TRY_ASSIGN(const wire::LinkReply reply, ask(part));
    const std::string& data = reply.read().data();
    if (data.size() > part.length())
      return failure(ErrorKind::failed, EPROTO, "more came than was asked for");
    std::memcpy(out.data() + done, data.data(), data.size());
    done += data.size();
    if (data.size() < part.length()) break;
  }
  return done;
}

} // namespace vsnap
