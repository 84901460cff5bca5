// Standard headers come before the pragma: an AVX2 copy of one of their inline functions could end up in every caller.
#if defined(__x86_64__)
#include "../dispatch.h"
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define FASTODE_TARGET avx2
#include "../kernels.inl"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
