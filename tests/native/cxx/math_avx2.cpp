// Built like csrc/field/targets/avx2.cpp.
#include "math_target.h"
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define FASTODE_TARGET avx2
#define FASTODE_VECTOR_BYTES 32
#include "math_target.inl"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
