"""Outputs of a solve in which every row has its own steps and times of evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..kernels.reference import where_rows
from ..loop import Kernels, Step
from ..problem import Problem
from ..tableau import ButcherTableau
from ..tree import Parts
from .clock import RowsClock
from .dense import Pieces
from .events import Found, RowEvents


@dataclass
class RowStep:
    """Accepted steps of some rows, as a replay needs them.

    Attributes:
        rows: [n] which rows of the batch.
        t, dt, t1: [n] float64; start, signed size and end.
        start: [n] of the state's real dtype; time of the first slope, just after a jump where there is one.
        y: states at the start, or nothing if they are not kept.
        outputs: for each round of outputs inside the step: positions among ``rows``, indices of the times, and
            fractions of the step (1 at its end).
        events: positions among ``rows`` and fractions of the step, of the events inside.
    """

    rows: Tensor
    t: Tensor
    dt: Tensor
    t1: Tensor
    start: Tensor
    y: Parts
    outputs: list[tuple[Tensor, Tensor, Tensor]]
    events: tuple[Tensor, Tensor]


class RowOutputs:
    """States at the times of evaluation, by dense output where a row's step passed one.

    Args:
        ts: [R, T] float64; increasing or decreasing as the row runs, NaN after the last.
        events: what stops rows inside a step, or None.
        keep: whether to record steps for a gradient, and with their states: "", "steps" or "states".
        dense: whether to keep the quartic of every step.

    Attributes:
        ys: for each part [R, T, ...], NaN where not reached.
        next: [R] how many times of each row were reached.
        steps, pieces: the records; record: that of a compiled field, whose steps native code keeps.
        at_start, at_end: rows whose first time is their start, and which reached their end where that is their last.
    """

    at_start: Tensor
    at_end: Tensor
    record: Any = None

    def __init__(
        self,
        problem: Problem,
        tableau: ButcherTableau,
        clock: RowsClock,
        ts: Tensor,
        events: RowEvents | None,
        keep: str,
        dense: bool,
    ) -> None:
        self.tableau = tableau
        self.ts = ts
        self.clock = clock
        self.events = events
        self.dtype = problem.real_dtype
        self.keep = keep
        self.dense = dense
        self.steps: list[RowStep] = []
        self.pieces = [Pieces.none(problem.y0, clock.t)] if dense else []
        # The end of a span needs no dense output: it is filled in when the solve is over.
        self.ends = ts == clock.active.t_end[:, None]
        #: after the last time comes one that is never reached
        self.due = torch.cat([ts.masked_fill(self.ends, torch.nan), torch.full_like(ts[:, :1], torch.nan)], dim=1)
        self.next = torch.zeros(len(ts), dtype=torch.int64, device=ts.device)
        nan = float("nan")
        self.ys = tuple([p.new_full((len(p), ts.shape[1], *p.shape[1:]), nan) for p in problem.y0])

    def start(self, t: Tensor, y: Parts) -> bool:
        """States and events at the start itself."""
        starting = self.ts[:, 0] == t
        self.at_start = starting.nonzero().squeeze(1)
        self._write(y, self.at_start, torch.zeros_like(self.at_start), 0)
        self.next += starting
        self.clock.active.due.copy_(self.due.gather(1, self.next[:, None]).squeeze(1))
        if self.events is not None:
            self.events.start(t, y)
        return False

    def finish(self) -> None:
        """The solve is over: states at the ends of the spans that were reached."""
        state = self.clock.all
        last = self.next[:, None] == torch.arange(self.ts.shape[1], device=self.next.device)
        reached = self.ends & last & (state.t == state.t_end)[:, None]
        self.at_end, index = reached.nonzero().unbind(1)
        self._write(self.clock.y, self.at_end, index, self.ts.shape[1] - 1)
        self.next += reached.any(dim=1)

    def _write(self, y: Parts, rows: Tensor, index: Tensor, usual: int) -> None:
        """States of ``rows`` at their times ``index``; as a rule those of all rows, at the same time.

        Torch indexes by tensors on several threads, which then hold a core of a native solve while they wait for more.
        """
        everyone = len(rows) == len(self.next) and bool((index == usual).all())
        for out, part in zip(self.ys, y, strict=True):
            if everyone:
                out[:, usual] = part
            else:
                out[rows, index] = part[rows]

    def accepted(self, step: Step) -> bool:
        """Outputs and events that the step passed in the rows that accepted it."""
        clock, accept = self.clock, step.accept
        assert isinstance(accept, Tensor)
        found = None if self.events is None else self.events.accepted(step)
        rounds = self._reached(step, found) if len(clock.with_output) else []
        if self.keep:
            self._record(step, accept, rounds, found)
        if self.dense:
            at = accept.nonzero().squeeze(1)
            self.pieces.append(Pieces.of_step(self.tableau, step, clock.rows_at(at), at))
        return False

    def _reached(self, step: Step, found: Found | None) -> list[tuple[Tensor, Tensor, Tensor]]:
        """States at the times that were passed; positions, indices of the times and fractions, by rounds."""
        clock, here = self.clock, self.clock.with_output
        sign, end = clock.sign[here], step.t1
        if found is not None:
            last = found.at[found.terminal]
            end = end.index_copy(0, last, found.t[found.terminal])
        end = sign * end[here]
        rounds: list[tuple[Tensor, Tensor, Tensor]] = []
        t = clock.active.due[here]
        while True:
            passed = sign * t <= end
            if not bool(passed.all()):
                here, sign, end, t = here[passed], sign[passed], end[passed], t[passed]
                if not len(here):
                    return rounds
            rows = clock.rows_at(here)
            index = self.next[rows]
            x = torch.where(t == step.t1[here], 1.0, (t - step.t[here]) / step.dt[here])
            for out, values in zip(self.ys, states_at(step.kernels, step.y1, here, x), strict=True):
                out[rows, index] = values
            self.next[rows] = index + 1
            t = self.due[rows, index + 1]
            clock.active.due[here] = t
            rounds.append((here, index, x))

    def _record(
        self, step: Step, accept: Tensor, rounds: list[tuple[Tensor, Tensor, Tensor]], found: Found | None
    ) -> None:
        took = accept.nonzero().squeeze(1)
        rows = self.clock.rows_at(took)
        place = torch.cumsum(accept, 0) - 1
        nothing = took[:0], step.t[:0]
        self.steps.append(
            RowStep(
                rows,
                step.t[took],
                step.dt[took],
                step.t1[took],
                self.clock.start_times(rows, step.t[took], self.dtype),
                tuple([p[took] for p in step.y]) if self.keep == "states" else (),
                [(place[here], index, x) for here, index, x in rounds],
                nothing if found is None else (place[found.at], found.x),
            )
        )


def states_at(kernels: Kernels, y1: Parts, at: Tensor, x: Tensor) -> Parts:
    """States of the rows ``at`` at fractions ``x`` of the step just finished; ``y1`` itself where that is 1."""
    ends = tuple([p[at] for p in y1])
    at_end = x == 1.0
    if bool(at_end.all()):
        return ends
    fractions = x.new_zeros(len(y1[0])).index_copy(0, at, x)
    return tuple([where_rows(at_end, e, b[at]) for e, b in zip(ends, kernels.interpolate(fractions), strict=True)])
