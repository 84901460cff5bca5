#pragma once
// Threads for kernels that are too large for one core.
#include <cstdint>

namespace fastode {

// Calls run(context, task) once for every task in [0, tasks), on up to `threads` threads, the caller being one of them.
// Tasks must not depend on each other, nor on how many threads there are. A caller who finds the pool at work for another
// one runs all its tasks itself, so that no thread ever waits for a stranger's work.
void run_tasks(std::int64_t tasks, int threads, void (*run)(void* context, std::int64_t task), void* context);

template <class Body>
void parallel_for(std::int64_t tasks, int threads, Body& body) {
  if (tasks == 1 || threads <= 1) {
    for (std::int64_t task = 0; task < tasks; ++task) body(task);
    return;
  }
  run_tasks(tasks, threads, [](void* context, std::int64_t task) { (*static_cast<Body*>(context))(task); }, &body);
}

}  // namespace fastode
