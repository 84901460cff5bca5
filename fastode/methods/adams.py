"""Adams methods on fixed grids: ``explicit_adams`` (Bashforth) and ``implicit_adams`` (Bashforth, then Moulton).

    predictor   dy = dt sum_{j<p}  beta_j  f_{n-j}
    corrector   dy = dt (beta*_0 f(t + dt, y + dy) + sum_{1<=j<=p} beta*_j f_{n+1-j}),      repeated until dy rests
    y1 = y + dy

with ``p`` the slopes in the history, at most ``max_order - 1`` of them: the predictor has order ``p``, the corrector
``p + 1``. ``max_order`` is 12 by default with a corrector and 5 without (:data:`EXPLICIT_ORDER`). The history holds
slopes at the starts of steps. While there are fewer than three, steps are made by the 3/8 rule of order 4 (``rk4``),
which bounds the order of the whole. Coefficients are those of equal steps; on other grids the order is lost, as in
torchdiffeq.

Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", 2nd ed., III.1, (1.5) and (1.9).
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidArgument
from ..fixed_grid import number
from ..kernels import Engine
from ..kernels.native import NativeStep
from ..kernels.reference.combine import Weight
from ..kernels.torch_step import TorchStep
from ..problem import Problem
from ..tree import Parts
from . import GridMethod
from .rk4 import METHOD as START

#: fewer slopes than this make no Adams step
SLOPES_MIN = 3
ORDER_MAX = 12
#: Default ``max_order`` without a corrector, hence order 4. torchdiffeq's default of 12 runs Adams-Bashforth of order
#: 11, whose tables are right but which is stable for ``y' = -y`` only up to dt = 0.0034 (order 4: 0.30). Oscillations
#: ``y' = i y`` grow by 1.28 a step at dt = 0.0125: over T = 5 errors reach 2e32, where order 4 is off by 4e-8.
EXPLICIT_ORDER = 5


@cache
def adams_coefficients(order: int, implicit: bool) -> tuple[Fraction, ...]:
    """Weights of the slopes, newest first: the integrals over [0, 1] of the Lagrange polynomials.

    Args:
        order: number of slopes.
        implicit: the newest slope is that at the end of the step (Moulton), else at its start (Bashforth).
    """
    nodes = [int(implicit) - j for j in range(order)]
    weights = []
    for j, node in enumerate(nodes):
        polynomial = [Fraction(1)]  # coefficients of 1, s, s^2, ...
        for i, other in enumerate(nodes):
            if i != j:
                shifted = [Fraction(0), *polynomial]
                scaled = [*(other * p for p in polynomial), Fraction(0)]
                polynomial = [(a - b) / (node - other) for a, b in zip(shifted, scaled, strict=True)]
        weights.append(sum((p / (power + 1) for power, p in enumerate(polynomial)), Fraction(0)))
    return tuple(weights)


class AdamsStepper:
    """One solve by an Adams method; remembers slopes from step to step.

    Args:
        max_order: one more than the largest number of slopes in the history.
        max_iters: how often the corrector is applied at most.
        implicit: whether to correct at all.
    """

    nodes: Sequence[float] = START.nodes

    def __init__(self, problem: Problem, engine: Engine, max_order: int, max_iters: int, implicit: bool) -> None:
        self.problem = problem
        self.max_iters = max_iters
        self.implicit = implicit
        self.kernels: TorchStep | NativeStep = engine.bind(problem.binding(START))
        if problem.needs_tape:
            self._to_tape()
        problem.stats.engine = self.kernels.engine
        self.slopes: deque[Parts] = deque(maxlen=max(max_order - 1, 1))
        self.t_newest: float | None = None
        self.zero = tuple([torch.zeros_like(p) for p in problem.y0])

    def step(self, t0: Weight, dt: Weight, t1: Weight, times: Sequence[Tensor], y: Parts) -> tuple[Parts, Parts]:
        f0 = self._field(times[0], y)
        t = number(t0)
        if self.t_newest != t:  # a point that the grid repeats counts once
            self.slopes.appendleft(f0)
            self.t_newest = t
        if len(self.slopes) < SLOPES_MIN:
            return self._start(dt, times, y), f0
        weights = adams_coefficients(len(self.slopes), implicit=False)
        dy = self._sum(dt, weights, self.slopes)
        if self.implicit:
            dy = self._correct(dt, times[-1], y, dy)
        return tuple([a + b for a, b in zip(y, dy, strict=True)]), f0

    def combine(self, base: Parts, vectors: Sequence[Parts], weights: list[Weight]) -> Parts:
        return self.kernels.combine(base, vectors, weights)

    def _to_tape(self) -> None:
        self.kernels = self.kernels.to_tape()
        self.problem.stats.engine = self.kernels.engine

    def _field(self, t: Tensor, y: Parts) -> Parts:
        k = self.problem.field(t, y)
        if self.problem.field.traced and not self.kernels.differentiable:
            self._to_tape()
        return k

    def _start(self, dt: Weight, times: Sequence[Tensor], y: Parts) -> Parts:
        """A step of the 3/8 rule."""
        k = self.slopes[0]
        self.kernels.begin_at(y, dt)  # type: ignore[arg-type]
        for i in range(1, START.stages):
            k = self._field(times[i], self.kernels.stage(i, k))
        return self.kernels.advance(k)

    def _sum(self, dt: Weight, weights: Sequence[Fraction], slopes: Sequence[Parts]) -> Parts:
        """``dt sum_j weights[j] slopes[j]``."""
        return self.kernels.combine(self.zero, list(slopes), [dt * float(w) for w in weights])

    def _correct(self, dt: Weight, t1: Tensor, y: Parts, dy: Parts) -> Parts:
        """The corrector's fixed point, from the predicted increment ``dy``; its slope does not enter the history."""
        weights = adams_coefficients(len(self.slopes) + 1, implicit=True)
        known = self._sum(dt, weights[1:], self.slopes)
        newest = [dt * float(weights[0])]
        for _ in range(self.max_iters):
            before = dy
            f1 = self._field(t1, tuple([a + b for a, b in zip(y, dy, strict=True)]))
            dy = self.kernels.combine(known, [f1], newest)
            if self._at_rest(before, dy):
                return dy
        warnings.warn("Functional iteration did not converge. Solution may be incorrect.", stacklevel=2)
        self.slopes.pop()  # torchdiffeq goes on with one order less
        return dy

    @torch.no_grad()
    def _at_rest(self, before: Parts, dy: Parts) -> bool:
        """``max |before - dy| / (atol + rtol max(|before|, |dy|)) < 1``."""
        tolerances = zip(before, dy, self.problem.rtol, self.problem.atol, strict=True)
        ratios = [(b - d).abs() / (atol + rtol * torch.maximum(b.abs(), d.abs())) for b, d, rtol, atol in tolerances]
        return all(bool((r < 1).all()) for r in ratios)


