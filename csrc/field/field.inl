// The field engine's kernels, compiled once for each instruction set: FASTODE_TARGET names the namespace.
//
// Nothing here may call an inline function of the standard library: an AVX-512 copy of it could be the one the linker keeps.
#include "kernels.h"

namespace fastode::FASTODE_TARGET {
namespace {

using field::Code;
using field::FieldKernels;
using field::Index;
using field::LaneControl;
using field::Matrix;
using field::Operator;
using field::Place;
using field::PlacedRun;
using field::Steps;
using field::TileTolerance;

#include "vector.inl"
#include "math.inl"

constexpr Index round_up_to(Index n, Index to) { return (n + to - 1) / to * to; }

#include "affine.inl"
#include "run.inl"
#include "step.inl"
#include "control.inl"

template <class T>
void pack(const T* source, const Matrix& matrix, bool panels, T* out) {
  if (panels) pack_panels(source, matrix.rows, matrix.cols, matrix.transposed, out);
  else pack_columns(source, matrix.rows, matrix.cols, matrix.transposed, out);
}

template <class T>
constexpr FieldKernels<T> table() {
  return {LANES<T>, run<T>, pack<T>, combine<T>, add_scaled<T>, scaled_squares<T>, select<T>, control<T>, transpose<T>,
          accumulate_outer<T>};
}

}  // namespace

extern const field::FieldTarget field_target;
const field::FieldTarget field_target = {table<float>(), table<double>()};

}  // namespace fastode::FASTODE_TARGET
