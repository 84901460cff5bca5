"""stage:  z[r, n] = y[r, n] + dt[r] * sum_j a[j] * k[j, r, n]      the state at which stage i is evaluated"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .combine import Weight, combine, complex_sum


def stage(y: Tensor, dt: Weight, k: Sequence[Tensor], a: Sequence[float]) -> Tensor:
    """``y + dt * sum_j a[j] k[j]``; ``dt`` a number, a 0-dim tensor, or [R]."""
    if y.is_complex() and not isinstance(dt, Tensor):
        return y + complex_sum(dt, k, a)
    return combine(y, k, [0.0 if x == 0 else dt * x for x in a])
