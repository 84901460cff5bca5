// Products of constant matrices with tiles [features, lanes], and sums of outer products over lanes.
//
// Roofline. A product of a [m, n] matrix with L lanes takes 2 m n L flops on m n + (m + n) L numbers: with weights in L1 or L2 it
// is bound by the two fused multiply-adds a cycle that a core does. The inner loop of `panel` keeps PANEL x 2 accumulators and
// loads 2 vectors and PANEL broadcast weights for 2 PANEL multiply-adds: 8 loads for 12, below the 2 loads a cycle there are.
//
// The order of the sum is that of the columns, from the bias up, in blocks of SUMMED columns that are then added, in every
// variant: a sample's result does not depend on how many others are computed beside it, and rounding grows with a block.

constexpr Index SUMMED = 128;
constexpr int PANEL = 6;  // rows of a panel: 12 accumulators of two vectors, one broadcast, two loads fit in 16 registers

// [rows, cols] as panels of PANEL rows, column by column; the last panel has the rows that are left.
template <class T>
void pack_panels(const T* source, Index rows, Index cols, bool transposed, T* out) {
  for (Index r = 0; r < rows; r += PANEL) {
    const Index height = rows - r < PANEL ? rows - r : PANEL;
    for (Index c = 0; c < cols; ++c) {
      for (Index i = 0; i < height; ++i) *out++ = transposed ? source[c * rows + r + i] : source[(r + i) * cols + c];
    }
  }
}

// Column by column, each padded to whole vectors: for products with one vector.
template <class T>
void pack_columns(const T* source, Index rows, Index cols, bool transposed, T* out) {
  const Index padded = round_up_to(rows, LANES<T>);
  for (Index c = 0; c < cols; ++c, out += padded) {
    for (Index r = 0; r < rows; ++r) out[r] = transposed ? source[c * rows + r] : source[r * cols + c];
    for (Index r = rows; r < padded; ++r) out[r] = T(0);
  }
}

// HEIGHT rows times WIDE vectors of lanes. `bias` is null, or one number a row (bias_stride 0 along the lanes), or a tile.
template <int HEIGHT, int WIDE, class T>
void panel(const T* weights, Index cols, const T* x, Index lanes, const T* bias, bool bias_has_lanes, T* out) {
  constexpr int V = LANES<T>;
  Index begin = 0;
  do {
    const Index end = begin + SUMMED < cols ? begin + SUMMED : cols;
    Vec<T> sum[HEIGHT][WIDE];
    for (int i = 0; i < HEIGHT; ++i) {
      for (int j = 0; j < WIDE; ++j) {
        if (bias == nullptr || begin > 0) sum[i][j] = Vec<T>{};
        else sum[i][j] = bias_has_lanes ? load(bias + i * lanes + j * V) : splat(bias[i]);
      }
    }
    for (Index c = begin; c < end; ++c) {
      Vec<T> column[WIDE];
      for (int j = 0; j < WIDE; ++j) column[j] = load(x + c * lanes + j * V);
#pragma GCC unroll 6
      for (int i = 0; i < HEIGHT; ++i) {
        const Vec<T> weight = splat(weights[c * HEIGHT + i]);
        for (int j = 0; j < WIDE; ++j) sum[i][j] = fma(weight, column[j], sum[i][j]);
      }
    }
    for (int i = 0; i < HEIGHT; ++i) {
      for (int j = 0; j < WIDE; ++j) {
        T* to = out + i * lanes + j * V;
        store(to, begin == 0 ? sum[i][j] : load(to) + sum[i][j]);
      }
    }
    begin = end;
  } while (begin < cols);
}

