"""Where solves of their own are, one a row: the arrays that the controller reads and writes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

#: what became of a row; messages are in csrc/include/fastode/status.def
RUNNING, FINISHED, STEP_UNDERFLOW, NON_FINITE, TOO_MANY_STEPS, EVENT = range(6)

#: bounds the ratio of two errors, as an error of zero says nothing about how the next one compares with it
LEAST_ERROR = 1e-10
#: a row whose error is NaN gives up below this share of what is left: near t = 0 a step can shrink for long
LEAST_SHARE = 1e-30


@dataclass
class RowState:
    """Arrays [R], in the order in which C++ has them.

    Attributes:
        t, t1: where the row is, and where the attempt under way ends; float64, in units of t.
        dt: the attempt's signed size; 0 in a row that has stopped.
        size: what the controller proposes, positive, not cut.
        history: [R, 2] errors of the two accepted steps before.
        err: the scaled error norm of the attempt.
        t_end: where the row ends.
        accept: bool; whether the last attempt was accepted.
        status: int32.
        n_accepted, n_rejected: int64.
        stops: [R, K] where a step must end before ``t_end``, in the order in which they come; then ``t_end``.
        next_stop: int64; how many of them are behind the row.
        due: the next time at which the row has an output; NaN after the last.
    """

    t: Tensor
    t1: Tensor
    dt: Tensor
    size: Tensor
    history: Tensor
    err: Tensor
    t_end: Tensor
    accept: Tensor
    status: Tensor
    n_accepted: Tensor
    n_rejected: Tensor
    stops: Tensor
    next_stop: Tensor
    due: Tensor

    @classmethod
    def begin(cls, t0: Tensor, t_end: Tensor, size: Tensor | None, stops: Tensor | None = None) -> RowState:
        """Rows that run from ``t0`` to ``t_end``, [R] float64, with a first step of ``size`` (None: NaN)."""
        count = torch.zeros_like(t0, dtype=torch.int64)
        return cls(
            t=t0.clone(),
            t1=t0.clone(),
            dt=torch.zeros_like(t0),
            size=torch.full_like(t0, torch.nan) if size is None else size.to(torch.float64).clone(),
            history=torch.ones(len(t0), 2, dtype=torch.float64, device=t0.device),
            err=torch.zeros_like(t0),
            t_end=t_end.to(torch.float64).clone(),
            accept=torch.zeros_like(count, dtype=torch.bool),
            status=torch.full_like(count, RUNNING, dtype=torch.int32),
            n_accepted=count,
            n_rejected=count.clone(),
            stops=t0.new_empty(len(t0), 0) if stops is None else stops.contiguous(),
            next_stop=count.clone(),
            due=torch.full_like(t0, torch.nan),
        )

    def take(self, rows: Tensor) -> RowState:
        """A copy of some rows."""
        return RowState(*[getattr(self, f.name)[rows] for f in fields(self)])

    def put(self, rows: Tensor, state: RowState) -> None:
        """Write ``state`` into some rows."""
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(state, f.name)

    @cached_property
    def addresses(self) -> list[int]:
        """Of the arrays, which stay where they are; and last K."""
        return [*[getattr(self, f.name).data_ptr() for f in fields(self)], self.stops.shape[1]]

    def __len__(self) -> int:
        return len(self.t)
