// The kernels of a step on the CPU, compiled once for each instruction set: FASTODE_TARGET names the namespace.
//
// Roofline. Each kernel reads every input once from memory and writes its output once; with T bytes an element and m slopes
// of non-zero weight it moves, per element,
//   combine      (m + 2) T      2 m flops          (one read less without a base)
//   error        (m + 2) T      2 m + 6 flops      (one write more when the new state is computed here)
//   interpolate  (m + 3) T      2 m + 4 flops
// that is 1/2 flop a byte in float32 at best: bound by memory beyond the last cache, and by L1 loads inside it. Work is done
// in blocks whose accumulators stay in L1, so a second look at a block costs no traffic.
//
// Contraction to fma is off: it would make results depend on the instruction set, and buys nothing where loads are the limit.
// Nothing here may call an inline function of the standard library, see hd.h.
#include "dispatch.h"
#include "fastode/interp.h"
#include "fastode/rk.h"

namespace fastode::FASTODE_TARGET {
namespace {

// 2 KiB: dopri8's 14 slopes, both states and the accumulator of a block are 34 KiB, the size of an L1; other methods need less.
template <class T>
constexpr int BLOCK = 2048 / sizeof(T);

// Slopes summed in one loop; each takes a pointer and a weight register.
constexpr int GROUP = 8;

// out = [base +] ([carry +] sum_j w_j v_j), from left to right.
template <int M, bool BASE, bool CARRY, class T>
void group(T* out, const T* base, const T* carry, const T* const* v, const T* w, std::int64_t offset, std::int64_t n) {
  const T* p[M];
  T c[M];
  for (int j = 0; j < M; ++j) {
    p[j] = v[j] + offset;
    c[j] = w[j];
  }
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) {
    T sum = c[0] * p[0][i];
    if constexpr (CARRY) sum = carry[i] + sum;
#pragma GCC unroll 8
    for (int j = 1; j < M; ++j) sum += c[j] * p[j][i];
    if constexpr (BASE) sum = base[i] + sum;
    out[i] = sum;
  }
}

template <bool BASE, bool CARRY, class T>
void group_of(int m, T* out, const T* base, const T* carry, const T* const* v, const T* w, std::int64_t offset,
              std::int64_t n) {
  switch (m) {
    case 1: return group<1, BASE, CARRY>(out, base, carry, v, w, offset, n);
    case 2: return group<2, BASE, CARRY>(out, base, carry, v, w, offset, n);
    case 3: return group<3, BASE, CARRY>(out, base, carry, v, w, offset, n);
    case 4: return group<4, BASE, CARRY>(out, base, carry, v, w, offset, n);
    case 5: return group<5, BASE, CARRY>(out, base, carry, v, w, offset, n);
    case 6: return group<6, BASE, CARRY>(out, base, carry, v, w, offset, n);
    case 7: return group<7, BASE, CARRY>(out, base, carry, v, w, offset, n);
    default: return group<8, BASE, CARRY>(out, base, carry, v, w, offset, n);
  }
}

// One block of out = [base +] sum_j w_j v_j, `out` and `base` already at the block's first element.
template <class T>
void combine_block(T* out, const T* base, int m, const T* const* v, const T* w, std::int64_t offset, int n) {
  alignas(64) T carry[BLOCK<T>];
  int done = 0;
  for (; m - done > GROUP; done += GROUP) {
    if (done == 0) group_of<false, false, T>(GROUP, carry, nullptr, nullptr, v, w, offset, n);
    else group_of<false, true, T>(GROUP, carry, nullptr, carry, v + done, w + done, offset, n);
  }
  const int rest = m - done;
  v += done;
  w += done;
  if (base != nullptr) {
    if (done == 0) group_of<true, false, T>(rest, out, base, nullptr, v, w, offset, n);
    else group_of<true, true, T>(rest, out, base, carry, v, w, offset, n);
  } else {
    if (done == 0) group_of<false, false, T>(rest, out, nullptr, nullptr, v, w, offset, n);
    else group_of<false, true, T>(rest, out, nullptr, carry, v, w, offset, n);
  }
}

template <class T>
void combine(T* out, const T* base, int m, const T* const* v, const T* w, std::int64_t begin, std::int64_t end) {
  if (m == 0) {
    for (std::int64_t i = begin; i < end; ++i) out[i] = base != nullptr ? base[i] : T(0);
    return;
  }
  if (m <= GROUP && base != nullptr) {
    return group_of<true, false, T>(m, out + begin, base + begin, nullptr, v, w, begin, end - begin);
  }
  for (std::int64_t i = begin; i < end; i += BLOCK<T>) {
    const int n = end - i < BLOCK<T> ? static_cast<int>(end - i) : BLOCK<T>;
    combine_block(out + i, base != nullptr ? base + i : nullptr, m, v, w, i, n);
  }
}

// r = e / (atol + rtol max(|y|, |y1|)) for the elements from `offset`; r may be e.
template <class T>
void scale_errors(T* r, const T* e, const T* y, const T* y1, const Tolerance<T>& tolerance, std::int64_t offset, int n) {
  y += offset;
  y1 += offset;
  if (tolerance.rtol_array != nullptr) {
    const T* rtol = tolerance.rtol_array + offset;
    const T* atol = tolerance.atol_array + offset;
#pragma GCC ivdep
    for (int i = 0; i < n; ++i) r[i] = scaled_error(e[i], y[i], y1[i], rtol[i], atol[i]);
    return;
  }
  const T rtol = tolerance.rtol, atol = tolerance.atol;
#pragma GCC ivdep
  for (int i = 0; i < n; ++i) r[i] = scaled_error(e[i], y[i], y1[i], rtol, atol);
}

// Squares are summed in float64: in float32 a sum over a million elements would lose three digits of the error norm.
template <class T>
void add_squares(double* lane, const T* r, std::int64_t n) {
  std::int64_t i = 0;
  double s[LANES];
  for (int l = 0; l < LANES; ++l) s[l] = lane[l];
  for (; i + LANES <= n; i += LANES) {
    for (int l = 0; l < LANES; ++l) {
      const double x = r[i + l];
      s[l] += x * x;
    }
  }
  for (int l = 0; l < LANES; ++l) lane[l] = s[l];
  for (int l = 0; i + l < n; ++l) {
    const double x = r[i + l];
    lane[l] += x * x;
  }
}

template <class T>
void take_max(double* lane, const T* r, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    for (int l = 0; l < LANES; ++l) lane[l] = nan_max(lane[l], static_cast<double>(absolute(r[i + l])));
  }
  for (int l = 0; i + l < n; ++l) lane[l] = nan_max(lane[l], static_cast<double>(absolute(r[i + l])));
}

