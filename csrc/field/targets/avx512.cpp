// Standard headers come before the pragma, see ../../cpu/targets/avx512.cpp.
#if defined(__x86_64__)
#include <immintrin.h>

#include "../kernels.h"
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif
#define FASTODE_TARGET avx512
#define FASTODE_VECTOR_BYTES 64
#include "../field.inl"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
