#pragma once
// Enough of CUDA to run kernels without barriers on the CPU: every thread in turn, in an order that the test chooses. What
// depends on the order, reads or writes out of bounds, or leaves an element out, shows in the result.
#include <algorithm>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline

struct Index {
  unsigned x = 0;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

using cudaStream_t = void*;
enum cudaError_t : int { cudaSuccess = 0 };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

namespace cuda_on_cpu {

inline int order = 0;  // 0 forwards, 1 backwards, more: shuffled with this seed

template <class Body>
void launch(unsigned blocks, unsigned threads, cudaStream_t, const Body& body) {
  std::vector<unsigned> turn(static_cast<std::size_t>(blocks) * threads);
  for (std::size_t i = 0; i < turn.size(); ++i) turn[i] = static_cast<unsigned>(i);
  if (order == 1) std::reverse(turn.begin(), turn.end());
  if (order > 1) std::shuffle(turn.begin(), turn.end(), std::mt19937(static_cast<unsigned>(order)));
  gridDim.x = blocks;
  blockDim.x = threads;
  for (unsigned i : turn) {
    blockIdx.x = i / threads;
    threadIdx.x = i % threads;
    body();
  }
}

}  // namespace cuda_on_cpu

extern "C" inline __attribute__((used, visibility("default"))) void cuda_on_cpu_order(int order) {
  cuda_on_cpu::order = order;
}