template <class T>
void reduce(Norm norm, double* lane, const T* r, std::int64_t n) {
  if (norm == Norm::rms) add_squares(lane, r, n);
  else take_max(lane, r, n);
}

// The same for fewer elements than lanes, without touching the lanes that stay zero.
template <class T>
void reduce_few(Norm norm, double* lane, const T* r, int n) {
  for (int l = 0; l < n; ++l) {
    const double x = absolute(r[l]);
    lane[l] = norm == Norm::rms ? x * x : x;
  }
}

template <class T>
double error(const ErrorArgs<T>& a, std::int64_t begin, std::int64_t end) {
  alignas(64) T e[BLOCK<T>];
  alignas(64) double lane[LANES] = {};
  for (std::int64_t i = begin; i < end; i += BLOCK<T>) {
    const int n = end - i < BLOCK<T> ? static_cast<int>(end - i) : BLOCK<T>;
    if (a.write) combine(a.y1, a.y, a.state.count, a.state.vector, a.state.weight, i, i + n);
    if (a.error.count == 0) {
      for (int l = 0; l < n; ++l) e[l] = T(0);
    } else {
      combine_block<T>(e, nullptr, a.error.count, a.error.vector, a.error.weight, i, n);
    }
    T* r = a.out != nullptr ? a.out + i : e;
    scale_errors(r, e, a.y, a.y1, a.tolerance, i, n);
    if (a.out == nullptr) reduce(a.norm, lane, r, n);
  }
  return a.norm == Norm::rms ? fold_sum(lane) : fold_max(lane);
}

