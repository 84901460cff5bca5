"""Where a solve is in time when every row has its own step size and span.

The step loop is that of one shared step (:mod:`fastode.loop`): ``t``, ``dt``, ``t1`` and the error are tensors [R]
instead of numbers, and what a step commits is chosen row by row. Rows that have stopped leave the batch in groups, so
that the field is not evaluated for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..controller import Controller
from ..kernels.native.control import RowControl as NativeControl
from ..kernels.reference import combine, rms_rows
from ..kernels.reference.control import RowControl, power
from ..kernels.row_state import RUNNING, RowState
from ..problem import Problem
from ..stats import SolveStats
from ..tableau import ButcherTableau
from ..tree import Parts

#: The batch is compacted when at most this share of its rows is running: at most 2.4 log2(R) times, and not more than a
#: quarter of the evaluations is for rows that have stopped. Van der Pol oscillators (two features, a cheap field) take
#: 32 ms with it and 30 without at 256 rows, 61 and 67 at 4,096.
COMPACT_AT = 0.75


class RowsClock:
    """Times and step sizes of rows, each in its own direction.

    Args:
        state: the rows; their ``size`` is the first step, or NaN to have it chosen.
        y0: their states, which become their last good ones.
        controller: shared coefficients and limits.
        control: the engine's class of :class:`fastode.kernels.reference.control.RowControl`.
        max_steps: limit on the attempts of a row.
        jumps: [R, S] bool; at which of the state's stops the field jumps.
        compact: whether rows that have stopped leave the batch.

    Attributes:
        all: the rows in the order of the batch, up to date when the solve has ended; active: those in the batch now.
        rows: which rows these are, or None for all of them.
        y: the last good state of each row, up to date when the solve has ended.
    """

    def __init__(
        self,
        state: RowState,
        y0: Parts,
        controller: Controller,
        control: type[RowControl] | type[NativeControl],
        stats: SolveStats,
        max_steps: int,
        jumps: Tensor,
        compact: bool = True,
    ) -> None:
        self.all = self.active = state
        self.rows: Tensor | None = None
        self.y = tuple([p.clone() for p in y0])
        #: +1 or -1, of all rows and of those in the batch
        self.signs = self.sign = torch.sign(state.t_end - state.t)
        self.controller = controller
        self._kind = control
        self._control = control(state, controller, max_steps)
        self.stats = stats
        self.max_steps = max_steps
        self.jumps = self._jumps = jumps if bool(jumps.any()) else None
        self.jump_t = None if self.jumps is None else torch.where(jumps, state.stops, torch.nan)
        #: positions of the rows that have just come to a jump, or None
        self.on_jump: Tensor | None = None
        self.may_compact = compact
        self.n_running = len(state)
        #: how many rows accepted the last attempt
        self.n_accepting = 0
        #: positions of those that passed the time of an output
        self.with_output = torch.empty_like(state.next_stop[:0])

    @property
    def t(self) -> Tensor:
        """Where the rows of the batch are, [R] float64."""
        return self.active.t

    def rows_at(self, at: Tensor) -> Tensor:
        """Which rows are at positions ``at`` of the batch."""
        return at if self.rows is None else self.rows[at]

    @property
    def dt(self) -> Tensor:
        """Their next steps, [R] float64, signed; 0 in rows that have stopped."""
        return self.active.dt

    @property
    def undecided(self) -> bool:
        """Whether the first steps are still to be chosen."""
        return bool(self.all.size.isnan().any())

    @property
    def running(self) -> bool:
        """Whether any row goes on."""
        return self.n_running > 0

    def begin(self) -> None:
        """Propose the first attempts."""
        self._control.start()
        self.n_running = int((self.active.status == RUNNING).sum())

    def propose(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(t, dt, t1)`` of the next attempt; ``dt`` is 0 in rows that have stopped."""
        a = self.active
        return a.t.clone(), a.dt.clone(), a.t1.clone()

    def judge(self, err: Tensor) -> Tensor:
        """Which rows accept the attempt, [R] bool; those move on in time."""
        a, jumps = self.active, self._jumps
        a.err.copy_(err)
        before = None if jumps is None else a.next_stop.clone()
        self.n_running, self.n_accepting, self.with_output = self._control.control()
        if jumps is not None and before is not None:
            passed = jumps.gather(1, before.clamp(max=jumps.shape[1] - 1)[:, None]).squeeze(1)
            at = (passed & (a.next_stop > before)).nonzero().squeeze(1)
            self.on_jump = at if len(at) else None
        return a.accept

    def stop(self, at: Tensor, t: Tensor, status: int) -> None:
        """The rows at positions ``at`` of the batch stop at ``t`` [len(at)]."""
        if not len(at):
            return
        a = self.active
        stopped = torch.zeros_like(a.accept).index_fill_(0, at, True)
        self.n_running -= int((stopped & (a.status == RUNNING)).sum())
        a.status[at] = status
        a.t[at] = a.t1[at] = t
        a.dt[at] = 0.0

    def select(self, accept: Tensor, new: Parts, old: Parts) -> Parts:
        """``new`` in the rows that accepted, ``old`` in the others."""
        if self.n_accepting == len(accept):
            return new
        return tuple([self._control.select(n, o) for n, o in zip(new, old, strict=True)])

    def compact(self, y: Parts) -> Tensor | None:
        """Let the rows that have stopped leave; the positions of those that stay, or None if nothing changes."""
        if not self.may_compact or not 0 < self.n_running <= COMPACT_AT * len(self.active):
            return None
        self._store(y)
        stay = (self.active.status == RUNNING).nonzero().squeeze(1)
        self.rows = stay if self.rows is None else self.rows[stay]
        self.active = self.active.take(stay)
        self._control = self._kind(self.active, self.controller, self.max_steps)
        self.sign = self.sign[stay]
        if self._jumps is not None:
            self._jumps = self._jumps[stay]
        return stay

    def start_times(self, rows: Tensor | None, t: Tensor, dtype: torch.dtype) -> Tensor:
        """Times of the first slopes of steps of ``rows`` (None: all) from ``t``: just after it where that is a jump."""
        start = t.to(dtype)
        if self.jump_t is None:
            return start
        jump_t, sign = (self.jump_t, self.signs) if rows is None else (self.jump_t[rows], self.signs[rows])
        return torch.where((jump_t == t[:, None]).any(dim=1), torch.nextafter(start, start + sign.to(dtype)), start)

    @property
    def n_jumps(self) -> Tensor | int:
        """How many jumps each row has passed; up to date when the solve has ended."""
        if self.jumps is None:
            return 0
        places = torch.arange(self.jumps.shape[1], device=self.jumps.device)
        return (self.jumps & (places < self.all.next_stop[:, None])).sum(dim=1)

    def end(self, y: Parts) -> None:
        """The solve is over; ``y`` are the states of the batch."""
        self._store(y)
        self.stats.n_accepted = int(self.all.n_accepted.sum())
        self.stats.n_rejected = int(self.all.n_rejected.sum())

    def _store(self, y: Parts) -> None:
        if self.rows is None:
            for mine, part in zip(self.y, y, strict=True):
                mine.copy_(part)
        else:
            self.all.put(self.rows, self.active)
            for mine, part in zip(self.y, y, strict=True):
                mine[self.rows] = part


