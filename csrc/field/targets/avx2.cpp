// Standard headers come before the pragma, see ../../cpu/targets/avx2.cpp.
#if defined(__x86_64__)
#include <immintrin.h>

#include "../kernels.h"
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define FASTODE_TARGET avx2
#define FASTODE_VECTOR_BYTES 32
#include "../field.inl"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
