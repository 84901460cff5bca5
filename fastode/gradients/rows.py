"""Gradients of a solve in which every row has its own steps: accepted steps, taken again.

Rejected attempts are not differentiated, so a row that failed brings no NaN into the gradients of others. Step sizes
are constants; gradients of times are in :mod:`fastode.gradients.row_times`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..field import Field, is_per_row
from ..kernels import Binding
from ..kernels.torch_step import TorchStep
from ..problem import Problem
from ..rows.clock import RowsClock
from ..rows.dense import Pieces, coefficients_of
from ..rows.outputs import RowOutputs, RowStep, states_at
from ..stats import new_stats
from ..tableau import ButcherTableau
from ..tree import Parts
from .node import filled, pull_back

#: solves ``problem`` without a tape, keeping "", "steps" or "states"
Run = Callable[[Problem, str], tuple[RowsClock, RowOutputs]]


@dataclass
class Solved:
    """What a solve came to; parts carry gradients.

    Attributes:
        clock, outputs: of the solve that chose the steps.
        ys: [B, T, ...] states at the times of evaluation; y: [B, ...] after the last accepted step.
        events: [N, ...] states at events, in the order in which they were found.
        quartics: [M, 5, ...] of the steps in the order in which they were taken, or nothing.
    """

    clock: RowsClock
    outputs: RowOutputs
    ys: Parts
    y: Parts
    events: Parts
    quartics: Parts


def plain(problem: Problem, run: Run) -> Solved:
    """Without gradients."""
    clock, outputs = run(_detached(problem), "")
    return Solved(clock, outputs, outputs.ys, clock.y, _states_of_events(outputs), _quartics(outputs.pieces))


def autograd(problem: Problem, tableau: ButcherTableau, run: Run, dense: bool) -> Solved:
    """One tape of all accepted steps, which can be differentiated again."""
    clock, outputs = run(_detached(problem), "steps")
    y = problem.y0
    at_start = outputs.at_start
    found = [tuple([p[at_start] for p in y])]
    places = [(at_start, torch.zeros_like(at_start))]
    events = [tuple([p[_events_at_start(outputs)] for p in y])]
    pieces = [Pieces.none(y, clock.t)] if dense else []
    for step in outputs.steps:
        taken = _take(problem, tableau, step, tuple([p[step.rows] for p in y]), problem.field.args, dense)
        y = tuple([p.index_copy(0, step.rows, q) for p, q in zip(y, taken.y1, strict=True)])
        for (at, index, _), values in zip(step.outputs, taken.inside, strict=True):
            found.append(values)
            places.append((step.rows[at], index))
        if taken.events:
            events.append(taken.events)
        pieces += taken.pieces
    found.append(tuple([p[outputs.at_end] for p in y]))
    places.append((outputs.at_end, outputs.next[outputs.at_end] - 1))
    rows, index = (torch.cat(x) for x in zip(*places, strict=True))
    ys = tuple([out.index_put((rows, index), torch.cat([f[p] for f in found])) for p, out in enumerate(outputs.ys)])
    outputs.pieces = pieces
    return Solved(clock, outputs, ys, y, _joined(events), _quartics(pieces))


def discrete(problem: Problem, tableau: ButcherTableau, run: Run, inputs: Sequence[Tensor], dense: bool) -> Solved:
    """One node of ``y0`` and ``inputs``: a state a step is kept, stages are computed again."""
    leaves = Leaves(inputs, problem.field.args)
    box: list[Solved] = []
    n = len(problem.y0)
    flat = _Discrete.apply(problem, tableau, run, box, dense, leaves.places, *problem.y0, *leaves.inputs)
    solved = box.pop()
    return replace(solved, ys=flat[:n], y=flat[n : 2 * n], events=flat[2 * n : 3 * n], quartics=flat[3 * n :])


class Leaves:
    """The inputs of a node beside ``y0``, and their cotangents.

    Args:
        inputs: tensors that require grad, each once.
        args: the extra arguments of the field; places: for each its place among the inputs, or None; found out if not
            given.

    Attributes:
        totals: cotangents of the inputs.
    """

    def __init__(self, inputs: Sequence[Tensor], args: tuple[Any, ...], places: list[int | None] | None = None) -> None:
        self.inputs = list({id(x): x for x in inputs}.values())
        self._args = args
        self.places = (
            [next((i for i, x in enumerate(self.inputs) if x is a), None) for a in args] if places is None else places
        )
        self.totals = [torch.zeros_like(x) for x in self.inputs]

    def arguments(self) -> tuple[tuple[Any, ...], list[Tensor]]:
        """The field's arguments with fresh leaves in the place of inputs, and these leaves."""
        fresh = [None if i is None else self.inputs[i].detach().requires_grad_() for i in self.places]
        args = tuple([a if x is None else x for a, x in zip(self._args, fresh, strict=True)])
        return args, [x for x in fresh if x is not None]

    def add(self, found: Sequence[Tensor | None]) -> None:
        """Add cotangents of the inputs and then of the fresh leaves."""
        targets = [*range(len(self.inputs)), *[i for i in self.places if i is not None]]
        for i, g in zip(targets, found, strict=True):
            if g is not None:
                self.totals[i] += g


