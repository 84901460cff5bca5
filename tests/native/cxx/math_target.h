#pragma once
#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum class Function { exp, expm1, log, log1p, tanh, sigmoid, softplus, erf, sin, cos, atan };

// `n` is a multiple of 16.
struct Target {
  void (*floats)(Function, const float* x, float* y, std::int64_t n);
  void (*doubles)(Function, const double* x, double* y, std::int64_t n);
};

namespace baseline {
extern const Target target;
}
namespace avx2 {
extern const Target target;
}
namespace avx512 {
extern const Target target;
}
