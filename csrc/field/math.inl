// Elementary functions of vectors, within 4 ulp of the exact value over the whole range: included after vector.inl.
//
// Free of branches but for sine and cosine of huge arguments. A result depends on the element and the instruction set only.
//
//                                                                        ns an element   largest error, ulp
//             algorithm (n, m are integers)                              float  double   float       double
//   exp       2^n exp(r), r = x - n ln 2                                  0.28    0.80   1.1         1.1
//   expm1     2^n (exp(r) - 1) + (2^n - 1)                                0.31    0.86   1.7 (1.8)   2.3
//   log       n ln 2 + log(1 + f); double: f - s (f - R), s = f / (2 + f) 0.46    1.25   1.0         0.9
//   log1p     the same with f = x 2^-n + (2^-n - 1)                       0.49    1.35   1.6         1.2
//   tanh      (exp(2 |x|) - 1) / (exp(2 |x|) + 1), from expm1             0.33    0.94   2.9         2.9
//   sigmoid   2^-k / (2^-k + 2^(n - k) exp(r)), r of -x, k = n / 2        0.35    0.96   2.5         2.3
//   softplus  max(x, 0) + log(1 + exp(-|x|))                              0.57    2.05   3.3 (3.8)   2.1 (2.4)
//   erf       1 - exp(-|x| p(|x|)), from expm1                            0.53    2.33   2.5 (3.4)   2.6 (3.1)
//   sin       (-1)^m sin(x - m pi), odd polynomial                        0.29    0.77   1.9 (2.4)   2.3
//   cos       (-1)^(m + 1) sin(x - (m + 1/2) pi)                          0.34    0.89   1.9 (2.3)   2.3
//   atan      r + r^3 P(r^2) of an r in [0, 1], else pi/2 - atan(1 / x)   1.9 x tanh's  1.7         2.2 (2.9)
//
// Times are of AVX2 on one core of an EPYC with AVX-512 (family 25, model 17), g++ 12, data in L1. Errors in parentheses are
// without a fused multiply-add. tests/native/cxx/test_math.cpp repeats the errors: `test_math table`.
//
// Polynomials are minimax fits, by Remez, of the relative error of the function they serve. A constant near
// 1.5 * 2^MANTISSA added to a number rounds it to an integer that is left in the low bits: the vectors lack conversions
// between 64-bit integers and doubles, and an arithmetic shift of 64 bits.
namespace elementary {

typedef std::uint32_t U32 __attribute__((vector_size(FASTODE_VECTOR_BYTES)));
typedef std::uint64_t U64 __attribute__((vector_size(FASTODE_VECTOR_BYTES)));

// Without a fused multiply-add, multiples of ln 2 and pi are exact only of parts with trailing zeros.
#if FASTODE_VECTOR_BYTES == 16 && defined(__SSE2__)
constexpr bool FUSED = false;
#else
constexpr bool FUSED = true;
#endif

template <class V>
struct Format;
template <>
struct Format<F32> {
  using Element = float;
  using Bits = U32;
  static constexpr std::uint32_t SIGN = 1u << 31, ONE = 127u << 23, ROOT_HALF = 0x3f3504f3, FRACTION = 0x7fffff;
  static constexpr int MANTISSA = 23, BIAS = 127;
  static constexpr float INF = __builtin_inff(), NOT = __builtin_nanf("");
  static constexpr float SMALLEST_NORMAL = 0x1p-126f, POWER = 0x1p23f;  // the latter is 2^MANTISSA
  static constexpr float LOWEST = -104.0f, HIGHEST = 89.0f;             // exp is 0 below and infinite above
  static constexpr float FORGET_ONE = 20.0f;                            // 1 + exp(-x) is 1 from here on
  static constexpr float LOG2_E = 1.44269504f, LN2_HIGH = 0x1.62e4p-1f, LN2_LOW = 0x1.7f7d1cp-20f;
  static constexpr float LN2 = LN2_HIGH + LN2_LOW;
  static constexpr float PI_HIGH = 0x1.921fb6p+1f, PI_LOW = -0x1.777a5cp-24f;
};
template <>
struct Format<F64> {
  using Element = double;
  using Bits = U64;
  static constexpr std::uint64_t SIGN = 1ull << 63, ONE = 1023ull << 52;
  static constexpr std::uint64_t ROOT_HALF = 0x3fe6a09e667f3bcd, FRACTION = (1ull << 52) - 1;
  static constexpr int MANTISSA = 52, BIAS = 1023;
  static constexpr double INF = __builtin_inf(), NOT = __builtin_nan("");
  static constexpr double SMALLEST_NORMAL = 0x1p-1022, POWER = 0x1p52;
  static constexpr double LOWEST = -746.0, HIGHEST = 710.0;
  static constexpr double FORGET_ONE = 40.0;
  static constexpr double LOG2_E = 1.4426950408889634, LN2_HIGH = 0x1.62e42fefa2p-1, LN2_LOW = 0x1.9ef35793c7673p-41;
  static constexpr double LN2 = LN2_HIGH + LN2_LOW;
  static constexpr double PI_HIGH = 0x1.921fb54442d18p+1, PI_LOW = 0x1.1a62633145c07p-53;
};

template <class V>
using Element = typename Format<V>::Element;
template <class V>
using Bits = typename Format<V>::Bits;

// A NaN stays. The compiler makes two instructions of the conditional.
#if FASTODE_VECTOR_BYTES == 32
inline F32 at_most(F32 x, float limit) { return (F32)_mm256_min_ps((__m256)splat(limit), (__m256)x); }
inline F64 at_most(F64 x, double limit) { return (F64)_mm256_min_pd((__m256d)splat(limit), (__m256d)x); }
inline F32 at_least(F32 x, float limit) { return (F32)_mm256_max_ps((__m256)splat(limit), (__m256)x); }
inline F64 at_least(F64 x, double limit) { return (F64)_mm256_max_pd((__m256d)splat(limit), (__m256d)x); }
#elif FASTODE_VECTOR_BYTES == 16 && defined(__SSE2__)
inline F32 at_most(F32 x, float limit) { return (F32)_mm_min_ps((__m128)splat(limit), (__m128)x); }
inline F64 at_most(F64 x, double limit) { return (F64)_mm_min_pd((__m128d)splat(limit), (__m128d)x); }
inline F32 at_least(F32 x, float limit) { return (F32)_mm_max_ps((__m128)splat(limit), (__m128)x); }
inline F64 at_least(F64 x, double limit) { return (F64)_mm_max_pd((__m128d)splat(limit), (__m128d)x); }
#else
template <class V>
inline V at_most(V x, Element<V> limit) {
  return x > limit ? splat(limit) : x;
}
template <class V>
inline V at_least(V x, Element<V> limit) {
  return x < limit ? splat(limit) : x;
}
#endif

template <class V>
inline Bits<V> sign(V x) {
  return (Bits<V>)x & Format<V>::SIGN;
}
template <class V>
inline V magnitude_of(V x) {
  return (V)((Bits<V>)x & ~Format<V>::SIGN);
}
template <class V>
inline V with_sign(V x, Bits<V> sign) {  // of an x without one
  return (V)((Bits<V>)x | sign);
}

template <class V>
inline V horner(V, Element<V> first) {
  return splat(first);
}
template <class V, class... Rest>
inline V horner(V x, Element<V> first, Rest... rest) {
  return fma(horner(x, rest...), x, splat(first));
}
// Of the first, third, ... coefficient.
template <class V>
inline V every_second(V, Element<V> first, Element<V> = 0) {
  return splat(first);
}
template <class V, class... Rest>
inline V every_second(V x, Element<V> first, Element<V>, Rest... rest) {
  return fma(every_second(x, rest...), x, splat(first));
}
// Long chains of dependent operations would leave the processor waiting: two chains of half the length instead.
template <class V, class... Rest>
inline V polynomial(V x, Element<V> first, Rest... rest) {
  if constexpr (sizeof...(rest) < 6) return horner(x, first, rest...);
  else return fma(every_second(x * x, rest...), x, every_second(x * x, first, rest...));
}

// x = n ln 2 + r, |r| <= ln 2 / 2. The low bits of `shifted` are n + 2 BIAS: the exponent fields of two powers of two whose
// product is 2^n, as one does not suffice for a subnormal result or a finite one of exponent 1024.
template <class V>
struct Reduced {
  V n, r;
  Bits<V> shifted;
  Bits<V> half() const { return shifted >> 1; }
  V first() const { return (V)(half() << Format<V>::MANTISSA); }
  V inverse_of_first() const { return (V)(2 * Format<V>::ONE - (half() << Format<V>::MANTISSA)); }
  V second() const { return (V)((shifted - half()) << Format<V>::MANTISSA); }
  V power(int offset) const { return (V)((shifted - (Format<V>::BIAS - offset)) << Format<V>::MANTISSA); }  // 2^(n + offset)
};
// Of TIMES x. A result that nears a limit as n grows needs no better ln 2 than float's, which is off by 2e-9.
template <int TIMES = 1, bool LIMITED = false, class V>
inline Reduced<V> reduce(V x) {
  using F = Format<V>;
  const V magic = splat(Element<V>(1.5) * F::POWER + 2 * F::BIAS);
  const V t = fma(x, splat(TIMES * F::LOG2_E), magic);
  const V n = t - magic;
  if constexpr (TIMES == 2) x = x + x;
  if constexpr (FUSED && LIMITED && sizeof(Element<V>) == 4) return {n, fma(n, splat(-F::LN2), x), (Bits<V>)t};
  return {n, fma(n, splat(-F::LN2_LOW), fma(n, splat(-F::LN2_HIGH), x)), (Bits<V>)t};
}

// (exp(r) - 1 - r) / r^2 of a reduced r.
inline F32 exp_tail(F32 r) {
  const F32 z = r * r;
  const F32 high = fma(z, splat(0.00138817988f), fma(r, splat(0.00836655514f), splat(0.0416672105f)));
  return fma(z, high, fma(r, splat(0.166665434f), splat(0.499999981f)));
}
inline F64 exp_tail(F64 r) {
  return polynomial(r, 0.50000000000000052, 0.16666666666666588, 0.041666666666576408, 0.0083333333333908208,
                    0.001388888893169166, 0.00019841269715739594, 2.4801505109009517e-5, 2.7557410877514563e-6,
                    2.7626107527354907e-7, 2.505259899100274e-8);
}
template <class V>
inline V reduced_expm1(V r) {
  return fma(r * r, exp_tail(r), r);
}
template <class V>
inline V reduced_exp(V r) {
  return reduced_expm1(r) + Element<V>(1);
}

// exp of an x in [LOWEST, HIGHEST].
template <class V>
inline V bounded_exp(V x) {
  const Reduced<V> e = reduce(x);
  return reduced_exp(e.r) * e.first() * e.second();
}

// log(1 + x) of an x in [sqrt(1/2) - 1, sqrt(2) - 1], plus k ln 2.
inline F32 reduced_log1p(F32 x, F32 k) {
  using F = Format<F32>;
  const F32 p = polynomial(x, -0.5f, 0.333333317f, -0.25000821f, 0.200012277f, -0.166233579f, 0.142017392f, -0.131601615f,
                           0.127616947f, -0.0763468647f);
  return fma(k, splat(F::LN2_HIGH), x + fma(x * x, p, k * F::LN2_LOW));
}
// With s = x / (2 + x): log(1 + x) = 2 s + s R(s^2) = x - s (x - R(s^2)). The last form keeps the exact x apart.
inline F64 reduced_log1p(F64 x, F64 k) {
  using F = Format<F64>;
  const F64 s = x / (2.0 + x), z = s * s;
  const F64 p = z * polynomial(z, 0.66666666666667342, 0.39999999999416339, 0.28571428742023853, 0.22222198609840605,
                               0.18183562458276591, 0.15314097377698269, 0.14795490667494759);
  return fma(k, splat(F::LN2_HIGH), x + fma(-s, x - p, k * F::LN2_LOW));
}

// log(1 + x) of an x in [0, 1], of small relative error.
inline F32 log1p_of_unit(F32 x) {
  const F32 p = polynomial(x, -0.49999648f, 0.333213228f, -0.248571648f, 0.19153658f, -0.137538061f, 0.0792045543f,
                           -0.0300657915f, 0.00536482171f);
  return fma(x * x, p, x);
}
inline F64 log1p_of_unit(F64 x) {
  const F64 s = x / (2.0 + x), z = s * s;
  const F64 p = z * polynomial(z, 0.66666666666677696, 0.39999999996049328, 0.28571429058036924, 0.22222192902636888,
                               0.18182814128950409, 0.15364294606286764, 0.13586322908923508, 0.099027771320384772,
                               0.17739851110391444);
  return fma(-s, x - p, x);
}

// x = m 2^k with m in [sqrt(1/2), sqrt(2)), of a positive normal x. k + BIAS is in `field`.
template <class V>
struct Split {
  Bits<V> shifted;
  Bits<V> field() const { return shifted >> Format<V>::MANTISSA; }
  V k() const {
    const Element<V> power = Format<V>::POWER;
    return (V)(field() | (Bits<V>)splat(power)) - (power + Format<V>::BIAS);
  }
  V m() const { return (V)((shifted & Format<V>::FRACTION) + Format<V>::ROOT_HALF); }
};
template <class V>
inline Split<V> split(V x) {
  return {(Bits<V>)x + (Format<V>::ONE - Format<V>::ROOT_HALF)};
}

// The values of a logarithm that is -inf at `pole`, where `y` cannot be used.
template <class V>
inline V log_edges(V x, V y, Element<V> pole) {
  using F = Format<V>;
  y = x < F::INF ? y : x;  // infinity and NaN
  y = x == pole ? splat(-F::INF) : y;
  return x < pole ? splat(F::NOT) : y;
}

// -log(1 - erf(x)) of an x >= 0, up to where erf is 1.
inline F32 erf_exponent(F32 x) {
  const F32 a = at_most(x, 4.0f);
  const F32 p = polynomial(a, 0.636619382f, 0.102777828f, -0.019153055f, -0.00016041088f, 0.0016670391f, -0.000632840746f,
                           0.000117641487f, -9.25617754e-6f);
  return fma(a, splat(1.12837917f), a * a * p);
}
inline F64 erf_exponent(F64 x) {
  const F64 a = at_most(x, 5.95);
  const F64 p = polynomial(
      a, 0.63661977236761128, 0.10277260330007538, -0.019128446963383662, -0.00020919522677699955, 0.0016962105062874275,
      -0.00059014670854125299, 2.5954886630215516e-5, 6.4290717895862598e-5, -2.9324692879109028e-5, 2.7972864151371383e-6,
      3.5633409563937021e-6, -2.4288137742567802e-6, 8.5315428154994607e-7, -1.738440556916574e-7, 8.2846680788977912e-9,
      7.8056636311284138e-9, -3.1578484093348463e-9, 6.8180614734727096e-10, -9.5558198222035278e-11,
      8.7264071600134268e-12, -4.7570439097095162e-13, 1.1803741992542377e-14);
  return fma(a, splat(1.1283791670955125), a * a * p);
}

// (arctan(r) / r - 1) / z with z = r^2 in [0, 1].
inline F32 arctangent_beyond_first(F32 z) {
  return polynomial(z, -0.333332986f, 0.199985489f, -0.142642438f, 0.109521925f, -0.0840346739f, 0.0579578541f,
                    -0.0311780814f, 0.0109147206f, -0.00179364544f);
}
inline F64 arctangent_beyond_first(F64 z) {
  return polynomial(
      z, -0.33333333333333287, 0.19999999999990445, -0.1428571428503653, 0.11111111086444751, -0.09090908547212785,
      0.07692299711306033, -0.06666583719083985, 0.058817161324381424, -0.05259433694455477, 0.04744925803039853,
      -0.042863901103763334, 0.0382100476856372, -0.03278540320381759, 0.02615163635741594, -0.018614172636175014,
      0.011317634827851059, -0.005612381655310065, 0.002151587392116917, -0.0005928936722242004, 0.00010387210045340232,
      -8.65423570761604e-6);
}

// The sine of an r in [0, pi/2], but for the rounding that may take it beyond 1.
inline F32 reduced_sine(F32 r) {
  const F32 z = r * r;
  return fma(r * z, polynomial(z, -0.166666595f, 0.00833306547f, -0.000198095409f, 2.60563383e-6f), r);
}
inline F64 reduced_sine(F64 r) {
  const F64 z = r * r;
  return fma(r * z, polynomial(z, -0.16666666666666666, 0.0083333333333331933, -0.00019841269841208849,
                               2.7557319211072131e-6, -2.5052106866683119e-8, 1.6058939390923503e-10,
                               -7.642983109254706e-13, 2.7210848810654348e-15), r);
}

// x - m pi of an x not `farthest`: where terms cancel, all but the last step are exact.
inline F32 minus_pi(F32 x, F32 m) {
  if constexpr (FUSED) {
    x = fma(m, splat(-0x1.921fb4p+1f), x);
    x = fma(m, splat(-0x1.4442dp-23f), x);
    return fma(m, splat(-0x1.846988p-47f), x);
  }
  x = x - m * 0x1.92p+1f;
  x = x - m * 0x1.fb4p-11f;
  x = x - m * 0x1.444p-23f;
  return x - m * 0x1.68c234p-38f;
}
inline F64 minus_pi(F64 x, F64 m) {
  if constexpr (FUSED) {
    x = fma(m, splat(-0x1.921fb54442d18p+1), x);
    x = fma(m, splat(-0x1.1a62633145c06p-53), x);
    return fma(m, splat(-0x1.c1cd129024e08p-106), x);
  }
  x = x - m * 0x1.921fb544p+1;
  x = x - m * 0x1.0b4611a6p-33;
  x = x - m * 0x1.3198a2ep-68;
  return x - m * 0x1.b839a252049c1p-103;
}
// Beyond, the parts of pi are too few or their multiples inexact.
constexpr float farthest(float) { return FUSED ? 1e5f : 6e3f; }
constexpr double farthest(double) { return FUSED ? 1e9 : 3e6; }

// sin(x - m pi), of the other sign where the top bit of `flip` is set.
template <class V>
inline V shifted_sine(V x, V m, Bits<V> flip) {
  const V r = minus_pi(x, m);
  return with_sign(at_most(reduced_sine(magnitude_of(r)), Element<V>(1)), sign((V)((Bits<V>)r ^ flip)));
}

#if FASTODE_VECTOR_BYTES == 64
inline bool any(I32 mask) { return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0; }
#elif FASTODE_VECTOR_BYTES == 32
inline bool any(I32 mask) { return !_mm256_testz_si256((__m256i)mask, (__m256i)mask); }
#elif defined(__SSE2__)
inline bool any(I32 mask) { return _mm_movemask_epi8((__m128i)mask) != 0; }
#else
inline bool any(I32 mask) {
  const I64 pair = (I64)mask;
  return (pair[0] | pair[1]) != 0;
}
#endif

inline float library_sin(float x) { return __builtin_sinf(x); }
inline double library_sin(double x) { return __builtin_sin(x); }
inline float library_cos(float x) { return __builtin_cosf(x); }
inline double library_cos(double x) { return __builtin_cos(x); }

template <bool SINE, class V>
__attribute__((noinline, cold)) V with_far_lanes(V x, V y) {
  using T = Element<V>;
  for (int i = 0; i < LANES<T>; ++i)
    if (!(__builtin_fabs(x[i]) <= farthest(T()))) y[i] = SINE ? library_sin(x[i]) : library_cos(x[i]);
  return y;
}

}  // namespace elementary

