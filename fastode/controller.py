"""Step-size control: accept or reject, and how large the next step is.

    dt_next = dt * min(factor_max, max(safety * err^(-1/order), factor_min)),      accept iff err <= 1

with ``factor_min = 1`` after an accepted step. This is the elementary (I) controller of Hairer, Norsett, Wanner,
"Solving Ordinary Differential Equations I", II.4 (4.13), in torchdiffeq's form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Controller:
    """Coefficients and limits of the controller.

    Args:
        order: order of the method; the filter's exponent is ``1 / order``.
        safety: factor on the step that would just be accepted.
        factor_min, factor_max: bounds of ``dt_next / dt``.
        dt_min, dt_max: bounds of the step size, positive, in units of t. A step of ``dt_min`` is accepted whatever
            its error; one above ``dt_max`` never is.
    """

    order: int
    safety: float = 0.9
    factor_min: float = 0.2
    factor_max: float = 10.0
    dt_min: float = 0.0
    dt_max: float = math.inf
    #: exponents of the last error and of the two before, times the order; used where rows have steps of their own
    filter: tuple[float, float, float] = (1.0, 0.0, 0.0)

    def control(self, err: float, dt: float) -> tuple[bool, float]:
        """Whether the step of size ``dt > 0`` with scaled error ``err`` is accepted, and the next step size.

        A NaN error rejects and makes the next step NaN, which :meth:`clamp` turns into ``dt_min``.
        """
        accept = err <= 1
        if dt > self.dt_max:
            accept = False
        if dt <= self.dt_min:
            accept = True
        if err == 0:
            factor = self.factor_max
        elif err != err:
            return accept, math.nan
        else:
            wanted = self.safety / err ** (1 / self.order) if err < math.inf else 0.0
            factor = min(self.factor_max, max(wanted, 1.0 if err < 1 else self.factor_min))
        return accept, self.clamp(dt * factor)

    def clamp(self, dt: float) -> float:
        """``dt`` within its bounds; ``dt_min`` if it is not finite."""
        if not math.isfinite(dt):
            return self.dt_min
        return min(max(dt, self.dt_min), self.dt_max)


def initial_step(
    d0: float,
    d1: float,
    probe: Callable[[float], float],
    order: int,
    number: Callable[[float], Any] = float,
    power: Callable[[float, float], float] = math.pow,
) -> float:
    """First step size by Hairer, Norsett, Wanner I, II.4 (the algorithm of p. 169), in torchdiffeq's form.

    Args:
        d0, d1: scaled norms of ``y0`` and ``f0``.
        probe: maps ``h0`` to the scaled norm of ``f(t0 + h0, y0 + h0 f0) - f0``; one evaluation of the field.
        order: order of the method.
        number: makes numbers of the state's precision, in which torchdiffeq computes this; power: its power.
    """
    one, d0, d1 = number(1), number(d0), number(d1)
    h0 = one * 1e-6 if d0 < 1e-5 or d1 < 1e-5 else number(0.01) * d0 / d1
    d2 = number(probe(float(h0))) / h0 if h0 else number(math.nan)
    if d1 <= 1e-15 and d2 <= 1e-15:
        h1 = max(number(1e-6), h0 * number(1e-3))
    else:
        # Python's max, as in torchdiffeq: a NaN in d2 alone is ignored. Divided as torch divides a number by a tensor.
        h1 = power(float(one / max(d1, d2) * number(0.01)), 1 / order)
    return float(min(number(100) * h0, h1))
