"""Arithmetic that the step kernels share: NaN-preserving extremes, powers, neighbours of floating-point numbers.

These are the functions of ``csrc/include/fastode/{hd,power,rk}.h``, in the same order of operations.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def nan_max(a, b):
    """The larger of two numbers; NaN if either is NaN."""
    return tl.where((a > b) | (a != a), a, b)


@triton.jit
def nan_min(a, b):
    """The smaller of two numbers; NaN if either is NaN."""
    return tl.where((a < b) | (a != a), a, b)


@triton.jit
def clamp(x, low, high):
    """``x`` within its bounds; NaN stays NaN."""
    return tl.where(x < low, low, tl.where(x > high, high, x))


@triton.jit
def log2_of(x):
    """log2(x) for float64 x > 0 and finite, with an error below 2e-16 max(1, |log2(x)|).

    x = 2^k m with m from sqrt(1/2) to sqrt(2), and log(m) = 2 artanh((m - 1) / (m + 1)).
    """
    subnormal = x < 2.2250738585072014e-308
    scaled = tl.where(subnormal, x * 18014398509481984.0, x)
    bits = scaled.to(tl.int64, bitcast=True)
    exponent = (bits - 0x3FE6A09E667F3BCD) >> 52
    k = exponent.to(tl.float64) - 54.0 * subnormal.to(tl.float64)
    m = (bits - (exponent << 52)).to(tl.float64, bitcast=True)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    p = z * (1.0 / 21.0) + 1.0 / 19.0
    p = p * z + 1.0 / 17.0
    p = p * z + 1.0 / 15.0
    p = p * z + 1.0 / 13.0
    p = p * z + 1.0 / 11.0
    p = p * z + 1.0 / 9.0
    p = p * z + 1.0 / 7.0
    p = p * z + 1.0 / 5.0
    p = p * z + 1.0 / 3.0
    p = p * z + 1.0
    return k + 2.8853900817779268 * s * p


@triton.jit
def exp2_of(y):
    """2^y for float64 y, cut at +-1020: the Taylor series of exp within half a power of two."""
    cut = clamp(y, -1020.0, 1020.0)
    shifted = cut + 6755399441055744.0  # 1.5 * 2^52: the integer is in the low bits
    f = (cut - (shifted - 6755399441055744.0)) * 0.69314718055994531
    p = f * (1.0 / 6227020800.0) + 1.0 / 479001600.0
    p = p * f + 1.0 / 39916800.0
    p = p * f + 1.0 / 3628800.0
    p = p * f + 1.0 / 362880.0
    p = p * f + 1.0 / 40320.0
    p = p * f + 1.0 / 5040.0
    p = p * f + 1.0 / 720.0
    p = p * f + 1.0 / 120.0
    p = p * f + 1.0 / 24.0
    p = p * f + 1.0 / 6.0
    p = p * f + 0.5
    p = p * f + 1.0
    p = p * f + 1.0
    bits = (shifted.to(tl.int64, bitcast=True) << 52) + 0x3FF0000000000000
    return p * bits.to(tl.float64, bitcast=True)


@triton.jit
def power(x, e):
    """x^e for float64 x > 0 and finite; anything else gives a meaningless number."""
    return exp2_of(e * log2_of(x))


@triton.jit
def _neighbour(x, backward, INTEGER: tl.constexpr):
    bits = x.to(INTEGER, bitcast=True)
    towards_zero = (x > 0) != backward
    one = tl.full(x.shape, 1, INTEGER)
    smallest = one.to(x.dtype, bitcast=True)
    moved = tl.where(towards_zero, bits - one, bits + one).to(x.dtype, bitcast=True)
    return tl.where(x == 0, tl.where(backward, smallest, -smallest), moved)


@triton.jit
def before_end(t1, backward):
    """The number next to ``t1`` on the side from which a step comes that runs ``backward`` in time or not."""
    if t1.dtype.primitive_bitwidth == 64:
        return _neighbour(t1, backward, tl.int64)
    elif t1.dtype.primitive_bitwidth == 32:
        return _neighbour(t1, backward, tl.int32)
    else:
        return _neighbour(t1, backward, tl.int16)


@triton.jit
def working(x):
    """``x`` in the precision of arithmetic: float32 for a state of 16 bits, else its own."""
    if x.dtype.primitive_bitwidth == 16:
        return x.to(tl.float32)
    else:
        return x


@triton.jit
def row_of(first, offsets, columns):
    """The rows of elements ``first + offsets`` of a matrix with ``columns`` columns.

    Only ``first``, one number for a program, is divided in 64 bits; that takes a dozen times as long as in 32.
    """
    row = first // columns
    return row + ((first - row * columns).to(tl.int32) + offsets) // columns