// One panel times all lanes. Few rows have few accumulators in flight, so they take four vectors at a time.
template <int HEIGHT, class T>
void panel_row(const T* weights, Index cols, const T* x, Index lanes, const T* bias, bool bias_has_lanes, T* out) {
  constexpr int V = LANES<T>;
  Index l = 0;
  const auto at = [&](Index l) { return bias != nullptr && bias_has_lanes ? bias + l : bias; };
  if constexpr (HEIGHT <= 3) {
    for (; l + 4 * V <= lanes; l += 4 * V) panel<HEIGHT, 4>(weights, cols, x + l, lanes, at(l), bias_has_lanes, out + l);
  }
  for (; l + 2 * V <= lanes; l += 2 * V) panel<HEIGHT, 2>(weights, cols, x + l, lanes, at(l), bias_has_lanes, out + l);
  for (; l < lanes; l += V) panel<HEIGHT, 1>(weights, cols, x + l, lanes, at(l), bias_has_lanes, out + l);
}

// out[rows, lanes] = M x (+ bias), from packed panels.
template <class T>
void multiply(const T* panels, Index rows, Index cols, const T* x, Index lanes, const T* bias, bool bias_has_lanes, T* out) {
  for (Index r = 0; r < rows; r += PANEL) {
    const T* b = bias == nullptr ? nullptr : bias + r * (bias_has_lanes ? lanes : 1);
    const T* w = panels + r * cols;
    T* o = out + r * lanes;
    switch (rows - r) {
      case 1: panel_row<1>(w, cols, x, lanes, b, bias_has_lanes, o); break;
      case 2: panel_row<2>(w, cols, x, lanes, b, bias_has_lanes, o); break;
      case 3: panel_row<3>(w, cols, x, lanes, b, bias_has_lanes, o); break;
      case 4: panel_row<4>(w, cols, x, lanes, b, bias_has_lanes, o); break;
      case 5: panel_row<5>(w, cols, x, lanes, b, bias_has_lanes, o); break;
      default: panel_row<PANEL>(w, cols, x, lanes, b, bias_has_lanes, o); break;
    }
  }
}

// WIDE vectors of rows of out = M x (+ bias) for one vector x.
template <int WIDE, class T>
void column_block(const T* columns, Index padded, Index cols, const T* x, const T* bias, T* out) {
  constexpr int V = LANES<T>;
  Index begin = 0;
  do {
    const Index end = begin + SUMMED < cols ? begin + SUMMED : cols;
    Vec<T> sum[WIDE];
    for (int j = 0; j < WIDE; ++j) sum[j] = bias == nullptr || begin > 0 ? Vec<T>{} : load(bias + j * V);
    for (Index c = begin; c < end; ++c) {
      const Vec<T> factor = splat(x[c]);
      for (int j = 0; j < WIDE; ++j) sum[j] = fma(load(columns + c * padded + j * V), factor, sum[j]);
    }
    for (int j = 0; j < WIDE; ++j) store(out + j * V, begin == 0 ? sum[j] : load(out + j * V) + sum[j]);
    begin = end;
  } while (begin < cols);
}

// out[rows] = M x (+ bias), from packed columns; reads and writes up to whole vectors.
template <class T>
void multiply_one(const T* columns, Index rows, Index cols, const T* x, const T* bias, T* out) {
  constexpr int V = LANES<T>;
  const Index padded = round_up_to(rows, LANES<T>);
  const auto at = [&](Index r) { return bias == nullptr ? nullptr : bias + r; };
  Index r = 0;
  for (; r + 8 * V <= rows; r += 8 * V) column_block<8>(columns + r, padded, cols, x, at(r), out + r);
  for (; r + 2 * V <= rows; r += 2 * V) column_block<2>(columns + r, padded, cols, x, at(r), out + r);
  for (; r < rows; r += V) column_block<1>(columns + r, padded, cols, x, at(r), out + r);
}

// Elements of two vectors by constant indices, those of `b` behind those of `a`.
template <int... INDICES, class V>
inline V picked(V a, V b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, INDICES...);
#else
  return __builtin_shuffle(a, b, decltype(a == b){INDICES...});
#endif
}

template <int HALF, class V, int... J>
inline V upper_blocks(V a, V b, std::integer_sequence<int, J...>) {
  return picked<((J & HALF) == 0 ? J : static_cast<int>(sizeof...(J)) + J - HALF)...>(a, b);
}
template <int HALF, class V, int... J>
inline V lower_blocks(V a, V b, std::integer_sequence<int, J...>) {
  return picked<((J & HALF) == 0 ? J + HALF : static_cast<int>(sizeof...(J)) + J)...>(a, b);
}

