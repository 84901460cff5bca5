#pragma once
#include "hd.h"

namespace fastode {

enum class Norm { rms, max };

// Element i of a range is added to lane i % LANES, and the lanes are folded in halves at the end. Written out like this the
// sum has one order, which the compiler may keep in vector registers of any width: every instruction set gives the same bits.
constexpr int LANES = 16;

// A range of fewer elements than lanes needs only the first `lanes` of them, a power of two: the others would add zero.
FASTODE_HD int lanes_for(std::int64_t elements) {
  int lanes = LANES;
  while (lanes / 2 >= elements && lanes > 1) lanes /= 2;
  return lanes;
}

FASTODE_HD double fold_sum(double* lane, int lanes = LANES) {
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

FASTODE_HD double fold_max(double* lane, int lanes = LANES) {
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] = nan_max(lane[i], lane[i + half]);
  }
  return lane[0];
}

// Joins the results of two consecutive ranges.
FASTODE_HD double join(Norm norm, double a, double b) { return norm == Norm::rms ? a + b : nan_max(a, b); }

FASTODE_HD double finish_norm(Norm norm, double total, std::int64_t elements) {
  if (elements == 0) return 0.0;
  return norm == Norm::rms ? ::sqrt(total / static_cast<double>(elements)) : total;
}

}  // namespace fastode
