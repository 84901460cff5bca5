#pragma once
// One spelling of a launch for nvcc and for the tests that run a kernel's source on the CPU.
#include <cuda_runtime.h>

#if defined(__CUDACC__)
#define FASTODE_LAUNCH(kernel, blocks, threads, stream, ...) \
  kernel<<<static_cast<unsigned>(blocks), threads, 0, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#else
#define FASTODE_LAUNCH(kernel, blocks, threads, stream, ...) \
  cuda_on_cpu::launch(static_cast<unsigned>(blocks), threads, stream, [&] { kernel(__VA_ARGS__); })
#endif