// One exchange of a square transpose: in every second block of HALF, what lies off the diagonal changes places.
template <int HALF, class T>
inline void exchange(Vec<T>* rows) {
  constexpr int L = LANES<T>;
  constexpr std::make_integer_sequence<int, L> all{};
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) {
    if ((i & HALF) != 0) continue;
    const Vec<T> a = rows[i], b = rows[i + HALF];
    rows[i] = upper_blocks<HALF>(a, b, all);
    rows[i + HALF] = lower_blocks<HALF>(a, b, all);
  }
  if constexpr (HALF > 1) exchange<HALF / 2, T>(rows);
}

// x[cols, lanes] as [lanes, padded cols], zeros behind the last column; lanes are whole vectors.
template <class T>
void transpose(const T* x, Index cols, Index lanes, T* out) {
  constexpr int L = LANES<T>;
  const Index padded = round_up_to(cols, L);
  for (Index c = 0; c < cols; c += L) {
    for (Index l = 0; l < lanes; l += L) {
      Vec<T> rows[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) rows[i] = c + i < cols ? load(x + (c + i) * lanes + l) : Vec<T>{};
      exchange<L / 2, T>(rows);
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) store(out + (l + i) * padded + c, rows[i]);
    }
  }
}

// HEIGHT rows and WIDE vectors of columns of total += g x', summed over lanes (a tile by itself: rounding grows with a tile);
// x comes transposed.
template <int HEIGHT, int WIDE, class T>
void outer_block(const T* g, Index lanes, const T* xt, Index padded, T* total) {
  constexpr int V = LANES<T>;
  Vec<T> sum[HEIGHT][WIDE];
  for (int i = 0; i < HEIGHT; ++i) {
    for (int j = 0; j < WIDE; ++j) sum[i][j] = Vec<T>{};
  }
  for (Index l = 0; l < lanes; ++l) {
    Vec<T> row[WIDE];
    for (int j = 0; j < WIDE; ++j) row[j] = load(xt + l * padded + j * V);
#pragma GCC unroll 6
    for (int i = 0; i < HEIGHT; ++i) {
      const Vec<T> factor = splat(g[i * lanes + l]);
      for (int j = 0; j < WIDE; ++j) sum[i][j] = fma(factor, row[j], sum[i][j]);
    }
  }
  for (int i = 0; i < HEIGHT; ++i) {
    for (int j = 0; j < WIDE; ++j) {
      T* to = total + i * padded + j * V;
      store(to, load(to) + sum[i][j]);
    }
  }
}

template <int HEIGHT, class T>
void outer_row(const T* g, Index lanes, const T* xt, Index padded, T* total) {
  constexpr int V = LANES<T>;
  Index c = 0;
  for (; c + 2 * V <= padded; c += 2 * V) outer_block<HEIGHT, 2>(g, lanes, xt + c, padded, total + c);
  for (; c < padded; c += V) outer_block<HEIGHT, 1>(g, lanes, xt + c, padded, total + c);
}

// total[rows, padded cols] += sum over lanes of g x'. g is [rows, lanes], xt [lanes, padded cols].
template <class T>
void accumulate_outer(const T* g, Index rows, const T* xt, Index cols, Index lanes, T* total) {
  const Index padded = round_up_to(cols, LANES<T>);
  for (Index r = 0; r < rows; r += PANEL) {
    const T* from = g + r * lanes;
    T* to = total + r * padded;
    switch (rows - r) {
      case 1: outer_row<1>(from, lanes, xt, padded, to); break;
      case 2: outer_row<2>(from, lanes, xt, padded, to); break;
      case 3: outer_row<3>(from, lanes, xt, padded, to); break;
      case 4: outer_row<4>(from, lanes, xt, padded, to); break;
      case 5: outer_row<5>(from, lanes, xt, padded, to); break;
      default: outer_row<PANEL>(from, lanes, xt, padded, to); break;
    }
  }
}