// Narrow rows. value[r] of each row is spread over its elements, then everything is elementwise again.
template <class T, class V>
void spread(T* out, const V* value, std::int64_t rows, std::int64_t cols) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const T x = static_cast<T>(value[r]);
    for (std::int64_t c = 0; c < cols; ++c) *out++ = x;
  }
}

// out = [base +] sum_j v_j (w_j scale), with one scale per element.
template <class T>
void combine_spread(T* out, const T* base, const Terms<T>& terms, const T* scale, std::int64_t offset, int n) {
  alignas(64) T sum[BLOCK<T>];
  for (int j = 0; j < terms.count; ++j) {
    const T* v = terms.vector[j] + offset;
    const T w = terms.weight[j];
    if (j == 0) {
      for (int i = 0; i < n; ++i) sum[i] = v[i] * (w * scale[i]);
    } else {
      for (int i = 0; i < n; ++i) sum[i] += v[i] * (w * scale[i]);
    }
  }
  if (terms.count == 0) {
    for (int i = 0; i < n; ++i) out[i] = base != nullptr ? base[i] : T(0);
  } else {
#pragma GCC ivdep
    for (int i = 0; i < n; ++i) out[i] = base != nullptr ? base[i] + sum[i] : sum[i];
  }
}

// Calls body(first row, rows, first element, elements) for blocks of whole rows.
template <class T, class Body>
void for_row_blocks(std::int64_t begin, std::int64_t end, std::int64_t cols, const Body& body) {
  const std::int64_t most = BLOCK<T> / cols;
  for (std::int64_t r = begin; r < end; r += most) {
    const std::int64_t rows = end - r < most ? end - r : most;
    body(r, rows, r * cols, static_cast<int>(rows * cols));
  }
}

template <class T>
void combine_rows(T* out, const T* base, const Terms<T>& terms, const double* dt, std::int64_t cols, std::int64_t begin,
                  std::int64_t end) {
  alignas(64) T scale[BLOCK<T>];
  for_row_blocks<T>(begin, end, cols, [&](std::int64_t r, std::int64_t rows, std::int64_t i, int n) {
    spread(scale, dt + r, rows, cols);
    combine_spread(out + i, base + i, terms, scale, i, n);
  });
}

template <class T>
void error_rows(const ErrorArgs<T>& a, const double* dt, std::int64_t cols, double* err, std::int64_t begin,
                std::int64_t end) {
  alignas(64) T scale[BLOCK<T>];
  alignas(64) T e[BLOCK<T>];
  for_row_blocks<T>(begin, end, cols, [&](std::int64_t r, std::int64_t rows, std::int64_t i, int n) {
    spread(scale, dt + r, rows, cols);
    if (a.write) combine_spread(a.y1 + i, a.y + i, a.state, scale, i, n);
    combine_spread<T>(e, nullptr, a.error, scale, i, n);
    scale_errors(a.out != nullptr ? a.out + i : e, e, a.y, a.y1, a.tolerance, i, n);
    if (a.out != nullptr) return;
    const int lanes = lanes_for(cols);
    double lane[LANES];
    for (std::int64_t s = 0; s < rows; ++s) {
      for (int l = 0; l < lanes; ++l) lane[l] = 0.0;
      if (lanes == LANES) reduce(a.norm, lane, e + s * cols, cols);
      else reduce_few(a.norm, lane, e + s * cols, static_cast<int>(cols));
      err[r + s] = finish_norm(a.norm, a.norm == Norm::rms ? fold_sum(lane, lanes) : fold_max(lane, lanes), cols);
    }
  });
}

