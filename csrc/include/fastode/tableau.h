#pragma once
#include "hd.h"

namespace fastode {

// The most stages a method may have. dopri8 has 14; the arrays below live on the stack and in kernel arguments.
constexpr int MAX_STAGES = 32;

// A linear combination sum_j weight[j] * vector[j] whose zero weights have been left out, in the order of j.
template <class T>
struct Terms {
  int count;
  const T* vector[MAX_STAGES];
  T weight[MAX_STAGES];

  // Only the count: clearing the arrays would cost more than a small row's arithmetic.
  FASTODE_HD Terms() : count(0) {}

  FASTODE_HD void add(const T* v, T w) {
    vector[count] = v;
    weight[count] = w;
    ++count;
  }
};

}  // namespace fastode
