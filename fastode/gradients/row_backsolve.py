"""The continuous adjoint of a solve in which every row has its own steps: constant memory, approximate gradients.

Each row integrates ``(y, a)`` from where it stopped back to its start, ``da/dt = -(df/dy)^T a``, with its own steps; at
its outputs and events it takes the state that is known there and adds their cotangent to ``a``. Gradients of parameters
are quadratures over the accepted steps of all rows, with the weights of the method, so no row carries them:

    g_theta = - sum_steps dt sum_j b_j (df/dtheta(t_j, y_j))^T a_j            (dt < 0 where the solve went forward)

Reference: Chen et al., "Neural ordinary differential equations", 2018, appendix B and C.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import SolverError
from ..field import Field
from ..kernels.reference import per_row, stage, where_rows
from ..kernels.row_state import RowState
from ..kernels.torch_step import stage_times
from ..loop import Step, integrate
from ..problem import Problem
from ..rows.clock import RowsClock
from ..rows.events import in_table
from ..rows.solution import Status
from ..rows.times import in_order
from ..stats import SolveStats, new_stats
from ..tree import Parts, flatten
from .leaves import Leaves
from .node import filled, pull_back
from .rows import Run, Solved, plain

if TYPE_CHECKING:
    from ..rows.run import RowRequest


def backsolve(request: RowRequest, problem: Problem, run: Run) -> Solved:
    """One node of ``y0`` and the request's inputs, which keeps outputs only."""
    leaves = Leaves(request.inputs, problem.field.args, len(problem.y0[0]))
    box: list[Solved] = []
    n = len(problem.y0)
    flat = _Backsolve.apply(request, problem, run, box, leaves.places, *problem.y0, *leaves.inputs)
    return replace(box.pop(), ys=flat[:n], y=flat[n : 2 * n], events=flat[2 * n :])


class _Backsolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        request: RowRequest,
        problem: Problem,
        run: Run,
        box: list[Solved],
        places: list[int | None],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        solved = plain(problem, run)
        box.append(solved)
        ctx.request, ctx.problem, ctx.solved, ctx.places = request, problem, solved, places
        ctx.save_for_backward(*tensors)
        return *solved.ys, *solved.y, *solved.events

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        problem, n = ctx.problem, len(ctx.problem.y0)
        leaves = Leaves(ctx.saved_tensors[n:], problem.field.args, len(problem.y0[0]), ctx.places)
        back = _Back(ctx.request, problem, ctx.solved, leaves, grads[:n], grads[n : 2 * n], grads[2 * n :])
        return None, None, None, None, None, *back.run(), *leaves.totals


