"""Dense output where every row has its own steps: one quartic a step and row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidArgument
from ..kernels.reference import per_row, quartic_coefficients, where_rows
from ..loop import Step
from ..tableau import ButcherTableau
from ..tree import Parts


@dataclass(frozen=True)
class Pieces:
    """Dense output of n steps.

    Attributes:
        rows: [n] which row each belongs to; the steps of a row come in the order in which it took them.
        t, dt: [n] float64; start and signed size.
        coefficients: for each part [n, 5, ...], lowest power of the fraction of the step first.
    """

    rows: Tensor
    t: Tensor
    dt: Tensor
    coefficients: Parts

    def __call__(self, x: Tensor) -> Parts:
        """States at fractions ``x`` [n] of the steps."""
        return evaluate(self.coefficients, x)

    @classmethod
    def none(cls, y: Parts, t: Tensor) -> Pieces:
        """No steps, of states like ``y``."""
        rows = torch.empty(0, dtype=torch.int64, device=t.device)
        return cls(rows, t[:0], t[:0], tuple([p.new_empty(0, 5, *p.shape[1:]) for p in y]))

    @classmethod
    def of_step(cls, tableau: ButcherTableau, step: Step, rows: Tensor, at: Tensor) -> Pieces:
        """A step of ``rows``, which are at the positions ``at`` of the batch."""
        quartics = coefficients_of(tableau, step.kernels, step.y, step.y1, step.dt, at)
        return cls(rows, step.t[at], step.dt[at], quartics)

    @classmethod
    def join(cls, pieces: Sequence[Pieces], quartics: Parts) -> Pieces:
        """All steps as one, with the coefficients given."""
        rows, t, dt = (torch.cat(each) for each in zip(*[(p.rows, p.t, p.dt) for p in pieces], strict=True))
        return cls(rows, t, dt, quartics)


def evaluate(coefficients: Parts, x: Tensor) -> Parts:
    """Horner over the second axis, at ``x`` [n]."""
    values = []
    for c in coefficients:
        total = c[:, -1]
        factor = per_row(x, total)
        for power in range(c.shape[1] - 2, -1, -1):
            total = total * factor + c[:, power]
        values.append(total)
    return tuple(values)


def coefficients_of(tableau: ButcherTableau, kernels: Any, y: Parts, y1: Parts, dt: Tensor, at: Tensor) -> Parts:
    """The quartics of the rows ``at`` of the step that ``kernels`` have just finished."""
    used = [j for j, b in enumerate(tableau.mid_weights) if b or j in (0, tableau.stages - 1)]
    middle = [tableau.mid_weights[j] for j in used]
    return tuple(
        [
            quartic_coefficients(p[at], p1[at], dt[at], [kernels.k[j][i][at] for j in used], middle)
            for i, (p, p1) in enumerate(zip(y, y1, strict=True))
        ]
    )


class DenseRows:
    """Solutions of B rows as functions of time.

    Args:
        pieces: all steps of all rows.
        t0, reached: [B] float64; where each row started and how far it came.
        t_end: [B] float64; the end of each span.
        y0: the states at ``t0``.
        restore: gives parts the structure of the state.
    """

    def __init__(
        self,
        pieces: Pieces,
        t0: Tensor,
        t_end: Tensor,
        reached: Tensor,
        y0: Parts,
        restore: Callable[[Parts], Any],
    ) -> None:
        self.t0, self.t_end, self.reached = t0, t_end, reached
        self.sign = torch.sign(t_end - t0)
        self._restore = restore
        rows = len(t0)
        # a row without a step is constant, so that each has at least one piece
        count = torch.bincount(pieces.rows, minlength=rows)
        idle = (count == 0).nonzero().squeeze(1)
        self._coefficients = tuple(
            [
                torch.cat([c, torch.cat([p[idle, None], p.new_zeros(len(idle), 4, *p.shape[1:])], dim=1)])
                for c, p in zip(pieces.coefficients, y0, strict=True)
            ]
        )
        of = torch.cat([pieces.rows, idle])
        self._t = torch.cat([pieces.t, t0[idle]])
        self._dt = torch.cat([pieces.dt, torch.ones_like(t0[idle])])
        self._order = of.argsort(stable=True)
        count = count.clamp(min=1)
        self._first = count.cumsum(0) - count
        #: [B, S] starts of the steps in the direction of their row, infinite after the last
        place = torch.arange(int(count.max()) if rows else 0, device=t0.device)
        held = place < count[:, None]
        starts = torch.full(held.shape, torch.inf, dtype=torch.float64, device=t0.device)
        starts[held] = self._t[self._order]
        self._starts = torch.where(held, self.sign[:, None] * starts, torch.inf)

    def __call__(self, t: float | Tensor) -> Any:
        """States at ``t``, in the structure of ``y0``.

        Args:
            t: a number; [T], times for all rows; or [B, T], times for each row (NaN where it has fewer).

        Returns:
            [B, ...] for a number, else [B, T, ...]; NaN where the row stopped earlier. Gradients reach whatever the
            solve was differentiable in, and ``t``.

        Raises:
            InvalidArgument: another shape, or a time outside the span of a row.
        """
        rows = len(self.t0)
        times = torch.as_tensor(t, dtype=torch.float64, device=self.t0.device)
        if times.ndim > 2 or (times.ndim == 2 and len(times) != rows):
            raise InvalidArgument(f"t must be a number, [T] or [{rows}, T], but has shape {tuple(times.shape)}")
        each = times if times.ndim == 2 else times.reshape(1, -1).expand(rows, -1)
        values = self._states(each)
        return self._restore(tuple([v.squeeze(1) for v in values] if times.ndim == 0 else values))

    def _states(self, times: Tensor) -> Parts:
        sign = self.sign[:, None]
        due = sign * times.detach()
        outside = (due < sign * self.t0[:, None]) | (due > sign * self.t_end[:, None])
        # a row without a span has no direction
        outside |= (sign == 0) & (times.detach() != self.t0[:, None]) & ~times.isnan()
        if bool(outside.any()):
            row = int(outside.any(dim=1).nonzero()[0])
            raise InvalidArgument(
                f"t must lie within t_span, but row {row} goes from {float(self.t0[row]):g} to "
                f"{float(self.t_end[row]):g} and has t={float(times[row][outside[row]][0]):g}"
            )
        known = due <= sign * self.reached[:, None]
        step = torch.searchsorted(self._starts, due.nan_to_num().contiguous(), right=True) - 1
        piece = self._order[(self._first[:, None] + step.clamp(min=0)).flatten()]
        x = torch.where(known, times, 0.0).flatten() - torch.where(known.flatten(), self._t[piece], 0.0)
        values = evaluate(tuple([c[piece] for c in self._coefficients]), x / self._dt[piece])
        return tuple([where_rows(known, v.view(*times.shape, *v.shape[1:]), float("nan")) for v in values])
