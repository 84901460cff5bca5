"""Where the rows of a solve are, in device memory: what the controller reads and writes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...controller import Controller
from ..row_state import RowState
from ..upload import upload

#: [R] float64 each, one behind the other in `DeviceState.reals`; `history` is two a row
REALS = ("t", "t1", "dt", "size", "history", "older", "err", "t_end", "tried_t", "tried_dt")
#: [R] int64 each, one behind the other in `DeviceState.counts`
COUNTS = ("status", "accept", "n_accepted", "n_rejected", "next_stop", "next_output", "first_output", "since_output")


@dataclass
class DeviceState:
    """The arrays of :class:`~fastode.kernels.row_state.RowState`, packed in two, and what kernels hand on.

    Attributes:
        reals: [10, R] float64: as in ``RowState`` (``history`` and ``older`` are its two columns); ``tried_t`` and
            ``tried_dt`` are start and signed size of the attempt that ``control`` judged last.
        counts: [8, R] int64: as in ``RowState``; ``first_output`` up to ``next_output`` are the outputs that the
            attempt passed; ``since_output`` counts the attempts since the last one.
        stops: [R, K] float64.
        jumps: [R, K] int64; 1 at stops where the row pauses (status ``EVENT``), for the host to change its state.
        due: [R, T + 1] float64; times of outputs in the order in which they come, and NaN after the last.
        times: [S, R] times of the stages of the attempt under way, in the state's real dtype.
        limits: [12] float64: order, safety, least and largest factor, least and largest step, the exponents of the
            filter, divided by the order, the most attempts of a row, in all and (lockstep) between two outputs, and
            (lockstep) 1 if a row goes on from a pause with the size from before it was cut, where that is larger.
    """

    reals: Tensor
    counts: Tensor
    stops: Tensor
    jumps: Tensor
    due: Tensor
    times: Tensor
    limits: Tensor

    @classmethod
    def begin(
        cls,
        t0: Tensor,
        t_end: Tensor,
        stops: Tensor,
        due: Tensor,
        stages: int,
        dtype: torch.dtype,
        rule: Controller,
        most_attempts: float,
        most_since_output: float = math.inf,
        jumps: Tensor | None = None,
        resume: bool = False,
    ) -> DeviceState:
        """Rows that run from ``t0`` to ``t_end``, [R] float64; the sizes of their first steps are still to be set."""
        rows = len(t0)
        reals = torch.zeros(len(REALS), rows, dtype=torch.float64, device=t0.device)
        exponents = [f / rule.order for f in rule.filter]
        numbers = [rule.order, rule.safety, rule.factor_min, rule.factor_max, rule.dt_min, rule.dt_max, *exponents]
        numbers += [most_attempts, most_since_output, float(resume)]
        state = cls(
            reals=reals,
            counts=torch.zeros(len(COUNTS), rows, dtype=torch.int64, device=t0.device),
            stops=stops.contiguous(),
            jumps=torch.zeros_like(stops, dtype=torch.int64) if jumps is None else jumps.contiguous(),
            due=due.contiguous(),
            times=torch.zeros(stages, rows, dtype=dtype, device=t0.device),
            limits=upload(torch.tensor(numbers, dtype=torch.float64), t0.device),
        )
        for name in ("t", "t1", "tried_t"):
            state.real(name).copy_(t0)
        state.real("t_end").copy_(t_end)
        reals[REALS.index("history") : REALS.index("older") + 1] = 1.0
        return state

    def real(self, name: str) -> Tensor:
        """One of :data:`REALS`, [R], a view."""
        return self.reals[REALS.index(name)]

    def count(self, name: str) -> Tensor:
        """One of :data:`COUNTS`, [R], a view."""
        return self.counts[COUNTS.index(name)]

    def of_row(self) -> dict[str, float]:
        """All numbers of the only row, by name; waits for the device twice."""
        reals, counts = (x[:, 0].tolist() for x in (self.reals, self.counts))
        return {**dict(zip(REALS, reals, strict=True)), **dict(zip(COUNTS, counts, strict=True))}

    def __len__(self) -> int:
        return self.reals.shape[1]

    def take(self, rows: Tensor) -> DeviceState:
        """A copy of some rows."""
        reals, counts, times = (x[:, rows] for x in (self.reals, self.counts, self.times))
        return DeviceState(reals, counts, self.stops[rows], self.jumps[rows], self.due[rows], times, self.limits)

    def store(self, state: RowState, rows: Tensor | None) -> None:
        """Write what a solve is judged by into ``rows`` of ``state`` (None: all of them)."""
        at = slice(None) if rows is None else rows
        for name in ("t", "t1", "dt", "size", "err"):
            getattr(state, name)[at] = self.real(name)
        state.history[at] = torch.stack([self.real("history"), self.real("older")], dim=1)
        for name in ("status", "accept", "n_accepted", "n_rejected", "next_stop"):
            array = getattr(state, name)
            array[at] = self.count(name).to(array.dtype)
