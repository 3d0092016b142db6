// What a joined host takes and returns, as the coordinator's messages come: the test is the link.
#include "sync/direct_volumes.h"

#include <optional>
#include <utility>

#include "tests/support/catch.h"
#include "tests/support/memory_env.h"
#include "tests/sync/shared_lab.h"

using namespace vsnap;
using namespace vsnap::test;

namespace {

constexpr ObjectId kVolume(3);

class TakingLab final : private DirectVolume::Source {
 public:
  TakingLab() {
    REQUIRE(volumes
                .start([this](wire::LinkRequest request, Link::Answered answered) {
                  if (request.return_volumes().all()) return answered({});
                  MutexLock lock(mutex_);
                  asked_.emplace_back(std::move(request), std::move(answered));
                })
                .has_value());
    volumes.session_began();
    volume = volumes.opened(kVolume);
    REQUIRE(becomes([this] { // once what was before is given up
      volumes.wish(kVolume);
      return !asked().empty();
    }));
  }
  ~TakingLab() {
    volumes.closed(kVolume);
    answer_all();
    static_cast<void>(volumes.close());
  }
  TakingLab(const TakingLab&) = delete;
  TakingLab& operator=(const TakingLab&) = delete;

  std::vector<wire::LinkRequest> asked() {
    MutexLock lock(mutex_);
    std::vector<wire::LinkRequest> out;
    for (const auto& [request, answered] : asked_) out.push_back(request);
    return out;
  }
  void answer_all(std::uint64_t number = 0) {
    decltype(asked_) asked;
    {
      MutexLock lock(mutex_);
      asked.swap(asked_);
    }
    wire::LinkReply reply;
    if (number != 0) reply.mutable_taken_volume()->set_number(number);
    for (const auto& [request, answered] : asked) {
      if (answered) answered(reply);
    }
  }
  bool returns(std::uint64_t number) {
    return becomes([&] {
      for (const wire::LinkRequest& request : asked()) {
        if (request.return_volumes().numbers_size() == 1 && request.return_volumes().numbers(0) == number)
          return true;
      }
      return false;
    });
  }

 private:
  Result<std::optional<RegionMap>> fetch_volume_map(ObjectId, RegionIndex) override { return std::nullopt; }
  MemoryEnv env_;
  SharedMembers members_{env_, Uuid{}, {}};
  Mutex mutex_;
  std::vector<std::pair<wire::LinkRequest, Link::Answered>> asked_ VSNAP_GUARDED_BY(mutex_);

 public:
  DirectVolumes volumes{env_, members_, *this};
  std::shared_ptr<DirectVolume> volume;
};

} // namespace

TEST_CASE("a volume is used from the answer on that gives it, and returned when it is recalled") {
  TakingLab lab;
  CHECK(lab.volume->given() == 0);
  lab.answer_all(5);
  CHECK(lab.volume->given() == 5);
  lab.volumes.recalled(4); // of before
  CHECK(lab.volume->given() == 5);
  lab.volumes.recalled(5);
  CHECK(lab.volume->given() == 0);
  CHECK(lab.returns(5));
}

TEST_CASE("a volume whose recall comes before the answer that gives it is returned unused") {
  TakingLab lab;
  lab.volumes.recalled(5);
  lab.answer_all(5);
  CHECK(lab.volume->given() == 0);
  CHECK(lab.returns(5));
}

TEST_CASE("a recall of another volume does not end one that is given later") {
  TakingLab lab;
  lab.volumes.recalled(4);
  lab.answer_all(5);
  CHECK(lab.volume->given() == 5);
}
