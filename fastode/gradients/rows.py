"""Gradients of a solve in which every row has its own steps: accepted steps, taken again.

Rejected attempts are not differentiated, so a row that failed brings no NaN into the gradients of others. Step sizes
and times are constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..field import Field, is_per_row
from ..kernels import Binding
from ..kernels.torch_step import TorchStep
from ..problem import Problem
from ..row_outputs import RowOutputs, RowStep, states_at
from ..rows import RowsClock
from ..stats import new_stats
from ..tableau import ButcherTableau
from ..tree import Parts

#: solves ``problem`` without a tape, keeping "steps" or "states"
Run = Callable[[Problem, str], tuple[RowsClock, RowOutputs]]


def autograd(problem: Problem, tableau: ButcherTableau, run: Run) -> tuple[RowsClock, Parts, Parts]:
    """``(clock, ys, y)`` on one tape of all accepted steps, which can be differentiated again."""
    clock, outputs = run(_detached(problem), "steps")
    y = problem.y0
    at_start = outputs.at_start
    found = [tuple([p[at_start] for p in y])]
    places = [(at_start, torch.zeros_like(at_start))]
    for step in outputs.steps:
        y1, inside = _take(problem, tableau, step, tuple([p[step.rows] for p in y]), problem.field.args)
        y = tuple([p.index_copy(0, step.rows, q) for p, q in zip(y, y1, strict=True)])
        for (at, index, _), values in zip(step.outputs, inside, strict=True):
            found.append(values)
            places.append((step.rows[at], index))
    rows, index = (torch.cat(x) for x in zip(*places, strict=True))
    ys = tuple([out.index_put((rows, index), torch.cat([f[p] for f in found])) for p, out in enumerate(outputs.ys)])
    return clock, ys, y


def discrete(
    problem: Problem, tableau: ButcherTableau, run: Run, inputs: Sequence[Tensor]
) -> tuple[RowsClock, Parts, Parts]:
    """``(clock, ys, y)`` as one node of ``y0`` and ``inputs``: a state a step is kept, stages are computed again."""
    inputs = list({id(x): x for x in inputs}.values())
    box: list[RowsClock] = []
    n = len(problem.y0)
    flat = _Discrete.apply(problem, tableau, run, box, n, *problem.y0, *inputs)
    return box[0], flat[:n], flat[n:]


class _Discrete(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, problem: Problem, tableau: ButcherTableau, run: Run, box: list[RowsClock], n: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        clock, outputs = run(_detached(problem), "states")
        box.append(clock)
        ctx.problem, ctx.tableau, ctx.outputs, ctx.n = problem, tableau, outputs, n
        #: for each extra argument its place among the inputs, or None
        ctx.places = [next((i for i, x in enumerate(tensors[n:]) if x is a), None) for a in problem.field.args]
        ctx.save_for_backward(*tensors)
        return *outputs.ys, *clock.y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        n, outputs, places = ctx.n, ctx.outputs, ctx.places
        problem = replace(ctx.problem, stats=new_stats(ctx.problem.stats.method, "backward"))
        inputs = ctx.saved_tensors[n:]
        g_ys, bar = grads[:n], [g.clone() for g in grads[n:]]
        totals = [torch.zeros_like(p) for p in inputs]
        targets = [*range(len(inputs)), *[i for i in places if i is not None]]
        for step in reversed(outputs.steps):
            y = tuple([p.detach().requires_grad_() for p in step.y])
            args = tuple(
                [
                    a if i is None else inputs[i].detach().requires_grad_()
                    for a, i in zip(problem.field.args, places, strict=True)
                ]
            )
            with torch.enable_grad():
                y1, inside = _take(problem, ctx.tableau, step, y, args)
            values = [*y1, *[v for parts in inside for v in parts]]
            cotangents = [b[step.rows] for b in bar]
            for at, index, _ in step.outputs:
                cotangents += [g[step.rows[at], index] for g in g_ys]
            pairs = [(v, c) for v, c in zip(values, cotangents, strict=True) if v.requires_grad]
            copies = [a for a, i in zip(args, places, strict=True) if i is not None]
            found = torch.autograd.grad(
                [v for v, _ in pairs], [*y, *inputs, *copies], [c for _, c in pairs], allow_unused=True
            )
            for b, p, g in zip(bar, y, found[:n], strict=True):
                b[step.rows] = torch.zeros_like(p) if g is None else g
            for i, g in zip(targets, found[n:], strict=True):
                if g is not None:
                    totals[i] += g
        at_start = outputs.at_start
        for b, g in zip(bar, g_ys, strict=True):
            b[at_start] += g[at_start, 0]
        return None, None, None, None, None, *bar, *totals


def _detached(problem: Problem) -> Problem:
    """The problem with which the steps are found."""
    return replace(problem, y0=tuple([p.detach() for p in problem.y0]))


def _take(
    problem: Problem, tableau: ButcherTableau, step: RowStep, y: Parts, args: tuple[Any, ...]
) -> tuple[Parts, list[Parts]]:
    """The step of ``step.rows`` again, from ``y``: the new states, and for each round of outputs their states."""
    rows = step.rows
    n = problem.field.shapes[0][0]
    own = tuple([a[rows] if is_per_row(a, n) else a for a in args])
    field = Field(problem.field.func, own, y, problem.spec, problem.stats)
    no_error = [0.0] * len(y)
    kernels = TorchStep(Binding(tableau, y, no_error, no_error, rows=len(rows)))
    times = kernels.begin(step.t, step.dt, step.t1, y)
    k = field(step.start, y)
    z = y
    for i in range(1, tableau.stages):
        z = kernels.stage(i, k)
        k = field(times[i], z)
    y1 = kernels.advance(k)
    return y1, [states_at(kernels, y1, at, x) for at, _, x in step.outputs]
