// Built like csrc/field/targets/avx512.cpp.
#include "math_target.h"
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif
#define FASTODE_TARGET avx512
#define FASTODE_VECTOR_BYTES 64
#include "math_target.inl"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
