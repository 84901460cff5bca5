"""Gradients of a solve in which every row has its own steps: accepted steps, taken again.

Rejected attempts are not differentiated, so a row that failed brings no NaN into the gradients of others. Step sizes
are constants; gradients of times are in :mod:`fastode.gradients.row_times`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..kernels import Binding, Engine
from ..kernels.torch_step import TorchStep
from ..problem import Problem
from ..rows.dense import Pieces, coefficients_of, evaluate
from ..rows.outputs import RowOutputs, RowStep, states_at
from ..stats import new_stats
from ..tableau import ButcherTableau
from ..tree import Parts
from .leaves import Leaves
from .row_replay import RowReplay

#: solves ``problem`` without a tape, keeping "", "steps" or "states"
Run = Callable[[Problem, str], RowOutputs]


@dataclass
class Solved:
    """What a solve came to; parts carry gradients.

    Attributes:
        outputs: of the solve that chose the steps.
        ys: [B, T, ...] states at the times of evaluation; y: [B, ...] after the last accepted step.
        events: [N, ...] states at events, in the order in which they were found.
        quartics: [M, 5, ...] of the steps in the order in which they were taken, or nothing.
    """

    outputs: RowOutputs
    ys: Parts
    y: Parts
    events: Parts
    quartics: Parts


def plain(problem: Problem, run: Run, keep: str = "") -> Solved:
    """Without gradients."""
    outputs = run(_detached(problem), keep)
    return Solved(outputs, outputs.ys, outputs.clock.y, _states_of_events(outputs), _quartics(outputs.pieces))


def autograd(problem: Problem, tableau: ButcherTableau, run: Run, dense: bool) -> Solved:
    """One tape of all accepted steps, which can be differentiated again."""
    outputs = run(_detached(problem), "steps")
    y, n = problem.y0, len(problem.y0)
    at_start = outputs.at_start
    found = [tuple([p[at_start] for p in y])]
    places = [(at_start, torch.zeros_like(at_start))]
    events = [tuple([p[_events_at_start(outputs)] for p in y])]
    pieces = [Pieces.none(y, outputs.clock.t)] if dense else []
    for step in outputs.steps:
        before = tuple([p[step.rows] for p in y])
        kernels, y1 = _take(problem, tableau, step, before)
        y = tuple([p.index_copy(0, step.rows, q) for p, q in zip(y, y1, strict=True)])
        values = _interpolate(tableau, step, dense, kernels, before, y1)
        inside = [tuple(values[i : i + n]) for i in range(0, len(values), n)]
        for at, index, _ in step.outputs:
            found.append(inside.pop(0))
            places.append((step.rows[at], index))
        if len(step.events[0]):
            events.append(inside.pop(0))
        if dense:
            pieces.append(Pieces(step.rows, step.t, step.dt, inside.pop(0)))
    found.append(tuple([p[outputs.at_end] for p in y]))
    places.append((outputs.at_end, outputs.next[outputs.at_end] - 1))
    rows, index = (torch.cat(x) for x in zip(*places, strict=True))
    ys = tuple([out.index_put((rows, index), torch.cat([f[p] for f in found])) for p, out in enumerate(outputs.ys)])
    outputs.pieces = pieces
    return Solved(outputs, ys, y, _joined(events), _quartics(pieces))


def discrete(
    problem: Problem, tableau: ButcherTableau, engine: Engine, run: Run, inputs: Sequence[Tensor], dense: bool
) -> Solved:
    """One node of ``y0`` and ``inputs``: a state a step is kept, stages are computed again."""
    leaves = Leaves(inputs, problem.field.args, len(problem.y0[0]))
    box: list[Solved] = []
    n = len(problem.y0)
    flat = _Discrete.apply(problem, tableau, engine, run, box, dense, leaves.places, *problem.y0, *leaves.inputs)
    solved = box.pop()
    return replace(solved, ys=flat[:n], y=flat[n : 2 * n], events=flat[2 * n : 3 * n], quartics=flat[3 * n :])


class _Discrete(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        problem: Problem,
        tableau: ButcherTableau,
        engine: Engine,
        run: Run,
        box: list[Solved],
        dense: bool,
        places: list[int | None],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        solved = plain(problem, run, "states")
        box.append(solved)
        ctx.problem, ctx.tableau, ctx.engine, ctx.outputs = problem, tableau, engine, solved.outputs
        ctx.dense, ctx.places = dense, places
        ctx.save_for_backward(*tensors)
        return *solved.ys, *solved.y, *solved.events, *solved.quartics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        problem = replace(ctx.problem, stats=new_stats(ctx.problem.stats.method, "backward"))
        outputs, n = ctx.outputs, len(problem.y0)
        leaves = Leaves(ctx.saved_tensors[n:], problem.field.args, len(problem.y0[0]), ctx.places)
        g_ys, g_y, g_events, g_quartics = (grads[i * n : (i + 1) * n] for i in range(4))
        bar = [g.clone() for g in g_y]
        at_end = outputs.at_end
        for b, g in zip(bar, g_ys, strict=True):
            b[at_end] += g[at_end, outputs.next[at_end] - 1]
        #: how many events and quartics come before the step
        n_events = sum(len(found) for found in ([] if outputs.events is None else outputs.events.t))
        n_quartics = sum(len(step.rows) for step in outputs.steps)
        replay = RowReplay(problem, ctx.tableau, ctx.engine, leaves)
        for step in reversed(outputs.steps):
            n_events -= len(step.events[0])
            n_quartics -= len(step.rows)
            inside: list[Tensor] = []
            for at, index, _ in step.outputs:
                inside += [g[step.rows[at], index] for g in g_ys]
            if len(step.events[0]):
                inside += [g[n_events : n_events + len(step.events[0])] for g in g_events]
            if ctx.dense:
                inside += [g[n_quartics : n_quartics + len(step.rows)] for g in g_quartics]
            interpolate = functools.partial(_interpolate, ctx.tableau, step, ctx.dense) if inside else None
            start = replay.step(step, tuple([b[step.rows] for b in bar]), interpolate, inside)
            for b, g in zip(bar, start, strict=True):
                b[step.rows] = g
        at_start = outputs.at_start
        for b, g in zip(bar, g_ys, strict=True):
            b[at_start] += g[at_start, 0]
        starting = _events_at_start(outputs)
        for b, g in zip(bar, g_events, strict=True):
            b.index_add_(0, starting, g[: len(starting)])
        return None, None, None, None, None, None, None, *bar, *leaves.totals


def _interpolate(
    tableau: ButcherTableau, step: RowStep, dense: bool, kernels: TorchStep, y: Parts, y1: Parts
) -> list[Tensor]:
    """All that was interpolated in a step: states at outputs, states at events, and the quartics if asked for."""
    values: list[Tensor] = []
    for at, _, x in step.outputs:
        values += states_at(kernels, y1, at, x)
    at, x = step.events
    if len(at):
        values += evaluate(coefficients_of(tableau, kernels, y, y1, step.dt, at), x)
    if dense:
        everything = torch.arange(len(step.rows), device=step.rows.device)
        values += coefficients_of(tableau, kernels, y, y1, step.dt, everything)
    return values


def _take(problem: Problem, tableau: ButcherTableau, step: RowStep, y: Parts) -> tuple[TorchStep, Parts]:
    """The step of ``step.rows`` again, from ``y``, on the tape: kernels that hold its slopes, and the new state."""
    field = problem.field.take_rows(step.rows, y)
    kernels = TorchStep(Binding.replaying(tableau, y))
    times = kernels.begin(step.t, step.dt, step.t1, y)
    k = field(step.start, y)
    for i in range(1, tableau.stages):
        k = field(times[i], kernels.stage(i, k))
    return kernels, kernels.advance(k)


def _detached(problem: Problem) -> Problem:
    """The problem with which the steps are found."""
    return replace(problem, y0=tuple([p.detach() for p in problem.y0]))


def _joined(groups: Sequence[Parts]) -> Parts:
    return tuple([torch.cat(p) for p in zip(*groups, strict=True)])


def _quartics(pieces: Sequence[Pieces]) -> Parts:
    return _joined([p.coefficients for p in pieces])


def _states_of_events(outputs: RowOutputs) -> Parts:
    if outputs.events is None:
        return tuple([p[:0] for p in outputs.clock.y])
    return _joined(outputs.events.states)


def _events_at_start(outputs: RowOutputs) -> Tensor:
    """The rows that have an event at the start, which is found first."""
    none = outputs.at_start[:0]
    return none if outputs.events is None else outputs.events.rows[0]
