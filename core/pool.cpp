#include "core/pool.h"

namespace vsnap {

ViewHandle& ViewHandle::operator=(ViewHandle&& other) noexcept {
  if (this != &other) {
    close();
    pool_ = other.pool_;
    view_ = std::move(other.view_);
    other.pool_ = nullptr;
  }
  return *this;
}

ViewHandle::~ViewHandle() { close(); }

void ViewHandle::close() {
  if (view_ && pool_ != nullptr) pool_->handle_closed(*view_);
  view_.reset();
  pool_ = nullptr;
}

Result<> Pool::create(Env&, const CreatePoolOptions&) { return failure(ErrorKind::failed, ENOSYS, "pool create"); }
Result<std::unique_ptr<Pool>> Pool::open(Env&, OpenPoolOptions) { return failure(ErrorKind::failed, ENOSYS, "pool open"); }
Result<MemberIdentity> Pool::identify(Env&, const std::string&) { return failure(ErrorKind::failed, ENOSYS, "identify"); }
Result<> Pool::destroy(Env&, const std::vector<std::string>&) { return failure(ErrorKind::failed, ENOSYS, "destroy"); }

} // namespace vsnap
