#include "threads.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace fastode {
namespace {

enum : int { IDLE, POSTED, RUNNING };

// One call of run_tasks. Threads draw tasks until none is left.
struct Job {
  void (*run)(void*, std::int64_t) = nullptr;
  void* context = nullptr;
  std::int64_t tasks = 0;
  alignas(64) std::atomic<std::int64_t> next{0};

  void work() {
    for (;;) {
      const std::int64_t task = next.fetch_add(1, std::memory_order_relaxed);
      if (task >= tasks) return;
      run(context, task);
    }
  }
};

// A worker sleeps while IDLE. The caller posts a job to it and, when no task is left, takes the post back from a worker that
// has not woken yet: nobody waits for a thread that the machine has no core for.
struct alignas(64) Worker {
  std::atomic<int> state{IDLE};
  Job* job = nullptr;

  [[noreturn]] void loop() {
    for (;;) {
      state.wait(IDLE, std::memory_order_acquire);
      int expected = POSTED;
      if (!state.compare_exchange_strong(expected, RUNNING, std::memory_order_acq_rel)) continue;
      job->work();
      state.store(IDLE, std::memory_order_release);
      state.notify_all();
    }
  }

  void post(Job* posted) {
    job = posted;
    state.store(POSTED, std::memory_order_release);
    state.notify_all();
  }

  void settle() {
    int expected = POSTED;
    if (state.compare_exchange_strong(expected, IDLE, std::memory_order_acq_rel)) return;
    while (state.load(std::memory_order_acquire) == RUNNING) state.wait(RUNNING, std::memory_order_acquire);
  }
};

struct Pool {
  std::mutex busy;
  std::vector<Worker*> workers;  // never freed: their threads outlive the interpreter

  void grow(int count) {
    while (static_cast<int>(workers.size()) < count) {
      auto worker = std::make_unique<Worker>();
      try {
        std::thread([w = worker.get()] { w->loop(); }).detach();
      } catch (const std::system_error&) {
        return;  // the process may start no more threads; those there are will do
      }
      workers.push_back(worker.release());
    }
  }
};

// Leaked on purpose: a static object would be destroyed at exit while workers still sleep on it.
std::atomic<Pool*> pool{nullptr};

Pool& the_pool() {
  static std::once_flag once;
  std::call_once(once, [] {
    pool.store(new Pool);
#if !defined(_WIN32)
    // A forked child has none of the threads, and perhaps a lock held by one of them: it starts again from nothing.
    pthread_atfork(nullptr, nullptr, [] { pool.store(new Pool); });
#endif
  });
  return *pool.load();
}

}  // namespace

void run_tasks(std::int64_t tasks, int threads, void (*run)(void*, std::int64_t), void* context) {
  Job job;
  job.run = run;
  job.context = context;
  job.tasks = tasks;

  Pool& pool = the_pool();
  const std::unique_lock<std::mutex> lock(pool.busy, std::try_to_lock);
  if (!lock.owns_lock()) return job.work();

  const std::int64_t wanted = (threads < tasks ? threads : tasks) - 1;
  pool.grow(static_cast<int>(wanted));
  const std::size_t helpers = wanted < static_cast<std::int64_t>(pool.workers.size()) ? wanted : pool.workers.size();
  for (std::size_t i = 0; i < helpers; ++i) pool.workers[i]->post(&job);
  job.work();
  for (std::size_t i = 0; i < helpers; ++i) pool.workers[i]->settle();
}

}  // namespace fastode