def _make(problem: Problem, engine: Engine, options: dict[str, Any], implicit: bool) -> AdamsStepper:
    order = options.get("max_order", ORDER_MAX if implicit else EXPLICIT_ORDER)
    iterations = options.get("max_iters", 4)
    if order > ORDER_MAX:
        raise InvalidArgument(f"max_order must be at most {ORDER_MAX}, but is {order}")
    if order < 1 or iterations < 1:
        raise InvalidArgument(f"max_order and max_iters must be at least 1, but are {order} and {iterations}")
    if order <= SLOPES_MIN:
        warnings.warn("max_order is below 4, so the solver reduces to `rk4`.", stacklevel=2)
    return AdamsStepper(problem, engine, int(order), int(iterations), bool(options.get("implicit", implicit)))


def _explicit(problem: Problem, engine: Engine, options: dict[str, Any]) -> AdamsStepper:
    return _make(problem, engine, options, implicit=False)


def _implicit(problem: Problem, engine: Engine, options: dict[str, Any]) -> AdamsStepper:
    return _make(problem, engine, options, implicit=True)


METHODS = {
    "explicit_adams": GridMethod(4, _explicit, frozenset({"max_order", "max_iters"}), "AdamsBashforth"),
    "implicit_adams": GridMethod(
        4, _implicit, frozenset({"max_order", "max_iters", "implicit"}), "AdamsBashforthMoulton"
    ),
}