class _Discrete(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        problem: Problem,
        tableau: ButcherTableau,
        run: Run,
        box: list[Solved],
        dense: bool,
        places: list[int | None],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        clock, outputs = run(_detached(problem), "states")
        solved = Solved(clock, outputs, outputs.ys, clock.y, _states_of_events(outputs), _quartics(outputs.pieces))
        box.append(solved)
        ctx.problem, ctx.tableau, ctx.outputs, ctx.dense, ctx.places = problem, tableau, outputs, dense, places
        ctx.save_for_backward(*tensors)
        return *solved.ys, *solved.y, *solved.events, *solved.quartics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        problem = replace(ctx.problem, stats=new_stats(ctx.problem.stats.method, "backward"))
        outputs, n = ctx.outputs, len(problem.y0)
        leaves = Leaves(ctx.saved_tensors[n:], problem.field.args, ctx.places)
        g_ys, g_y, g_events, g_quartics = (grads[i * n : (i + 1) * n] for i in range(4))
        bar = [g.clone() for g in g_y]
        at_end = outputs.at_end
        for b, g in zip(bar, g_ys, strict=True):
            b[at_end] += g[at_end, outputs.next[at_end] - 1]
        #: how many events and quartics come before the step
        n_events = sum(len(found) for found in ([] if outputs.events is None else outputs.events.t))
        n_quartics = sum(len(step.rows) for step in outputs.steps)
        for step in reversed(outputs.steps):
            y = tuple([p.detach().requires_grad_() for p in step.y])
            args, copies = leaves.arguments()
            with torch.enable_grad():
                taken = _take(problem, ctx.tableau, step, y, args, ctx.dense)
            n_events -= len(step.events[0])
            n_quartics -= len(step.rows)
            values = [*taken.y1, *[v for parts in taken.inside for v in parts], *taken.events]
            cotangents = [b[step.rows] for b in bar]
            for at, index, _ in step.outputs:
                cotangents += [g[step.rows[at], index] for g in g_ys]
            if taken.events:
                cotangents += [g[n_events : n_events + len(step.events[0])] for g in g_events]
            for piece in taken.pieces:
                values += piece.coefficients
                cotangents += [g[n_quartics : n_quartics + len(step.rows)] for g in g_quartics]
            found = pull_back(values, [*y, *leaves.inputs, *copies], cotangents)
            for b, g in zip(bar, filled(found[:n], y), strict=True):
                b[step.rows] = g
            leaves.add(found[n:])
        at_start = outputs.at_start
        for b, g in zip(bar, g_ys, strict=True):
            b[at_start] += g[at_start, 0]
        starting = _events_at_start(outputs)
        for b, g in zip(bar, g_events, strict=True):
            b.index_add_(0, starting, g[: len(starting)])
        return None, None, None, None, None, None, *bar, *leaves.totals


@dataclass
class _Taken:
    """A step taken again: new states, states at each round of outputs and at events (if any), quartics if asked for."""

    y1: Parts
    inside: list[Parts]
    events: Parts
    pieces: list[Pieces]


def _take(
    problem: Problem, tableau: ButcherTableau, step: RowStep, y: Parts, args: tuple[Any, ...], dense: bool
) -> _Taken:
    """The step of ``step.rows`` again, from ``y``."""
    rows = step.rows
    n = problem.field.shapes[0][0]
    own = tuple([a[rows] if is_per_row(a, n) else a for a in args])
    field = Field(problem.field.func, own, y, problem.spec, problem.stats)
    no_error = [0.0] * len(y)
    kernels = TorchStep(Binding(tableau, y, no_error, no_error, rows=len(rows)))
    times = kernels.begin(step.t, step.dt, step.t1, y)
    k = field(step.start, y)
    for i in range(1, tableau.stages):
        k = field(times[i], kernels.stage(i, k))
    y1 = kernels.advance(k)
    events: Parts = ()
    pieces = []
    at, x = step.events
    if len(at):
        quartics = coefficients_of(tableau, kernels, y, y1, step.dt, at)
        events = Pieces(rows[at], step.t[at], step.dt[at], quartics)(x)
    if dense:
        everything = torch.arange(len(rows), device=rows.device)
        quartics = coefficients_of(tableau, kernels, y, y1, step.dt, everything)
        pieces.append(Pieces(rows, step.t, step.dt, quartics))
    return _Taken(y1, [states_at(kernels, y1, at, x) for at, _, x in step.outputs], events, pieces)


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
