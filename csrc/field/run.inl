// Runs instructions over a tile: elementwise operators, movement of features, sums.

template <class T>
inline Vec<T> flag(Int<T> mask) {
  return mask ? splat(T(1)) : splat(T(0));
}

template <class T>
inline Vec<T> powers(Vec<T> a, Vec<T> b) {
  for (int i = 0; i < LANES<T>; ++i) {
    if constexpr (sizeof(T) == 4) a[i] = __builtin_powf(a[i], b[i]);
    else a[i] = __builtin_pow(a[i], b[i]);
  }
  return a;
}

inline F32 magnitude(F32 x) { return (F32)((I32)x & 0x7fffffff); }
inline F64 magnitude(F64 x) { return (F64)((I64)x & 0x7fffffffffffffff); }

// An input as the loops read it, at one stage.
template <class T>
struct Reader {
  const T* data;
  Index feature_stride;
};

template <class T>
inline Reader<T> reader(const Place<T>& place, Index stage) {
  return {place.data + stage * place.stage_stride, place.feature_stride};
}

template <bool SPLAT, class T>
inline Vec<T> read(const T* p, Index l) {
  if constexpr (SPLAT) return splat(*p);
  else return load(p + l);
}

template <class T, class F>
inline void unary(const Code<T>& c, Index stage, F f) {
  const T* x = c.in[0].data + stage * c.in[0].stage_stride;
  T* out = c.out.data + stage * c.out.stage_stride;
  const Index n = c.width * c.lanes;
  for (Index i = 0; i < n; i += LANES<T>) store(out + i, f(load(x + i)));
}

template <bool SPLAT_A, bool SPLAT_B, class T, class F>
inline void binary_rows(const Code<T>& c, Reader<T> a, Reader<T> b, T* out, F f) {
  const Index rows = c.flat ? 1 : c.width, n = c.flat ? c.width * c.lanes : c.lanes;
  for (Index r = 0; r < rows; ++r) {
    const T* pa = a.data + r * a.feature_stride;
    const T* pb = b.data + r * b.feature_stride;
    T* po = out + r * n;
    for (Index l = 0; l < n; l += LANES<T>) store(po + l, f(read<SPLAT_A>(pa, l), read<SPLAT_B>(pb, l)));
  }
}

template <class T, class F>
inline void binary(const Code<T>& c, Index stage, F f) {
  const Reader<T> a = reader(c.in[0], stage), b = reader(c.in[1], stage);
  T* out = c.out.data + stage * c.out.stage_stride;
  if (c.in[0].splat) binary_rows<true, false>(c, a, b, out, f);
  else if (c.in[1].splat) binary_rows<false, true>(c, a, b, out, f);
  else binary_rows<false, false>(c, a, b, out, f);
}

template <class T>
void choose(const Code<T>& c, Index stage) {
  const Reader<T> in[3] = {reader(c.in[0], stage), reader(c.in[1], stage), reader(c.in[2], stage)};
  T* out = c.out.data + stage * c.out.stage_stride;
  const Index rows = c.flat ? 1 : c.width, n = c.flat ? c.width * c.lanes : c.lanes;
  const auto value = [&](int i, Index r, Index l) {
    const T* p = in[i].data + r * in[i].feature_stride;
    return c.in[i].splat ? splat(*p) : load(p + l);
  };
  for (Index r = 0; r < rows; ++r) {
    for (Index l = 0; l < n; l += LANES<T>) {
      store(out + r * n + l, value(0, r, l) != 0 ? value(1, r, l) : value(2, r, l));
    }
  }
}

template <class T>
void gather(const Code<T>& c, Index stage) {
  T* out = c.out.data + stage * c.out.stage_stride;
  for (Index i = 0; i < c.run_count; ++i) {
    const PlacedRun<T>& run = c.runs[i];
    const T* from = run.from + stage * run.stage_stride;
    for (Index f = 0; f < run.count; ++f, from += run.feature_stride, out += c.lanes) {
      if (c.lanes == 1) *out = *from;
      else if (run.splat) for (Index l = 0; l < c.lanes; l += LANES<T>) store(out + l, splat(*from));
      else for (Index l = 0; l < c.lanes; l += LANES<T>) store(out + l, load(from + l));
    }
  }
}

template <class T>
void sum_groups(const Code<T>& c, Index stage) {
  const T* x = c.in[0].data + stage * c.in[0].stage_stride;
  T* out = c.out.data + stage * c.out.stage_stride;
  const Index group = c.columns / c.width;
  for (Index f = 0; f < c.width; ++f, x += group * c.lanes, out += c.lanes) {
    if (c.lanes == 1) {
      T total = x[0];
      for (Index i = 1; i < group; ++i) total += x[i];
      *out = total;
      continue;
    }
    for (Index l = 0; l < c.lanes; l += LANES<T>) {
      Vec<T> total = load(x + l);
      for (Index i = 1; i < group; ++i) total += load(x + i * c.lanes + l);
      store(out + l, total);
    }
  }
}

// The lanes of a vector added in pairs, in a fixed order.
template <class T>
inline T horizontal(Vec<T> v) {
  for (int half = LANES<T> / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  }
  return v[0];
}

