"""Replay of a step in which every row has its own size: stages recomputed, then the tableau in reverse.

With cotangent ``l`` of ``y1 = y + dt sum_i b_i k_i``, ``z_i = y + dt sum_j a_ij k_j`` and ``k_i = f(t_i, z_i)``:

    k_bar_i = dt (b_i l + sum_{m > i} a_mi z_bar_m),      z_bar_i = (df/dy)^T k_bar_i,      y_bar = l + sum_i z_bar_i

as in :mod:`fastode.gradients.stage_replay`. What was interpolated in the step is linear in ``y``, ``y1`` and the
slopes; torch differentiates it, where there is any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..field import Field
from ..kernels import Binding, Engine
from ..kernels.native import NativeRowsStep
from ..kernels.reference.combine import per_row
from ..kernels.torch_step import TorchStep
from ..problem import Problem
from ..rows.outputs import RowStep
from ..tableau import ButcherTableau
from ..tree import Parts
from .leaves import Leaves
from .node import filled, pull_back

#: the values interpolated in a step, from kernels that hold its slopes, and its ends
Interpolate = Callable[[TorchStep, Parts, Parts], list[Tensor]]


class RowReplay:
    """Cotangents of a step's start and of the inputs of the solve, from those of what came out of the step."""

    def __init__(self, problem: Problem, tableau: ButcherTableau, engine: Engine, leaves: Leaves) -> None:
        self.problem = problem
        self.tableau = tableau
        self.engine = engine
        self.leaves = leaves
        #: kernels and zeros for the number of rows of the last step
        self._rows = -1
        self._kernels: TorchStep | NativeRowsStep | None = None
        self._zero: Parts = ()

    def step(self, step: RowStep, end: Parts, interpolate: Interpolate | None, inside: Sequence[Tensor]) -> Parts:
        """The cotangent of the state at the start.

        Args:
            end: of the state at the end.
            interpolate: gives the values interpolated in the step, if there are any; inside: their cotangents.
        """
        tableau, problem = self.tableau, self.problem
        kernels, zero = self._bound(step)
        args, copies = self.leaves.arguments(step.rows)
        field = Field(problem.field.func, args, step.y, problem.spec, problem.stats)
        states, slopes = [tuple([p.detach().requires_grad_() for p in step.y])], []
        times = kernels.begin(step.t, step.dt, step.t1, step.y)
        ssal = tableau.last_stage_is_solution
        needs_last = interpolate is not None or not ssal
        with torch.enable_grad():
            slopes.append(field(step.start, states[0]))
        for i in range(1, tableau.stages):
            z = kernels.stage(i, slopes[-1])
            if i < tableau.stages - 1 or needs_last:
                for p in z:
                    p.requires_grad_()
                states.append(z)
                with torch.enable_grad():
                    slopes.append(field(times[i], z))
        # [S] cotangents of the slopes beside those of the tableau
        extra: list[Parts | None] = [None] * tableau.stages
        start: Parts | None = None
        if interpolate is not None:
            y1, _ = kernels.finish(slopes[-1])
            start, moved, *of_slopes = self._interpolated(step, y1, slopes, interpolate, inside)
            end = _plus(end, moved)
            extra = list(of_slopes)
        targets = [*self.leaves.inputs, *copies]
        bars: list[Parts | None] = [None] * tableau.stages
        for i in range(len(slopes) - 1, -1, -1):
            if ssal and i == tableau.stages - 1:
                bar = extra[i]  # the new state is the last stage, and no slope follows it
            else:
                terms = [(z, tableau.matrix[m][i]) for m, z in enumerate(bars) if z is not None and m > i]
                if tableau.weights[i] != 0 or not terms:
                    terms.append((end, tableau.weights[i]))
                bar = kernels.combine(zero, [v for v, _ in terms], [w for _, w in terms])
                for p in bar:
                    p *= per_row(step.dt, p)
                bar = _plus(bar, extra[i])
            assert bar is not None
            found = pull_back(slopes[i], [*states[i], *targets], bar)
            bars[i] = tuple(filled(found[: len(zero)], zero))
            self.leaves.add(found[len(zero) :], step.rows)
            if ssal and i == tableau.stages - 1:
                end, bars[i] = _plus(end, bars[i]), None
        everything = [end, *[z for z in bars if z is not None]]
        total = kernels.combine(everything[0], everything[1:], [1.0] * (len(everything) - 1))
        return _plus(total, start)

    def _bound(self, step: RowStep) -> tuple[TorchStep | NativeRowsStep, Parts]:
        rows = len(step.rows)
        if rows != self._rows:
            kernels = self.engine.bind(Binding.replaying(self.tableau, step.y))
            assert isinstance(kernels, TorchStep | NativeRowsStep)
            self._rows, self._kernels = rows, kernels
            self._zero = tuple([torch.zeros_like(p) for p in step.y])
        assert self._kernels is not None
        return self._kernels, self._zero

    def _interpolated(
        self, step: RowStep, y1: Parts, slopes: Sequence[Parts], interpolate: Interpolate, inside: Sequence[Tensor]
    ) -> list[Parts]:
        """Cotangents of the states at both ends and of every slope."""
        leaves = [tuple([p.detach().requires_grad_() for p in parts]) for parts in (step.y, y1, *slopes)]
        y, end, *k = leaves
        kernels = TorchStep.taking_over(Binding.replaying(self.tableau, y), y, step.dt, k, end)
        with torch.enable_grad():
            values = interpolate(kernels, y, end)
        flat = [p for parts in leaves for p in parts]
        found = filled(pull_back(values, flat, inside), flat)
        n = len(y)
        return [tuple(found[i : i + n]) for i in range(0, len(found), n)]


def _plus(a: Parts, b: Parts | None) -> Parts:
    return a if b is None else tuple([p + q for p, q in zip(a, b, strict=True)])
