"""What a solve with a step size for each row returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from torch import Tensor

from ..errors import InvalidArgument, NonFiniteState, SolverError, StepSizeUnderflow, TooManySteps
from ..kernels import row_state
from .dense import DenseRows


class Status(IntEnum):
    """What became of a row."""

    RUNNING = row_state.RUNNING
    FINISHED = row_state.FINISHED
    STEP_UNDERFLOW = row_state.STEP_UNDERFLOW
    NON_FINITE = row_state.NON_FINITE
    TOO_MANY_STEPS = row_state.TOO_MANY_STEPS
    EVENT = row_state.EVENT

    @property
    def message(self) -> str:
        """In words."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.RUNNING: "the solve has not reached the end of its time span",
    Status.FINISHED: "the end of the time span was reached",
    Status.STEP_UNDERFLOW: "the step size fell below the spacing of floating-point numbers at t",
    Status.NON_FINITE: "the state, the field or an event function is not finite, however small the step",
    Status.TOO_MANY_STEPS: "the limit on the number of steps was reached",
    Status.EVENT: "a terminal event was reached",
}

_ERRORS: dict[Status, type[SolverError]] = {
    Status.STEP_UNDERFLOW: StepSizeUnderflow,
    Status.NON_FINITE: NonFiniteState,
    Status.TOO_MANY_STEPS: TooManySteps,
}


@dataclass(frozen=True)
class RowStats:
    """The cost of each row, int64 tensors [B] unless said.

    Attributes:
        n_func: evaluations of the field that the row needed: as many as when it is solved alone.
        n_accepted, n_rejected: its attempts.
        dt: float64; the step size that would come next.
        n_calls: calls of the field for the whole batch while steps were chosen (an int); a gradient takes them again.
            0 for a compiled field, which is not called.
    """

    n_func: Tensor
    n_accepted: Tensor
    n_rejected: Tensor
    dt: Tensor
    n_calls: int

    @property
    def n_steps(self) -> Tensor:
        """Attempted steps."""
        return self.n_accepted + self.n_rejected


@dataclass(frozen=True)
class Solution:
    """Solutions of B initial value problems.

    Attributes:
        ts: [B, T] float64; times of evaluation, NaN where a row has fewer than T.
        ys: [B, T, ...] (in the structure of ``y0``); states at them, NaN where the row stopped earlier.
        t: [B] float64; where each row stopped: the end of its span, a terminal event, or where it failed.
        y: like ``y0``; its last good state, at ``t``.
        status: [B] int32; see :class:`Status`.
        stats: cost of each row.
        event_t: for each event function [B, N] float64; times of its events in the order in which they came, NaN where
            a row has fewer than N.
        event_y: for each event function [B, N, ...] (in the structure of ``y0``); states at them.
        dense: what :meth:`sol` evaluates, or None.
    """

    ts: Tensor
    ys: Any
    t: Tensor
    y: Any
    status: Tensor
    stats: RowStats
    event_t: tuple[Tensor, ...] = ()
    event_y: tuple[Any, ...] = ()
    dense: DenseRows | None = None

    def sol(self, t: float | Tensor) -> Any:
        """States at any time of the spans: :meth:`fastode.rows.dense.DenseRows.__call__`.

        Raises:
            InvalidArgument: the solve was not asked for it, or ``t`` lies outside.
        """
        if self.dense is None:
            raise InvalidArgument("this solution has no dense output: use solve(..., dense=True)")
        return self.dense(t)

    @property
    def failed(self) -> Tensor:
        """[B] bool; rows that reached neither the end of their span nor a terminal event."""
        return (self.status != Status.FINISHED) & (self.status != Status.EVENT)

    def raise_for_status(self) -> Solution:
        """The solution itself if every row reached its end or a terminal event.

        Raises:
            StepSizeUnderflow, NonFiniteState, TooManySteps: the first row that failed, with its time and how many did.
        """
        rows: Sequence[int] = self.failed.nonzero().flatten().tolist()
        if not rows:
            return self
        row = rows[0]
        status = Status(int(self.status[row]))
        raise _ERRORS[status](
            f"{len(rows)} of {len(self.status)} rows failed, the first of them row {row} at t={float(self.t[row]):.9g} "
            f"after {int(self.stats.n_steps[row])} steps: {status.message} (status {status.name})"
        )
