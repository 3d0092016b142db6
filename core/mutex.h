// std::mutex and friends with clang's thread-safety annotations; `cmake --preset clang` checks them.
// Lock order: core/README.md.
#pragma once

#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define VSNAP_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define VSNAP_THREAD_ANNOTATION(x)
#endif
#define VSNAP_CAPABILITY(x) VSNAP_THREAD_ANNOTATION(capability(x))
#define VSNAP_SCOPED_CAPABILITY VSNAP_THREAD_ANNOTATION(scoped_lockable)
#define VSNAP_GUARDED_BY(x) VSNAP_THREAD_ANNOTATION(guarded_by(x))
#define VSNAP_REQUIRES(...) VSNAP_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define VSNAP_EXCLUDES(...) VSNAP_THREAD_ANNOTATION(locks_excluded(__VA_ARGS__))
#define VSNAP_ACQUIRE(...) VSNAP_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define VSNAP_RELEASE(...) VSNAP_THREAD_ANNOTATION(release_capability(__VA_ARGS__))
#define VSNAP_TRY_ACQUIRE(...) VSNAP_THREAD_ANNOTATION(try_acquire_capability(__VA_ARGS__))
#define VSNAP_NO_THREAD_SAFETY_ANALYSIS VSNAP_THREAD_ANNOTATION(no_thread_safety_analysis)

namespace vsnap {

class VSNAP_CAPABILITY("mutex") Mutex {
 public:
  void lock() VSNAP_ACQUIRE() { mutex_.lock(); }
  void unlock() VSNAP_RELEASE() { mutex_.unlock(); }
  bool try_lock() VSNAP_TRY_ACQUIRE(true) { return mutex_.try_lock(); }

 private:
  std::mutex mutex_;
};

class VSNAP_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) VSNAP_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  MutexLock(Mutex& mutex, std::adopt_lock_t) VSNAP_REQUIRES(mutex) : mutex_(mutex) {} // from try_lock()
  ~MutexLock() VSNAP_RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// Waits release the mutex that the caller holds; use it in a loop around the condition.
class CondVar {
 public:
  void wait(Mutex& mutex) VSNAP_REQUIRES(mutex) { cv_.wait(mutex); }
  template <class Duration>
  bool wait_for(Mutex& mutex, Duration d) VSNAP_REQUIRES(mutex) {
    return cv_.wait_for(mutex, d) == std::cv_status::no_timeout;
  }
  void notify_one() { cv_.notify_one(); }
  void notify_all() { cv_.notify_all(); }

 private:
  std::condition_variable_any cv_;
};

} // namespace vsnap
