#pragma once
// The order in which torch's CPU kernels add numbers.
//
// With tolerances near the rounding of the state's type the error estimate is mostly rounding noise, and a solve takes the
// same steps as torchdiffeq only if every sum is formed in the same order. These two functions follow at::sum for contiguous
// input (aten/src/ATen/native/cpu/SumKernel.cpp): four interleaved partial sums, vectors of `lanes` elements once there are
// that many, and cascaded levels for long inputs. `lanes` is the vector width of the torch at hand, in elements; 0 means that
// the order does not matter.
#include <algorithm>
#include <array>
#include <cstdint>

#include "tableau.h"

namespace fastode {

// The terms of a sum over a short axis (the stages of a step) in the order in which they are added: groups of consecutive
// terms, each summed first and then added to the total.
struct SumOrder {
  std::array<int, MAX_STAGES> term{};
  std::array<int, MAX_STAGES> group{};  // number of terms of each group
  int terms = 0, groups = 0;

  // Whether all groups have one term, so that the order alone says everything.
  bool plain() const { return groups == terms; }
};

inline SumOrder summation_order(int terms, int lanes) {
  SumOrder order;
  const auto add = [&](int first, int last, int stride) {
    const int before = order.terms;
    for (int j = first; j < last; j += stride) order.term[order.terms++] = j;
    if (order.terms > before) order.group[order.groups++] = order.terms - before;
  };
  const auto add_each = [&](int first, int last) {
    for (int j = first; j < last; ++j) add(j, j + 1, 1);
  };
  if (lanes == 0 || terms < 4) {
    add_each(0, terms);
  } else if (terms >= lanes) {
    const int whole = terms / lanes * lanes;
    add_each(whole, terms);
    for (int lane = 0; lane < lanes; ++lane) add(lane, whole, lanes);
  } else {
    const int whole = terms / 4 * 4;
    add(0, whole, 4);
    add_each(whole, terms);
    for (int lane = 1; lane < 4; ++lane) add(lane, whole, 4);
  }
  return order;
}

// Sum of n contiguous elements as one thread of torch forms it, with rows of four vectors of W elements.
template <class T, int W>
T cascade_sum(const T* x, std::int64_t n) {
  constexpr int LEVELS = 4, ROW = 4 * W;
  const std::int64_t vectors = n / W, rows = vectors / 4;
  int power = 0;
  while ((std::int64_t{1} << power) < rows) ++power;
  power = std::max(4, power / LEVELS);
  const std::int64_t step = std::int64_t{1} << power, mask = step - 1;
  alignas(64) T level[LEVELS][ROW] = {};
  std::int64_t i = 0;
  for (; i + step <= rows;) {
    for (std::int64_t j = 0; j < step; ++j, ++i) {
      for (int k = 0; k < ROW; ++k) level[0][k] += x[i * ROW + k];
    }
    for (int j = 1; j < LEVELS; ++j) {
      for (int k = 0; k < ROW; ++k) {
        level[j][k] += level[j - 1][k];
        level[j - 1][k] = T(0);
      }
      if ((i & (mask << (j * power))) != 0) break;
    }
  }
  for (; i < rows; ++i) {
    for (int k = 0; k < ROW; ++k) level[0][k] += x[i * ROW + k];
  }
  for (int j = 1; j < LEVELS; ++j) {
    for (int k = 0; k < ROW; ++k) level[0][k] += level[j][k];
  }
  T* lane = level[0];
  for (std::int64_t v = rows * 4; v < vectors; ++v) {
    for (int k = 0; k < W; ++k) lane[k] += x[v * W + k];
  }
  for (int row = 1; row < 4; ++row) {
    for (int k = 0; k < W; ++k) lane[k] += lane[row * W + k];
  }
  if constexpr (W == 1) {
    return lane[0];
  } else {
    T total = T(0);
    for (std::int64_t j = vectors * W; j < n; ++j) total += x[j];
    for (int k = 0; k < W; ++k) total += lane[k];
    return total;
  }
}

// mean(x^2), squaring in place, as x.abs().pow(2).mean() gives it.
template <class T>
double mean_square_in_torch_order(T* x, std::int64_t n, int lanes) {
  for (std::int64_t i = 0; i < n; ++i) x[i] *= x[i];
  T sum;
  if (n < lanes) sum = cascade_sum<T, 1>(x, n);
  else if (lanes == 16) sum = cascade_sum<T, 16>(x, n);
  else if (lanes == 8) sum = cascade_sum<T, 8>(x, n);
  else sum = cascade_sum<T, 4>(x, n);
  return static_cast<double>(sum / static_cast<T>(n));
}

}  // namespace fastode
