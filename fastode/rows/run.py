"""Run a solve of rows: take the steps, then attach gradients and put together what the user gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..compiler.rows import NativeRows
from ..controller import Controller
from ..errors import UnsupportedInput
from ..gradients.row_backsolve import backsolve
from ..gradients.row_times import event_shifts, flow, shift_of
from ..gradients.rows import Run, Solved, autograd, discrete, plain
from ..kernels import Engine
from ..kernels.row_state import FINISHED, RowState
from ..loop import integrate
from ..problem import Problem
from ..tableau import ButcherTableau
from ..tree import Parts
from .clock import RowsClock
from .dense import DenseRows, Pieces
from .events import Event, RowEvents, in_table
from .outputs import RowOutputs
from .solution import RowStats, Solution

GRADIENTS = ("discrete", "autograd", "backsolve")


@dataclass(frozen=True)
class RowRequest:
    """A checked call of ``solve``.

    Attributes:
        t0, t_end: [B] float64; ts: [B, T], NaN after the last. They may require grad.
        first_step: [B], or None to have it chosen.
        stops, jumps: [B, S] where steps must end, and at which of them the field jumps.
        inputs: tensors that require grad, beside ``y0`` and the times.
        restore: gives the states of the solution the user's structure.
        native: takes the steps of a compiled field.
    """

    problem: Problem
    tableau: ButcherTableau
    engine: Engine
    controller: Controller
    t0: Tensor
    t_end: Tensor
    ts: Tensor
    first_step: Tensor | None
    stops: Tensor
    jumps: Tensor
    events: tuple[Event, ...]
    dense: bool
    max_steps: int
    compact: bool
    gradient: str
    inputs: Sequence[Tensor]
    restore: Callable[[Parts], Any]
    native: NativeRows | None = None

    @property
    def times_move(self) -> bool:
        """Whether gradients of times are wanted."""
        return torch.is_grad_enabled() and any(t.requires_grad for t in (self.t0, self.t_end, self.ts))

    @property
    def twice(self) -> bool:
        """Whether second derivatives are."""
        return self.gradient == "autograd"


def run(request: RowRequest) -> Solution:
    """What ``solve`` returns."""
    problem = request.problem
    if request.times_move:
        _need_compact(request)
        start = flow(problem, None, request.t0, problem.y0, -shift_of(request.t0), request.twice)
        problem = replace(problem, y0=start)
    calls = problem.stats.n_func

    def steps(detached: Problem, keep: str) -> RowOutputs:
        nonlocal calls
        outputs = _take_steps(request, detached, keep)
        calls = detached.stats.n_func - calls
        return outputs

    solved = _solve(request, problem, steps)
    clock = solved.outputs.clock
    state = clock.all
    ys, y, t, ts = solved.ys, solved.y, state.t, request.ts
    if request.times_move:
        reached = torch.arange(ts.shape[1], device=ts.device) < solved.outputs.next[:, None]
        ys = _moved(request, problem, reached, ts, ys)
        finished = state.status == FINISHED
        y = _moved(request, problem, finished, request.t_end, y)
        t = torch.where(finished, request.t_end, t)
    event_t: tuple[Tensor, ...] = ()
    event_y: tuple[Parts, ...] = ()
    if (events := solved.outputs.events) is not None:
        rows, which, when = (torch.cat(found) for found in (events.rows, events.which, events.t))
        states = solved.events
        shifts = event_shifts(problem, request.events, which, rows, when, states, request.twice)
        if shifts.requires_grad:
            _need_compact(request)
            states = flow(problem, rows, when, states, shifts, request.twice)
            when = when + shifts
        last = torch.full_like(state.status, -1, dtype=torch.int64)
        terminal = events.terminal[which].nonzero().squeeze(1)
        last[rows[terminal]] = terminal
        ended = (last >= 0).nonzero().squeeze(1)
        y = tuple([p.index_copy(0, ended, s[last[ended]]) for p, s in zip(y, states, strict=True)])
        t = t.index_copy(0, ended, when[last[ended]])
        event_t, event_y = in_table(rows, which, when, states, len(t), len(request.events))
    dense = None
    if request.dense:
        pieces = Pieces.join(solved.outputs.pieces, solved.quartics)
        dense = DenseRows(pieces, request.t0.detach(), request.t_end.detach(), state.t, problem.y0, request.restore)
    extra = clock.n_jumps if request.tableau.last_stage_is_solution else state.n_accepted
    attempts = state.n_accepted + state.n_rejected
    return Solution(
        ts=ts,
        ys=request.restore(ys),
        t=t,
        y=request.restore(y),
        status=state.status,
        stats=RowStats(
            n_func=(1 if request.first_step is not None else 2) + attempts * (request.tableau.stages - 1) + extra,
            n_accepted=state.n_accepted,
            n_rejected=state.n_rejected,
            dt=state.size,
            n_calls=0 if request.native is not None else calls,
        ),
        event_t=event_t,
        event_y=tuple([request.restore(p) for p in event_y]),
        dense=dense,
    )


def _take_steps(request: RowRequest, problem: Problem, keep: str) -> RowOutputs:
    """The solve itself, without a tape."""
    t0, t_end = request.t0.detach(), request.t_end.detach()
    clock = RowsClock(
        RowState.begin(t0, t_end, request.first_step, request.stops),
        problem.y0,
        request.controller,
        request.engine.control,
        problem.stats,
        request.max_steps,
        request.jumps,
        request.compact,
    )
    events = RowEvents(request.events, problem, request.tableau, clock) if request.events else None
    dense = request.dense and keep != "steps"
    outputs = RowOutputs(problem, request.tableau, clock, request.ts.detach(), events, keep, dense)
    with torch.no_grad():
        if request.native is not None:
            outputs.record = request.native.integrate(problem, clock, outputs, keep != "")
        elif request.engine.on_device and _stays_on_device(request, problem, clock, outputs):
            from ..device import rows

            rows.integrate(problem, request.tableau, clock, outputs, request.max_steps)
        else:
            integrate(problem, request.tableau, request.engine, clock, outputs)
        outputs.finish()
    return outputs


def _stays_on_device(request: RowRequest, problem: Problem, clock: RowsClock, outputs: RowOutputs) -> bool:
    """Whether the device can do all of it; the account says which engine serves, and why not the device."""
    from ..device import rows

    stats = problem.stats
    if reason := rows.refusal(clock, outputs):
        stats.reason = request.engine.leave_device(reason)
        return False
    stats.engine, stats.reason = "triton", ""
    return True


def _solve(request: RowRequest, problem: Problem, steps: Run) -> Solved:
    """The solve with the gradient asked for, if any input has one."""
    if request.native is not None:
        return request.native.solve(problem, steps)
    needed = torch.is_grad_enabled()
    if request.gradient != "autograd":
        needed = needed and any(x.requires_grad for x in (*problem.y0, *request.inputs))
    if not needed:
        return plain(problem, steps)
    if request.gradient == "autograd":
        return autograd(problem, request.tableau, steps, request.dense)
    if request.gradient == "backsolve":
        return backsolve(request, problem, steps)
    return discrete(problem, request.tableau, request.engine, steps, request.inputs, request.dense)


def _moved(request: RowRequest, problem: Problem, at: Tensor, t: Tensor, y: Parts) -> Parts:
    """States with the gradient of their times, where ``at`` (of the shape of ``t``) holds."""
    places = at.nonzero().unbind(1)
    shift = shift_of(t)[places]
    states = tuple([p[places] for p in y])
    moved = flow(problem, places[0], t.detach()[places], states, shift, request.twice)
    return tuple([p.index_put(places, m) for p, m in zip(y, moved, strict=True)])


def _need_compact(request: RowRequest) -> None:
    if not request.compact:
        raise UnsupportedInput(
            "gradients of times and events call `func` on parts of the batch, which compact=False rules out: pass what "
            "belongs to a row through `args`, or detach the times"
        )
