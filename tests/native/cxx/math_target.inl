// The elementary functions over arrays, for one instruction set: FASTODE_TARGET and FASTODE_VECTOR_BYTES as in csrc/field.
#include "math_target.h"

namespace FASTODE_TARGET {
namespace {

#include "../../../csrc/field/vector.inl"
#include "../../../csrc/field/math.inl"

template <class T, class F>
void over(const T* x, T* y, std::int64_t n, F f) {
  for (std::int64_t i = 0; i < n; i += LANES<T>) store<T>(y + i, f(load<T>(x + i)));
}

template <class T>
void apply(Function function, const T* x, T* y, std::int64_t n) {
  using V = Vec<T>;  // [&]: a lambda that converts to a function pointer has a thunk without the target
  switch (function) {
    case Function::exp: return over(x, y, n, [&](V v) { return vexp(v); });
    case Function::expm1: return over(x, y, n, [&](V v) { return vexpm1(v); });
    case Function::log: return over(x, y, n, [&](V v) { return vlog(v); });
    case Function::log1p: return over(x, y, n, [&](V v) { return vlog1p(v); });
    case Function::tanh: return over(x, y, n, [&](V v) { return vtanh(v); });
    case Function::sigmoid: return over(x, y, n, [&](V v) { return vsigmoid(v); });
    case Function::softplus: return over(x, y, n, [&](V v) { return vsoftplus(v); });
    case Function::erf: return over(x, y, n, [&](V v) { return verf(v); });
    case Function::sin: return over(x, y, n, [&](V v) { return vsin(v); });
    case Function::cos: return over(x, y, n, [&](V v) { return vcos(v); });
    case Function::atan: return over(x, y, n, [&](V v) { return varctangent(v, splat(T(1))); });
  }
}

}  // namespace

extern const Target target = {apply<float>, apply<double>};

}  // namespace FASTODE_TARGET
