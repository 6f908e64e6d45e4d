// SPDX-License-Identifier: Apache-2.0
// Threads that stay. Where the process has an OpenMP runtime (PyTorch brings one) its threads are
// used: they are awake anyway after each operator of PyTorch's, spin for milliseconds, and would keep
// threads of our own from the cores. Without one, our own threads spin briefly and then sleep.
#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#endif

namespace prosparse {
namespace {

constexpr int SPINS = 20000; // some tens of microseconds: the next step comes sooner, the next token not

struct Work {
  Body body;
  void* context;
  int64_t count;
  alignas(64) std::atomic<int64_t> next{0}; // a cache line of its own: all threads write it

  void run() {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(context, i);
  }
};

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Pool {
 public:
  // Run `work` on `num_helpers` threads and the caller. One caller at a time.
  void run(Work& work, int num_helpers) {
    while (static_cast<int>(threads_.size()) < num_helpers) {
      const int index = static_cast<int>(threads_.size());
      threads_.emplace_back([this, index, seen = epoch_.load()] { serve(index, seen); });
    }
    work_ = &work;
    num_helpers_ = num_helpers;
    pending_.store(num_helpers, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_); // else a thread about to sleep would miss it
      epoch_.fetch_add(1, std::memory_order_release);
    }
    if (num_asleep_.load(std::memory_order_acquire) > 0) wake_.notify_all();
    work.run();
    for (int spins = 0; pending_.load(std::memory_order_acquire) > 0; ++spins) {
      if (spins < SPINS) {
        relax();
      } else {
        std::this_thread::yield();
      }
    }
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      is_over_ = true;
      epoch_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  void serve(int index, uint64_t seen) {
    for (;;) {
      seen = await_epoch_after(seen);
      if (is_over_) return;
      if (index >= num_helpers_) continue;
      work_->run();
      pending_.fetch_sub(1, std::memory_order_release);
    }
  }

  uint64_t await_epoch_after(uint64_t seen) {
    for (int spins = 0; spins < SPINS; ++spins) {
      const uint64_t now = epoch_.load(std::memory_order_acquire);
      if (now != seen) return now;
      relax();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    num_asleep_.fetch_add(1, std::memory_order_release);
    wake_.wait(lock, [&] { return epoch_.load(std::memory_order_acquire) != seen; });
    num_asleep_.fetch_sub(1, std::memory_order_release);
    return epoch_.load(std::memory_order_acquire);
  }

  // What the caller writes, what helpers write and what they watch lie on lines of their own.
  alignas(64) std::atomic<uint64_t> epoch_{0};
  alignas(64) std::atomic<int> pending_{0};
  alignas(64) Work* work_ = nullptr;
  int num_helpers_ = 0;
  bool is_over_ = false;
  std::atomic<int> num_asleep_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> threads_;
};

std::mutex busy;
Pool* own_pool = nullptr;
bool wants_openmp = true;

using OpenMpParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

// The entry of an OpenMP runtime that has been loaded already; all of them have it under this name.
OpenMpParallel openmp_parallel() {
#if defined(__unix__) || defined(__APPLE__)
  static const auto found =
      reinterpret_cast<OpenMpParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return found;
#else
  return nullptr;
#endif
}

} // namespace

void parallel_for(int num_threads, int64_t count, Body body, void* context) {
  Work work{body, context, count};
  const int64_t wanted = num_threads < count ? num_threads : count;
  if (wanted <= 1) return work.run();
  if (uses_openmp()) {
    openmp_parallel()([](void* all) { static_cast<Work*>(all)->run(); }, &work,
                      static_cast<unsigned>(wanted), 0);
    return;
  }
  std::unique_lock<std::mutex> lock(busy, std::try_to_lock);
  if (!lock) return work.run(); // another thread's call has the pool
  if (!own_pool) own_pool = new Pool;
  own_pool->run(work, static_cast<int>(wanted) - 1);
}

void use_openmp(bool wanted) { wants_openmp = wanted; }

bool uses_openmp() { return wants_openmp && openmp_parallel(); }

void forget_threads() {
  // OpenMP's threads are gone too, and its runtime does not know; ours are made anew. What the parent
  // had cannot be freed: its threads would have to be joined. No other thread runs in a fork's child.
  wants_openmp = false;
  own_pool = nullptr;
  new (&busy) std::mutex;
}

} // namespace prosparse
