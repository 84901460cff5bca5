// The controller of lanes in vectors: what control_row decides in the ordinary case, with the same bits.

// Errors from the sums of squares, and what they mean for each lane. Lanes where anything else happens than a step that is accepted
// or rejected (an output or a stop reached, the end, a failure) are marked in `special` and left to control_row. True if there are none.
inline F64 larger(F64 a, F64 b) { return (a > b) | (a != a) ? a : b; }
inline F64 smaller(F64 a, F64 b) { return (a < b) | (a != a) ? a : b; }

template <class T>
bool control(const RowLimits& given, const LaneControl& state, const T* sums, Index features, Index lanes, T* mask, T* dt_of) {
  const RowLimits rule = given;
  const Limits& limits = rule.limits;
  const LaneControl s = state;
  const double count = features > 0 ? static_cast<double>(features) : 1.0;
#pragma GCC ivdep
  for (Index l = 0; l < lanes; ++l) {
    const double err = __builtin_sqrt(static_cast<double>(sums[l]) / count);
    s.err[l] = err;
    s.factor[l] = error_factor(err, s.dt[l], rule);
  }
  const F64 zero{}, one = splat(1.0), least = splat(limits.dt_min), most = splat(limits.dt_max);
  F64 ordinary = one;
  const F64 attempts_allowed = splat(static_cast<double>(rule.max_steps));
  for (Index l = 0; l < lanes; l += LANES<double>) {
    const F64 err = load(s.err + l), dt = load(s.dt + l), was = load(s.size + l), stop = load(s.stop + l), due = load(s.due + l);
    const F64 tried = magnitude(dt), attempts = load(s.attempts + l) + one;
    const auto accept = (err <= one) | ((tried <= least) & (err == err));
    const F64 capped = tried * splat(limits.factor_max);
    const F64 wanted = splat(limits.safety) * load(s.factor + l);
    const F64 bounded = err > zero ? larger(tried * wanted, tried * splat(limits.factor_min)) : splat(MAX_DOUBLE);
    const F64 free = smaller(accept ? larger(capped, was) : capped, bounded);
    const F64 size = free < least ? least : (free > most ? most : free);
    const F64 t = accept ? load(s.t1 + l) : load(s.t + l);
    const F64 left = stop - t;
    const auto cut = size >= magnitude(left);
    const F64 step = cut ? left : (left < zero ? -size : size);
    const F64 t1 = cut ? stop : t + step;
    const auto output = accept & (dt < zero ? due >= t : due <= t);
    const auto plain = (err >= zero) & (err <= splat(MAX_DOUBLE)) & (t != stop) & (t1 != t) & (size > zero) &
                       (attempts < attempts_allowed) & ~output;
    store(s.special + l, plain ? zero : one);
    ordinary = plain ? ordinary : zero;
    const F64 moved = plain & accept ? one : zero;
    store(s.accepted + l, moved);
    store(s.moves + l, load(s.moves + l) + moved);
    store(s.t + l, plain ? t : load(s.t + l));
    store(s.t1 + l, plain ? t1 : load(s.t1 + l));
    store(s.dt + l, plain ? step : dt);
    store(s.size + l, plain ? size : was);
    store(s.attempts + l, plain ? attempts : load(s.attempts + l));
  }
#pragma GCC ivdep
  for (Index l = 0; l < lanes; ++l) {
    mask[l] = static_cast<T>(s.accepted[l]);
    dt_of[l] = static_cast<T>(s.dt[l]);
  }
  bool all = true;
  for (int i = 0; i < LANES<double>; ++i) all &= ordinary[i] != 0.0;
  return all;
}
