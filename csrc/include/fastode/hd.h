#pragma once
// Everything in this folder compiles for the host (g++, clang) and for the device (nvcc), allocates nothing and does no I/O.
#include <math.h>

#include <cstdint>

#if defined(__CUDACC__)
#define FASTODE_HD __host__ __device__ __forceinline__
#else
// Forced, not only suggested: an out-of-line copy made in a file compiled for AVX-512 could be the one the linker keeps for
// every caller, and would stop an older processor with an illegal instruction.
#define FASTODE_HD inline __attribute__((always_inline))
#endif

namespace fastode {

FASTODE_HD float absolute(float x) { return ::fabsf(x); }
FASTODE_HD double absolute(double x) { return ::fabs(x); }

// The larger of two numbers; NaN if either is NaN (unlike std::max and fmax, like torch.max).
template <class T>
FASTODE_HD T nan_max(T a, T b) {
  return (a > b) | (a != a) ? a : b;
}

template <class T>
FASTODE_HD T nan_min(T a, T b) {
  return (a < b) | (a != a) ? a : b;
}

// NaN stays NaN: both comparisons are false.
template <class T>
FASTODE_HD T clamp(T x, T low, T high) {
  return x < low ? low : (x > high ? high : x);
}

}  // namespace fastode