template <class T>
void interpolate(const InterpolateArgs<T>& a, double x, double dt, std::int64_t begin, std::int64_t end) {
  alignas(64) T slopes[BLOCK<T>];
  const QuarticWeights q = quartic_weights(x);
  Terms<T> terms;
  for (int j = 0; j < a.stages; ++j) {
    const double weight = slope_weight(q, a.mid, j, a.stages, dt);
    if (weight != 0.0) terms.add(a.k[j], static_cast<T>(weight));
  }
  const T weight = static_cast<T>(q.y1), rest = static_cast<T>(1.0 - q.y1);
  for (std::int64_t i = begin; i < end; i += BLOCK<T>) {
    const int n = end - i < BLOCK<T> ? static_cast<int>(end - i) : BLOCK<T>;
    if (terms.count == 0) {
      for (int l = 0; l < n; ++l) slopes[l] = T(0);
    } else {
      combine_block<T>(slopes, nullptr, terms.count, terms.vector, terms.weight, i, n);
    }
    const T* y = a.y + i;
    const T* y1 = a.y1 + i;
    T* out = a.out + i;
#pragma GCC ivdep
    for (int l = 0; l < n; ++l) out[l] = between(y[l], y1[l], weight, rest, slopes[l]);
  }
}

template <class T>
void interpolate_rows(const InterpolateArgs<T>& a, const double* x, const double* dt, std::int64_t cols, std::int64_t begin,
                      std::int64_t end) {
  alignas(64) T slopes[BLOCK<T>], spread_out[BLOCK<T>], rest[BLOCK<T>];
  double row[BLOCK<T>];
  for_row_blocks<T>(begin, end, cols, [&](std::int64_t r, std::int64_t rows, std::int64_t i, int n) {
    for (int l = 0; l < n; ++l) slopes[l] = T(0);
    for (int j = 0; j < a.stages; ++j) {
      if (a.mid[j] == T(0) && j != 0 && j != a.stages - 1) continue;
      for (std::int64_t s = 0; s < rows; ++s) {
        row[s] = slope_weight(quartic_weights(x[r + s]), a.mid, j, a.stages, dt[r + s]);
      }
      spread(spread_out, row, rows, cols);
      const T* k = a.k[j] + i;
      for (int l = 0; l < n; ++l) slopes[l] += spread_out[l] == T(0) ? T(0) : k[l] * spread_out[l];
    }
    for (std::int64_t s = 0; s < rows; ++s) row[s] = quartic_weights(x[r + s]).y1;
    spread(spread_out, row, rows, cols);
    for (std::int64_t s = 0; s < rows; ++s) row[s] = 1.0 - row[s];
    spread(rest, row, rows, cols);
    const T* y = a.y + i;
    const T* y1 = a.y1 + i;
    T* out = a.out + i;
#pragma GCC ivdep
    for (int l = 0; l < n; ++l) out[l] = between(y[l], y1[l], spread_out[l], rest[l], slopes[l]);
  });
}

void error_factors(const RowLimits& rule, std::int64_t rows, const double* err, const double* dt, double* out) {
  const RowLimits own = rule;  // so that the compiler knows that `out` does not change it
  for (std::int64_t r = 0; r < rows; ++r) out[r] = error_factor(err[r], dt[r], own);
}

template <class T>
constexpr Kernels<T> table() {
  return {combine<T>, combine_rows<T>, error<T>, error_rows<T>, interpolate<T>, interpolate_rows<T>};
}

}  // namespace

// Constant-initialised: nothing of this file runs before the processor has been asked what it supports.
extern const Target target;
constinit const Target target = {table<float>(), table<double>(), error_factors};

}  // namespace fastode::FASTODE_TARGET