template <class V>
inline V vexp(V x) {
  using F = elementary::Format<V>;
  return elementary::bounded_exp(elementary::at_most(elementary::at_least(x, F::LOWEST), F::HIGHEST));
}

// 2^n (1 + p) - 1 with p = exp(r) - 1: half of it, as 2^n may be beyond the range where the result is not.
template <class V>
inline V vexpm1(V x) {
  using F = elementary::Format<V>;
  const auto e = elementary::reduce(elementary::at_most(elementary::at_least(x, -F::FORGET_ONE), F::HIGHEST));
  const V p = elementary::reduced_expm1(e.r), s = e.power(-1);
  const V half = fma(p, s, s - elementary::Element<V>(0.5));
  return elementary::with_sign(e.n == 0 ? p : half + half, elementary::sign(x));  // for that of zero
}

template <class V>
inline V vlog(V x) {
  using F = elementary::Format<V>;
  using T = elementary::Element<V>;
  const auto subnormal = x < F::SMALLEST_NORMAL;
  const auto s = elementary::split(subnormal ? x * F::POWER : x);
  const V k = s.k() - (subnormal ? splat(T(F::MANTISSA)) : V{});
  return elementary::log_edges(x, elementary::reduced_log1p(s.m() - T(1), k), T(0));
}

