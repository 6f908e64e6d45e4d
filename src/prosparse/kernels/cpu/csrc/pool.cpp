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

// Threads inside one call of `with_team`: one leads, the others wait for its work without sleeping.
class Team {
 public:
  void lead(int num_helpers, void (*body)(void*), void* context) {
    num_helpers_ = num_helpers;
    body(context);
    work_ = nullptr;
    epoch_.fetch_add(1, std::memory_order_release);
  }

  void run(Work& work) {
    if (num_helpers_ == 0) return work.run();
    work_ = &work;
    pending_.store(num_helpers_, std::memory_order_relaxed);
    epoch_.fetch_add(1, std::memory_order_release);
    work.run();
    await([this] { return pending_.load(std::memory_order_acquire) == 0; });
  }

  // Every epoch is awaited by all helpers, so none is missed by one that comes late.
  void help() {
    for (uint64_t seen = 0;; ++seen) {
      await([this, seen] { return epoch_.load(std::memory_order_acquire) != seen; });
      if (!work_) return;
      work_->run();
      pending_.fetch_sub(1, std::memory_order_release);
    }
  }

 private:
  template <typename Condition>
  static void await(Condition holds) {
    for (int spins = 0; !holds(); ++spins) {
      if (spins < SPINS) {
        relax();
      } else {
        std::this_thread::yield(); // there are more threads than cores
      }
    }
  }

  alignas(64) std::atomic<uint64_t> epoch_{0};
  alignas(64) std::atomic<int> pending_{0};
  alignas(64) Work* work_ = nullptr;
  int num_helpers_ = 0;
};

std::mutex busy;
Pool* own_pool = nullptr;
bool wants_openmp = true;
thread_local Team* led = nullptr; // by this thread

// A function of an OpenMP runtime that has been loaded already; all runtimes have these two.
template <typename Function>
Function of_openmp(const char* name) {
#if defined(__unix__) || defined(__APPLE__)
  return reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
#else
  return nullptr;
#endif
}

using OpenMpParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

OpenMpParallel openmp_parallel() {
  static const auto found = of_openmp<OpenMpParallel>("GOMP_parallel");
  return found;
}

// How many threads really are in a parallel region: a runtime may give fewer than were asked for.
int num_openmp_threads() {
  static const auto found = of_openmp<int (*)()>("omp_get_num_threads");
  return found();
}

} // namespace

void parallel_for(int num_threads, int64_t count, Body body, void* context) {
  Work work{body, context, count};
  const int64_t wanted = num_threads < count ? num_threads : count;
  if (wanted <= 1) return work.run();
  if (led) return led->run(work);
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

void with_team(int num_threads, void (*body)(void*), void* context) {
  struct Members {
    Team team;
    void (*body)(void*);
    void* context;
    int count;

    void join() {
      if (led != &team) return team.help();
      team.lead(count ? count - 1 : num_openmp_threads() - 1, body, context);
    }
  };
  if (led || num_threads <= 1) return body(context);
  Members members{{}, body, context, 0};
  led = &members.team;
  if (uses_openmp()) {
    openmp_parallel()([](void* all) { static_cast<Members*>(all)->join(); }, &members,
                      static_cast<unsigned>(num_threads), 0);
  } else if (std::unique_lock<std::mutex> lock(busy, std::try_to_lock); lock) {
    if (!own_pool) own_pool = new Pool;
    members.count = num_threads;
    Work work{[](void* all, int64_t) { static_cast<Members*>(all)->join(); }, &members, num_threads};
    own_pool->run(work, num_threads - 1);
  } else {
    members.count = 1;
    members.join();
  }
  led = nullptr;
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
