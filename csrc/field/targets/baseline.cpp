// The instruction set the compiler was told to build for: x86-64 with SSE2, AArch64 with NEON.
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include "../kernels.h"
#define FASTODE_TARGET baseline
#define FASTODE_VECTOR_BYTES 16
#include "../field.inl"