// 1 + x = (1 + f) 2^k, where f = x 2^-k + (2^-k - 1) is rounded once. 2^-k is subnormal for the largest x.
template <class V>
inline V vlog1p(V x) {
  using F = elementary::Format<V>;
  using T = elementary::Element<V>;
  const auto s = elementary::split(x + T(1));
  const V scale = (V)((2 * F::BIAS + 2 - s.field()) << F::MANTISSA) * T(0.25);
  const V y = elementary::reduced_log1p(fma(x, scale, scale - T(1)), s.k());
  return elementary::log_edges(x, elementary::with_sign(y, elementary::sign(x)), T(-1));
}

// (exp(2 x) - 1) / (exp(2 x) + 1): the numerator is at most the denominator after rounding too.
template <class V>
inline V vtanh(V x) {
  using T = elementary::Element<V>;
  const V a = elementary::at_most(elementary::magnitude_of(x), elementary::Format<V>::FORGET_ONE / 2);
  const auto e = elementary::reduce<2, true>(a);
  const V p = elementary::reduced_expm1(e.r), s = e.power(0);
  return elementary::with_sign(fma(p, s, s - T(1)) / fma(p, s, s + T(1)), elementary::sign(x));
}

// 1 / (1 + exp(-x)), numerator and denominator divided by about exp(-x / 2): the result may be subnormal.
template <class V>
inline V vsigmoid(V x) {
  using F = elementary::Format<V>;
  const auto e = elementary::reduce(elementary::at_most(elementary::at_least(-x, -F::FORGET_ONE), -F::LOWEST));
  const V exp = elementary::reduced_exp(e.r);
  const V s = e.inverse_of_first();
  return s / fma(exp, e.second(), s);
}

