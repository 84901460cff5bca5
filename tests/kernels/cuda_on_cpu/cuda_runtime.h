#pragma once
// Enough of CUDA to run kernels on the CPU. Every thread of a block is a fiber; blocks run one after the other. A warp goes on
// until all its threads wait for other warps, then the next one runs: the worst order that barriers allow. Blocks, warps and
// threads take their turns forwards, backwards or shuffled, as the test chooses. So what depends on the order, lacks a barrier,
// leaves an element out, reads or writes out of bounds shows in the result or under AddressSanitizer; a barrier or shuffle that
// some thread of its group never reaches fails the launch.
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static  // one block at a time
#define __forceinline__ inline

struct Index {
  unsigned x = 0;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

using cudaStream_t = void*;
enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInitializationError = 3,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorLaunchFailure = 719,
};
struct cudaFuncAttributes {};

namespace cuda_on_cpu {

constexpr unsigned WARP = 32, STACK = 1u << 16;

struct Barrier {
  unsigned size = 0, arrived = 0;
  long passed = 0;
};

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack = std::make_unique<char[]>(STACK);
  const Barrier* waits = nullptr;
  long seen = 0;
  std::uint64_t value = 0;  // what a shuffle hands over
  bool done = false;

  bool ready() const { return !done && (waits == nullptr || waits->passed != seen); }
};

inline int order = 0;  // 0 forwards, 1 backwards, more: shuffled with this seed
inline std::mt19937 generator;
inline bool barriers = true;  // false makes __syncthreads do nothing, to see that the tests notice
inline cudaError_t failure = cudaSuccess;

inline std::vector<Thread> thread;  // of the block; kept from launch to launch
inline std::vector<Barrier> warp;
inline Barrier block;
inline ucontext_t scheduler;
inline const std::function<void()>* kernel;

inline std::vector<unsigned> turns(unsigned n) {
  std::vector<unsigned> turn(n);
  for (unsigned i = 0; i < n; ++i) turn[i] = order == 1 ? n - 1 - i : i;
  if (order > 1) std::shuffle(turn.begin(), turn.end(), generator);
  return turn;
}

inline Thread& self() { return thread[threadIdx.x]; }

inline void wait(Barrier& barrier) {
  if (++barrier.arrived == barrier.size) {
    barrier.arrived = 0;
    ++barrier.passed;
    return;
  }
  Thread& me = self();
  me.waits = &barrier;
  me.seen = barrier.passed;
  swapcontext(&me.context, &scheduler);
  me.waits = nullptr;
}

inline void enter() {
  (*kernel)();
  self().done = true;
}

inline bool run_block(unsigned threads) {
  const unsigned warps = (threads + WARP - 1) / WARP;
  block = {threads, 0, 0};
  warp.assign(warps, {});
  for (unsigned w = 0; w < warps; ++w) warp[w].size = std::min(WARP, threads - w * WARP);
  if (thread.size() < threads) thread.resize(threads);
  for (unsigned i = 0; i < threads; ++i) {
    Thread& t = thread[i];
    t.done = false;
    t.waits = nullptr;
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = t.stack.get();
    t.context.uc_stack.ss_size = STACK;
    t.context.uc_link = &scheduler;
    makecontext(&t.context, enter, 0);
  }
  for (bool moved = true; moved;) {
    moved = false;
    for (unsigned w : turns(warps)) {
      for (bool again = true; again;) {
        again = false;
        for (unsigned lane : turns(warp[w].size)) {
          threadIdx.x = w * WARP + lane;
          if (!self().ready()) continue;
          again = moved = true;
          swapcontext(&scheduler, &self().context);
        }
      }
    }
  }
  return std::all_of(thread.begin(), thread.begin() + threads, [](const Thread& t) { return t.done; });
}

template <class Body>
void launch(unsigned blocks, unsigned threads, cudaStream_t, const Body& body) {
  const std::function<void()> call = body;
  kernel = &call;
  generator.seed(static_cast<unsigned>(order));
  gridDim.x = blocks;
  blockDim.x = threads;
  for (unsigned b : turns(blocks)) {
    blockIdx.x = b;
    if (!run_block(threads)) failure = cudaErrorLaunchFailure;
  }
}

}  // namespace cuda_on_cpu

inline void __syncthreads() {
  if (cuda_on_cpu::barriers) cuda_on_cpu::wait(cuda_on_cpu::block);
}

template <class T>
T __shfl_down_sync(unsigned, T value, unsigned delta, unsigned width) {
  using namespace cuda_on_cpu;
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  const unsigned own = threadIdx.x;
  std::memcpy(&self().value, &value, sizeof(T));
  wait(warp[own / WARP]);
  if (own % width + delta < width && own + delta < blockDim.x) std::memcpy(&value, &thread[own + delta].value, sizeof(T));
  wait(warp[own / WARP]);
  return value;
}

inline cudaError_t cudaGetLastError() {
  const cudaError_t last = cuda_on_cpu::failure;
  cuda_on_cpu::failure = cudaSuccess;
  return last;
}

inline const char* cudaGetErrorString(cudaError_t) { return "a barrier was not reached by every thread"; }

template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel) {
  return cudaSuccess;
}

extern "C" inline __attribute__((used, visibility("default"))) void cuda_on_cpu_order(int order) {
  cuda_on_cpu::order = order;
}

extern "C" inline __attribute__((used, visibility("default"))) void cuda_on_cpu_barriers(bool work) {
  cuda_on_cpu::barriers = work;
}
