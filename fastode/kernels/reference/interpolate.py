"""interpolate:  y(t + x dt) on the quartic through (y, f0, y_mid, y1, f1),  y_mid = y + dt sum_j b_mid[j] k_j

Collapsed into one pass:  out = y + w(x) (y1 - y) + dt sum_j theta_j(x) k_j   with
    w       = -5 x^2 + 14 x^3 - 8 x^4
    theta_j = b_mid[j] (16 x^2 - 32 x^3 + 16 x^4) + [j=0] (x - 4 x^2 + 5 x^3 - 2 x^4) + [j=S-1] (x^2 - 3 x^3 + 2 x^4)
Shampine, "Some practical Runge-Kutta formulas", Math. Comp. 46, 1986 (the quartic); the weights are its expansion.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .combine import Weight, combine, per_row

#: coefficients of x^0 .. x^4 of ``dt`` times the first slope, ``dt`` times the last, ``16 dt sum_j b_mid[j] k_j``, and
#: ``y1 - y``
QUARTIC = (
    (0.0, 1.0, -4.0, 5.0, -2.0),
    (0.0, 0.0, 1.0, -3.0, 2.0),
    (0.0, 0.0, 1.0, -2.0, 1.0),
    (0.0, 0.0, -5.0, 14.0, -8.0),
)


def quartic_weights(x: Weight, b_mid: Sequence[float]) -> tuple[Weight, list[Weight]]:
    """``w(x)`` and ``theta_j(x)`` for fractions ``x`` of the step: a number, a 0-dim tensor, or [R]."""
    x2 = x * x
    w = x2 * (-5 + x * (14 - 8 * x))
    bubble = 16 * x2 * (1 + x * (x - 2))
    theta: list[Weight] = [m * bubble if m else 0.0 for m in b_mid]
    theta[0] = theta[0] + x * (1 + x * (-4 + x * (5 - 2 * x)))
    theta[-1] = theta[-1] + x2 * (1 + x * (2 * x - 3))
    return w, theta


def quartic_rates(x: float, b_mid: Sequence[float]) -> tuple[float, list[float]]:
    """Derivatives of :func:`quartic_weights` with respect to ``x``."""
    rate = x * (-10 + x * (42 - 32 * x))
    bubble = 32 * x * (1 + x * (2 * x - 3))
    theta = [m * bubble for m in b_mid]
    theta[0] += 1 + x * (-8 + x * (15 - 8 * x))
    theta[-1] += x * (2 + x * (8 * x - 9))
    return rate, theta


def interpolate(y: Tensor, y1: Tensor, dt: Weight, k: Sequence[Tensor], b_mid: Sequence[float], x: Weight) -> Tensor:
    """Dense output at fraction ``x`` of the step from ``y`` to ``y1``."""
    w, theta = quartic_weights(x, b_mid)
    weights = [dt * v if isinstance(v, Tensor) or v != 0 else 0.0 for v in theta]
    return combine(y, [y1, y, *k], [w, -w, *weights])


def quartic_coefficients(y: Tensor, y1: Tensor, dt: Tensor, k: Sequence[Tensor], b_mid: Sequence[float]) -> Tensor:
    """Coefficients [R, 5, ...] of ``1, x, .., x^4`` of the dense output, for steps ``dt`` [R]."""
    size = per_row(dt, y)
    difference, first, last = y1 - y, size * k[0], size * k[-1]
    # no matrix product: a row must not depend on the others
    middle = 16 * size * sum(slope * b for slope, b in zip(k, b_mid, strict=True))
    powers = [m * middle + e * difference + f * first + z * last for f, z, m, e in list(zip(*QUARTIC, strict=True))[1:]]
    return torch.stack([y, *powers], dim=1)