// max(x, 0) + log(1 + exp(-|x|)).
template <class V>
inline V vsoftplus(V x) {
  using T = elementary::Element<V>;
  const V down = elementary::at_least(-elementary::magnitude_of(x), elementary::Format<V>::LOWEST);
  return elementary::at_least(x, T(0)) + elementary::log1p_of_unit(elementary::bounded_exp(down));
}

// 1 - exp(-g) with g = -log(1 - erf(|x|)).
template <class V>
inline V verf(V x) {
  using T = elementary::Element<V>;
  const V g = elementary::erf_exponent(elementary::magnitude_of(x));
  const auto e = elementary::reduce<1, true>(-g);
  const V s = e.power(0);
  return elementary::with_sign(fma(-elementary::reduced_expm1(e.r), s, T(1) - s), elementary::sign(x));
}

// The angle of (b, a): that of the smaller over the larger, from pi / 2 where they change places, from pi where b is negative.
template <class V>
inline V varctangent(V a, V b) {
  using F = elementary::Format<V>;
  using T = elementary::Element<V>;
  const V p = elementary::magnitude_of(a), q = elementary::magnitude_of(b);
  const auto steep = p > q;
  const V low = steep ? q : p, high = steep ? p : q;
  const V r = low == high ? (high == T(0) ? high : splat(T(1))) : low / high;  // of zeros and infinities, too
  const V z = r * r;
  V angle = fma(r * z, elementary::arctangent_beyond_first(z), r);
  angle = steep ? (F::PI_HIGH * T(0.5) - angle) + F::PI_LOW * T(0.5) : angle;
  angle = elementary::sign(b) != 0 ? (F::PI_HIGH - angle) + F::PI_LOW : angle;
  return elementary::with_sign(angle, elementary::sign(a));
}

