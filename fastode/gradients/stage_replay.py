"""Replay of a step of an explicit pair: stages recomputed, then the tableau in reverse.

With cotangent ``l`` of ``y1 = y + dt sum_i b_i k_i``, ``z_i = y + dt sum_j a_ij k_j`` and ``k_i = f(t_i, z_i)``:

    k_bar_i = dt b_i l + dt sum_{m > i} a_mi z_bar_m,      z_bar_i = (df/dy)^T k_bar_i,      y_bar = l + sum_i z_bar_i

and parameters collect ``(df/dp)^T k_bar_i``. One vector-Jacobian product of the field a stage; the sums between them
are kernels, so no tape holds the stages together.
Reference: Hager, "Runge-Kutta methods in optimal control and the transformed adjoint system", Numer. Math. 87, 2000.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..kernels.reference import quartic_rates, quartic_weights
from ..tableau import ButcherTableau
from ..tree import Parts
from .sweep import KeptStep, Replay, Sweep

Terms = list[tuple[Parts, float]]


@dataclass
class Evaluation:
    """One evaluation of the field, with its graph, and what its cotangent is the sum of."""

    t: Tensor
    z: Parts
    k: Parts
    cotangent: Terms = field(default_factory=list)


class StageReplay(Replay):
    """Steps of an adaptive explicit method."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep)
        tableau = sweep.request.method
        assert isinstance(tableau, ButcherTableau)
        problem = sweep.problem
        self.tableau = tableau
        self.kernels = sweep.engine.bind(problem.binding(tableau))
        self.zero = tuple([torch.zeros_like(p) for p in problem.y0])

    def step(
        self, n: int, step: KeptStep, inside: list[int], cotangent: list[Tensor], carry: list[Tensor] | None
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        tableau, dt = self.tableau, step.dt
        ssal = tableau.last_stage_is_solution
        reused = step.k_first is not None and not step.fresh
        evaluations, y1 = self._stages(step, reused, needs_last=bool(inside) or not ssal)
        end: Terms = [(tuple(cotangent), 1.0)]
        start: Terms = []
        for i in inside:
            self._output(i, step, y1, evaluations, end, start)
        if carry is not None:
            evaluations[-1].cotangent.append((tuple(carry), 1.0))
        last = tableau.stages - 1
        if ssal and inside:
            # the last stage is the new state: what reaches it counts as the new state's cotangent
            end.append((self._pull_back(evaluations[last]), 1.0))
        bar = self._sum(end)
        start.append((bar, 1.0))
        for i, b in enumerate(tableau.weights):
            if b != 0:
                evaluations[i].cotangent.append((bar, dt * b))
        for i in range(last - 1 if ssal else last, 0, -1):
            bar = self._pull_back(evaluations[i])
            start.append((bar, 1.0))
            for j, a in enumerate(tableau.matrix[i]):
                if a != 0:
                    evaluations[j].cotangent.append((bar, dt * a))
        if reused:
            return list(self._sum(start)), list(self._sum(evaluations[0].cotangent))
        start.append((self._pull_back(evaluations[0]), 1.0))
        return list(self._sum(start)), None

    def _stages(self, step: KeptStep, reused: bool, needs_last: bool) -> tuple[list[Evaluation], Parts]:
        """The stages of the step with their graphs, and the new state."""
        tableau, kernels, problem = self.tableau, self.kernels, self.sweep.problem
        times = kernels.begin(step.t, step.dt, step.t1, step.y)
        if reused:
            assert step.k_first is not None
            evaluations = [Evaluation(times[0], step.y, step.k_first)]
        else:
            side = 0.0 if step.fresh else -1.0
            t = problem.time(step.t, 1.0 if step.after_jump else side)
            evaluations = [self._evaluate(t, tuple([p.detach() for p in step.y]))]
        z: Parts = step.y
        for i in range(1, tableau.stages):
            z = kernels.stage(i, evaluations[-1].k)
            if i < tableau.stages - 1 or needs_last:
                evaluations.append(self._evaluate(times[i], z))
        return evaluations, kernels.advance(evaluations[-1].k) if needs_last else z

    def _evaluate(self, t: Tensor, z: Parts) -> Evaluation:
        """The field at fresh tensors that require grad."""
        for p in z:
            p.requires_grad_()
        if self.sweep.t_grad:
            t = t.detach().requires_grad_()
        with torch.enable_grad():
            return Evaluation(t, z, self.sweep.problem.field(t, z))

    def _output(
        self, i: int, step: KeptStep, y1: Parts, evaluations: list[Evaluation], end: Terms, start: Terms
    ) -> None:
        """Spread the cotangent of the dense output at requested time ``i`` over what it was made of."""
        sweep, mid, dt = self.sweep, self.tableau.mid_weights, step.dt
        x = (sweep.times[i] - step.t) / dt
        g = sweep.grads[i]
        w, theta = quartic_weights(x, mid)
        assert isinstance(w, float)
        end.append((g, w))
        start.append((g, 1.0 - w))
        for evaluation, weight in zip(evaluations, theta, strict=True):
            if weight != 0:
                evaluation.cotangent.append((g, dt * weight))  # type: ignore[arg-type]
        if sweep.grad_t is not None:
            rate, rates = quartic_rates(x, mid)
            vectors = [y1, step.y, *[e.k for e in evaluations]]
            slope = self.kernels.combine(self.zero, vectors, [rate, -rate, *[dt * r for r in rates]])
            moved = sum(inner(a, b) for a, b in zip(slope, g, strict=True)) / dt
            # requested times count from the start, with which the steps move
            sweep.grad_t[i] += moved
            sweep.grad_t[0] -= moved

    def _pull_back(self, evaluation: Evaluation) -> Parts:
        """Cotangent of the state at which the field was evaluated."""
        cotangent = self._sum(evaluation.cotangent)
        evaluation.cotangent.clear()
        sweep = self.sweep
        if sweep.grad_t is None:
            return tuple(sweep.pull_back(evaluation.k, cotangent, evaluation.z))
        *bar, moved = sweep.pull_back(evaluation.k, cotangent, (*evaluation.z, evaluation.t))
        sweep.grad_t[0] += moved
        return tuple(bar)

    def _sum(self, terms: Terms) -> Parts:
        """``sum_j weight_j * vector_j``."""
        if not terms:
            return self.zero
        if len(terms) == 1 and terms[0][1] == 1.0:
            return terms[0][0]
        first = next((i for i, (_, w) in enumerate(terms) if w == 1.0), None)
        if first is None:
            base, rest = self.zero, terms
        else:
            base, rest = terms[first][0], terms[:first] + terms[first + 1 :]
        return self.kernels.combine(base, [v for v, _ in rest], [w for _, w in rest])


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The real inner product."""
    return (a.conj() * b).real.sum() if a.is_complex() else (a * b).sum()
