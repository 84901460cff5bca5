"""``solve`` on the device: every row takes its own steps, chosen there.

Rows that have stopped leave the batch when the host looks and finds enough of them
(:data:`fastode.rows.clock.COMPACT_AT`).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..kernels.row_state import RUNNING
from ..kernels.triton import DeviceState
from ..problem import Problem
from ..rows.clock import COMPACT_AT, RowsClock, choose_first_steps
from ..rows.outputs import RowOutputs, RowStep
from ..tableau import ButcherTableau
from ..tree import Parts
from .attempt import Attempt
from .progress import Progress, detached, on_device_of


def refusal(clock: RowsClock, outputs: RowOutputs) -> str:
    """Why this solve cannot stay on the device, or an empty string."""
    if outputs.events is not None or outputs.dense:
        return "events and dense solutions"
    return "jump_t" if clock.jumps is not None else ""


class _Batch:
    """The rows that are in the batch.

    Attributes:
        rows: which rows of the solve these are, or None for all of them.
        known: whether ``k_first`` is the slope at the state also for a method that evaluates it in every attempt.
    """

    def __init__(
        self,
        problem: Problem,
        tableau: ButcherTableau,
        outputs: RowOutputs,
        state: DeviceState,
        k_first: Parts,
        rows: Tensor | None,
        known: bool = True,
    ) -> None:
        self.problem, self.tableau, self.outputs, self.state, self.rows = problem, tableau, outputs, state, rows
        self.y, self.k_first = detached(problem.y0), k_first
        fresh = not tableau.last_stage_is_solution
        self.attempt = Attempt(
            problem, tableau, state, self.y, k_first, outputs.ys, lockstep=False, places=rows, fresh=fresh, known=known
        )
        #: attempts whose steps are kept: the state's numbers after the decision, and the states before it
        self.pending: list[tuple[Tensor, Tensor, Parts]] = []

    def queue(self) -> None:
        """Queue an attempt, and remember it if steps are kept."""
        y1, k = self.attempt.judge()
        if keep := self.outputs.keep:
            y = tuple([p.clone() for p in self.y]) if keep == "states" else ()
            self.pending.append((self.state.reals.clone(), self.state.counts.clone(), y))
        self.attempt.commit(y1, k)

    def record(self) -> None:
        """Make the accepted among the attempts queued so far what a gradient takes again; waits for the device."""
        for reals, counts, y in self.pending:
            state = dataclasses.replace(self.state, reals=reals, counts=counts)
            took = state.count("accept").nonzero().squeeze(1)
            if len(took):
                self.outputs.steps.append(_kept_step(state, took, y, self.rows, self.outputs.dtype))
        self.pending.clear()

    def store(self, clock: RowsClock) -> None:
        """Write where the rows are into the solve's own arrays."""
        at = slice(None) if self.rows is None else self.rows
        self.state.store(clock.all, self.rows)
        self.outputs.next[at] = self.state.count("next_output")
        for mine, part in zip(clock.y, self.y, strict=True):
            mine[at] = part

    def compacted(self) -> _Batch:
        """The batch without the rows that have stopped."""
        stay = (self.state.count("status") == RUNNING).nonzero().squeeze(1)
        rows = stay if self.rows is None else self.rows[stay]
        problem = self.problem.take_rows(stay, self.y)
        k_first = tuple([k[stay] for k in self.k_first])
        return _Batch(problem, self.tableau, self.outputs, self.state.take(stay), k_first, rows, known=False)


def _kept_step(state: DeviceState, took: Tensor, y: Parts, rows: Tensor | None, dtype: torch.dtype) -> RowStep:
    """The step of the rows at positions ``took``, just judged."""
    t, dt, t1 = (state.real(name)[took] for name in ("tried_t", "tried_dt", "t"))
    first, last = (state.count(name)[took] for name in ("first_output", "next_output"))
    rounds = []
    for i in range(int((last - first).max())):
        at = (first + i < last).nonzero().squeeze(1)
        index = first[at] + i
        due = state.due[took[at], index]
        rounds.append((at, index, torch.where(due == t1[at], 1.0, (due - t[at]) / dt[at])))
    nothing = took[:0], t[:0]
    which = took if rows is None else rows[took]
    return RowStep(which, t, dt, t1, t.to(dtype), tuple([p[took] for p in y]), rounds, nothing)


def integrate(problem: Problem, tableau: ButcherTableau, clock: RowsClock, outputs: RowOutputs, max_steps: int) -> None:
    """Take all steps of all rows, into ``clock`` and ``outputs``."""
    with on_device_of(problem.y0[0]):
        _integrate(problem, tableau, clock, outputs, max_steps)


def _integrate(
    problem: Problem, tableau: ButcherTableau, clock: RowsClock, outputs: RowOutputs, max_steps: int
) -> None:
    outputs.start(clock.t, clock.y)
    state = clock.all
    k0 = problem.field(clock.start_times(None, state.t, problem.real_dtype), problem.y0)
    k0 = choose_first_steps(problem, tableau, clock, k0) if clock.undecided else k0
    on_device = DeviceState.begin(
        state.t, state.t_end, state.stops, outputs.due, tableau.stages, problem.real_dtype, clock.controller, max_steps
    )
    on_device.real("size").copy_(state.size)
    on_device.count("next_output").copy_(outputs.next)
    batch = _Batch(problem, tableau, outputs, on_device, detached(k0), None)
    batch.attempt.start()
    progress = Progress(problem.y0[0].device)
    running, count = progress.ask(batch.state)
    queued = 0
    while running:
        for _ in range(count):
            batch.queue()
        queued += count
        running, count = progress.ask(batch.state)
        batch.record()
        if clock.may_compact and 0 < running <= COMPACT_AT * len(batch.state):
            batch.store(clock)
            batch = batch.compacted()
    batch.store(clock)
    clock.end(clock.y)
    if len(state):
        stats, fresh = problem.stats, not tableau.last_stage_is_solution
        stats.n_idle = queued - int((state.n_accepted + state.n_rejected).max())
        stats.n_func -= stats.n_idle * (tableau.stages - (not fresh))