// To the nearest integer, to the even one of two.
template <class V>
inline V vround(V x) {
  const V size = elementary::magnitude_of(x), power = splat(elementary::Format<V>::POWER);
  return size < power ? elementary::with_sign((size + power) - power, elementary::sign(x)) : x;
}

template <class V>
inline V vfloor(V x) {
  const V near = vround(x);
  return near > x ? near - elementary::Element<V>(1) : near;
}

// sin(x) = (-1)^m sin(x - m pi).
template <class V>
inline V vsin(V x) {
  using T = elementary::Element<V>;
  const V magic = splat(T(1.5) * elementary::Format<V>::POWER);
  const V t = fma(x, splat(T(0.31830988618379067)), magic);
  const V y = elementary::shifted_sine(x, t - magic, (elementary::Bits<V>)t << (sizeof(T) * 8 - 1));
  const auto beyond = elementary::magnitude_of(x) > elementary::farthest(T());
  if (__builtin_expect(elementary::any((I32)beyond), 0)) return elementary::with_far_lanes<true>(x, y);
  return y;
}

// cos(x) = -(-1)^m sin(x - (m + 1/2) pi).
template <class V>
inline V vcos(V x) {
  using T = elementary::Element<V>;
  const V magic = splat(T(1.5) * elementary::Format<V>::POWER + 1);  // odd: for the other sign
  const V t = fma(x, splat(T(0.31830988618379067)), splat(T(-0.5))) + magic;
  const V y = elementary::shifted_sine(x, (t - magic) + T(0.5), (elementary::Bits<V>)t << (sizeof(T) * 8 - 1));
  const auto beyond = elementary::magnitude_of(x) > elementary::farthest(T());
  if (__builtin_expect(elementary::any((I32)beyond), 0)) return elementary::with_far_lanes<false>(x, y);
  return y;
}
