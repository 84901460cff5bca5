#pragma once
#include "hd.h"

namespace fastode {

// The quartic p with p(0) = y0, p(1) = y1, p(1/2) = ymid, p'(0) = dt f0, p'(1) = dt f1 (torchdiffeq's dense output) is
//   y0 (-8x^4 + 18x^3 - 11x^2 + 1) + y1 (-8x^4 + 14x^3 - 5x^2) + ymid (16x^4 - 32x^3 + 16x^2)
//     + dt f0 (-2x^4 + 5x^3 - 4x^2 + x) + dt f1 (2x^4 - 3x^3 + x^2).
// With ymid = y0 + dt sum_j mid_j k_j the weights of y0 and y1 add up to one, so that p is y0 + y1_weight (y1 - y0) plus a
// combination of the slopes, and no polynomial coefficients have to be stored.
struct QuarticWeights {
  double y1, mid, f0, f1;
};

FASTODE_HD QuarticWeights quartic_weights(double x) {
  const double xx = x * x, u = 1.0 - x;
  return {xx * (-5.0 + x * (14.0 - 8.0 * x)), 16.0 * xx * u * u, x * u * u * (1.0 - 2.0 * x), xx * u * (1.0 - 2.0 * x)};
}

// The same weights as polynomials: the coefficients of x^0 .. x^4.
constexpr double QUARTIC_Y1[5] = {0.0, 0.0, -5.0, 14.0, -8.0};
constexpr double QUARTIC_MID[5] = {0.0, 0.0, 16.0, -32.0, 16.0};
constexpr double QUARTIC_F0[5] = {0.0, 1.0, -4.0, 5.0, -2.0};
constexpr double QUARTIC_F1[5] = {0.0, 0.0, 1.0, -3.0, 2.0};

// Weight of slope j out of `stages`; k[0] is the slope at the start of the step and k[stages - 1] the slope at its end.
template <class T>
FASTODE_HD double slope_weight(const QuarticWeights& q, const T* mid, int j, int stages, double dt) {
  double weight = static_cast<double>(mid[j]) * q.mid;
  if (j == 0) weight += q.f0;
  if (j == stages - 1) weight += q.f1;
  return dt * weight;
}

// From the nearer end, so that both ends are met exactly.
template <class T>
FASTODE_HD T between(T y0, T y1, T weight, T rest, T slopes) {
  return weight > T(0.5) ? y1 + (rest * (y0 - y1) + slopes) : y0 + (weight * (y1 - y0) + slopes);
}

}  // namespace fastode
