// Built like csrc/field/targets/baseline.cpp.
#define FASTODE_TARGET baseline
#define FASTODE_VECTOR_BYTES 16
#include "math_target.inl"
