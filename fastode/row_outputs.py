"""Outputs of a solve in which every row has its own steps and times of evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .loop import Step
from .problem import Problem
from .rows import RowsClock
from .tree import Parts


@dataclass
class RowStep:
    """Accepted steps of some rows, as a replay needs them.

    Attributes:
        rows: [n] which rows of the batch.
        t, dt, t1: [n] float64; start, signed size and end.
        y: states at the start, or nothing if they are not kept.
        outputs: for each round of outputs inside the step: positions among ``rows``, indices of the times, and
            fractions of the step (1 at its end).
    """

    rows: Tensor
    t: Tensor
    dt: Tensor
    t1: Tensor
    y: Parts
    outputs: list[tuple[Tensor, Tensor, Tensor]]


class RowOutputs:
    """States at the times of evaluation, by dense output where a row's step passed one.

    Args:
        ts: [R, T] float64; increasing or decreasing as the row runs, NaN after the last.
        keep: whether to record steps for a gradient, and with their states: "", "steps" or "states".

    Attributes:
        ys: for each part [R, T, ...], NaN where not reached.
        steps: the record.
        at_start: rows whose first time is their start.
    """

    def __init__(self, problem: Problem, clock: RowsClock, ts: Tensor, keep: str) -> None:
        self.clock = clock
        self.keep = keep
        self.steps: list[RowStep] = []
        self.at_start = torch.empty(0, dtype=torch.int64)
        #: times in the direction of each row; after the last comes one that is never reached
        end = torch.full_like(ts[:, :1], torch.inf)
        self.due = torch.cat([torch.where(ts.isnan(), torch.inf, ts * clock.sign[:, None]), end], dim=1)
        self.next = torch.zeros(len(ts), dtype=torch.int64, device=ts.device)
        nan = float("nan")
        self.ys = tuple([p.new_full((len(p), ts.shape[1], *p.shape[1:]), nan) for p in problem.y0])

    def start(self, t: Tensor, y: Parts) -> bool:
        """States at the start itself."""
        starting = self.due[:, 0] == self.clock.sign * t
        self.at_start = starting.nonzero().squeeze(1)
        for out, part in zip(self.ys, y, strict=True):
            out[self.at_start, 0] = part[self.at_start]
        self.next += starting
        return False

    def accepted(self, step: Step) -> bool:
        """Outputs that the step passed in the rows that accepted it."""
        clock, accept = self.clock, step.accept
        assert isinstance(accept, Tensor)
        end = clock.sign * step.t1
        rounds: list[tuple[Tensor, Tensor, Tensor]] = []
        while True:
            at = self.next if clock.rows is None else self.next[clock.rows]
            due = (self.due if clock.rows is None else self.due[clock.rows]).gather(1, at[:, None]).squeeze(1)
            hit = accept & (due <= end)
            if not bool(hit.any()):
                break
            due = clock.sign * due
            x = torch.where(hit, (due - step.t) / step.dt, 0.0)
            x = torch.where(due == step.t1, 1.0, x)
            here = hit.nonzero().squeeze(1)
            rows, index = here if clock.rows is None else clock.rows[here], at[here]
            at_end = x[here] == 1.0
            for out, value, y1 in zip(self.ys, step.kernels.interpolate(x), step.y1, strict=True):
                shape = (-1, *[1] * (value.ndim - 1))
                out[rows, index] = torch.where(at_end.view(shape), y1[here], value[here])
            self.next[rows] += 1
            rounds.append((here, index, x[here]))
        if self.keep:
            self._record(step, accept, rounds)
        return False

    def _record(self, step: Step, accept: Tensor, rounds: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        took = accept.nonzero().squeeze(1)
        place = torch.cumsum(accept, 0) - 1
        self.steps.append(
            RowStep(
                took if self.clock.rows is None else self.clock.rows[took],
                step.t[took],
                step.dt[took],
                step.t1[took],
                tuple([p[took] for p in step.y]) if self.keep == "states" else (),
                [(place[here], index, x) for here, index, x in rounds],
            )
        )
