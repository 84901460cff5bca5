"""Floats that NumPy does not have, and roundings that it does not offer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .machine import Array

Doubles = NDArray[np.float64]

_SMALLEST_NORMAL = np.finfo(np.float32).tiny
_AWAY = {"rm": -np.inf, "rp": np.inf}


def flush(x: Array) -> Array:
    """Subnormal numbers of float32 become zeros of their sign (``.ftz``)."""
    return np.where(np.abs(x) < _SMALLEST_NORMAL, np.copysign(x.dtype.type(0), x), x)


def bfloat16_value(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The numbers that bfloat16 bits stand for: the upper halves of float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def bfloat16_bits(x: Doubles) -> NDArray[np.uint16]:
    """Rounded to the nearest bfloat16, ties to even; a float32 rounded to odd in between avoids a double rounding."""
    near = x.astype(np.float32)
    beyond = np.where(near.astype(np.float64) > x, np.float32(-np.inf), np.float32(np.inf))
    inexact = (near.astype(np.float64) != x) & ~np.isnan(x) & np.isfinite(near)
    odd = np.where(inexact & (near.view(np.uint32) & 1 == 0), np.nextafter(near, beyond), near)
    bits = odd.astype(np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return np.where(np.isnan(x), np.uint16(0x7FFF), (rounded >> np.uint32(16)).astype(np.uint16))


def tf32_bits(x: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Rounded to the 10 bits of tf32, ties away from zero (``cvt.rna.tf32.f32``)."""
    return (x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)


def round_float32(x: Doubles, mode: str) -> NDArray[np.float32]:
    """``x`` as float32, rounded to nearest even (``rn``), towards zero (``rz``), down (``rm``) or up (``rp``)."""
    near = x.astype(np.float32)
    if mode == "rn":
        return near
    if mode == "rz":
        return np.where(np.abs(near) > np.abs(x), np.nextafter(near, np.float32(0)), near)
    beyond = near > x if mode == "rm" else near < x
    return np.where(beyond, np.nextafter(near, np.float32(_AWAY[mode])), near)


def add_towards(a: Doubles, b: Doubles, mode: str) -> Doubles:
    """``a + b`` in double precision, rounded towards zero (``rz``), down (``rm``) or up (``rp``).

    The error of the nearest sum is exact: Knuth's two-sum, as in :func:`fused_multiply_add`.
    """
    s = a + b
    virtual = s - a
    error = (a - (s - virtual)) + (b - virtual)
    if mode == "rz":
        return np.where(error * s < 0, np.nextafter(s, 0.0), s)
    beyond = error < 0 if mode == "rm" else error > 0
    return np.where(beyond, np.nextafter(s, _AWAY[mode]), s)


def as_double(type_: str, ftz: bool) -> Callable[[Array], Doubles]:
    """The exact value in double precision of numbers of a PTX type."""
    if type_ == "bf16":
        return lambda x: bfloat16_value(x).astype(np.float64)
    if ftz:
        return lambda x: flush(x).astype(np.float64)
    if type_ == "f64":
        return lambda x: x
    return lambda x: x.astype(np.float64)


def from_double(type_: str, mode: str, ftz: bool) -> Callable[[Doubles], Array]:
    """Rounds to a PTX type.

    Raises:
        NotImplementedError: The type is not rounded this way here.
    """
    if type_ == "bf16" and mode == "rn":
        return bfloat16_bits
    if type_ == "f16" and mode == "rn":
        return lambda x: x.astype(np.float16)
    if type_ == "f64" and mode == "rn":
        return lambda x: x
    if type_ == "f32":
        return (lambda x: flush(round_float32(x, mode))) if ftz else (lambda x: round_float32(x, mode))
    raise NotImplementedError(f"rounding `.{mode}` to `.{type_}`")


def fused_multiply_add(a: Doubles, b: Doubles, c: Doubles) -> Doubles:
    """``a b + c`` in double precision, the product not rounded.

    The product is exact as ``p + e`` by halves of the factors, and so is the sum ``p + c = s + t``. What is left is the
    rounding of ``s + (t + e)``, a last bit off in rare ties. Where something overflows, ``a * b + c`` stands.
    A product below the normal numbers loses its ``e``.

    Reference: Ogita, Rump, Oishi, "Accurate Sum and Dot Product", SIAM J. Sci. Comput. 26 (2005), algorithms 3.1, 3.3.
    """
    upper = np.uint64(0xFFFFFFFFF8000000)
    a1, b1 = (a.view(np.uint64) & upper).view(np.float64), (b.view(np.uint64) & upper).view(np.float64)
    a2, b2 = a - a1, b - b1
    p = a * b
    e = ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2
    s = p + c
    virtual = s - p
    t = (p - (s - virtual)) + (c - virtual)
    rest = t + e
    # a rest of zero must not make a plus of a minus zero, and a rest that overflowed is none
    return np.where(np.isfinite(rest) & (rest != 0), s + rest, s)
