"""Where a solve is in time when every row has its own step size and span. The surface for it is the next thing to come.

The step loop is the same as for one shared step (:mod:`fastode.loop`): ``t``, ``dt``, ``t1`` and the error are tensors
[R] instead of numbers, and what a step commits is chosen row by row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .controller import Controller
from .kernels.reference import control
from .stats import SolveStats
from .tree import Parts

RUNNING, FINISHED, UNDERFLOW = 0, 1, 2


class RowsClock:
    """Times and step sizes [R] of rows that run from ``t0`` to ``t_end``, each in its own direction.

    Args:
        t0, t_end, first_step: [R] float64, in units of t; ``first_step`` positive.
        controller: shared coefficients and limits.

    Attributes:
        status: [R] int; running, finished, or stopped because ``t + dt`` is not beyond ``t``. A stopped row keeps its
            last good state and does not disturb the others.
        n_accepted, n_rejected: [R] int64.
    """

    on_jump = False

    def __init__(
        self, t0: Tensor, t_end: Tensor, first_step: Tensor, controller: Controller, stats: SolveStats
    ) -> None:
        self.t = t0.clone()
        self.t_end = t_end
        self.sign = torch.sign(t_end - t0)
        self.dt = first_step * self.sign
        self.tried = torch.zeros_like(t0)
        self.controller = controller
        self.stats = stats
        self.status = torch.where(self.sign == 0, FINISHED, RUNNING)
        self.n_accepted = torch.zeros_like(self.status)
        self.n_rejected = torch.zeros_like(self.status)

    @property
    def running(self) -> bool:
        """Whether any row goes on."""
        return bool((self.status == RUNNING).any())

    def propose(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(t, dt, t1)`` of the next attempt, cut at ``t_end``; ``dt`` is 0 in rows that have stopped."""
        size = self.dt.abs().clamp(self.controller.dt_min, self.controller.dt_max)
        left = (self.t_end - self.t).abs()
        last = size >= left
        t1 = torch.where(last, self.t_end, self.t + self.sign * size)
        stuck = (self.status == RUNNING) & ~((t1 - self.t) * self.sign > 0)
        self.status = torch.where(stuck, UNDERFLOW, self.status)
        going = self.status == RUNNING
        self.t1 = torch.where(going, t1, self.t)
        self.tried = torch.where(going, torch.where(last, self.t_end - self.t, self.sign * size), 0.0)
        return self.t, self.tried, self.t1

    def judge(self, err: Tensor) -> Tensor:
        """Which rows accept the attempt, [R] bool; those move on in time."""
        going = self.status == RUNNING
        accept, _, self.dt = control(self.t, self.tried, err, going, self.controller)
        self.t = torch.where(accept, self.t1, self.t)
        self.status = torch.where(accept & (self.t == self.t_end), FINISHED, self.status)
        self.n_accepted = self.n_accepted + accept
        self.n_rejected = self.n_rejected + (going & ~accept)
        self.stats.n_accepted = int(self.n_accepted.sum())
        self.stats.n_rejected = int(self.n_rejected.sum())
        return accept

    @staticmethod
    def select(accept: Tensor, new: Parts, old: Parts) -> Parts:
        """``new`` in the rows that accepted, ``old`` in the others."""
        return tuple([torch.where(accept.view(-1, *[1] * (n.ndim - 1)), n, o) for n, o in zip(new, old, strict=True)])
