#pragma once
#include "hd.h"
#include "tableau.h"

namespace fastode {

// k[j] * (coefficient[j] * dt) summed over the stages with a non-zero coefficient. A skipped stage cannot spread its NaN.
// The product of coefficient and dt is formed in T, as torchdiffeq does. `order` permutes the sum.
template <class T>
FASTODE_HD Terms<T> scaled_terms(const T* const* k, const T* coefficient, int stages, T dt, const int* order = nullptr) {
  Terms<T> terms;
  for (int i = 0; i < stages; ++i) {
    const int j = order != nullptr ? order[i] : i;
    if (coefficient[j] != T(0)) terms.add(k[j], coefficient[j] * dt);
  }
  return terms;
}

template <class T>
struct Tolerance {
  T rtol = 0, atol = 0;
  const T* rtol_array = nullptr;  // one entry per element, or none
  const T* atol_array = nullptr;
};

// The local error in units of the tolerance: a step is accepted when the norm of this over all elements is at most 1.
template <class T>
FASTODE_HD T scaled_error(T e, T y0, T y1, T rtol, T atol) {
  return e / (atol + rtol * nan_max(absolute(y0), absolute(y1)));
}

// Time of a stage. A stage at c = 1 is evaluated just before the end of the step, so that a discontinuity placed exactly
// there is still seen from the left (torchdiffeq's Perturb.PREV).
template <class T>
FASTODE_HD T before_end(T dt, T t1) {
  const T before = dt < T(0) ? T(HUGE_VAL) : -T(HUGE_VAL);
  if constexpr (sizeof(T) == 4) return ::nextafterf(t1, before);
  else return ::nextafter(t1, before);
}

template <class T>
FASTODE_HD T stage_time(T t0, T dt, T t1, T c) {
  if (c == T(0)) return t0;
  return c == T(1) ? before_end(dt, t1) : t0 + c * dt;
}

}  // namespace fastode