template <class T>
void sum_lanes(const Code<T>& c, Index stage) {
  const T* x = c.in[0].data + stage * c.in[0].stage_stride;
  T* out = c.out.data + stage * c.out.stage_stride;
  for (Index f = 0; f < c.width; ++f, x += c.in_lanes) {
    if (c.in_lanes == 1) {
      out[f] = *x;
      continue;
    }
    Vec<T> total = load(x);
    for (Index l = LANES<T>; l < c.in_lanes; l += LANES<T>) total += load(x + l);
    out[f] = horizontal<T>(total);
  }
}

// Which of `groups` groups a number names, the last being -1 as well; -1 if none.
template <class T>
inline Index group_of(T number, Index groups) {
  if (number < T(0)) number += static_cast<T>(groups);
  return number >= T(0) && number < static_cast<T>(groups) ? static_cast<Index>(number) : -1;
}

template <class T>
void look_up(const Code<T>& c, Index stage) {
  const T nothing = static_cast<T>(__builtin_nan(""));
  const T* x = c.in[0].data + stage * c.in[0].stage_stride;
  const T* number = c.in[1].data + stage * c.in[1].stage_stride;
  T* out = c.out.data + stage * c.out.stage_stride;
  const Index groups = c.columns / c.width, group_size = c.width * c.in_lanes;
  if (c.number_has_lanes) {
    for (Index l = 0; l < c.lanes; ++l) {
      const Index group = group_of(number[l], groups);
      const T* from = x + (group < 0 ? 0 : group) * group_size + (c.in_lanes == 1 ? 0 : l);
      for (Index f = 0; f < c.width; ++f) out[f * c.lanes + l] = group < 0 ? nothing : from[f * c.in_lanes];
    }
    return;
  }
  const Index group = group_of(*number, groups);
  if (group < 0) {
    for (Index i = 0; i < c.width * c.lanes; ++i) out[i] = nothing;
    return;
  }
  const T* from = x + group * group_size;
  for (Index f = 0; f < c.width; ++f, from += c.in_lanes, out += c.lanes) {
    if (c.lanes == 1) *out = *from;
    else if (c.in_lanes == 1) for (Index l = 0; l < c.lanes; l += LANES<T>) store(out + l, splat(*from));
    else for (Index l = 0; l < c.lanes; l += LANES<T>) store(out + l, load(from + l));
  }
}

template <class T>
void scatter(const Code<T>& c, Index stage) {
  const T* g = c.in[0].data + stage * c.in[0].stage_stride;
  const T* number = c.in[1].data + stage * c.in[1].stage_stride;
  T* out = c.out.data + stage * c.out.stage_stride;
  const Index groups = c.width / c.columns, group_size = c.columns * c.lanes;
  for (Index i = 0; i < c.width * c.lanes; ++i) out[i] = T(0);
  for (Index l = 0; l < c.lanes; ++l) {
    const Index group = group_of(number[c.number_has_lanes ? l : 0], groups);
    if (group < 0) continue;
    T* to = out + group * group_size + l;
    const T* from = g + (c.in_lanes == 1 ? 0 : l);
    for (Index f = 0; f < c.columns; ++f) to[f * c.lanes] = from[f * c.in_lanes];
  }
}

template <class T>
void affine_map(const Code<T>& c, Index stage) {
  const T* x = c.in[0].data + stage * c.in[0].stage_stride;
  const T* bias = c.bias ? c.in[1].data + stage * c.in[1].stage_stride : nullptr;
  T* out = c.out.data + stage * c.out.stage_stride;
  if (c.lanes == 1) multiply_one(c.packed, c.width, c.columns, x, bias, out);
  else multiply(c.packed, c.width, c.columns, x, c.lanes, bias, c.bias_has_lanes, out);
}

template <class T>
void run(const Code<T>* codes, Index count, Index stage) {
  using V = Vec<T>;
  const V zero = splat(T(0)), one = splat(T(1));
  for (Index i = 0; i < count; ++i) {
    const Code<T>& c = codes[i];
    const V number = splat(c.number);
    (void)number;
    switch (c.op) {
#define UNARY(name, expression) \
  case Operator::name: unary(c, stage, [=](V x) -> V { return expression; }); break;
#define BINARY(name, expression) \
  case Operator::name: binary(c, stage, [=](V a, V b) -> V { return expression; }); break;
#include "operators.def"
#undef UNARY
#undef BINARY
      case Operator::where: choose(c, stage); break;
      case Operator::affine: affine_map(c, stage); break;
      case Operator::gather: gather(c, stage); break;
      case Operator::sum: sum_groups(c, stage); break;
      case Operator::rows_sum: sum_lanes(c, stage); break;
      case Operator::lookup: look_up(c, stage); break;
      case Operator::scatter: scatter(c, stage); break;
      case Operator::vector:
        for (Index i = 0; i < c.width; ++i) c.out.data[i] = c.in[0].data[i];
        break;
      case Operator::literal: c.out.data[0] = c.number; break;
    }
  }
}
