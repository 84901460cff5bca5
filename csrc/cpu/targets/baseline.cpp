// The instruction set the compiler was told to build for: x86-64 with SSE2, AArch64 with NEON.
#define FASTODE_TARGET baseline
#include "../kernels.inl"
