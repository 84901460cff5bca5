// What a Runge-Kutta step does with states [features, lanes] between evaluations of the field.

template <bool PER_LANE, class T, class F>
inline void over_tile(Steps<T> steps, Index features, Index lanes, F f) {
  if constexpr (!PER_LANE) {
    const Vec<T> dt = splat(*steps.dt);
    for (Index i = 0; i < features * lanes; i += LANES<T>) f(i, dt);
  } else {
    for (Index l = 0; l < lanes; l += LANES<T>) {
      const Vec<T> dt = load(steps.dt + l);
      for (Index i = 0; i < features; ++i) f(i * lanes + l, dt);
    }
  }
}

template <int COUNT, bool PER_LANE, class T>
void combine_few(T* out, const T* y, const T* const* k, const T* w, Steps<T> steps, Index features, Index lanes) {
  const T* from[COUNT];
  Vec<T> weight[COUNT];
  for (int j = 0; j < COUNT; ++j) {
    from[j] = k[j];
    weight[j] = splat(w[j]);
  }
  over_tile<PER_LANE>(steps, features, lanes, [&](Index i, Vec<T> dt) {
    Vec<T> sum = weight[0] * load(from[0] + i);
    for (int j = 1; j < COUNT; ++j) sum = fma(weight[j], load(from[j] + i), sum);
    store(out + i, y == nullptr ? dt * sum : fma(dt, sum, load(y + i)));
  });
}

template <bool PER_LANE, class T>
void combine_many(T* out, const T* y, int count, const T* const* k, const T* w, Steps<T> steps, Index features, Index lanes) {
  over_tile<PER_LANE>(steps, features, lanes, [&](Index i, Vec<T> dt) {
    Vec<T> sum = splat(w[0]) * load(k[0] + i);
    for (int j = 1; j < count; ++j) sum = fma(splat(w[j]), load(k[j] + i), sum);
    store(out + i, y == nullptr ? dt * sum : fma(dt, sum, load(y + i)));
  });
}

template <bool PER_LANE, class T>
void combine_any(T* out, const T* y, int count, const T* const* k, const T* w, Steps<T> steps, Index features, Index lanes) {
  switch (count) {
    case 1: return combine_few<1, PER_LANE>(out, y, k, w, steps, features, lanes);
    case 2: return combine_few<2, PER_LANE>(out, y, k, w, steps, features, lanes);
    case 3: return combine_few<3, PER_LANE>(out, y, k, w, steps, features, lanes);
    case 4: return combine_few<4, PER_LANE>(out, y, k, w, steps, features, lanes);
    case 5: return combine_few<5, PER_LANE>(out, y, k, w, steps, features, lanes);
    case 6: return combine_few<6, PER_LANE>(out, y, k, w, steps, features, lanes);
    case 7: return combine_few<7, PER_LANE>(out, y, k, w, steps, features, lanes);
    default: return combine_many<PER_LANE>(out, y, count, k, w, steps, features, lanes);
  }
}

template <class T>
void combine(T* out, const T* y, int count, const T* const* k, const T* w, Steps<T> steps, Index features, Index lanes) {
  if (steps.per_lane) combine_any<true>(out, y, count, k, w, steps, features, lanes);
  else combine_any<false>(out, y, count, k, w, steps, features, lanes);
}

template <class T>
void add_scaled(T* out, const T* g, T w, Steps<T> steps, Index features, Index lanes) {
  const auto sum = [&](Index i, Vec<T> dt) { return fma(splat(w) * dt, load(g + i), load(out + i)); };
  const auto add = [&](Index i, Vec<T> dt) { store(out + i, sum(i, dt)); };
  if (lanes == 1) {
    // what is behind the features that the field sees, such as the cotangent of a density, is not to change
    const Index whole = features / LANES<T> * LANES<T>;
    over_tile<false>(steps, whole, 1, add);
    const Vec<T> rest = sum(whole, splat(*steps.dt));
    for (Index i = whole; i < features; ++i) out[i] = rest[i - whole];
    return;
  }
  if (steps.per_lane) over_tile<true>(steps, features, lanes, add);
  else over_tile<false>(steps, features, lanes, add);
}

template <class T>
void scaled_squares(T* sums, const T* x, const T* y, const T* y1, TileTolerance<T> tolerance, Index features, Index lanes) {
  if (lanes == 1) {
    T total = T(0);
    for (Index f = 0; f < features; ++f) {
      const T a = x[f] < 0 ? -x[f] : x[f], s = y[f] < 0 ? -y[f] : y[f], s1 = y1[f] < 0 ? -y1[f] : y1[f];
      const Index at = f * tolerance.feature_stride;
      const T size = (s > s1) | (s != s) ? s : s1;
      const T scaled = a / (tolerance.atol[at] + tolerance.rtol[at] * size);
      total += scaled * scaled;
    }
    *sums = total;
    return;
  }
  for (Index l = 0; l < lanes; l += LANES<T>) {
    Vec<T> total{};
    for (Index f = 0; f < features; ++f) {
      const Index i = f * lanes + l, at = f * tolerance.feature_stride + l;
      const Vec<T> s = magnitude(load(y + i)), s1 = magnitude(load(y1 + i));
      const Vec<T> size = (s > s1) | (s != s) ? s : s1;
      const Vec<T> scaled = load(x + i) / (load(tolerance.atol + at) + load(tolerance.rtol + at) * size);
      total += scaled * scaled;
    }
    store(sums + l, total);
  }
}

template <class T>
void select(T* out, const T* fresh, const T* mask, Index features, Index lanes) {
  if (lanes == 1) {
    if (*mask != 0) for (Index i = 0; i < features; ++i) out[i] = fresh[i];
    return;
  }
  for (Index l = 0; l < lanes; l += LANES<T>) {
    const Int<T> chosen = load(mask + l) != 0;
    for (Index f = 0; f < features; ++f) {
      const Index i = f * lanes + l;
      store(out + i, chosen ? load(fresh + i) : load(out + i));
    }
  }
}
