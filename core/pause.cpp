#include "core/pause.h"

#include "core/assert.h"

namespace vsnap {
namespace {

constexpr std::uint64_t kThisHost = 0;
thread_local PauseNote* noted = nullptr;

} // namespace

PauseNote::PauseNote() {
  VSNAP_ASSERT(noted == nullptr);
  noted = this;
}

PauseNote::~PauseNote() { noted = nullptr; }

Pause PauseNote::pause() const { return {held_ns_, static_cast<std::uint32_t>(hosts_.size())}; }

void PauseNote::begin(std::int64_t now_ns, std::uint64_t host) {
  hosts_.insert(host);
  if (depth_++ == 0) since_ns_ = now_ns;
}

void PauseNote::end(std::int64_t now_ns) {
  VSNAP_ASSERT(depth_ > 0);
  if (--depth_ == 0) held_ns_ += now_ns - since_ns_;
}

WritesHeld::WritesHeld(Env& env) : env_(env) {
  if (noted != nullptr) noted->begin(env_.monotonic_ns(), kThisHost);
}

WritesHeld::~WritesHeld() {
  if (noted != nullptr) noted->end(env_.monotonic_ns());
}

UntilGivenAgain::~UntilGivenAgain() {
  if (noted == nullptr || !noted->taken_back_) return;
  noted->taken_back_ = false;
  noted->end(env_.monotonic_ns());
}

void UntilGivenAgain::told(Env& env, std::uint64_t host) {
  if (noted == nullptr) return;
  if (!noted->taken_back_) noted->begin(env.monotonic_ns(), host);
  noted->taken_back_ = true;
  noted->hosts_.insert(host);
}

} // namespace vsnap
