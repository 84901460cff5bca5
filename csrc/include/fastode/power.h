#pragma once
// x^e without a branch or a call, so that a loop over rows runs in vector lanes, and with the same bits on every processor.
#include "hd.h"

#if !defined(__CUDA_ARCH__)
#include <cstring>
#endif

namespace fastode {

FASTODE_HD std::uint64_t bits_of(double x) {
#if defined(__CUDA_ARCH__)
  return static_cast<std::uint64_t>(__double_as_longlong(x));
#else
  std::uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
#endif
}

FASTODE_HD double of_bits(std::uint64_t bits) {
#if defined(__CUDA_ARCH__)
  return __longlong_as_double(static_cast<long long>(bits));
#else
  double x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
#endif
}

// log2(x) for x > 0 and finite: x = 2^k m with m from sqrt(1/2) to sqrt(2), log(m) = 2 artanh((m - 1) / (m + 1)).
// The error is below 2e-16 max(1, |log2(x)|).
FASTODE_HD double log2_of(double x) {
  const double shift = x < 2.2250738585072014e-308 ? 54.0 : 0.0;  // subnormal
  const double scaled = x < 2.2250738585072014e-308 ? x * 18014398509481984.0 : x;
  // k + 1024 in the low bits; 64-bit lanes have neither an arithmetic shift nor a conversion to double before AVX-512
  const std::uint64_t biased = (bits_of(scaled) - 0x3FE6A09E667F3BCDull + (1024ull << 52)) >> 52;
  const double k = of_bits(biased | 0x4330000000000000ull) - (4503599627370496.0 + 1024.0) - shift;
  const double m = of_bits(bits_of(scaled) - (biased << 52) + (1024ull << 52));
  const double s = (m - 1.0) / (m + 1.0), z = s * s;
  double p = 1.0 / 21.0;
  p = p * z + 1.0 / 19.0;
  p = p * z + 1.0 / 17.0;
  p = p * z + 1.0 / 15.0;
  p = p * z + 1.0 / 13.0;
  p = p * z + 1.0 / 11.0;
  p = p * z + 1.0 / 9.0;
  p = p * z + 1.0 / 7.0;
  p = p * z + 1.0 / 5.0;
  p = p * z + 1.0 / 3.0;
  p = p * z + 1.0;
  return k + 2.8853900817779268 * s * p;  // 2 / ln(2)
}

// 2^y, with y cut at +-1020: a sum of the Taylor series of exp within half a power of two.
FASTODE_HD double exp2_of(double y) {
  const double cut = clamp(y, -1020.0, 1020.0);
  const double rounded = cut + 6755399441055744.0;  // 1.5 * 2^52: the integer is in the low bits
  const double f = (cut - (rounded - 6755399441055744.0)) * 0.69314718055994531;
  double p = 1.0 / 6227020800.0;
  p = p * f + 1.0 / 479001600.0;
  p = p * f + 1.0 / 39916800.0;
  p = p * f + 1.0 / 3628800.0;
  p = p * f + 1.0 / 362880.0;
  p = p * f + 1.0 / 40320.0;
  p = p * f + 1.0 / 5040.0;
  p = p * f + 1.0 / 720.0;
  p = p * f + 1.0 / 120.0;
  p = p * f + 1.0 / 24.0;
  p = p * f + 1.0 / 6.0;
  p = p * f + 0.5;
  p = p * f + 1.0;
  p = p * f + 1.0;
  return p * of_bits((bits_of(rounded) << 52) + 0x3FF0000000000000ull);
}

// x^e for x > 0 and finite; anything else gives a meaningless number.
FASTODE_HD double power(double x, double e) { return exp2_of(e * log2_of(x)); }

}  // namespace fastode
