"""Elementary functions that Triton lacks, or has less accurately, for float32 and float64.

Nothing here calls a library that Triton's interpreter lacks. NaN stays NaN, and no intermediate result overflows where
the value does not.

=======================  ==============================================================  ==================
function                 algorithm (n is an integer)                                     error in ulp below
                                                                                         float32   float64
=======================  ==============================================================  ========  ========
exponential              2^n exp(r), r = x - n ln 2; float64: Triton's                   1.5       1.5
exponential_minus_one    2^n (exp(r) - 1) + (2^n - 1)                                    2.5       3
logarithm_of_one_plus    x log(u) / (u - 1), u = 1 + x rounded                           4         4
hyperbolic_tangent       1 - 2 / (exp(2 |x|) + 1), a polynomial near 0; float64:         4         4
                         (exp(2 |x|) - 1) / (exp(2 |x|) + 1)
logistic                 1 / (1 + exp(-x)); 0 where exp(-x) overflows                    4         3
soft_plus                max(x, 0) + log(1 + exp(-|x|))                                  4         4
power_of                 exp2(y log2(|x|)) in float64                                    1         *
arctangent               r + r^3 P(r^2) of r = low / high, from pi / 2 where |a| > |b|   2         3
=======================  ==============================================================  ========  ========

``*`` of float64: relative error 2e-16 (2 + |y log2(x)|). To the errors in float32 of ``hyperbolic_tangent`` and
``logistic`` a device adds those of its fast quotient and power of two, 2 ulp. Sine, cosine, logarithm and error
function are Triton's own, which are those of the device's library: at most 2 ulp.

Reference for the logarithm: Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed. (2002), section 1.14.1.
"""

from __future__ import annotations

import triton
import triton.language as tl

# A number beside an operator takes the tensor's type; one in a comparison or a call becomes float32, and so must be
# exact there.


@triton.jit
def square_root(x):  # type: ignore[no-untyped-def]
    """The square root, correctly rounded."""
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)


@triton.jit
def divide(x, y):  # type: ignore[no-untyped-def]
    """The quotient, correctly rounded."""
    if y.dtype == tl.float64:
        return x / y
    else:
        return tl.div_rn(x, y)


@triton.jit
def reciprocal(x):  # type: ignore[no-untyped-def]
    """``1 / x``, correctly rounded."""
    return divide(tl.full([], 1.0, x.dtype), x)


@triton.jit
def _within(x, low, high):  # type: ignore[no-untyped-def]
    """``x`` cut at both ends; NaN stays."""
    return tl.where(x < low, low, tl.where(x > high, high, x))


