"""Implicit Runge-Kutta methods on a grid: their tableaus, and one step.

    K_i = f(t + c_i dt, y + dt sum_j a_ij K_j),      y1 = y + dt sum_i b_i K_i

A diagonally implicit method (DIRK) solves one stage after the other, with the same matrix if the diagonal is constant;
a fully implicit one solves all stages at once. The solution of the stage equations is differentiated by the implicit
function theorem, exactly up to second derivatives; iterations leave no tape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .errors import InvalidArgument, UnsupportedInput
from .kernels.reference.combine import Weight, combine
from .newton import Newton, Rows, RowsMix, StageEquations
from .problem import Problem
from .tableau import Number, to_float
from .tree import Parts

_NATIVE_REASON = "implicit stages are solved with torch.linalg"


@dataclass(frozen=True)
class ImplicitTableau:
    """An implicit Runge-Kutta method.

    Args:
        order: order of convergence.
        c, a, b: nodes, full square matrix and weights.
        solver: the class name torchdiffeq uses in its warnings.

    Raises:
        ValueError: the lengths do not fit, a row of ``a`` does not sum to its node, or the diagonal of a diagonally
            implicit method is not constant over its implicit stages.
    """

    order: int
    c: Sequence[Number]
    a: Sequence[Sequence[Number]]
    b: Sequence[Number]
    solver: str = ""

    #: the same numbers as doubles
    nodes: list[float] = field(init=False, repr=False)
    matrix: list[list[float]] = field(init=False, repr=False)
    weights: list[float] = field(init=False, repr=False)
    #: stages that are solved together, in order; an explicit first stage is in none
    systems: list[list[int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        stages = len(self.b)
        if len(self.c) != stages or len(self.a) != stages or any(len(row) != stages for row in self.a):
            raise ValueError(f"tableau: b has {stages} entries, so c needs {stages} and a {stages} x {stages}")
        put = object.__setattr__
        put(self, "nodes", [to_float(x) for x in self.c])
        put(self, "matrix", [[to_float(x) for x in row] for row in self.a])
        put(self, "weights", [to_float(x) for x in self.b])
        for i, row in enumerate(self.matrix):
            if abs(sum(row) - self.nodes[i]) > 1e-12:
                raise ValueError(f"tableau: row {i} of `a` sums to {sum(row)}, its node is {self.nodes[i]}")
        implicit = [i for i, row in enumerate(self.matrix) if any(row)]
        coupled = any(x != 0 for i, row in enumerate(self.matrix) for x in row[i + 1 :])
        put(self, "systems", [implicit] if coupled else [[i] for i in implicit])
        if not coupled and len({self.matrix[i][i] for i in implicit}) > 1:
            raise ValueError("tableau: the diagonal of a diagonally implicit method must be constant")

    @property
    def stages(self) -> int:
        """Number of stages S."""
        return len(self.b)


class ImplicitStepper:
    """An implicit tableau on a grid.

    The Jacobian has one block per sample (first axis) if the field treats samples independently, which is checked
    whenever it is evaluated. Otherwise, and for states without further axes, it is one dense matrix over all elements;
    ``problem.stats.reason`` says so.

    Args:
        max_iters: Newton iterations per system of stages.

    Raises:
        UnsupportedInput: torch.linalg does not factorise matrices of the state's dtype.
    """

    def __init__(self, problem: Problem, tableau: ImplicitTableau, max_iters: int) -> None:
        if problem.real_dtype not in (torch.float32, torch.float64):
            raise UnsupportedInput(
                f"implicit methods need a state of float32, float64 or their complex types, but it is "
                f"{problem.y0[0].dtype}: use y0.float()"
            )
        if max_iters < 1:
            raise InvalidArgument(f"options['max_iters'] must be at least 1, but is {max_iters}")
        self.problem = problem
        self.tableau = tableau
        self.nodes = [0.0, *tableau.nodes]
        self.newton = Newton(max_iters)
        separable = Rows.separable(problem.y0)
        self.rows = Rows(problem.y0, dense=not separable)
        problem.stats.engine = "reference"
        problem.stats.reason = _NATIVE_REASON if separable else _dense_reason("the state has no axis of samples")
        matrix = torch.tensor(tableau.matrix, dtype=problem.real_dtype, device=problem.y0[0].device)
        self.blocks = [matrix[system][:, system] for system in tableau.systems]

    def step(self, t0: Weight, dt: Weight, t1: Weight, times: Sequence[Tensor], y: Parts) -> tuple[Parts, Parts]:
        f0 = self.problem.field(times[0], y)
        if not self._attached():
            f0 = tuple([f.detach().clone() for f in f0])  # the field may write its next value into the same memory
        try:
            return self._advance(dt, times[1:], y, f0), f0
        except RowsMix:
            self.rows = Rows(self.problem.y0, dense=True)
            self.newton.factors = None
            self.problem.stats.reason = _dense_reason("the field mixes samples")
            return self._advance(dt, times[1:], y, f0), f0

    def combine(self, base: Parts, vectors: Sequence[Parts], weights: Sequence[Weight]) -> Parts:
        return tuple([combine(b, [v[p] for v in vectors], weights) for p, b in enumerate(base)])

    def _attached(self) -> bool:
        """Whether autograd wants to know how the state came about."""
        return torch.is_grad_enabled() and (self.problem.needs_tape or self.problem.field.traced)

    def _advance(self, dt: Weight, times: Sequence[Tensor], y: Parts, f0: Parts) -> Parts:
        z = self.rows.join(y)
        k: dict[int, Tensor] = {i: self.rows.join(f0) for i, row in enumerate(self.tableau.matrix) if not any(row)}
        for system, block in zip(self.tableau.systems, self.blocks, strict=True):
            base = self._sum(z, dt, k, self.tableau.matrix[system[0]])
            equations = StageEquations(self.problem.field, self.rows, [times[i] for i in system], base, dt, block)
            slopes = self.newton.solve(equations)
            if self._attached():
                slopes = self.newton.attach(equations, slopes)
            k.update(zip(system, slopes.unbind(0), strict=True))
        return self.rows.split(self._sum(z, dt, k, self.tableau.weights))

    @staticmethod
    def _sum(z: Tensor, dt: Weight, k: dict[int, Tensor], weights: Sequence[float]) -> Tensor:
        """``z + dt sum_i weights[i] k[i]`` over the slopes that are known."""
        known = [(k[i], dt * w) for i, w in enumerate(weights) if i in k and w != 0]
        return combine(z, [v for v, _ in known], [w for _, w in known])


def _dense_reason(cause: str) -> str:
    return f"{_NATIVE_REASON}, with one dense Jacobian over all elements: {cause}"