def choose_first_steps(problem: Problem, tableau: ButcherTableau, clock: RowsClock, k0: Parts) -> Parts:
    """Hairer's first step for every row by itself, into ``size``; one evaluation of the field. Returns the first slope.

    The trial step does not leave the row's span.
    Reference: Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", II.4, p. 169.
    """
    field, y, state = problem.field, problem.y0, clock.active
    span = (state.t_end - state.t).abs()
    scales = [a + r * p.abs() for p, r, a in zip(y, problem.rtol, problem.atol, strict=True)]

    def norm(parts: Sequence[Tensor]) -> Tensor:
        return torch.stack([rms_rows(p / s) for p, s in zip(parts, scales, strict=True)]).amax(dim=0).double()

    kept = tuple([k.clone() for k in k0])
    d0, d1 = norm(y), norm(kept)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1).minimum(span)
    signed = clock.sign * h0
    trial = tuple([combine(p, [k], [signed]) for p, k in zip(y, kept, strict=True)])
    f1 = field(problem.time(state.t + signed), trial)
    field.detect_shared_buffer(k0, f1)
    d2 = norm([a - b for a, b in zip(f1, kept, strict=True)]) / h0
    largest = torch.maximum(d1, torch.where(d2.isfinite(), d2, d1))
    h1 = torch.where(largest <= 1e-15, (1e-3 * h0).clamp(min=1e-6), power(0.01 / largest, 1 / tableau.order))
    state.size.copy_(torch.where(span == 0, 1.0, torch.minimum(100 * h0, h1)))
    return kept if field.copies else k0