@triton.jit
def _power_of_two(n):  # type: ignore[no-untyped-def]
    """``2^n`` of an integral ``n`` within the exponents of normal numbers."""
    if n.dtype == tl.float64:
        return ((n.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    else:
        return ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _nearest_power(x):  # type: ignore[no-untyped-def]
    """``n`` and ``exp(r) - 1`` of ``x = n ln 2 + r`` with ``|r| <= ln 2 / 2``, for an ``x`` with a small ``n``.

    ``n`` times the high part of ln 2 is exact. The polynomials are minimax fits of ``(exp(r) - 1 - r) / r^2``, those of
    the CPU engine.
    """
    if x.dtype == tl.float64:
        n = tl.floor(x * 1.4426950408889634 + 0.5)
        r = x - n * 0.6931471805592082
        r = r - n * 7.371002565167799e-13
        p = 2.505259899100274e-08 * r + 2.7626107527354907e-07
        p = p * r + 2.7557410877514563e-06
        p = p * r + 2.4801505109009517e-05
        p = p * r + 0.00019841269715739594
        p = p * r + 0.001388888893169166
        p = p * r + 0.0083333333333908208
        p = p * r + 0.041666666666576408
        p = p * r + 0.16666666666666588
        p = p * r + 0.50000000000000052
    else:
        n = tl.floor(x * 1.44269504 + 0.5)
        r = x - n * 0.693145751953125
        r = r - n * 1.428606765330187e-06
        p = 0.00138817988 * r + 0.00836655514
        p = p * r + 0.0416672105
        p = p * r + 0.166665434
        p = p * r + 0.499999981
    return n, r * r * p + r


@triton.jit
def exponential(x):  # type: ignore[no-untyped-def]
    """``exp(x)``."""
    if x.dtype == tl.float64:
        return tl.exp(x)
    else:
        n, p = _nearest_power(_within(x, -104.0, 89.0))
        # 2^n alone may be too large or too small where the result is not
        half = tl.floor(n * 0.5)
        return (p + 1.0) * _power_of_two(half) * _power_of_two(n - half)


@triton.jit
def exponential_minus_one(x):  # type: ignore[no-untyped-def]
    """``exp(x) - 1``."""
    if x.dtype == tl.float64:
        n, p = _nearest_power(_within(x, -40.0, 710.0))
    else:
        n, p = _nearest_power(_within(x, -20.0, 89.0))
    # half of it, as 2^n may be beyond the range where the result is not
    scale = _power_of_two(n - 1.0)
    half = p * scale + (scale - 0.5)
    return tl.where(n == 0.0, p, half + half)


@triton.jit
def logarithm_of_one_plus(x):  # type: ignore[no-untyped-def]
    """``log(1 + x)``."""
    u = 1.0 + x
    # what the sum has lost, the quotient makes good
    y = x * divide(tl.log(u), u - 1.0)
    return tl.where(u == 1.0, x, tl.where(x == float("inf"), x, y))


@triton.jit
def hyperbolic_tangent(x):  # type: ignore[no-untyped-def]
    """``tanh(x)``."""
    a = tl.abs(x)
    if x.dtype == tl.float64:
        n, p = _nearest_power(2.0 * _within(a, 0.0, 20.0))
        scale = _power_of_two(n)
        y = (p * scale + (scale - 1.0)) / (p * scale + (scale + 1.0))
    else:
        z = x * x
        p = -0.00589515921 * z + 0.0207959730
        p = p * z - 0.0537838303
        p = p * z + 0.133319244
        p = p * z - 0.333332986
        # the rounding of a large argument of exp2 does not matter: its value is far above 1
        y = 1.0 - 2.0 / (tl.exp2(_within(a, 0.0, 10.0) * 2.88539008) + 1.0)
        y = tl.where(a < 0.6, a + a * (z * p), y)
    return tl.where(x < 0.0, -y, y)


@triton.jit
def logistic(x):  # type: ignore[no-untyped-def]
    """``1 / (1 + exp(-x))``."""
    return 1.0 / (1.0 + exponential(-x))


@triton.jit
def soft_plus(x):  # type: ignore[no-untyped-def]
    """``log(1 + exp(x))``."""
    return tl.where(x < 0.0, 0.0, x) + logarithm_of_one_plus(exponential(-tl.abs(x)))


@triton.jit
def power_of(x, y):  # type: ignore[no-untyped-def]
    """``x ** y``."""
    base, exponent = x.to(tl.float64), y.to(tl.float64)
    a = tl.abs(base)
    size = tl.exp2(exponent * tl.log2(a))
    size = tl.where(exponent == 0.0, 1.0, tl.where(base == 1.0, 1.0, size))
    half = exponent * 0.5
    whole, even = tl.floor(exponent) == exponent, tl.floor(half) == half
    value = tl.where(base < 0.0, tl.where(whole, tl.where(even, size, -size), float("nan")), size)
    return value.to(x.dtype)


@triton.jit  # type: ignore[untyped-decorator]
def _turned(angle, steep, left, below, quarter: tl.constexpr, rest: tl.constexpr):  # type: ignore[no-untyped-def]
    """An angle of the first eighth where it belongs; ``quarter + rest`` is pi / 2."""
    angle = tl.where(steep, (quarter - angle) + rest, angle)
    angle = tl.where(left, (2.0 * quarter - angle) + 2.0 * rest, angle)
    return tl.where(below, -angle, angle)


@triton.jit
def arctangent(a, b):  # type: ignore[no-untyped-def]
    """The angle of ``(b, a)``, of which ``a / b`` is the tangent."""
    p, q = tl.abs(a), tl.abs(b)
    steep = p > q
    low, high = tl.where(steep, q, p), tl.where(steep, p, q)
    r = tl.where(low == high, tl.where(high == 0.0, high, 1.0), divide(low, high))
    z = r * r
    if r.dtype == tl.float64:
        p = -8.6542357076160404e-06 * z + 0.00010387210045340232
        p = p * z - 0.00059289367222420039
        p = p * z + 0.002151587392116917
        p = p * z - 0.0056123816553100654
        p = p * z + 0.011317634827851059
        p = p * z - 0.018614172636175014
        p = p * z + 0.02615163635741594
        p = p * z - 0.032785403203817592
        p = p * z + 0.038210047685637197
        p = p * z - 0.042863901103763334
        p = p * z + 0.047449258030398532
        p = p * z - 0.052594336944554773
        p = p * z + 0.058817161324381424
        p = p * z - 0.066665837190839849
        p = p * z + 0.076922997113060332
        p = p * z - 0.090909085472127851
        p = p * z + 0.11111111086444751
        p = p * z - 0.1428571428503653
        p = p * z + 0.19999999999990445
        p = p * z - 0.33333333333333287
        below, left = a.to(tl.int64, bitcast=True) < 0, b.to(tl.int64, bitcast=True) < 0
        return _turned(r * z * p + r, steep, left, below, 1.5707963267948966, 6.123233995736766e-17)
    else:
        p = -0.00179364544 * z + 0.0109147206
        p = p * z - 0.0311780814
        p = p * z + 0.0579578541
        p = p * z - 0.0840346739
        p = p * z + 0.109521925
        p = p * z - 0.142642438
        p = p * z + 0.199985489
        p = p * z - 0.333332986
        below, left = a.to(tl.int32, bitcast=True) < 0, b.to(tl.int32, bitcast=True) < 0
        return _turned(r * z * p + r, steep, left, below, 1.57079637, -4.37113883e-8)


@triton.jit
def nearest_integer(x):  # type: ignore[no-untyped-def]
    """``x`` rounded, to the even one of two."""
    size = tl.abs(x)
    # from here on all numbers are integers
    whole = 4503599627370496.0 if x.dtype == tl.float64 else 8388608.0
    near = (size + whole) - whole
    return tl.where(size < whole, tl.where(x < 0.0, -near, near), x)