class _Back:
    """The solve back in time, and its observer.

    Args:
        leaves: where cotangents of the inputs are added up.
        g_ys, g_y, g_events: cotangents of the outputs, the last states, and the states at events.
    """

    def __init__(
        self,
        request: RowRequest,
        problem: Problem,
        solved: Solved,
        leaves: Leaves,
        g_ys: Parts,
        g_y: Parts,
        g_events: Parts,
    ) -> None:
        self.request, self.leaves = request, leaves
        self.n = len(problem.y0)
        self.problem = replace(problem, stats=new_stats(problem.stats.method, "backward"))
        self.t0, self.reached = request.t0.detach(), solved.outputs.clock.all.t
        self.y = solved.outputs.clock.y
        ts = request.ts.detach()
        columns = torch.arange(ts.shape[1], device=ts.device)
        times = torch.where(columns < solved.outputs.next[:, None], ts, torch.nan)
        states, cotangents = solved.outputs.ys, g_ys
        if (events := solved.outputs.events) is not None:
            rows, when = torch.cat(events.rows), torch.cat(events.t)
            both = tuple([p.detach() for p in solved.events]) + g_events
            (t,), (found,) = in_table(rows, torch.zeros_like(rows), when, both, len(ts), 1)
            times = torch.cat([times, t], dim=1)
            states = tuple([torch.cat(p, dim=1) for p in zip(states, found[: self.n], strict=True)])
            cotangents = tuple([torch.cat(p, dim=1) for p in zip(cotangents, found[self.n :], strict=True)])
        #: [B, K] times of what the row gave out; states there and their cotangents, 0 where there is no time
        self.times = times
        self.states = states
        self.cotangents = tuple([where_rows(~times.isnan(), g, 0.0) for g in cotangents])
        self.g_y = g_y

    def run(self) -> Parts:
        """The cotangents of ``y0``; those of the inputs are added to the leaves."""
        request, n = self.request, self.n
        y, a = self._begin()
        times = torch.cat([self.times, request.stops], dim=1)
        stops, first = in_order(times, self.begin, self.t0)
        held = (first >= 0) & (first < self.times.shape[1])
        jumped = torch.where(request.jumps, request.stops, torch.nan)
        jumps = held | (stops[:, :, None] == jumped[:, None, :]).any(dim=2)
        self.first = torch.where(held, first, -1)
        augmented = self._augmented(y, a)
        self.clock = RowsClock(
            RowState.begin(self.begin, self.t0, request.first_step, stops),
            augmented.y0,
            request.controller,
            request.engine.control,
            augmented.stats,
            request.max_steps,
            jumps,
        )
        with torch.no_grad():
            integrate(augmented, request.tableau, request.engine, self.clock, self, jump=self._jump)
        self._check()
        at_start = (self.times == self.t0[:, None]) & (self.t0 != self.begin)[:, None]
        return tuple(
            [
                b + where_rows(at_start, c, 0.0).sum(dim=1)
                for b, c in zip(self.clock.y[n:], self.cotangents, strict=True)
            ]
        )

    def _begin(self) -> tuple[Parts, Parts]:
        """State and adjoint of each row at the last time that has a cotangent; a row without any has nothing to do."""
        sign = torch.sign(self.reached - self.t0)
        weighs = torch.stack([_any(c, 2) for c in self.cotangents]).any(dim=0)
        at_end = torch.stack([_any(g, 1) for g in self.g_y]).any(dim=0)
        due = torch.where(weighs, sign[:, None] * self.times, -torch.inf)
        latest, place = due.max(dim=1) if due.shape[1] else (self.t0 - torch.inf, None)
        inside = ~at_end & latest.isfinite()
        self.begin = torch.where(at_end, self.reached, torch.where(inside, sign * latest, self.t0))
        y = self.y
        if place is not None:
            rows = inside.nonzero().squeeze(1)
            y = tuple([p.index_copy(0, rows, s[rows, place[rows]]) for p, s in zip(y, self.states, strict=True)])
        here = self.times == self.begin[:, None]
        return y, tuple(
            [g + where_rows(here, c, 0.0).sum(dim=1) for g, c in zip(self.g_y, self.cotangents, strict=True)]
        )

    def _augmented(self, y: Parts, a: Parts) -> Problem:
        problem = self.problem
        y0 = (*[p.clone() for p in y], *a)
        spec = flatten(y0)[1]
        args = tuple([x.detach() if isinstance(x, Tensor) else x for x in problem.field.args])
        n, uncounted = self.n, SolveStats()

        def rates(t: Tensor, state: Parts, *args: Any) -> Parts:
            with torch.enable_grad():
                y = tuple([p.detach().requires_grad_() for p in state[:n]])
                f = self._evaluate(t, y, args, uncounted)
                found = pull_back(f, y, state[n:])
            return *[v.detach() for v in f], *[-g for g in filled(found, y)]

        return replace(
            problem,
            field=Field(rates, args, y0, spec, problem.stats),
            y0=y0,
            rtol=[*problem.rtol, *problem.rtol],
            atol=[*problem.atol, *problem.atol],
            spec=spec,
        )

    def _evaluate(self, t: Tensor, y: Parts, args: tuple[Any, ...], stats: SolveStats) -> Parts:
        """The user's field over parts."""
        return Field(self.problem.field.func, args, y, self.problem.spec, stats)(t, y)

    def _jump(self, at: Tensor, state: Parts) -> Parts:
        """At an output: the state known there, and the adjoint with its cotangent."""
        n, clock = self.n, self.clock
        rows = clock.rows_at(at)
        place = self.first[rows, clock.active.next_stop[at] - 1]
        known = place >= 0
        at, rows = at[known], rows[known]
        if not len(at):
            return state
        t = self.times[rows, place[known]]
        same = self.times[rows] == t[:, None]
        y = [p.index_copy(0, at, s[rows, place[known]]) for p, s in zip(state[:n], self.states, strict=True)]
        a = [
            p.index_add(0, at, where_rows(same, c[rows], 0.0).sum(dim=1))
            for p, c in zip(state[n:], self.cotangents, strict=True)
        ]
        return *y, *a

    def start(self, t: Tensor, y: Parts) -> bool:
        return False

    def accepted(self, step: Step) -> bool:
        """Add the quadrature of the parameters over the rows that accepted."""
        if not self.leaves.inputs:
            return False
        tableau, clock, n = self.request.tableau, self.clock, self.n
        assert isinstance(step.accept, Tensor)
        at = step.accept.nonzero().squeeze(1)
        rows = clock.rows_at(at)
        t, dt = step.t[at], step.dt[at]
        base = tuple([p[at] for p in step.y])
        slopes = [tuple([p[at] for p in k]) for k in step.kernels.k]
        dtype = self.problem.real_dtype
        times = stage_times(tableau.nodes, t, dt, step.t1[at], dtype)
        times[0] = clock.start_times(rows, t, dtype)
        used = [j for j, b in enumerate(tableau.weights) if b]
        states = [
            tuple([stage(p, dt, [k[i] for k in slopes[:j]], tableau.matrix[j]) for i, p in enumerate(base)])
            for j in used
        ]
        y = tuple([torch.cat([z[i] for z in states]) for i in range(n)])
        sizes = torch.cat([-dt * tableau.weights[j] for j in used])
        bar = []
        for i in range(n, 2 * n):
            a = torch.cat([z[i] for z in states])
            bar.append(a * per_row(sizes, a))
        again = rows.repeat(len(used))
        args, copies = self.leaves.arguments(again)
        with torch.enable_grad():
            f = self._evaluate(times[used].flatten(), y, args, self.problem.stats)
        self.leaves.add(pull_back(f, [*self.leaves.inputs, *copies], bar), again)
        return False

    def _check(self) -> None:
        """Refuse a gradient that is not there."""
        state = self.clock.all
        failed = (state.status != Status.FINISHED).nonzero().flatten().tolist()
        if failed:
            row = failed[0]
            raise SolverError(
                f"gradient='backsolve': going back, {len(failed)} of {len(state)} rows failed, the first of them row "
                f"{row} at t={float(state.t[row]):.9g}: {Status(int(state.status[row])).message}. gradient='discrete' "
                "does not solve back"
            )


def _any(values: Tensor, leading: int) -> Tensor:
    """Where any element behind the leading axes is not 0."""
    return (values != 0).unsqueeze(-1).flatten(leading).any(dim=leading)
