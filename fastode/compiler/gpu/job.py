"""Solves of compiled fields on the device, and their discrete gradients: what
:class:`fastode.compiler.engine.Job` is on the CPU.

An adaptive solve in lockstep is three launches a step (:mod:`.lockstep`), a solve on a grid one launch altogether, and
the gradient of either one launch and the sum over programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...controller import Controller
from ...device.progress import on_device_of
from ...kernels.row_state import FINISHED, NON_FINITE, TOO_MANY_STEPS
from ...kernels.triton import DeviceState
from ...kernels.upload import upload
from ...stats import SolveStats, new_stats
from ..engine import BROKEN, TOO_MANY, UNDERFLOW, Job
from ..steps import AdaptiveSteps, GridSteps
from .fused import FusedProgram
from .fused_sweep import FusedSweep, Swept
from .grid import solve_grid
from .lockstep import FusedAttempt, solve_lockstep
from .refusal import NotFused
from .sweep import sweep_grid, sweep_steps


@dataclass
class FusedJob(Job):
    """A solve on the device.

    Args: as :class:`fastode.compiler.engine.Job`.

    Raises:
        NotFused: no fused kernel serves it.
    """

    precision: str = "ieee"

    def __post_init__(self) -> None:
        if self.memory is not None:
            raise NotFused("a memory budget, which only the CPU's engine keeps")
        if not isinstance(self.steps, AdaptiveSteps):
            return
        if len(self.steps.rtol) > 1:
            raise NotFused("tolerances of each feature")
        if self.steps.stops:
            raise NotFused("times on which steps must end")
        if not self.tableau.last_stage_is_solution:
            raise NotFused(f"the last stage of method {self.name!r} is not at the new state")

    def run(
        self, y0: Tensor, arguments: Sequence[Tensor], constants: Sequence[Tensor], keep: bool
    ) -> tuple[Tensor, Any]:
        """The states at the outputs, [T, rows, features], and the record of the steps if they are kept.

        Raises:
            StepSizeUnderflow, TooManySteps, NonFiniteState: the solve failed.
        """
        stats = new_stats(self.name)
        stats.engine = "compiled"
        program = self.lowered.fused(y0.dtype, self.precision, y0.device)
        y = y0.detach().reshape(self.rows, self.features)
        out = y.new_empty((len(self.times), self.rows, self.features))
        with torch.no_grad(), on_device_of(y):
            if isinstance(self.steps, AdaptiveSteps):
                return out, self._adaptive(self.steps, program, y, arguments, constants, keep, out, stats)
            states = y.new_empty((len(self.steps.points) - 1, *y.shape)) if keep else None
            solve_grid(
                program, self.tableau, y, arguments, constants, self.steps, out, self.time_is_float32, record=states
            )
            stats.n_accepted = len(self.steps.points) - 1
            stats.n_func = stats.n_accepted * self.tableau.stages
            stats.t = self.steps.points[-1]
            return out, states

    def sweep(
        self,
        record: Any,
        grad: Tensor,
        y0: Tensor,
        arguments: Sequence[Tensor],
        constants: Sequence[Tensor],
        wanted: Sequence[bool],
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Gradients of the initial state, and of those arguments and constants that are wanted."""
        stats = new_stats(self.name, "backward")
        stats.engine = "compiled"
        sweep = self.lowered.fused_sweep(y0.dtype, self.precision, y0.device, wanted, len(arguments))
        grad = grad.reshape(len(self.times), self.rows, self.features)
        with torch.no_grad(), on_device_of(y0):
            found = self._sweep(sweep, record, grad, arguments, constants)
        stats.n_func = len(record if isinstance(self.steps, GridSteps) else record[0]) * self.tableau.stages
        return found.y.view_as(y0), found.of_inputs(len(arguments), len(wanted))

    def _sweep(
        self,
        sweep: FusedSweep,
        record: Any,
        grad: Tensor,
        arguments: Sequence[Tensor],
        constants: Sequence[Tensor],
    ) -> Swept:
        steps = self.steps
        if isinstance(steps, GridSteps):
            return sweep_grid(
                sweep, self.tableau, steps, record, grad, arguments, constants, float32_times=self.time_is_float32
            )
        numbers, states = record
        times = upload(torch.tensor(self.times, dtype=torch.float64), grad.device)
        return sweep_steps(sweep, self.tableau, numbers, states, times, 1, grad, arguments, constants)

    def _adaptive(
        self,
        steps: AdaptiveSteps,
        program: FusedProgram,
        y: Tensor,
        arguments: Sequence[Tensor],
        constants: Sequence[Tensor],
        keep: bool,
        out: Tensor,
        stats: SolveStats,
    ) -> Any:
        """All outputs into ``out``; the accepted steps, [S, 5] numbers and [S, rows, features] states, if kept."""
        times = self.times
        out[0] = y
        if len(times) == 1:
            stats.n_func, stats.t = 1, times[0]
            return (y.new_empty((0, 5), dtype=torch.float64), y.new_empty((0, *y.shape))) if keep else None
        direction = -1.0 if times[1] < times[0] else 1.0

        def numbers(values: Sequence[float]) -> Tensor:
            return upload(torch.tensor(values, dtype=torch.float64), y.device)

        order, safety, factor_min, factor_max, dt_min, dt_max = steps.limits
        state = DeviceState.begin(
            numbers(times[:1]),
            numbers(times[-1:]),
            numbers([])[None],
            numbers([*times[1:], float("nan")])[None],
            0,
            y.dtype,
            Controller(int(order), safety, factor_min, factor_max, dt_min, dt_max),
            steps.max_total_steps,
            steps.max_steps,
        )
        rtol, atol = (torch.full((1,), tol[0], dtype=y.dtype, device=y.device) for tol in (steps.rtol, steps.atol))
        inputs = (arguments, constants)
        attempt = FusedAttempt(program, self.tableau, state, y.clone(), inputs, (rtol, atol), steps.parts, out[1:])
        queued, kept = solve_lockstep(attempt, direction, steps.first_step, keep)
        self._settle(state, queued, steps.first_step > 0, y, stats)
        if kept is None:
            return None
        log = torch.cat(kept.logs)
        # outputs are counted from the first after the start
        log[:, 3:] += 1
        return log, torch.cat([chunk[0] for chunk in kept.chunks])

    def _settle(self, state: DeviceState, queued: int, first_step_given: bool, y0: Tensor, stats: SolveStats) -> None:
        """The account; or the error that ended the solve."""
        row = state.of_row()
        status, stats.t, stats.dt = row["status"], row["t"], row["size"]
        stats.n_accepted, stats.n_rejected = int(row["n_accepted"]), int(row["n_rejected"])
        stats.n_idle = queued - stats.n_steps
        stats.n_func = stats.n_steps * (self.tableau.stages - 1) + (1 if first_step_given else 2)
        if status == FINISHED:
            return
        if status == NON_FINITE or (not stats.n_steps and not bool(y0.isfinite().all())):
            raise self._failure(BROKEN, stats)
        raise self._failure(TOO_MANY if status == TOO_MANY_STEPS else UNDERFLOW, stats)
